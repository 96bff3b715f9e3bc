"""The one `import torch` of the project: `from common.engines.torch.runtime import torch`.

MXNet may be loaded in the same process, before or after: measured, both compute the same as alone,
with one OpenMP. Each brings a libgomp.so.1 along, and the one that is loaded first serves both.
"""

import os
import platform
import sys
import warnings

from common.base.files import UserError
from common.base.memory import keep_all_freed_memory
from common.base.processor import usable_cores

_OLDEST = (2, 1)  # whose autocast, channels_last and foreach operators this engine uses


def _import():
    _limit_spinning()
    try:
        import torch
    except ModuleNotFoundError as error:
        if error.name != "torch":
            raise
        raise UserError(
            f"PyTorch is not installed in {sys.executable}: run sh setup.sh torch (or both),"
            " then .venv/bin/python"
        ) from None
    except OSError as error:  # of the dynamic loader
        reason = str(error).split("\n")[0][:200]
        raise UserError(
            f"PyTorch does not start ({reason}): pip install --force-reinstall torch,"
            f" for Python {platform.python_version()} on {platform.machine()}"
        ) from None
    _check_version(torch.__version__)
    _configure(torch)
    return torch


def _limit_spinning():
    """Let OpenMP's threads sleep that wait for long; call it before OpenMP is loaded.

    By default they spin for milliseconds, on cores that another process may need. Measured on two
    cores (`benchmarks/company.py`), images/s: alone 78, and 77 with this; two trainings at once 6
    each, and 30 each with this. What a user has set stays.
    """
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "3000")


def _check_version(version):
    if tuple(int(part) for part in version.split(".")[:2]) < _OLDEST:
        oldest = ".".join(map(str, _OLDEST))
        raise UserError(
            f"PyTorch {version} is too old, {oldest} is needed: pip install 'torch>={oldest}'"
        )


def _configure(torch):
    """Set what PyTorch's defaults get wrong for this project; what a user set stays."""
    keep_all_freed_memory()
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(usable_cores())
    # float32 means float32: TF32 has 10 bits.
    torch.backends.cuda.matmul.allow_tf32 = False
    torch.backends.cudnn.allow_tf32 = False
    torch.backends.cudnn.benchmark = True  # all batches are of one shape
    # The backward pass has a thread of its own, where CUDA starts as it should.
    warnings.filterwarnings("ignore", message="Attempting to run cuBLAS, but there was no current")


def reason_of(error):
    """Return in one line what an error of PyTorch says."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    lines = lines or [type(error).__name__]
    if lines[0].endswith(":"):  # of a list, whose first entry tells more
        lines[:2] = [" ".join(lines[:2])]
    return lines[0][:200]


torch = _import()
