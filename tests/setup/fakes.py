"""A Python that makes an environment in a moment, and the set-up in a fork of the tests."""

import os
import shutil
import signal
import sys
import traceback

from common.base.files import ROOT
from common.setup import __main__ as script
from common.setup import environment, installation

_CHANGES = {"os.rename", "os.remove", "os.mkdir", "os.rmdir", "subprocess.Popen"}

# Its environments consist of a few files, each a line of $FILLING. `step` ends everything at the
# step with the number $KILL_AT.
FAKE_PYTHON = """#!/bin/sh
step() {
    echo >>"$STEPS"
    [ "$(wc -l <"$STEPS")" -ne "${KILL_AT:-0}" ] || kill -9 "$PPID" "$$"
}
case $* in
*'sys.version_info[:2]'*) echo 3.11 ;;
'-m venv '*)
    for folder; do :; done
    step
    mkdir "$folder/bin"
    cp "$0" "$folder/bin/python"
    echo 'home = /nowhere' >"$folder/pyvenv.cfg"
    printf '#!%s/bin/python\\n' "$folder" >"$folder/bin/tool"
    ;;
*' install '*)
    echo "$*" >>"$STEPS.pip"
    [ ! -p "$STEPS.wait" ] || cat "$STEPS.wait"
    case $FILLING in
    none) exit 1 ;;
    'full disk') echo 'OSError: [Errno 28] No space left on device' >"$6"; exit 1 ;;
    esac
    touch "$6" # pip's log
    for file in a b c; do
        step
        echo "$FILLING" >"$(dirname "$0")/../$file"
    done
    ;;
*'import cv2'*) ;;
*) [ "$FILLING" != 'does not start' ] ;; # the trial
esac
"""


def make_repository(tmp_path):
    """Copy what setup.sh needs; return the folder."""
    copy = tmp_path / "repository"
    for folder in ("requirements", "common"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(os.path.join(ROOT, folder), copy / folder, ignore=ignored)
    shutil.copy(os.path.join(ROOT, "setup.sh"), copy)
    return copy


def fake_settings(tmp_path):
    """Write the Python; return the variables under which the set-up makes environments with it."""
    path = tmp_path / "fake-python"
    path.write_text(FAKE_PYTHON)
    path.chmod(0o755)
    return {"PYTHON": str(path), "STEPS": str(tmp_path / "steps"), "FILLING": "first"}


def filling_of(repository):
    """What the environment is filled with; fails where it is not whole."""
    folder = repository / ".venv"
    assert (folder / "setup-stamp").read_text().split()[-1] in ("installed", "works")
    assert (folder / "bin" / "tool").read_text() == f"#!{folder}/bin/python\n"
    (text,) = {(folder / name).read_text() for name in "abc"}
    return text.strip()


def environments(repository):
    """The names of the environments, whole or not."""
    return sorted(name for name in os.listdir(repository) if name.startswith(".venv"))


def ask_for_another(repository):
    """Change requirements/, so that the environment has to be made again."""
    with open(repository / "requirements" / "common.txt", "a") as stream:
        stream.write("# changed\n")


def set_up(repository, *arguments, kill_at=0, **environ):
    """Run the set-up in a fork; return its exit status, -9 where it was killed.

    Args:
        kill_at: the number of the change of a file, or start of a program, before which it is.
    """
    child = os.fork()
    if child == 0:
        status = 70
        try:
            for module in (script, environment, installation):
                module.ROOT = str(repository)
            os.environ.update(environ)
            os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
            sys.argv = ["setup.sh", *arguments]
            _kill_before_change(kill_at)
            status = script.main()
        except BaseException:
            traceback.print_exc(file=sys.stdout)
        finally:
            os._exit(status)
    _, status = os.waitpid(child, 0)
    return -os.WTERMSIG(status) if os.WIFSIGNALED(status) else os.WEXITSTATUS(status)


def _kill_before_change(number):
    count = [0]

    def hear(event, arguments):
        is_opened = event == "open" and arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
        if is_opened or event in _CHANGES:
            count[0] += 1
            if count[0] == number:
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hear)
