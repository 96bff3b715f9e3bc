"""Which engine fits a machine: its GPUs as nvidia-smi reports them, its system, its Pythons."""

import os

import pytest

from common.setup import machine
from common.setup.machine import Gpu, Machine

VOLTA_OLD = "old, 460.32.03, Tesla V100-SXM2-16GB"  # old: without the field compute_cap
PASCAL = "6.1, 535.104.05, GeForce GTX 1080"
PASCAL_OLDER = "old, 384.81, GeForce GTX 1080"
K80_OLD = "old, 450.80.02, Tesla K80"
K80 = "3.7, 470.82.01, Tesla K80"
T4 = "7.5, 535.104.05, Tesla T4"
ADA = "8.9, 550.54, NVIDIA GeForce RTX 4090"
H100 = "9.0, 550.54.14, NVIDIA H100 80GB HBM3"
BLACKWELL = "12.0, 580.86, NVIDIA GeForce RTX 5090"

FAKE_NVIDIA_SMI = """#!/bin/sh
if grep -q ^old "$0.txt"; then
    case $* in *compute_cap*) echo 'Field "compute_cap" is not a valid field.'; exit 2 ;; esac
fi
sed 's/^old, //' "$0.txt"
"""


@pytest.fixture
def nvidia_smi(tmp_path, monkeypatch):
    """Let `nvidia-smi` answer with a text: `nvidia_smi(T4)`; the machine is of Linux on x86-64."""

    def answer(text):
        (tmp_path / "nvidia-smi").write_text(FAKE_NVIDIA_SMI)
        (tmp_path / "nvidia-smi").chmod(0o755)
        (tmp_path / "nvidia-smi.txt").write_text(text + "\n")
        monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
        monkeypatch.setattr("platform.system", lambda: "Linux")
        monkeypatch.setattr("platform.machine", lambda: "x86_64")

    monkeypatch.delenv("LD_LIBRARY_PATH", raising=False)
    return answer


@pytest.mark.parametrize(
    ("answer", "kind", "why"),
    [
        (T4, "cu117", ""),
        (VOLTA_OLD, "cu117", ""),
        (PASCAL, "cu117", ""),
        (f"{K80}\n{T4}", "cu117", ""),
        (f"{H100}\n{T4}", "cu117", ""),
        ("5.0, 450.80.02, Quadro M2000", "cu117", ""),
        (ADA, "cu117", ""),
        (H100, "torch", "NVIDIA H100 80GB HBM3 (compute capability 9.0, driver 550.54.14)"),
        (BLACKWELL, "torch", "compute capability 12.0"),
        ("9.0, 520.61, NVIDIA H100", "cpu", "driver 520.61"),  # too old for PyTorch, too
        (PASCAL_OLDER, "cpu", "driver 384.81"),
        (K80, "cpu", "compute capability 3.7"),
        (K80_OLD, "cpu", "Tesla K80"),
        ("[N/A], 470.82.01, Tesla K80", "cpu", "compute capability unknown"),
        ("No devices were found", "cpu", "nvidia-smi finds no GPU that works"),
    ],
)
def test_the_choice_follows_from_the_gpu_and_its_driver(nvidia_smi, answer, kind, why):
    nvidia_smi(answer)
    chosen, reason = machine.choose(machine.look(), has_python=True)
    assert chosen == kind
    assert why in reason and bool(why) == bool(reason)


@pytest.mark.parametrize(
    ("answer", "kind"), [(PASCAL_OLDER, "cu80"), (K80, "cu80"), (T4, "cu117"), (H100, "torch")]
)
def test_cuda_8_is_taken_where_it_is_installed(nvidia_smi, tmp_path, monkeypatch, answer, kind):
    nvidia_smi(answer)
    (tmp_path / "libcudart.so.8.0").write_bytes(b"")
    monkeypatch.setenv("LD_LIBRARY_PATH", f"/nowhere:{tmp_path}")
    assert machine.choose(machine.look(), has_python=True)[0] == kind


def test_a_machine_without_a_driver_gets_the_cpu_wheel(monkeypatch):
    monkeypatch.setenv("PATH", "/nowhere")
    assert machine.look().gpus == () and not machine.look().has_driver
    assert machine.choose(Machine("Linux", "x86_64"), has_python=True) == ("cpu", "")


@pytest.mark.parametrize(
    ("system", "processor", "kind"),
    [
        ("Linux", "x86_64", "cpu"),
        ("Linux", "aarch64", "cpu"),
        ("Darwin", "x86_64", "cpu"),
        ("Windows", "AMD64", "cpu"),
        ("Darwin", "arm64", "torch"),
        ("Linux", "riscv64", "torch"),
    ],
)
def test_the_choice_follows_from_the_system_and_its_processor(system, processor, kind):
    chosen, reason = machine.choose(Machine(system, processor), has_python=True)
    assert chosen == kind
    assert ("MXNet has no wheel for" in reason) == (kind == "torch")


def test_a_gpu_that_mxnet_has_no_wheel_for_on_its_system_gets_pytorch():
    (gpu,) = machine.parse_gpus(T4)
    kind, reason = machine.choose(Machine("Linux", "aarch64", [gpu], True), has_python=True)
    assert kind == "torch" and "are for Linux on x86-64" in reason


@pytest.mark.parametrize("gpus", ["", T4, ADA, K80])
def test_without_a_python_for_mxnet_everyone_gets_pytorch(gpus):
    here = Machine("Linux", "x86_64", machine.parse_gpus(gpus), bool(gpus))
    kind, reason = machine.choose(here, has_python=False)
    assert kind == "torch" and reason.startswith("MXNet needs Python 3.8 to 3.12")


@pytest.mark.parametrize(
    ("gpus", "fits", "limit"),
    [
        ("", False, []),
        (K80, False, []),
        (PASCAL_OLDER.replace("old", "6.1"), False, []),
        (H100, True, ["torch<2.11"]),  # the last of CUDA 12
        (BLACKWELL, True, []),
    ],
)
def test_the_driver_decides_which_pytorch_there_may_be(gpus, fits, limit):
    here = Machine("Linux", "x86_64", machine.parse_gpus(gpus), True)
    assert machine.fits_torch(here) == fits
    assert machine.torch_limit(here) == limit


def test_lines_that_name_no_gpu_are_passed_over():
    text = f"Unable to determine the device handle\n{T4}\n\nFailed to initialize NVML: x\n"
    assert machine.parse_gpus(text) == (Gpu(7.5, (535, 104, 5), "Tesla T4"),)
