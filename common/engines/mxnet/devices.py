"""The devices that MXNet computes on: which there are, and which number formats they support."""

import os
import re
import sys

try:
    import resource
except ImportError:  # Windows
    resource = None

from common.base.files import UserError
from common.base.processor import bfloat16_unit, cpu_flags
from common.engines.mxnet import amx
from common.engines.mxnet.runtime import mx, reason_of

# What oneDNN's bfloat16 code is made of. Measured without them (AVX2): the first convolution fails
# with "could not create a primitive descriptor iterator".
_BFLOAT16_FLAGS = {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
_UNKNOWN_PROCESSOR = f"on {sys.platform} it is not known what the processor can do"


def parse_devices(gpus, flag="--gpus"):
    """Return the devices that a user asked for, as a list of `mx.Context`.

    `""`, `"cpu"` and `"-1"` are the CPU, `"0,1"` two GPUs, and `"cpu:0,cpu:1"` two CPU devices,
    which share the cores and exercise the code for several devices on a machine without a GPU.

    Raises:
        UserError: `gpus` is no such text, or names a GPU that MXNet does not see. `flag` is what
            the user typed before it.
    """
    if gpus.strip() in ("", "cpu", "-1"):
        return [mx.cpu(0)]
    parts = [part.strip() for part in gpus.split(",")]
    on_cpu = parts[0].startswith("cpu:")
    digits = [re.fullmatch(r"cpu:(\d+)" if on_cpu else r"(\d+)", part) for part in parts]
    if not all(digits):
        raise UserError(f"{flag} {gpus}: not a list of GPUs such as 0 or 0,1,2,3, nor cpu")
    numbers = [int(match.group(1)) for match in digits]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{flag} {gpus}: a device is named twice")
    if on_cpu:
        return [mx.cpu(number) for number in numbers]
    found = num_gpus()
    if max(numbers) >= found:
        raise UserError(f"{flag} {gpus}: {_missing(found)}; or run on the CPU with {flag} cpu")
    return [mx.gpu(number) for number in numbers]


def _missing(found):
    if found:
        return f"this machine has {found} GPU(s), numbered 0 to {found - 1}; choose among those"
    if has_feature("CUDA"):
        return "MXNet sees no GPU (found 0); see what nvidia-smi and CUDA_VISIBLE_DEVICES say"
    return (
        "this MXNet is built for the CPU (found 0 GPUs); where there is an NVIDIA GPU,"
        " install a CUDA build: sh setup.sh cu117"
    )


def num_gpus():
    """Return how many GPUs MXNet sees; 0 where it is built for the CPU.

    Raises:
        UserError: CUDA cannot count them, for instance because the driver is too old.
    """
    try:
        return mx.context.num_gpus()
    except mx.MXNetError as error:
        raise UserError(
            f"CUDA cannot count the GPUs: {reason_of(error)}; update the NVIDIA driver"
        ) from None


def gpu_memory(number):
    """Return (free, total) bytes of a GPU's memory."""
    return mx.context.gpu_memory_info(number)


def has_gpu(devices):
    """Return whether these devices are GPUs."""
    return devices[0].device_type == "gpu"


def check(dtype, devices, compiled=False, tf32=False):
    """Prepare the process to compute in `dtype`; call it before the first computation.

    Raises:
        UserError: these devices do not compute in `dtype`; networks are to be `compiled`, or
            computed in `tf32`.
    """
    if compiled:
        raise UserError("--compile: MXNet does not compile networks; use --engine torch")
    if tf32:
        raise UserError("--tf32: MXNet has no such setting; use --engine torch")
    on_gpu = has_gpu(devices)
    if dtype == "float16" and not on_gpu:
        raise UserError("--dtype float16: is for GPUs; on a CPU take float32 or bfloat16")
    if dtype == "bfloat16":
        able, reason = supports_bfloat16()
        if on_gpu or not able:
            reason = (
                "MXNet has none for GPUs; take float16" if on_gpu else f"{reason}; take float32"
            )
            raise UserError(f"--dtype bfloat16: {reason}")
        amx.allow()
    if dtype == "int8":
        if on_gpu:
            raise UserError("--dtype int8: is for CPUs; on a GPU take float16")
        able, reason = supports_int8()
        if not able:
            raise UserError(f"--dtype int8: {reason}; use --dtype float32")


def versions():
    """Return `{name: version}` of what this engine computes with."""
    return {"mxnet": mx.__version__}


def describe():
    """Return what this engine is and what it can do on this machine, `{title: text}`."""
    described = {
        "MXNet": f"{mx.__version__}, {os.path.dirname(mx.__file__)}",
        "Features": " ".join(sorted(name for name in mx.runtime.Features() if has_feature(name))),
        "Threads": f"OMP_NUM_THREADS={os.environ['OMP_NUM_THREADS']}",
    }
    count = num_gpus()
    for number in range(count):
        free, total = (size / 2**30 for size in gpu_memory(number))
        described[f"GPU {number}"] = f"{free:.1f} of {total:.1f} GiB free"
    if not count:
        described["GPUs"] = "none that MXNet sees"
    for title, (able, reason) in (
        ("bfloat16", supports_bfloat16()),
        ("int8", supports_int8()),
    ):
        described[title] = f"{'yes' if able else 'no'}: {reason}"
    return described


def memory_in_use(devices):
    """Return the memory in use: `"GPU 0 7.3 of 10.9 GiB, this process at most 2.1 GiB"`."""
    parts = []
    for device in devices:
        if device.device_type == "gpu":
            free, total = gpu_memory(device.device_id)
            taken = f"{(total - free) / 2**30:.1f} of {total / 2**30:.1f} GiB"
            parts.append(f"GPU {device.device_id} {taken}")
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        parts.append(f"this process at most {peak / 2**30:.1f} GiB")
    return ", ".join(parts) or "unknown"


def has_feature(name):
    """Return whether MXNet was built with a feature of `mxnet.runtime`: `"CUDA"`, `"MKLDNN"`…"""
    features = mx.runtime.Features()
    return name in features and features.is_enabled(name)


def supports_bfloat16():
    """Return (whether the CPU trains and predicts in bfloat16, why or why not)."""
    if not _at_least(1, 9):
        return False, f"MXNet {mx.__version__} is too old: bfloat16 needs 1.9"
    if not has_feature("MKLDNN"):
        return False, "this MXNet is built without oneDNN (MKLDNN)"
    if not cpu_flags():
        return False, _UNKNOWN_PROCESSOR
    missing = _BFLOAT16_FLAGS - cpu_flags()
    if missing:
        return False, f"this processor lacks AVX-512 ({', '.join(sorted(missing))})"
    return True, bfloat16_unit(cpu_flags())


def supports_int8():
    """Return (whether the CPU predicts with 8-bit integers, why or why not).

    AVX2 is enough: 1.8 times float32 there (convolutions of 64 channels), more with VNNI.
    """
    if not _at_least(1, 7):
        return False, f"MXNet {mx.__version__} is too old: int8 needs 1.7"
    if not has_feature("MKLDNN"):
        return False, "this MXNet is built without oneDNN (MKLDNN)"
    if not cpu_flags():
        return False, _UNKNOWN_PROCESSOR
    if "avx2" not in cpu_flags():
        return False, "this processor lacks AVX2"
    if {"avx512_vnni", "avx_vnni"} & cpu_flags():
        return True, "the processor has instructions for it (VNNI)"
    return True, "the processor has AVX2, and no VNNI: slower than where it has"


def _at_least(*wanted):
    return tuple(int(part) for part in re.findall(r"\d+", mx.__version__)[:2]) >= wanted
