"""The devices that MXNet computes on: which there are, and which number formats they know."""

import re
import sys

try:
    import resource
except ImportError:  # Windows
    resource = None

from common.files import UserError
from common.find_mxnet import mx

# What oneDNN's bfloat16 code is made of. Measured without them (AVX2): the first convolution fails
# with "could not create a primitive descriptor iterator".
_BFLOAT16_FLAGS = {"avx512f", "avx512bw", "avx512vl", "avx512dq"}
_UNKNOWN_PROCESSOR = f"on {sys.platform} it is not known what the processor can do"


def contexts(gpus, flag="--gpus"):
    """Return the devices that a user asked for, as a list of `mx.Context`.

    `""`, `"cpu"` and `"-1"` are the CPU, `"0,1"` two GPUs, and `"cpu:0,cpu:1"` two CPU devices,
    which share the cores and take the path of many devices on a machine without a GPU.

    Raises:
        UserError: `gpus` is no such text, or a GPU is asked for that MXNet does not see.
            `flag` is what the user typed before it.
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
    """Return how many GPUs MXNet sees; none where it is built for the CPU.

    Raises:
        UserError: CUDA cannot count them, for instance because the driver is too old.
    """
    try:
        return mx.context.num_gpus()
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(f"CUDA cannot count the GPUs: {reason}; update the NVIDIA driver") from None


def gpu_memory(number):
    """Return (free, total) bytes of a GPU's memory."""
    return mx.context.gpu_memory_info(number)


def memory_in_use(contexts):
    """Return what is taken, for people: `"GPU 0 7.3 of 10.9 GiB, this process at most 2.1 GiB"`."""
    parts = []
    for context in contexts:
        if context.device_type == "gpu":
            free, total = gpu_memory(context.device_id)
            taken = f"{(total - free) / 2**30:.1f} of {total / 2**30:.1f} GiB"
            parts.append(f"GPU {context.device_id} {taken}")
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
    if "amx_bf16" in cpu_flags():
        return True, "the processor has a matrix unit for it (AMX)"
    if "avx512_bf16" in cpu_flags():
        return True, "the processor computes in bfloat16"
    return True, "the processor has AVX-512, and no instructions of its own for it (avx512_bf16)"


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


def cpu_flags():
    """Return what the processor can do, as a set in Linux's words (`"avx2"`); empty elsewhere."""
    if not sys.platform.startswith("linux"):
        return set()
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
        for line in stream:
            name, _, flags = line.partition(":")
            if name.strip() in ("flags", "Features"):  # Features is Arm's word
                return set(flags.split())
    return set()
