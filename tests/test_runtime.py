"""The one import of MXNet: what it prepares, and what it says where MXNet does not start."""

import glob
import os
import shutil
import subprocess
import sys
import time

import numpy
import pytest

from common.base.files import ROOT
from common.engines.mxnet.runtime import mx, usable_cores
from tests.conftest import run_python

IMPORT = "from common.engines.mxnet.runtime import mx"
# As a script does, which ends in one line where MXNet does not start.
START = "from common import engines; from common.base.script import run_script;"
START += "run_script(engines.load)"


def test_numpy_has_its_old_names_back():
    assert numpy.bool is bool and numpy.float is float


def test_a_scipy_that_needs_numpy_2_is_left_out(stand_in):
    folder = stand_in("scipy", "import numpy; numpy.a_name_of_numpy_2")
    code = f"{IMPORT}; mx.nd.zeros((1,)).wait_to_read(); import sys; print(sys.modules['scipy'])"
    assert run_python("-c", code, PYTHONPATH=folder)[:2] == (0, "None\n")


def test_the_users_own_number_of_threads_is_kept():
    code = f"{IMPORT}; import os; print(os.environ['OMP_NUM_THREADS'])"
    assert run_python("-c", code, OMP_NUM_THREADS="3")[:2] == (0, "3\n")


def test_mxnet_computes_with_every_core_but_for_1_5():
    code = f"{IMPORT}; import os; print(os.environ['OMP_NUM_THREADS'])"
    wanted = 1 if mx.__version__.startswith("1.5.") else usable_cores()
    assert 1 <= wanted <= os.cpu_count()
    unset = f"import os; os.environ.pop('OMP_NUM_THREADS', None); {code}"
    assert run_python("-c", unset)[:2] == (0, f"{wanted}\n")


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="counts threads in /proc")
def test_a_training_computes_with_one_team_of_openmp_threads(sample, tiny_network, tmp_path):
    """A second team slows the first. Each has a thread more for each that is asked for (1.5: one
    less), so that two of them would be four or six threads more here."""
    flags = [
        "--data-train",
        sample / "train.rec",
        "--pretrained-model",
        tiny_network,
        "--gpus",
        "cpu",
    ]
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

    # A thread that lives for a moment may be seen in one of two runs only; a second team always is.
    differences = (most_threads(5) - most_threads(2) for _ in range(3))
    assert any(0 < difference <= 3 for difference in differences)


@pytest.mark.skipif(not hasattr(os, "sched_setaffinity"), reason="needs Linux")
def test_a_process_that_is_held_to_one_core_has_one():
    hold = "import os; os.sched_setaffinity(0, [min(os.sched_getaffinity(0))])"
    code = f"{hold}; from common.engines.mxnet.runtime import usable_cores; print(usable_cores())"
    assert run_python("-c", code)[1] == "1\n"


# The stand-in for MXNet asks the dynamic loader for what its library would ask for, so that the
# words are the loader's own. 99: a version that no machine has.
@pytest.mark.parametrize(
    ("library", "fix"),
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
def test_a_missing_library_is_one_line_with_its_fix(stand_in, library, fix):
    if library == "libcuda.so.1" and shutil.which("nvidia-smi"):
        pytest.skip("this machine has the driver")
    folder = stand_in("mxnet", f"import ctypes\nctypes.CDLL({library!r})")
    status, _, errors = run_python("-c", START, PYTHONPATH=folder)
    assert status == 2 and errors.count("\n") == 1
    assert fix in errors


@pytest.mark.parametrize(
    ("module", "code", "fix"),
    [
        ("numpy", "__version__ = '2.1.0'", "MXNet needs numpy 1 and here is numpy 2.1.0"),
        ("mxnet", "raise OSError('libmxnet.so: cannot enable executable stack')", "patchelf"),
        ("mxnet", "raise OSError('libmxnet.so: wrong ELF class: ELFCLASS32')", "another processor"),
        ("mxnet", "raise ModuleNotFoundError(name='distutils')", 'pip install "setuptools<81"'),
    ],
)
def test_other_known_failures_are_one_line_too(stand_in, module, code, fix):
    status, _, errors = run_python("-c", START, PYTHONPATH=stand_in(module, code))
    assert status == 2 and errors.count("\n") == 1 and fix in errors


@pytest.mark.parametrize(
    "command",
    [
        ("fine-tune.py", "--gpus", "cpu"),
        ("sub.py", "1", "cpu"),
        ("-m", "common.modelzoo", "import", "net.pth", "--name", "net"),
        ("-m", "common.doctor"),
        ("-m", "common.find_mxnet"),
    ],
    ids=" ".join,
)
def test_every_command_says_in_one_line_that_mxnet_is_not_there(stand_in, command):
    folder = stand_in("mxnet", "raise ModuleNotFoundError(name='mxnet')")
    status, _, errors = run_python(*command, PYTHONPATH=folder)
    name = {"-m": f"{command[1].replace('common.', '')}.py"}.get(command[0], command[0])
    assert (status, errors.count("\n")) == (2, 1)
    assert errors.startswith(f"{name}: mxnet is not installed in {sys.executable}: run sh setup.sh")


@pytest.mark.parametrize(
    "code", ["import a_module_of_its_own", "raise OSError('no such thing')", "1 / 0"]
)
def test_an_unknown_failure_keeps_its_traceback(stand_in, code):
    status, _, errors = run_python("-c", START, PYTHONPATH=stand_in("mxnet", code))
    assert status == 1 and errors.startswith("Traceback") and "UserError" not in errors


def test_python_without_mxnet_is_told_to_run_setup():
    status, _, errors = run_python("-S", "-c", START)  # -S: without the installed packages
    assert status == 2 and errors.count("\n") == 1
    assert f"not installed in {sys.executable}: run sh setup.sh" in errors


def test_a_mac_on_arm_is_told_that_setup_takes_pytorch():
    code = "import platform, sys, common.base.files, ctypes, importlib.metadata, importlib.util;"
    code += "platform.machine = lambda: 'arm64'; sys.platform = 'darwin';" + START
    status, _, errors = run_python("-S", "-c", code)  # -S: without the installed packages
    assert (
        status == 2
        and errors.count("\n") == 1
        and "no wheel for macOS on Arm: run sh setup.sh" in errors
    )


def test_python_3_13_is_told_which_python_mxnet_has():
    newer = glob.glob(os.path.expanduser("~/.pyenv/versions/3.1[3-9].*/bin/python"))
    newer += [path for path in map(shutil.which, ("python3.13", "python3.14")) if path]
    if not newer:
        pytest.skip("no Python 3.13 or later here")
    status, _, errors = run_python("-c", START, python=newer[0])
    assert status == 2 and errors.count("\n") == 1 and "3.8 to 3.12 only" in errors
