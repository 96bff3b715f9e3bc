"""`sh setup.sh`: the wheel by the machine, and an environment that is whole or not there."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import time
import zipfile

import pytest

from common.base.files import ROOT

VOLTA_OLD = "old, 460.32.03, Tesla V100-SXM2-16GB"  # old: without the field compute_cap
PASCAL_OLDER = "old, 384.81, GeForce GTX 1080"
K80_OLD = "old, 450.80.02, Tesla K80"
K80 = "3.7, 470.82.01, Tesla K80"
T4 = "7.5, 535.104.05, Tesla T4"
H100 = "9.0, 550.54.14, NVIDIA H100 80GB HBM3"

FAKE_NVIDIA_SMI = """#!/bin/sh
if grep -q ^old "$0.txt"; then
    case $* in *compute_cap*) echo 'Field "compute_cap" is not a valid field.'; exit 2 ;; esac
fi
sed 's/^old, //' "$0.txt"
"""


@pytest.fixture
def repository(tmp_path):
    """A copy of what setup.sh needs."""
    copy = tmp_path / "repository"
    for folder in ("requirements", "common"):
        shutil.copytree(os.path.join(ROOT, folder), copy / folder)
    shutil.copy(os.path.join(ROOT, "setup.sh"), copy)
    return copy


def start(repository, *arguments, **environ):
    """Start setup.sh; without a word in `environ`, no package index can be reached.

    What is None in `environ` is not set.
    """
    no_network = {
        "PIP_CONFIG_FILE": os.devnull,
        "PIP_FIND_LINKS": "",
        "PIP_INDEX_URL": "http://127.0.0.1:9/simple",
        "PIP_RETRIES": "0",
        "PIP_DEFAULT_TIMEOUT": "15",
    }
    drop = ("VENV", "PYTHON", "LD_LIBRARY_PATH")
    kept = {name: value for name, value in os.environ.items() if name not in drop}
    settings = {**kept, **no_network, **environ}
    return subprocess.Popen(
        ["sh", str(repository / "setup.sh"), *arguments],
        env={name: value for name, value in settings.items() if value is not None},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        start_new_session=True,
    )


def setup(repository, *arguments, **environ):
    """Run setup.sh; return its exit status, output and last line on stderr."""
    process = start(repository, *arguments, **environ)
    output, errors = process.communicate()
    return process.returncode, output, (errors.splitlines() or [""])[-1]


def path_with_nvidia_smi(tmp_path, answer):
    folder = tmp_path / "bin"
    folder.mkdir()
    (folder / "nvidia-smi").write_text(FAKE_NVIDIA_SMI)
    (folder / "nvidia-smi").chmod(0o755)
    (folder / "nvidia-smi.txt").write_text(answer + "\n")
    return f"{folder}:{os.environ['PATH']}"


@pytest.mark.parametrize(
    ("answer", "wheel", "why"),
    [
        (T4, "cu117", ""),
        (VOLTA_OLD, "cu117", ""),
        (f"{K80}\n{T4}", "cu117", ""),
        ("5.0, 450.80.02, Quadro M2000", "cu117", ""),
        ("8.9, 550.54, NVIDIA GeForce RTX 4090", "cu117", ""),
        (H100, "cpu", "NVIDIA H100 80GB HBM3 (compute capability 9.0"),
        ("12.0, 570.86, NVIDIA GeForce RTX 5090", "cpu", "compute capability 12.0"),
        (PASCAL_OLDER, "cpu", "driver 384.81"),
        (K80, "cpu", "compute capability 3.7"),
        (K80_OLD, "cpu", "Tesla K80"),
        ("No devices were found", "cpu", "nvidia-smi finds no GPU that works"),
    ],
)
def test_the_wheel_follows_from_the_gpu_and_its_driver(tmp_path, repository, answer, wheel, why):
    path = path_with_nvidia_smi(tmp_path, answer)
    status, output, last_line = setup(repository, "--detect", PATH=path)
    assert (status, output) == (0, f"{wheel}\n")
    assert why in last_line


@pytest.mark.parametrize(
    ("answer", "wheel"), [(PASCAL_OLDER, "cu80"), (K80, "cu80"), (T4, "cu117"), (H100, "cpu")]
)
def test_cuda_8_is_taken_where_it_is_installed(tmp_path, repository, answer, wheel):
    (tmp_path / "libcudart.so.8.0").write_bytes(b"")
    path = path_with_nvidia_smi(tmp_path, answer)
    folders = f"/nowhere:{tmp_path}"
    _, output, _ = setup(repository, "--detect", PATH=path, LD_LIBRARY_PATH=folders)
    assert output == f"{wheel}\n"


def test_an_unknown_wheel_is_refused(repository):
    status, _, last_line = setup(repository, "cu999")
    assert (status, last_line) == (2, "setup.sh: cu999: not one of cpu, cu117, cu80, --detect")


def test_more_than_one_argument_is_refused(repository):
    status, _, last_line = setup(repository, "cpu", "extra")
    assert status == 2 and last_line.startswith("setup.sh: cpu extra: more than one argument")
    assert not (repository / ".venv").exists()


def test_a_python_that_mxnet_has_no_wheel_for_is_refused(repository):
    status, _, last_line = setup(repository, "cpu", PYTHON=shutil.which("false"))
    assert status == 2 and "not a Python 3.8 to 3.12" in last_line


def test_without_a_network_the_last_line_says_what_to_do(repository):
    status, _, last_line = setup(repository, "cpu")
    assert status == 1 and last_line.startswith("setup.sh: pip cannot reach its package index")
    assert not (repository / ".venv").exists()


def pretend_environment(repository, stamp):
    """Make what looks like an environment, with a file that distinguishes it from another."""
    folder = repository / ".venv"
    (folder / "bin").mkdir(parents=True)
    (folder / "bin" / "python").symlink_to(shutil.which("true"))
    (folder / "pyvenv.cfg").write_text("home = /nowhere\n")
    (folder / "here-before").write_text("")
    if stamp:
        (folder / "setup-stamp").write_text(stamp)
    return folder


def test_a_working_environment_survives_a_failure_to_remake_it(repository):
    folder = pretend_environment(repository, "cpu 1-1 3.11 works\n")  # of other requirements
    process = start(repository)
    _, errors = process.communicate()
    assert process.returncode == 1 and ".venv is in use for cpu and Python 3.11" in errors
    assert (folder / "here-before").exists()
    assert not (repository / ".venv.old").exists()


def test_an_environment_of_another_making_is_left_alone(repository):
    folder = pretend_environment(repository, stamp=None)
    status, _, last_line = setup(repository)
    assert status == 1 and "was not made by setup.sh" in last_line
    assert (folder / "here-before").exists()


@pytest.mark.parametrize(
    "number", [signal.SIGTERM, pytest.param(signal.SIGKILL, marks=pytest.mark.slow)]
)
def test_an_interrupted_run_leaves_nothing_that_counts_as_whole(repository, number):
    with socket.create_server(("127.0.0.1", 0)) as silent:  # pip waits for its answer
        url = f"http://127.0.0.1:{silent.getsockname()[1]}/simple"
        process = start(repository, "cpu", PIP_INDEX_URL=url)
        connection, _ = silent.accept()
        os.killpg(process.pid, number)  # the shell and what it started
        process.communicate()
        connection.close()
    assert process.returncode in (143, -signal.SIGKILL)
    assert (repository / ".venv").exists() == (number == signal.SIGKILL)
    if number == signal.SIGKILL:  # nobody could tidy up; the next run does, and starts anew
        status, _, last_line = setup(repository)
        assert status == 1 and "cannot reach" in last_line
        assert not (repository / ".venv").exists()


def wheel(folder, name, version, module, code):
    """Write a Python package of one module, as pip installs it."""
    distribution = f"{name.replace('-', '_')}-{version}"
    with zipfile.ZipFile(folder / f"{distribution}-py3-none-any.whl", "w") as archive:
        archive.writestr(f"{module}.py", code)
        archive.writestr(
            f"{distribution}.dist-info/METADATA",
            f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n",
        )
        archive.writestr(
            f"{distribution}.dist-info/WHEEL",
            "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
        )
        archive.writestr(f"{distribution}.dist-info/RECORD", "")


@pytest.mark.slow
def test_a_bare_server_gets_the_headless_opencv_and_the_name_of_the_missing_package(
    tmp_path, repository
):
    for name in ("numpy-1.26.4", "tqdm-4.66", "matplotlib-3.7", "setuptools-80.0"):
        project, version = name.split("-")
        wheel(tmp_path, project, version, f"{project}_stand_in", "")
    wheel(tmp_path, "numpy", "1.26.4", "numpy", "__version__ = '1.26.4'")
    no_libgl = "raise ImportError('libGL.so.1: cannot open shared object file')"
    wheel(tmp_path, "opencv-python", "4.10.0.84", "cv2", no_libgl)
    wheel(tmp_path, "opencv-python-headless", "4.10.0.84", "cv2", "")
    no_libgomp = "import ctypes\nctypes.CDLL('libgomp.so.99')"
    wheel(tmp_path, "mxnet", "1.9.1", "mxnet", no_libgomp)
    process = start(repository, "cpu", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    _, errors = process.communicate()
    assert "taking opencv-python-headless 4.10.0.84 instead" in errors
    assert process.returncode == 1 and "apt-get install libgomp1" in errors.splitlines()[-1]


# A Python that makes an environment of a few files, each a line of $FILLING, and three tools that
# do what they are called for. All of them end everything at the step with the number $KILL_AT.
STEP = """
step() {
    echo >>"$STEPS"
    [ "$(wc -l <"$STEPS")" -ne "${KILL_AT:-0}" ] || kill -9 0
}
"""
FAKE_PYTHON = """#!/bin/sh
. "$FAKES/step.sh"
case $* in
*'sys.version_info[:2]'*) echo 3.11 ;;
'-m venv '*)
    step
    mkdir "$3/bin"
    cp "$0" "$3/bin/python"
    echo 'home = /nowhere' >"$3/pyvenv.cfg"
    ;;
*' install '*)
    echo pip >>"$STEPS.pip"
    [ ! -p "$FAKES/wait" ] || cat "$FAKES/wait"
    [ "$FILLING" != none ] || exit 1
    for file in a b c; do
        step
        echo "$FILLING" >"$(dirname "$0")/../$file"
    done
    ;;
-) step; [ "$FILLING" != 'does not start' ] ;;
esac
"""
FAKE_TOOL = """#!/bin/sh
. "$FAKES/step.sh"
for path in "$@"; do
    if [ -d "$path" ] && [ NAME = rm ]; then
        for file in "$path"/*; do step; REAL -rf "$file"; done
    fi
done
step
exec REAL "$@"
"""
TOOLS = "sh cat cksum tr sed grep awk wc rm mv mkdir rmdir ln readlink cp dirname sleep ps uname"


@pytest.fixture
def fakes(tmp_path, repository):
    """Settings for `start` under which an environment is made in a moment; no flock is here."""
    folder = tmp_path / "fakes"
    folder.mkdir()
    for name in filter(shutil.which, TOOLS.split()):
        (folder / name).symlink_to(shutil.which(name))
    (folder / "step.sh").write_text(STEP)
    for name in ("rm", "mv", "mkdir"):
        (folder / name).unlink()
        text = FAKE_TOOL.replace("NAME", name).replace("REAL", shutil.which(name))
        (folder / name).write_text(text)
    (folder / "python3").write_text(FAKE_PYTHON)
    for name in ("rm", "mv", "mkdir", "python3"):
        (folder / name).chmod(0o755)
    settings = {"PATH": str(folder), "FAKES": str(folder), "STEPS": str(folder / "steps")}
    return {**settings, "FILLING": "first"}


def filling(repository):
    """What the environment is filled with; fails where it is not whole."""
    folder = repository / ".venv"
    assert (folder / "setup-stamp").read_text().split()[-1] in ("installed", "works")
    assert (folder / "bin" / "python").exists()
    (text,) = {(folder / name).read_text() for name in "abc"}
    return text.strip()


def environments(repository):
    return sorted(name for name in os.listdir(repository) if name.startswith(".venv"))


def ask_for_another(repository):
    with open(repository / "requirements" / "common.txt", "a") as stream:
        stream.write("# changed\n")


def test_a_run_killed_at_any_step_leaves_the_old_environment_or_the_new_one(repository, fakes):
    setup(repository, "cpu", **fakes)
    shutil.copytree(repository, repository.parent / "before", symlinks=True)
    left, step, status = [], 0, None
    while status != 0:
        step += 1
        shutil.rmtree(repository)
        shutil.copytree(repository.parent / "before", repository, symlinks=True)
        ask_for_another(repository)
        os.remove(fakes["STEPS"])
        status, _, _ = setup(repository, **{**fakes, "FILLING": "second", "KILL_AT": str(step)})
        if status != 0:
            assert status == -signal.SIGKILL
            setup(repository, **{**fakes, "FILLING": "none"})  # which can install nothing
        left.append(filling(repository))
        assert environments(repository) == [".venv"]
    assert left == sorted(left) and set(left) == {"first", "second"}
    assert step > 10


def test_a_run_killed_while_it_tidies_up_is_tidied_up_behind(repository, fakes):
    """The first run is killed half-way, the second at each of its steps."""
    step, status = 0, None
    while status != 0:
        step += 1
        shutil.rmtree(repository / ".venv", ignore_errors=True)
        for kill_at in (5, step):
            open(fakes["STEPS"], "w").close()
            settings = {**fakes, "KILL_AT": str(kill_at)}
            status, _, _ = setup(repository, "cpu", **settings)
        if status != 0:
            assert setup(repository, "cpu", **fakes)[0] == 0
        assert filling(repository) == "first"
    assert step > 5


def test_an_environment_that_does_not_start_does_not_replace_one_that_does(repository, fakes):
    setup(repository, "cpu", **fakes)
    ask_for_another(repository)
    assert setup(repository, **{**fakes, "FILLING": "does not start"})[0] == 1
    assert filling(repository) == "first"
    assert setup(repository, **{**fakes, "FILLING": "second"})[0] == 0
    assert filling(repository) == "second"


def test_a_user_without_a_home_is_served(repository, fakes):
    assert setup(repository, "cpu", **{**fakes, "HOME": None})[0] == 0
    assert filling(repository) == "first"


def begin_and_wait(repository, fakes):
    """Start a run that waits in pip until something is written into the pipe that is returned."""
    pipe = os.path.join(fakes["FAKES"], "wait")
    os.mkfifo(pipe)
    process = start(repository, "cpu", **fakes)
    while not os.path.exists(fakes["STEPS"] + ".pip"):
        assert process.poll() is None
        time.sleep(0.01)
    return process, pipe


def num_installed(fakes):
    with open(fakes["STEPS"] + ".pip") as stream:
        return len(stream.readlines())


def test_without_flock_a_second_run_waits_for_the_first(repository, fakes):
    first, pipe = begin_and_wait(repository, fakes)
    second = start(repository, "cpu", **fakes)
    line = second.stderr.readline()
    assert line == f"setup.sh: waiting for another run of setup.sh, process {first.pid}\n"
    with open(pipe, "w"):
        os.remove(pipe)
    for process in (first, second):
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert num_installed(fakes) == 1 and filling(repository) == "first"


def test_without_flock_a_killed_run_holds_up_nobody(repository, fakes):
    first, pipe = begin_and_wait(repository, fakes)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    os.remove(pipe)
    assert (repository / ".tmp-setup-lock.pid").is_symlink()
    assert setup(repository, "cpu", **fakes)[0] == 0
    assert environments(repository) == [".venv"]
    assert not (repository / ".tmp-setup-lock.pid").is_symlink()


@pytest.mark.skipif(shutil.which("ps") is None, reason="only ps says what a process is")
def test_without_flock_another_process_of_that_number_holds_up_nobody(repository, fakes):
    (repository / ".tmp-setup-lock.pid").symlink_to(str(os.getpid()))
    assert setup(repository, "cpu", **fakes)[0] == 0


def test_without_flock_one_of_many_takes_the_lock_of_a_killed_run(repository, fakes):
    with subprocess.Popen(["true"]) as dead:
        dead.wait()
    (repository / ".tmp-setup-lock.pid").symlink_to(str(dead.pid))
    # And the run that was to replace it was killed before it had done so.
    (repository / f".tmp-setup-lock.pid.{dead.pid}").symlink_to(str(dead.pid))
    runs = [start(repository, "cpu", **fakes) for _ in range(6)]
    for run in runs:
        run.communicate(timeout=60)
        assert run.returncode == 0
    assert num_installed(fakes) == 1 and filling(repository) == "first"
    assert not [name for name in os.listdir(repository) if name.startswith(".tmp")]


@pytest.fixture
def package_index(tmp_path):
    """Skips the test where pip cannot download even a small package."""
    small = [sys.executable, "-m", "pip", "download", "--no-deps", "--dest", tmp_path, "tqdm"]
    if subprocess.run(small, capture_output=True).returncode != 0:
        pytest.skip("no package index can be reached")


@pytest.mark.slow
@pytest.mark.usefixtures("package_index")
def test_one_command_makes_an_environment_and_a_second_call_does_nothing(repository):
    for attempt in ("first", "second"):
        done = subprocess.run(
            ["sh", str(repository / "setup.sh"), "cpu"], capture_output=True, encoding="utf-8"
        )
        assert done.returncode == 0, done.stderr
        assert ("setup.sh: MXNet 1.9.1 works" in done.stderr) == (attempt == "first")
    assert done.stdout == done.stderr == ""
    python = repository / ".venv" / "bin" / "python"
    report = subprocess.run(
        [str(python), "-m", "common.doctor"],
        cwd=repository,
        capture_output=True,
        text=True,
    )
    assert report.returncode == 0 and "mxnet 1.9.1" in report.stdout
