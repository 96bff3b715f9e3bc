"""`sh setup.sh`: the wheel by the machine, and an environment that is whole or not there."""

import contextlib
import glob
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest

from tests.setup.fakes import (
    ask_for_another,
    environments,
    fake_settings,
    filling_of,
    make_repository,
)
from tests.setup.wheels import write_wheel


@pytest.fixture
def repository(tmp_path):
    """A copy of what setup.sh needs."""
    return make_repository(tmp_path)


@pytest.fixture
def fakes(tmp_path):
    """Settings for `start` under which an environment is made in a moment."""
    return fake_settings(tmp_path)


def start_path():
    """The PATH with this Python in front: it starts at once, where a shim in between takes time."""
    return f"{os.path.dirname(sys.executable)}{os.pathsep}{os.environ['PATH']}"


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
        "PATH": start_path(),
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


def test_detect_prints_the_choice_and_its_reason(tmp_path, repository):
    """Which choice for which machine: tests/setup/test_machine.py."""
    (tmp_path / "nvidia-smi").write_text("#!/bin/sh\necho '9.0, 550.54.14, NVIDIA H100'\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{start_path()}"
    status, output, last_line = setup(repository, "--detect", PATH=path)
    assert (status, output) == (0, "torch\n")
    assert last_line.startswith("setup.sh: ") and "NVIDIA H100 (compute capability 9.0" in last_line
    assert environments(repository) == []


def test_an_unknown_wheel_is_refused(repository):
    status, _, last_line = setup(repository, "cu999")
    assert (status, last_line) == (
        2,
        "setup.sh: cu999: not one of cpu, cu117, cu80, torch, both, --detect",
    )


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


def test_a_working_environment_survives_a_failure_to_remake_it(repository, fakes):
    folder = pretend_environment(repository, "cpu 1-1 3.11 works\n")  # of other requirements
    process = start(repository, **{**fakes, "FILLING": "none"})
    _, errors = process.communicate()
    assert process.returncode == 1 and ".venv is in use for cpu and Python 3.11" in errors
    assert (folder / "here-before").exists()
    assert environments(repository) == [".venv"]


def test_an_environment_of_another_making_is_left_alone(repository):
    folder = pretend_environment(repository, stamp=None)
    status, _, last_line = setup(repository)
    assert status == 1 and "was not made by setup.sh" in last_line
    assert (folder / "here-before").exists()


@pytest.mark.slow
def test_a_bare_server_gets_the_headless_opencv_and_the_name_of_the_missing_package(
    tmp_path, repository
):
    for name in ("numpy-1.26.4", "tqdm-4.66", "matplotlib-3.7", "setuptools-80.0"):
        project, version = name.split("-")
        write_wheel(tmp_path, project, version, f"{project}_stand_in", "")
    write_wheel(tmp_path, "numpy", "1.26.4", "numpy", "__version__ = '1.26.4'")
    no_libgl = "raise ImportError('libGL.so.1: cannot open shared object file')"
    write_wheel(tmp_path, "opencv-python", "4.10.0.84", "cv2", no_libgl)
    write_wheel(tmp_path, "opencv-python-headless", "4.10.0.84", "cv2", "")
    no_libgomp = "import ctypes\nctypes.CDLL('libgomp.so.99')"
    write_wheel(tmp_path, "mxnet", "1.9.1", "mxnet", no_libgomp)
    process = start(repository, "cpu", PIP_NO_INDEX="1", PIP_FIND_LINKS=str(tmp_path))
    _, errors = process.communicate()
    assert "taking opencv-python-headless 4.10.0.84 instead" in errors
    assert process.returncode == 1 and "apt-get install libgomp1" in errors.splitlines()[-1]


def test_a_second_call_does_nothing(repository, fakes):
    for _ in range(2):
        assert setup(repository, "cpu", **fakes)[0] == 0
    assert num_installed(fakes) == 1 and filling_of(repository) == "first"
    assert environments(repository) == [".venv"]


def test_without_an_argument_the_present_engine_stays(repository, fakes):
    setup(repository, "cu117", **fakes)
    ask_for_another(repository)
    assert setup(repository, **{**fakes, "FILLING": "second"})[0] == 0
    assert (repository / ".venv/setup-stamp").read_text().startswith("cu117 ")
    assert filling_of(repository) == "second"


def test_a_disk_that_becomes_full_is_one_line(repository, fakes):
    status, _, last_line = setup(repository, "cpu", **{**fakes, "FILLING": "full disk"})
    assert (status, last_line) == (
        1,
        "setup.sh: the disk is full; free some space and run it again",
    )
    assert environments(repository) == []


@pytest.fixture
def small_disk(tmp_path):
    """A function that mounts a disk of 16 MB with options, which only root may."""
    folder = tmp_path / "disk"
    folder.mkdir()

    def mount(options):
        command = ["mount", "-t", "tmpfs", "-o", f"size=16m,{options}", "tmpfs", folder]
        if not shutil.which("mount") or subprocess.run(command, capture_output=True).returncode:
            pytest.skip("a small disk cannot be mounted")
        return folder

    yield mount
    subprocess.run(["umount", folder], capture_output=True)


def test_a_disk_that_is_too_small_is_refused_before_anything_is_made(repository, fakes, small_disk):
    folder = small_disk("rw")
    status, _, last_line = setup(repository, "cpu", VENV=str(folder / "env"), **fakes)
    assert status == 1 and "about 550 MB are needed, and 16 MB are free" in last_line
    assert os.listdir(folder) == [] and not os.path.exists(fakes["STEPS"])


def test_a_folder_that_cannot_be_written_is_one_line_with_the_way_to_another(
    repository, fakes, small_disk
):
    folder = small_disk("ro")
    status, _, last_line = setup(repository, "cpu", VENV=str(folder / "env"), **fakes)
    assert status == 1
    assert last_line.startswith(f"setup.sh: {folder}: cannot be written (read-only file system)")
    assert "VENV=" in last_line


def test_without_a_python_setup_says_which_to_install(tmp_path, repository):
    for tool in ("dirname", "sh"):
        (tmp_path / tool).symlink_to(shutil.which(tool))
    if glob.glob("/usr/local/bin/python3.*") or glob.glob("/opt/python*/bin/python3"):
        pytest.skip("there is a Python that setup.sh finds everywhere")
    status, _, last_line = setup(repository, PATH=str(tmp_path), HOME="/nowhere")
    assert status == 1 and last_line.startswith("setup.sh: no Python 3.8 or newer is here")


def test_a_python_that_the_engine_has_no_wheel_for_leads_to_pytorch(tmp_path, repository, fakes):
    (tmp_path / "newer").write_text("#!/bin/sh\necho 3.13\n")
    (tmp_path / "newer").chmod(0o755)
    _, output, _ = setup(repository, "--detect", PYTHON=str(tmp_path / "newer"))
    assert output == "torch\n"
    assert setup(repository, "both", PYTHON=str(tmp_path / "newer"))[0] == 2
    setup(repository, "cpu", **fakes)
    status, _, last_line = setup(repository, PYTHON=str(tmp_path / "newer"))
    assert status == 2 and last_line.endswith("for PyTorch: sh setup.sh torch")


def test_a_user_without_a_home_is_served(repository, fakes):
    assert setup(repository, "cpu", **{**fakes, "HOME": None})[0] == 0
    assert filling_of(repository) == "first"


def begin_and_wait(repository, fakes):
    """Start a run that waits in pip; return it, and what lets it go on."""
    pipe = fakes["STEPS"] + ".wait"
    os.mkfifo(pipe)
    process = start(repository, "cpu", **fakes)
    while True:
        try:
            descriptor = os.open(pipe, os.O_WRONLY | os.O_NONBLOCK)
            break
        except OSError:  # nobody reads it yet
            assert process.poll() is None
            time.sleep(0.01)

    def release():
        os.remove(pipe)
        os.close(descriptor)

    return process, release


def num_installed(fakes):
    with open(fakes["STEPS"] + ".pip") as stream:
        return len(stream.readlines())


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGKILL])
def test_an_interrupted_run_leaves_nothing_that_counts_as_whole(repository, fakes, number):
    process, release = begin_and_wait(repository, fakes)
    os.killpg(process.pid, number)  # the set-up and what it started
    _, errors = process.communicate()
    release()
    if number == signal.SIGKILL:  # nobody could tidy up; the next run does, and starts anew
        assert process.returncode == -number
        assert environments(repository) == [".venv.new"]
        status, _, last_line = setup(repository, **{**fakes, "FILLING": "none"})
        assert status == 1 and "pip could not install requirements/cpu.txt" in last_line
    else:
        assert process.returncode == 128 + number
        assert errors.splitlines()[-1].startswith("setup.sh: stopped by ")
    assert environments(repository) == []


def test_a_second_run_waits_for_the_first(repository, fakes):
    first, release = begin_and_wait(repository, fakes)
    second = start(repository, "cpu", **fakes)
    assert second.stderr.readline() == "setup.sh: waiting for another run of setup.sh\n"
    release()
    for process in (first, second):
        process.communicate(timeout=60)
        assert process.returncode == 0
    assert num_installed(fakes) == 1 and filling_of(repository) == "first"


def test_a_killed_run_holds_up_nobody(repository, fakes):
    first, release = begin_and_wait(repository, fakes)
    os.killpg(first.pid, signal.SIGKILL)
    first.communicate()
    release()
    assert setup(repository, "cpu", **fakes)[0] == 0
    assert environments(repository) == [".venv"]


def test_one_of_many_makes_the_environment(repository, fakes):
    runs = [start(repository, "cpu", **fakes) for _ in range(6)]
    for run in runs:
        run.communicate(timeout=60)
        assert run.returncode == 0
    assert num_installed(fakes) == 1 and filling_of(repository) == "first"
    assert not [name for name in os.listdir(repository) if name.startswith(".tmp")]


@pytest.mark.slow
def test_runs_killed_at_random_moments_leave_the_old_environment_or_the_new_one(repository, fakes):
    """The whole group of processes, as when the machine dies."""
    drawn = random.Random(0)
    start_of_first = time.monotonic()
    setup(repository, "cpu", **fakes)
    seconds = time.monotonic() - start_of_first
    for number in range(30):
        before = filling_of(repository)
        ask_for_another(repository)
        process = start(repository, **{**fakes, "FILLING": f"number {number}"})
        time.sleep(drawn.uniform(0, seconds))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        if (repository / ".venv").exists():  # else it was killed between two renamings
            assert filling_of(repository) in (before, f"number {number}")
        setup(repository, **{**fakes, "FILLING": "none"})  # which can install nothing
        assert filling_of(repository) in (before, f"number {number}")
        assert environments(repository) == [".venv"]


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
