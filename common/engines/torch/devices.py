"""The devices that PyTorch computes on: which there are, and which number formats they know."""

import contextlib
import importlib.metadata
import os
import platform
import re
import sys

try:
    import resource
except ImportError:  # Windows
    resource = None

from common.base.files import UserError
from common.base.processor import bfloat16_unit, cpu_flags
from common.engines.torch import compilation
from common.engines.torch.int8_arithmetic import weight_bits
from common.engines.torch.runtime import reason_of, torch


def parse_devices(gpus, flag="--gpus"):
    """Return the devices that a user asked for, as a list of `torch.device`.

    `""`, `"cpu"` and `"-1"` are the CPU, `"0,1"` two of NVIDIA's (or AMD's) GPUs, `"mps"` the GPU
    of an Apple chip, and `"cpu:0,cpu:1"` two CPU devices, which share the cores and exercise the
    code for several devices on a machine without a GPU.

    Raises:
        UserError: `gpus` is no such text, or a GPU is asked for that PyTorch does not see.
            `flag` is what the user typed before it.
    """
    text = gpus.strip()
    if text in ("", "cpu", "-1"):
        return [torch.device("cpu", 0)]
    if text in ("mps", "mps:0"):
        if not torch.backends.mps.is_available():
            raise UserError(f"{flag} {gpus}: {_missing_mps()}; or run on the CPU with {flag} cpu")
        return [torch.device("mps", 0)]
    parts = [part.strip() for part in text.split(",")]
    on_cpu = parts[0].startswith("cpu:")
    digits = [re.fullmatch(r"cpu:(\d+)" if on_cpu else r"(\d+)", part) for part in parts]
    if not all(digits):
        raise UserError(f"{flag} {gpus}: not a list of GPUs such as 0 or 0,1,2,3, nor cpu or mps")
    numbers = [int(match.group(1)) for match in digits]
    if len(set(numbers)) < len(numbers):
        raise UserError(f"{flag} {gpus}: a device is named twice")
    if on_cpu:
        return [torch.device("cpu", number) for number in numbers]
    found = num_gpus()
    if max(numbers) >= found:
        raise UserError(f"{flag} {gpus}: {_missing(found)}; or run on the CPU with {flag} cpu")
    return [torch.device("cuda", number) for number in numbers]


def _missing(found):
    if found:
        return f"this machine has {found} GPU(s), numbered 0 to {found - 1}; choose among those"
    if torch.backends.mps.is_available():
        return "the GPU of an Apple chip is called mps"
    if torch.version.cuda or torch.version.hip:
        return "PyTorch sees no GPU (found 0); see what nvidia-smi and CUDA_VISIBLE_DEVICES say"
    return (
        "this PyTorch is built for the CPU (found 0 GPUs); where there is an NVIDIA GPU,"
        " install a CUDA build: pip install torch"
    )


def _missing_mps():
    if sys.platform != "darwin":
        return "is for Apple's chips"
    return "PyTorch finds no Apple GPU; it needs macOS 14 or newer on an Apple chip"


def num_gpus():
    """Return how many GPUs PyTorch sees; none where it is built for the CPU."""
    return torch.cuda.device_count()


def gpu_memory(device):
    """Return (free, total) bytes of a GPU's memory.

    Raises:
        UserError: CUDA does not start, for instance because the driver is too old.
    """
    try:
        return torch.cuda.mem_get_info(device)
    except RuntimeError as error:
        raise UserError(f"CUDA does not start: {reason_of(error)}") from None


def has_gpu(devices):
    """Return whether these devices are GPUs."""
    return devices[0].type != "cpu"


def check(dtype, devices, compiled=False, tf32=False):
    """Make the process ready to compute in `dtype`, before it computes anything.

    Raises:
        UserError: these devices do not compute in it or in `tf32`, or nothing can be `compiled`
            for them.
    """
    if tf32:
        _allow_tf32(dtype, devices)
    if compiled:
        compilation.check(devices)
    if dtype == "int8" and has_gpu(devices):
        raise UserError("--dtype int8: is for CPUs; on a GPU take float16 or bfloat16")
    if dtype != "float32":
        for device in devices:
            able, reason = supports(dtype, device)
            if not able:
                raise UserError(f"--dtype {dtype}: {reason}; use --dtype float32")


def _allow_tf32(dtype, devices):
    if dtype != "float32":
        raise UserError(f"--tf32: is for --dtype float32, not {dtype}; leave it out")
    if devices[0].type != "cuda":
        raise UserError("--tf32: is for NVIDIA's GPUs; leave it out")
    for device in devices:
        if torch.cuda.get_device_capability(device) < (8, 0):
            name = f"GPU {device.index} ({_gpu_name(device)})"
            raise UserError(f"--tf32: {name} does not compute in it; leave it out")
    torch.backends.cuda.matmul.allow_tf32 = True
    torch.backends.cudnn.allow_tf32 = True


def supports(dtype, device):
    """Return (whether a device computes in float16, bfloat16 or int8, why or why not)."""
    if dtype == "int8":
        return _supports_int8()
    if device.type == "cuda":
        major, minor = torch.cuda.get_device_capability(device)
        needed = (8, 0) if dtype == "bfloat16" else (5, 3)
        if (major, minor) < needed and not torch.version.hip:
            return False, f"GPU {device.index} ({_gpu_name(device)}) does not compute in it"
        return True, f"GPU {device.index} ({_gpu_name(device)}) computes in it"
    if device.type == "mps":
        return True, "Apple's GPUs compute in it"
    asked = "_is_mkldnn_bf16_supported" if dtype == "bfloat16" else "_is_mkldnn_fp16_supported"
    if not torch.backends.mkldnn.is_available():
        return False, "this PyTorch is built without oneDNN"
    if not getattr(torch.ops.mkldnn, asked)():
        lacking = {"bfloat16": "AVX-512", "float16": "AVX-512 FP16"}[dtype]
        return False, f"this processor lacks {lacking}" if _is_x86() else "this processor lacks it"
    if _is_x86() and dtype == "bfloat16":
        return True, bfloat16_unit(cpu_flags())
    return True, "the processor computes in it"


def _supports_int8():
    try:
        bits = weight_bits()
    except (AttributeError, RuntimeError) as error:
        return False, f"this PyTorch has no convolutions in it here ({reason_of(error)})"
    if not _is_x86():
        return True, "the processor computes in it"
    if bits == 8:
        return True, "the processor has instructions for it (VNNI)"
    return True, "the processor has no VNNI: weights have 7 bits, and it is slower"


def _is_x86():
    return platform.machine().lower() in ("x86_64", "amd64")


def _gpu_name(device):
    return torch.cuda.get_device_name(device)


def versions():
    """Return `{name: version}` of what this engine computes with."""
    found = {"torch": torch.__version__}
    if torch.version.cuda:
        found["cuda"] = torch.version.cuda
        found["cudnn"] = str(torch.backends.cudnn.version())
    with contextlib.suppress(importlib.metadata.PackageNotFoundError):
        found["timm"] = importlib.metadata.version("timm")
    return found


def describe():
    """Return what this engine is and what it can do on this machine, `{title: text}`."""
    described = {
        "PyTorch": f"{torch.__version__}, {os.path.dirname(torch.__file__)}",
        "Vector unit": torch.backends.cpu.get_cpu_capability(),
        "Threads": str(torch.get_num_threads()),
    }
    count = num_gpus()
    for number in range(count):
        device = torch.device("cuda", number)
        free, total = (size / 2**30 for size in gpu_memory(device))
        described[f"GPU {number}"] = f"{_gpu_name(device)}, {free:.1f} of {total:.1f} GiB free"
    if torch.backends.mps.is_available():
        described["GPU mps"] = "of an Apple chip"
    elif not count:
        described["GPUs"] = "none that PyTorch sees"
    first = parse_devices("0" if count else "cpu")[0]
    for dtype in ("bfloat16", "float16", "int8"):
        able, reason = supports(dtype, first)
        described[dtype] = f"{'yes' if able else 'no'}: {reason}"
    return described


def memory_in_use(devices):
    """Return what is taken, for people: `"GPU 0 7.3 of 10.9 GiB, this process at most 2.1 GiB"`."""
    parts = []
    for device in devices:
        if device.type == "cuda":
            free, total = gpu_memory(device)
            taken = f"{(total - free) / 2**30:.1f} of {total / 2**30:.1f} GiB"
            parts.append(f"GPU {device.index} {taken}")
        elif device.type == "mps":
            parts.append(f"GPU {torch.mps.driver_allocated_memory() / 2**30:.1f} GiB")
    if resource is not None:
        unit = 1 if sys.platform == "darwin" else 1024
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
        parts.append(f"this process at most {peak / 2**30:.1f} GiB")
    return ", ".join(parts) or "unknown"
