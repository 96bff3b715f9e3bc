"""`--compile`: networks translated to code of their own, by `torch.compile`.

What it gains stands in the tables of `benchmarks/inference_peers.py` and `engines.py`. What is
imported here takes a second, and only where it is needed.
"""

import logging
import os
import warnings

from common.base.files import UserError
from common.engines.torch.runtime import torch


def check(devices):
    """Raise `UserError` where a network cannot be compiled for these devices."""
    kind = devices[0].type
    if kind == "cpu" and not _has_cpp_compiler():
        raise UserError(
            "--compile: needs a C++ compiler, and none is here; install one"
            " (Debian, Ubuntu: apt-get install g++) or leave --compile out"
        )
    if kind == "cuda" and not _has_triton():
        raise UserError("--compile: needs Triton: pip install triton, or leave --compile out")
    if kind not in ("cpu", "cuda"):
        raise UserError("--compile: is for CPUs and NVIDIA's GPUs; leave it out")


def _has_cpp_compiler():
    from torch._inductor import exc

    try:
        from torch._inductor.cpp_builder import get_cpp_compiler
    except ImportError:  # before PyTorch 2.5
        from torch._inductor.codecache import cpp_compiler as get_cpp_compiler
    try:
        return bool(get_cpp_compiler())
    except exc.InvalidCxxCompiler:
        return False


def _has_triton():
    from torch.utils._triton import has_triton

    return has_triton()


def compile_for_training(module):
    """Have a module compiled at its first batch; its weights may change."""
    _keep_code()
    module.compile(dynamic=False)


def compile_for_prediction(module):
    """Have a module compiled at its first batch, with its weights as constants of the code.

    The setting must hold for the whole call: given to `torch.compile`, it comes too late for the
    part that finds the weights, and they stay variables.
    """
    from torch._inductor import config

    _keep_code()
    _allow_another()
    module.eval()
    compiled = torch.compile(module.forward, dynamic=False)

    def forward(images):
        with config.patch(freezing=True):
            return compiled(images)

    module.forward = forward


def _allow_another():
    """Let one more module be compiled: PyTorch leaves the ninth as it is, of one and the same code.

    The networks of an ensemble, on each device, share the code of their `forward`.
    """
    from torch._dynamo import config

    name = "recompile_limit" if hasattr(config, "recompile_limit") else "cache_size_limit"
    setattr(config, name, getattr(config, name) + 1)


def _keep_code():
    """Keep the compiled code where it outlives a restart of the machine, unlike in /tmp."""
    warnings.filterwarnings("ignore", message="TensorFloat32 tensor cores")  # see --tf32
    caches = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    folder = os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", os.path.join(caches, "torchinductor"))
    logging.info("--compile: the first batch takes minutes; the code is kept in %s", folder)
