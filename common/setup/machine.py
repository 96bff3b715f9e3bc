"""The machine: its processor and its GPUs, and which engine runs on them."""

import os
import platform
import re
import shutil
import subprocess
from dataclasses import dataclass
from typing import Optional, Sequence, Tuple

# Where MXNet has a wheel; those for GPUs are for the first alone.
_LINUX = ("Linux", "x86_64")
_MXNET_MACHINES = (_LINUX, ("Linux", "aarch64"), ("Darwin", "x86_64"), ("Windows", "AMD64"))

_NEEDED = (
    "cu117 needs compute capability 5.0 to 8.9 (Maxwell to Ada) and driver 450.80 or newer,"
    " cu80 up to 6.2 and CUDA 8.0 installed"
)

# PyTorch's wheels for Linux: from 2.11 on of CUDA 13, before of CUDA 12; and what these need.
_DRIVER_CUDA_13 = (580,)
_DRIVER_CUDA_12 = (525, 60)
_LAST_OF_CUDA_12 = "torch<2.11"


@dataclass(frozen=True)
class Gpu:
    """An NVIDIA GPU as its driver reports it.

    Attributes:
        capability: the compute capability, e.g. 8.9; None where the driver is too old to report it.
        driver: its version, e.g. `(550, 54, 14)`.
    """

    capability: Optional[float]
    driver: Tuple[int, ...]
    name: str

    def __str__(self):
        capability = "unknown" if self.capability is None else self.capability
        driver = ".".join(map(str, self.driver))
        return f"{self.name} (compute capability {capability}, driver {driver})"


@dataclass(frozen=True)
class Machine:
    """What decides which engine runs here.

    Attributes:
        system, processor: as `platform` names them: `"Linux"`, `"x86_64"`.
        has_driver: whether there is an `nvidia-smi`; it may find no GPU.
        has_cuda_8: whether the CUDA 8.0 that mxnet-cu80 needs is installed.
    """

    system: str
    processor: str
    gpus: Sequence[Gpu] = ()
    has_driver: bool = False
    has_cuda_8: bool = False


def look():
    """Return the `Machine` that this is."""
    return Machine(
        system=platform.system(),
        processor=platform.machine(),
        gpus=_find_gpus(),
        has_driver=shutil.which("nvidia-smi") is not None,
        has_cuda_8=_finds_cuda_8(),
    )


def _find_gpus():
    fields = "driver_version,name"
    gpus = parse_gpus(nvidia_smi(f"compute_cap,{fields}"))
    if not gpus:  # older drivers do not report the compute capability
        gpus = parse_gpus(re.sub("^", "unknown, ", nvidia_smi(fields), flags=re.MULTILINE))
    return gpus


def nvidia_smi(fields):
    """Return what nvidia-smi prints: a line for each GPU, and its messages; "" where it is missing.

    Args:
        fields: what to report of each GPU, e.g. `"name,driver_version"`.
    """
    return _output("nvidia-smi", f"--query-gpu={fields}", "--format=csv,noheader")


def _output(*command):
    """Return what a command prints, its errors too; "" where it is not there."""
    try:
        done = subprocess.run(
            command,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
            timeout=60,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip()


def parse_gpus(text):
    """Return the GPUs of lines "compute capability, driver, name"; other lines are messages."""
    gpus = []
    for line in text.splitlines():
        found = re.fullmatch(r"(\S+), (\d+(?:\.\d+)*), (.+)", line.strip())
        if found:
            capability, driver, name = found.groups()
            is_known = re.fullmatch(r"\d+\.\d+", capability)
            numbers = tuple(int(part) for part in driver.split("."))
            gpus.append(Gpu(float(capability) if is_known else None, numbers, name))
    return tuple(gpus)


def _finds_cuda_8():
    library = "libcudart.so.8.0"
    folders = os.environ.get("LD_LIBRARY_PATH", "").split(os.pathsep)
    for folder in (*filter(None, folders), "/usr/local/cuda-8.0/lib64"):
        if os.path.exists(os.path.join(folder, library)):
            return True
    return library in _output("ldconfig", "-p") + _output("/sbin/ldconfig", "-p")


def why_no_mxnet(machine):
    """Return why MXNet has no wheel for this system and processor; None where it has one."""
    if (machine.system, machine.processor) in _MXNET_MACHINES:
        return None
    if (machine.system, machine.processor) == ("Darwin", "arm64"):
        return "MXNet has no wheel for macOS on Arm"
    return f"MXNet has no wheel for {machine.system} on {machine.processor}"


def choose(machine, has_python):
    """Return which engine's packages to install, and why it is not the expected choice.

    Args:
        has_python: whether there is a Python that MXNet has wheels for.

    Returns:
        `("cu117", "")`: the name of a file in requirements/, and a reason, which may be empty.
    """
    reason = why_no_mxnet(machine)
    if reason:
        return "torch", reason
    kind, reason = _fitting_wheel(machine)
    if kind != "torch" and not has_python:
        return "torch", "MXNet needs Python 3.8 to 3.12 with its venv module, and none is here"
    return kind, reason


def _fitting_wheel(machine):
    if not machine.gpus:
        return "cpu", "nvidia-smi finds no GPU that works" if machine.has_driver else ""
    if (machine.system, machine.processor) != _LINUX:
        return "torch", "MXNet's GPU wheels are for Linux on x86-64"
    if any(_fits_cu117(gpu) for gpu in machine.gpus):
        return "cu117", ""
    if machine.has_cuda_8 and any(_fits_cu80(gpu) for gpu in machine.gpus):
        return "cu80", ""
    names = "; ".join(map(str, machine.gpus))
    if any(_fits_torch(gpu) and (gpu.capability or 0) >= 9.0 for gpu in machine.gpus):
        return "torch", f"no MXNet wheel has code for {names}"
    return "cpu", f"no MXNet wheel runs on {names} ({_NEEDED})"


def _fits_cu117(gpu):
    """Does it run mxnet-cu117? That has machine code for 5.0 to 8.6, which 8.9 runs, and no PTX.

    Drivers too old to report the compute capability know no GPU newer than 8.6. They do know Kepler
    GPUs, which are too old; the names of those Tesla and GRID cards begin with K.
    """
    if gpu.driver < (450, 80):
        return False
    if gpu.capability is None:
        return not re.search(r"(Tesla|GRID) K[0-9]", gpu.name)
    return 5.0 <= gpu.capability < 9.0


def _fits_cu80(gpu):
    """CUDA 8 supports GPUs up to Pascal (6.2)."""
    return gpu.capability is None or gpu.capability < 7.0


def _fits_torch(gpu):
    is_old = gpu.capability is not None and gpu.capability < 5.0
    return gpu.driver >= _DRIVER_CUDA_12 and not is_old


def fits_torch(machine):
    """Return whether PyTorch's builds with CUDA may use a GPU of this machine."""
    return any(_fits_torch(gpu) for gpu in machine.gpus)


def torch_limit(machine):
    """Return which PyTorch the driver allows: `["torch<2.11"]`, or `[]` where any."""
    gpus = [gpu for gpu in machine.gpus if _fits_torch(gpu)]
    if gpus and all(gpu.driver < _DRIVER_CUDA_13 for gpu in gpus):
        return [_LAST_OF_CUDA_12]
    return []
