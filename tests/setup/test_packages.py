"""pip: what it would install, and what its failures mean."""

import os
import sys

import pytest

from common.setup import SetupError, packages
from common.setup.packages import Pip
from tests.setup.wheels import write_wheel

FULL = "ERROR: Could not install packages due to an OSError: [Errno 28] No space left on device"
QUOTA = "OSError: [Errno 122] Disk quota exceeded: '/home/a/.venv.new/lib'"
NO_ANSWER = (
    "WARNING: Retrying (Retry(total=0, connect=None, read=None, redirect=None, status=None)) after"
    " connection broken by 'NewConnectionError(': Failed to establish a new connection: [Errno 111]"
    " Connection refused')': /simple/mxnet/\nERROR: No matching distribution found for mxnet==1.9.1"
)
NO_NAME = "Could not fetch URL https://index/simple/numpy/: There was a problem confirming the ssl"
NO_WHEEL = "ERROR: No matching distribution found for mxnet==1.9.1"


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (FULL, "the disk is full"),
        (QUOTA, "the disk is full"),
        (NO_ANSWER, "pip cannot reach its package index"),
        (NO_NAME, "PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER sh setup.sh cpu"),
        (NO_WHEEL, "requirements/cpu.txt has no wheel for Python 3.12 on "),
        ("error: subprocess-exited-with-error", "pip's messages above say why"),
        ("", "pip could not install requirements/cpu.txt"),
    ],
)
def test_a_failure_of_pip_is_one_line_that_says_what_to_do(log, line):
    text = packages.explain(log, "cpu", "Python 3.12")
    assert line in text and "\n" not in text


@pytest.mark.parametrize(
    ("names", "build"),
    [
        (["numpy", "torch", "sympy"], "CPU"),
        (["torch", "nvidia-cublas-cu12", "nvidia-nccl-cu12"], "CUDA 12"),
        (["torch", "cuda-toolkit", "nvidia-cublas", "nvidia-nccl-cu13"], "CUDA 13"),
    ],
)
def test_the_build_of_pytorch_is_known_by_the_packages_beside_it(names, build):
    assert packages.torch_build(names) == build


@pytest.fixture
def pip(tmp_path, monkeypatch):
    """This Python's pip, which finds only the wheels in `tmp_path`."""
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_CONFIG_FILE", os.devnull)
    return Pip(str(tmp_path), sys.executable, ("torch", "Python"))


def test_pip_says_what_it_would_install(pip, tmp_path, monkeypatch):
    monkeypatch.setattr(packages, "_FIRST_REPORT", (22, 2))  # which downloads; here is no network
    write_wheel(tmp_path, "torch", "2.9", needs=["nvidia-cublas-cu12"])
    write_wheel(tmp_path, "nvidia-cublas-cu12", "12.8")
    assert sorted(pip.would_install("torch>=2.1")) == ["nvidia-cublas-cu12", "torch"]
    assert sorted(os.listdir(tmp_path)) == sorted(
        ["nvidia_cublas_cu12-12.8-py3-none-any.whl", "torch-2.9-py3-none-any.whl", "pip.log"]
    )


def test_a_package_that_no_index_has_is_named(pip):
    with pytest.raises(SetupError, match="has no wheel for Python on"):
        pip.install("no-such-package-of-anyone")


# Answers as a pip does that is older than `--report`, or no longer knows an option.
OTHER_PIP = """#!/bin/sh
case $* in
*--version) echo "pip $VERSION from here (python 3.9)" ;;
*--report*) exit 2 ;;
*) exit 1 ;;
esac
"""


@pytest.mark.parametrize("version", ["20.0.2", "99.1"])
def test_a_pip_that_cannot_say_what_it_would_install_stops_nobody(tmp_path, monkeypatch, version):
    python = tmp_path / "python"
    python.write_text(OTHER_PIP)
    python.chmod(0o755)
    monkeypatch.setenv("VERSION", version)
    assert Pip(str(tmp_path), str(python), ("torch", "Python")).would_install("torch") is None


def test_the_usual_build_of_pytorch_is_that_with_cuda_on_linux_alone(monkeypatch):
    for system, processor, build in (
        ("Linux", "x86_64", "CUDA 13"),
        ("Darwin", "arm64", "CPU"),
        ("Windows", "AMD64", "CPU"),
    ):
        monkeypatch.setattr("platform.system", lambda system=system: system)
        monkeypatch.setattr("platform.machine", lambda processor=processor: processor)
        assert packages.default_torch_build() == build


# A server without libGL, or without something else.
BARE_SERVER = """#!/bin/sh
case $* in
*'import cv2') [ -e "$0.headless" ] || { echo "ImportError: $LACKS: not found" >&2; exit 1; } ;;
*' opencv-python-headless==4.10.0.84') touch "$0.headless" "$6" ;; # pip's log
*'import version; '*) echo 4.10.0.84 ;;
esac
"""


@pytest.fixture
def server(tmp_path):
    """The pip of such a server."""
    python = tmp_path / "python"
    python.write_text(BARE_SERVER)
    python.chmod(0o755)
    return Pip(str(tmp_path), str(python), ("cpu", "Python"))


@pytest.mark.parametrize("library", ["libGL.so.1", "libgthread-2.0.so.0"])
def test_without_libgl_the_headless_opencv_of_that_version_is_taken(server, monkeypatch, library):
    said = []
    monkeypatch.setenv("LACKS", library)
    packages.take_fitting_opencv(server, said.append)
    assert said == ["no libGL on this machine: taking opencv-python-headless 4.10.0.84 instead"]
    packages.take_fitting_opencv(server, said.append)  # which starts
    assert len(said) == 1


def test_another_reason_why_opencv_does_not_start_is_shown(server, monkeypatch, capsys):
    monkeypatch.setenv("LACKS", "numpy.core.multiarray")
    with pytest.raises(SetupError, match="import cv2 fails as above"):
        packages.take_fitting_opencv(server, print)
    assert "numpy.core.multiarray" in capsys.readouterr().err
