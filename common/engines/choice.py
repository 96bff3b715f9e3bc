"""Which engine computes: the one that was asked for, or with `auto` the one that suits the work."""

import os

from common.base.files import UserError
from common.base.processor import bfloat16_unit, cpu_flags, is_slow_in_bfloat16
from common.engines import ENGINES, installed, load

# Images/s with PyTorch over images/s with MXNet, ResNet-152 at 320 px, by the work, the precision
# and the processor's instructions as Linux names them, the best first. Where PyTorch is less than
# 1.05 times as fast, as with instructions that are not named, MXNet is taken: the baseline was made
# with it. From benchmarks/engines.py on an AMD EPYC, older processors by its `--instructions`; with
# AMX from benchmarks/submission.py and training.py, whose peer is plain PyTorch; float32 from
# benchmarks/predict_rate.py (docs/benchmarks.md).
_MEASURED = {
    ("predict", "float32"): {"amx_bf16": 1.27, "avx512f": 1.05},
    ("predict", "bfloat16"): {"amx_bf16": 2.1, "avx512_bf16": 1.32},
    ("predict", "int8"): {"amx_int8": 1.9, "avx512_vnni": 1.14},
    ("train", "bfloat16"): {"amx_bf16": 1.2},
}

_NAMES = {"mxnet": "MXNet", "torch": "PyTorch"}


def choose(name, devices, dtype, work, flag="--gpus", compiled=False, tf32=False, of_timm=False):
    """Return (engine, its devices, why it was taken), ready to compute in `dtype`.

    Args:
        name: `"auto"`, or one of `ENGINES`.
        devices: as `parse_devices` takes them.
        work: `"train"` or `"predict"`.
        flag: what the user typed before the devices.
        compiled: whether networks are to be compiled.
        tf32: whether float32 numbers may be multiplied as TF32.
        of_timm: whether there are networks of timm among them.

    Raises:
        UserError: no engine that is installed computes in `dtype` on these devices.
    """
    if compiled and dtype == "int8" and not of_timm:
        raise UserError("--compile: in int8 is for networks of timm alone; leave it out")
    if name != "auto":
        candidates = [(name, "asked for")]
    elif of_timm:
        candidates = [("torch", "which networks of timm need")]
    elif tf32 and "torch" in installed():
        candidates = [("torch", "which --tf32 needs")]  # MXNet's message would advise it
    else:
        candidates = _candidates(devices, dtype, work)
    failures = []
    for candidate, reason in candidates:
        try:
            engine = load(candidate)
            parsed = engine.parse_devices(devices, flag)
            engine.check(dtype, parsed, compiled, tf32)
        except UserError as error:
            failures.append((candidate, error))
            continue
        if failures:
            other, error = failures[0]
            reason = f"{_NAMES[other]} does not do it ({error})"
        if dtype == "bfloat16" and on_cpu(devices) and is_slow_in_bfloat16(cpu_flags()):
            reason += f"; bfloat16 is {bfloat16_unit(cpu_flags())}"
        return engine, parsed, reason
    raise failures[0][1]


def _candidates(devices, dtype, work):
    """Return the engines that are installed, the preferred one first, and why it is."""
    names = installed() or [ENGINES[0]]
    if len(names) == 1:
        return [(names[0], "the only one that is installed")]
    preferred, reason = _preferred(devices, dtype, work)
    return [(preferred, reason), *((name, "") for name in names if name != preferred)]


def _preferred(devices, dtype, work):
    if "DMLC_ROLE" in os.environ:
        return "mxnet", "its launcher has started this process"
    if "TORCHELASTIC_RUN_ID" in os.environ:
        return "torch", "its launcher has started this process"
    if not on_cpu(devices):
        return "torch", "it runs on the GPUs of today, too"
    flags, measured = cpu_flags(), _MEASURED.get((work, dtype), {})
    best = next((instructions for instructions in measured if instructions in flags), None)
    if best:
        times = f"{measured[best]:g} times as fast as MXNet in {dtype} with {best}"
        return "torch", f"measured {times}"
    return "mxnet", "both are installed, and PyTorch was not measured to be faster here"


def on_cpu(devices):
    """Return whether `--gpus` names CPUs."""
    text = devices.strip()
    return text in ("", "cpu", "-1") or text.startswith("cpu:")
