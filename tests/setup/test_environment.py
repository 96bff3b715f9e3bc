"""An environment that is replaced as a whole, or not at all, whenever the run is killed."""

import os
import shutil
import signal
import subprocess
import sys

import pytest

from common.base.files import ROOT, UserError
from common.setup import environment
from common.setup.environment import Environment, Stamp
from tests.setup.fakes import (
    ask_for_another,
    environments,
    fake_settings,
    filling_of,
    make_repository,
    set_up,
)


@pytest.fixture
def repository(tmp_path):
    """A copy of what setup.sh needs."""
    return make_repository(tmp_path)


@pytest.fixture
def fakes(tmp_path, monkeypatch):
    """Settings under which an environment is made in a moment."""
    monkeypatch.setenv("VENV", ".venv")
    return fake_settings(tmp_path)


def kill_at_each_step(fakes):
    """Arguments of `set_up` which kill it before each of its changes, and at each of pip's."""
    yield from ({"kill_at": 0, "KILL_AT": str(step), **fakes} for step in range(1, 5))
    yield from ({"kill_at": step, **fakes} for step in range(1, 200))


def test_a_run_killed_at_any_step_leaves_the_old_environment_or_the_new_one(repository, fakes):
    assert set_up(repository, "cpu", **fakes) == 0
    before = repository.parent / "before"
    shutil.copytree(repository, before, symlinks=True)
    left, tried = [], 0
    for settings in kill_at_each_step({**fakes, "FILLING": "second"}):
        shutil.rmtree(repository)
        shutil.copytree(before, repository, symlinks=True)
        ask_for_another(repository)
        os.remove(fakes["STEPS"])
        status = set_up(repository, **settings)
        if (repository / ".venv").exists():  # else it was killed between two renamings
            assert filling_of(repository) in ("first", "second")
        if status == 0:
            break
        assert status == -signal.SIGKILL
        set_up(repository, **{**fakes, "FILLING": "none"})  # which can install nothing
        left.append(filling_of(repository))
        assert environments(repository) == [".venv"]
        tried += 1
    assert status == 0 and tried > 20
    assert left[4:] == sorted(left[4:]) and set(left) == {"first", "second"}


def test_a_run_killed_while_it_tidies_up_is_tidied_up_behind(repository, fakes):
    """The first run is killed half-way, the second at each of its steps."""
    tried = 0
    for settings in kill_at_each_step(fakes):
        shutil.rmtree(repository / ".venv", ignore_errors=True)
        open(fakes["STEPS"], "w").close()
        assert set_up(repository, "cpu", **{**fakes, "KILL_AT": "3"}) == -signal.SIGKILL
        open(fakes["STEPS"], "w").close()
        status = set_up(repository, "cpu", **settings)
        if status != 0:
            assert set_up(repository, "cpu", **fakes) == 0
        assert filling_of(repository) == "first"
        assert environments(repository) == [".venv"]
        if status == 0:
            break
        tried += 1
    assert status == 0 and tried > 20


def test_the_present_environment_serves_until_the_new_one_is_tried(repository, fakes):
    set_up(repository, "cpu", **fakes)
    ask_for_another(repository)
    open(fakes["STEPS"], "w").close()
    set_up(repository, **{**fakes, "FILLING": "second", "KILL_AT": "3"})
    assert environments(repository) == [".venv", ".venv.new"]
    assert filling_of(repository) == "first"


def test_an_environment_that_does_not_start_does_not_replace_one_that_does(repository, fakes):
    set_up(repository, "cpu", **fakes)
    ask_for_another(repository)
    assert set_up(repository, **{**fakes, "FILLING": "does not start"}) == 1
    assert filling_of(repository) == "first"
    assert environments(repository) == [".venv"]
    assert set_up(repository, **{**fakes, "FILLING": "second"}) == 0
    assert filling_of(repository) == "second"


def test_an_environment_that_does_not_start_waits_for_what_it_lacks(repository, fakes):
    """Where there was none before it, e.g. until libgomp is installed."""
    assert set_up(repository, "cpu", **{**fakes, "FILLING": "does not start"}) == 1
    assert (repository / ".venv/setup-stamp").read_text().endswith(" installed\n")
    assert set_up(repository, "cpu", **{**fakes, "FILLING": "nothing new"}) == 0
    assert filling_of(repository) == "does not start"  # the same, with nothing installed again


def test_wheels_for_gpus_are_installed_without_a_gpu(repository, fakes):
    """Into the image of a container."""
    assert set_up(repository, "cu117", **{**fakes, "FILLING": "does not start"}) == 0
    assert filling_of(repository) == "does not start"


def test_the_driver_limits_the_pytorch_that_is_installed(repository, fakes, tmp_path, monkeypatch):
    """tests/setup/test_machine.py has the limits of each driver."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho '9.0, 550.54.14, NVIDIA H100'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr("platform.machine", lambda: "x86_64")
    assert set_up(repository, "torch", **fakes) == 0
    with open(fakes["STEPS"] + ".pip") as calls:
        assert calls.readlines()[-1].endswith("requirements/torch.txt torch<2.11\n")


def test_what_a_run_of_the_earlier_setup_left_half_way_is_put_right(repository, fakes):
    """It made the new environment in the place of the old one, which it kept as .venv.old."""
    set_up(repository, "cpu", **fakes)
    (repository / ".venv").rename(repository / ".venv.old")
    (repository / ".venv").mkdir()
    (repository / ".venv/setup-stamp").write_text("unfinished\n")
    assert set_up(repository, **{**fakes, "FILLING": "none"}) == 0
    assert filling_of(repository) == "first"
    assert environments(repository) == [".venv"]


@pytest.mark.parametrize("name", [".venv", ".venv.new", ".venv.old"])
def test_what_setup_did_not_make_is_left_alone(repository, fakes, name):
    folder = repository / name
    folder.mkdir()
    (folder / "of-the-user").write_text("")
    assert set_up(repository, "cpu", **fakes) == 1
    assert environments(repository) == [name] and os.listdir(folder) == ["of-the-user"]


def test_a_link_to_an_environment_elsewhere_is_replaced_and_not_what_it_leads_to(
    repository, fakes, tmp_path
):
    set_up(repository, "cpu", **fakes)
    (repository / ".venv").rename(tmp_path / "shared")
    (repository / ".venv").symlink_to(tmp_path / "shared")
    ask_for_another(repository)
    assert set_up(repository, **{**fakes, "FILLING": "second"}) == 0
    assert filling_of(repository) == "second"
    assert (tmp_path / "shared/a").read_text() == "first\n"


def test_an_environment_in_a_folder_that_cannot_be_written_is_used(repository, fakes, monkeypatch):
    set_up(repository, "cpu", **fakes)
    monkeypatch.setattr(environment, "open_own", None)  # the lock of a run that has work
    assert set_up(repository, **fakes) == 0


def test_the_stamp_changes_with_the_files_that_requirements_include(repository, monkeypatch):
    monkeypatch.setattr(environment, "ROOT", str(repository))
    sums = {kind: environment.sum_of_requirements(kind) for kind in ("cpu", "both", "torch")}
    assert len(set(sums.values())) == 3
    ask_for_another(repository)
    changed = {kind for kind in sums if environment.sum_of_requirements(kind) != sums[kind]}
    assert changed == {"cpu", "both"}


def test_a_folder_without_a_whole_stamp_is_no_environment(tmp_path):
    folder = tmp_path / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin/python").symlink_to(sys.executable)
    assert Environment(str(folder)).stamp is None
    (folder / "setup-stamp").write_text("cpu 1-1 3.11\n")
    assert Environment(str(folder)).stamp is None
    (folder / "setup-stamp").write_text("cpu 1-1 3.11 works\n")
    assert Environment(str(folder)).stamp == Stamp("cpu", "1-1", "3.11", "works")
    (folder / "bin/python").unlink()  # e.g. the Python was removed from the machine
    assert Environment(str(folder)).stamp is None


def test_scripts_get_the_final_name_of_their_environment(tmp_path):
    """In pip's and venv's two ways of naming it; programs and permissions stay as they are."""
    new, final = tmp_path / "a b.new" / "a b.new", tmp_path / "a b.new" / "a b"
    (new / "bin").mkdir(parents=True)
    script = f"#!/bin/sh\n'''exec' \"{new}/bin/python\" \"$0\" \"$@\"\n'''\n"
    (new / "bin/tool").write_text(script)
    (new / "bin/tool").chmod(0o755)
    (new / "bin/program").write_bytes(b"\x7fELF\0" + os.fsencode(new))
    (new / "pyvenv.cfg").write_text(f"command = python3 -m venv {new}\n")
    environment._rename_in_scripts(str(new), str(final))
    assert (new / "bin/tool").read_text() == script.replace(str(new), str(final))
    assert os.access(new / "bin/tool", os.X_OK)
    assert (new / "bin/program").read_bytes() == b"\x7fELF\0" + os.fsencode(new)
    assert (new / "pyvenv.cfg").read_text() == f"command = python3 -m venv {final}\n"


STOPPED = """
import sys
from common.base.script import run_script
from common.setup.environment import Environment
run_script(lambda: Environment(sys.argv[1]).begin(sys.argv[2]))
"""


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_stopped_ends_what_venv_has_started(tmp_path, number, status):
    """venv starts a pip, which would go on to write where the next run does."""
    fake_python = tmp_path / "python"
    fake_python.write_text("#!/bin/sh\nsleep 60 &\necho begun\nwait\n")
    fake_python.chmod(0o755)
    command = [sys.executable, "-c", STOPPED, str(tmp_path / ".venv"), str(fake_python)]
    with subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"begun\n"
        process.send_signal(number)
        process.communicate(timeout=20)  # until nobody holds its output any more
    assert process.returncode == status


HOLD = """
import sys, time
from common.setup.environment import only_run
from common.setup.packages import run
with only_run(sys.argv[1], print):
    print("holds it", flush=True)
    run([sys.executable, "-c", "import time; time.sleep(float('%s'))" % sys.argv[2]])
"""


@pytest.mark.skipif(not os.path.exists("/proc/self/task"), reason="needs Linux's /proc")
def test_what_a_killed_run_has_started_keeps_the_lock_until_it_ends(tmp_path):
    lock, said = str(tmp_path / "lock"), []
    command = [sys.executable, "-c", HOLD, lock, "1.5"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, encoding="utf-8") as holder:
        assert holder.stdout.readline() == "holds it\n"
        while not _children(holder.pid):
            assert holder.poll() is None
        holder.kill()
    with environment.only_run(lock, said.append):
        assert said == ["waiting for another run of setup.sh"]
    assert not os.path.exists(lock)


def _children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as stream:
        return stream.read().split()


def test_a_lock_that_is_a_link_is_not_written_through(tmp_path):
    (tmp_path / "target").write_text("")
    (tmp_path / "lock").symlink_to(tmp_path / "target")
    with pytest.raises(UserError, match="is a link"):
        with environment.only_run(str(tmp_path / "lock"), print):
            pass
