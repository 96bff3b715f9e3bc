"""What an environment costs before it is made: the download, the disk, the time."""

import os
import shutil

from common.setup import SetupError

# MB to download and MB on the disk, with the bytecode that pip writes. Read from the package index
# on 2026-11-25, for Linux on x86-64 with Python 3.11.
_SIZES = {
    "cpu": (160, 550),
    "cpu-1.5": (130, 430),
    "cu117": (2470, 4500),
    "cu80": (480, 920),
}
# The same of PyTorch, by its build, and of MXNet beside it.
_TORCH = {"CPU": (320, 1200), "CUDA 12": (4240, 7700), "CUDA 13": (3130, 6000)}
_MXNET = (50, 300)

_MB_A_SECOND = 10


def cost(kind, build=None):
    """Return (MB to download, MB on the disk) of requirements/KIND.txt, about.

    Args:
        build: of PyTorch, where that is installed: `"CPU"`, `"CUDA 12"` or `"CUDA 13"`.
    """
    if build is None:
        return _SIZES[kind]
    download, disk = _TORCH[build]
    return (download + _MXNET[0], disk + _MXNET[1]) if kind == "both" else (download, disk)


def describe(kind, build=None):
    """Return the cost for people: `"about 160 MB to download (1 minute at 10 MB/s) and …"`."""
    download, disk = cost(kind, build)
    minutes = max(1, round(download / _MB_A_SECOND / 60))
    unit = "minute" if minutes == 1 else "minutes"
    return (
        f"about {in_bytes(download)} to download ({minutes} {unit} at {_MB_A_SECOND} MB/s)"
        f" and {in_bytes(disk)} on the disk"
    )


def in_bytes(megabytes):
    """Return `"3.1 GB"` or `"160 MB"`."""
    return f"{megabytes / 1000:.1f} GB" if megabytes >= 1000 else f"{megabytes} MB"


def require_space(path, kind, build=None):
    """Raise `SetupError` where the disk is too small for an environment of this path."""
    folder = os.path.dirname(path)
    needed = cost(kind, build)[1]
    free = shutil.disk_usage(folder).free // 10**6
    if free < needed:
        raise SetupError(
            f"{folder}: about {in_bytes(needed)} are needed, and {in_bytes(free)} are free; free"
            " some space, or name a folder on another disk: VENV=/path/of/it sh setup.sh"
        )
