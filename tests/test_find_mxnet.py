"""The one import of MXNet: what it sets right, and what it says where MXNet does not start."""

import glob
import os
import shutil
import subprocess
import sys
import time

import numpy
import pytest

from common import environment
from common.files import ROOT
from common.find_mxnet import mx, usable_cores

IMPORT = "from common.find_mxnet import mx"


def run(*arguments, python=sys.executable, **environ):
    """Run Python in the repository's root; return its exit status, output and errors."""
    done = subprocess.run(
        [python, *arguments],
        cwd=ROOT,
        env={**os.environ, **{name: str(value) for name, value in environ.items()}},
        capture_output=True,
        encoding="utf-8",
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def stand_in(tmp_path):
    """Put a module in front of the installed one: `stand_in("mxnet", "raise …")`."""

    def write(name, code):
        (tmp_path / f"{name}.py").write_text(code)
        return tmp_path

    return write


def test_numpy_has_its_old_names_back():
    assert numpy.bool is bool and numpy.float is float


def test_the_users_own_number_of_threads_is_kept():
    code = f"{IMPORT}; import os; print(os.environ['OMP_NUM_THREADS'])"
    assert run("-c", code, OMP_NUM_THREADS="3")[:2] == (0, "3\n")


def test_mxnet_computes_with_every_core_but_for_1_5():
    code = f"{IMPORT}; import os; print(os.environ['OMP_NUM_THREADS'])"
    wanted = 1 if mx.__version__.startswith("1.5.") else usable_cores()
    assert 1 <= wanted <= os.cpu_count()
    unset = f"import os; os.environ.pop('OMP_NUM_THREADS', None); {code}"
    assert run("-c", unset)[:2] == (0, f"{wanted}\n")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_a_training_computes_with_one_team_of_openmp_threads(sample, tiny_network, tmp_path):
    """A second team slows the first. Each has a thread more for each that is asked for (1.5: one
    less), so that two of them would be four or six threads more here."""
    flags = ["--data-dir", sample, "--pretrained-model", tiny_network, "--gpus", "cpu"]
    flags += ["--image-shape", "3,64,64", "--batch-size", "16", "--num-epochs", "1"]
    flags += ["--data-nthreads", "1"]  # a pool starts its threads as it needs them
    flags += ["--num-classes", "5089"]  # a head of 325,696 weights, more than MXNet calls large

    def most_threads(openmp_threads):
        command = [sys.executable, "fine-tune.py", *flags]
        command += ["--model-prefix", tmp_path / f"run{openmp_threads}"]
        environment = {**os.environ, "OMP_NUM_THREADS": str(openmp_threads)}
        most = 0
        with subprocess.Popen(
            list(map(str, command)), cwd=ROOT, env=environment, stderr=subprocess.DEVNULL
        ) as training:
            while training.poll() is None:
                most = max(most, len(os.listdir(f"/proc/{training.pid}/task")))
                time.sleep(0.01)
        assert training.returncode == 0
        return most

    assert 0 < most_threads(5) - most_threads(2) <= 3


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_process_that_is_held_to_one_core_has_one():
    hold = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
    code = f"{hold}; from common.find_mxnet import usable_cores; print(usable_cores())"
    assert run("-c", code)[1] == "1\n"


# The stand-in for MXNet asks the dynamic loader for what its library would ask for, so that the
# words are the loader's own. 99: a version that no machine has.
@pytest.mark.parametrize(
    ("library", "mend"),
    [
        ("libcuda.so.1", "install the driver"),
        ("libcudart.so.8.0", "libcublas.so.8.0"),
        ("libcufft.so.8.0", "install CUDA 8.0"),
        ("libcublas.so.99", "sh setup.sh cu117"),
        ("libcudnn.so.99", "cuDNN 8's libcudnn.so"),
        ("libnccl.so.99", "NCCL 2's libnccl.so"),
        ("libgomp.so.99", "apt-get install libgomp1"),
        ("libgfortran.so.99", "apt-get install libgfortran5"),
        ("libquadmath.so.99", "libquadmath0"),
    ],
)
def test_a_missing_library_is_one_line_with_its_mend(stand_in, library, mend):
    if library == "libcuda.so.1" and shutil.which("nvidia-smi"):
        pytest.skip("this machine has the driver")
    folder = stand_in("mxnet", f"import ctypes\nctypes.CDLL({library!r})")
    status, _, errors = run("-c", IMPORT, PYTHONPATH=folder)
    assert status == 2 and errors.count("\n") == 1
    assert mend in errors


@pytest.mark.parametrize(
    ("module", "code", "mend"),
    [
        ("numpy", "__version__ = '2.1.0'", "MXNet needs numpy 1 and here is numpy 2.1.0"),
        ("mxnet", "raise OSError('libmxnet.so: cannot enable executable stack')", "patchelf"),
        ("mxnet", "raise OSError('libmxnet.so: wrong ELF class: ELFCLASS32')", "another processor"),
        ("mxnet", "raise ModuleNotFoundError(name='distutils')", 'pip install "setuptools<81"'),
    ],
)
def test_other_known_failures_are_one_line_too(stand_in, module, code, mend):
    status, _, errors = run("-c", IMPORT, PYTHONPATH=stand_in(module, code))
    assert status == 2 and errors.count("\n") == 1 and mend in errors


@pytest.mark.parametrize(
    "code", ["import a_module_of_its_own", "raise OSError('no such thing')", "1 / 0"]
)
def test_an_unknown_failure_keeps_its_traceback(stand_in, code):
    status, _, errors = run("-c", IMPORT, PYTHONPATH=stand_in("mxnet", code))
    assert status == 1 and errors.startswith("Traceback") and "UserError" not in errors


def test_python_without_mxnet_is_told_to_run_setup():
    status, _, errors = run("-S", "-c", IMPORT)  # -S: without the installed packages
    assert status == 2 and errors.count("\n") == 1
    assert f"not installed in {sys.executable}: run sh setup.sh" in errors


def test_a_mac_on_arm_is_told_to_take_another_machine():
    code = "import platform, sys, common.files, ctypes, importlib.metadata, importlib.util;"
    code += "platform.machine = lambda: 'arm64'; sys.platform = 'darwin';" + IMPORT
    status, _, errors = run("-S", "-c", code)  # -S: without the installed packages
    assert status == 2 and errors.count("\n") == 1 and "no wheel for macOS on Arm" in errors


def test_python_3_13_is_told_which_python_mxnet_has():
    newer = glob.glob(os.path.expanduser("~/.pyenv/versions/3.1[3-9].*/bin/python"))
    newer += [path for path in map(shutil.which, ("python3.13", "python3.14")) if path]
    if not newer:
        pytest.skip("no Python 3.13 or later here")
    status, _, errors = run("-c", IMPORT, python=newer[0])
    assert status == 2 and errors.count("\n") == 1 and "3.8 to 3.12 only" in errors


def test_the_report_says_what_there_is(tmp_path):
    (tmp_path / "train2017.json").write_text('{"images": [{"file_name": "a"}, {"file_name": "b"}]}')
    (tmp_path / "net-symbol.json").write_text("{}")
    for epoch in (0, 1, 2, 7):
        (tmp_path / f"net-{epoch:04d}.params").write_bytes(b"")
    folders = ["--data-dir", str(tmp_path), "--model-dir", str(tmp_path)]
    status, output, _ = run("-m", "common.find_mxnet", *folders)
    assert status == 0
    for expected in (
        f"numpy {numpy.__version__}",
        f"MXNet       {mx.__version__}",
        "GiB free",
        "train2017.json: 2 images",
        "net, epochs 0 to 2, 7",
        f"Next        python mx_list.py --data-dir {tmp_path}",
    ):
        assert expected in output


def test_the_report_goes_on_over_what_is_broken(tmp_path):
    (tmp_path / "train2017.json").write_text('{"images": [{"file_name": "a"')
    (tmp_path / "train.lst").mkdir()
    (tmp_path / "train.rec").write_bytes(b"no record")
    (tmp_path / "val.rec").write_bytes(b"")
    (tmp_path / "val.idx").write_bytes(b"")
    (tmp_path / "net-symbol.json").write_bytes(b"\xff")
    (tmp_path / "net-\u00b2.params").write_bytes(b"")  # a digit, and no number
    folders = ["--data-dir", str(tmp_path), "--model-dir", str(tmp_path)]
    status, output, _ = run("-m", "common.find_mxnet", *folders)
    assert status == 0 and "\nNext " in output
    for expected in (
        "train2017.json: 1 images",
        "train.lst: cannot be read (is a directory)",
        "train.rec: no train.idx beside it",
        "val.rec: 0 records",
        "net, no weights",
    ):
        assert expected in output


def test_the_report_ends_with_the_reason_where_mxnet_does_not_start(stand_in):
    folder = stand_in("mxnet", "import ctypes\nctypes.CDLL('libgomp.so.99')")
    status, output, errors = run("-m", "common.find_mxnet", PYTHONPATH=folder)
    assert status == 2 and "numpy" in output and "Disk" in output
    assert errors.startswith("find_mxnet.py: libgomp.so") and errors.count("\n") == 1


@pytest.mark.parametrize(
    ("data", "networks", "command"),
    [
        ("", {}, "sh demo.sh"),
        ("train.json", {}, "python mx_list.py"),
        ("train.json train.lst val.json", {}, "python mx_list.py"),
        ("train.json train.lst", {}, "sh gen_rec.sh data"),
        ("train.json train.lst train.rec", {}, "get a pretrained network"),
        ("train.json train.lst train.rec", {"resnet-152": [0]}, "sh run.sh"),
        ("train.json train.lst train.rec", {"resnet-152": [0, 1]}, "python sub.py EPOCH GPU"),
    ],
)
def test_the_next_step_follows_from_what_is_there(data, networks, command):
    step = environment.next_step(environment.DATA_DIR, set(data.split()), networks)
    assert command in step
