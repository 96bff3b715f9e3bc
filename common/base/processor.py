"""The processor: what it can do, and how many of its cores this process may use."""

import os
import sys

_WAITING = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")  # what OpenMP and GCC's libgomp read


def cpu_flags():
    """Return the processor's features as Linux names them (`"avx2"`), a set; empty elsewhere."""
    if not sys.platform.startswith("linux"):
        return set()
    with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
        for line in stream:
            name, _, flags = line.partition(":")
            if name.strip() in ("flags", "Features"):  # Arm calls them Features
                return set(flags.split())
    return set()


def is_slow_in_bfloat16(flags):
    """Return whether an x86 processor with these features computes bfloat16 by way of float32."""
    return "avx512f" in flags and not flags & {"avx512_bf16", "amx_bf16"}


def bfloat16_unit(flags):
    """Return, for people, with what an x86 processor with AVX-512 computes bfloat16."""
    if is_slow_in_bfloat16(flags):
        return "slower than float32: the processor has no instructions for it (avx512_bf16)"
    if "amx_bf16" in flags:
        return "the processor has a matrix unit for it (AMX)"
    return "the processor computes in bfloat16"


def usable_cores():
    """Return how many physical cores this process may run on.

    The hyper-threads of a core count once. The limits of `taskset` and of a container apply.
    """
    if not hasattr(os, "sched_getaffinity"):
        return os.cpu_count() or 1
    siblings = set()
    for cpu in os.sched_getaffinity(0):
        try:
            with open(f"/sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list") as stream:
                siblings.add(stream.read())
        except OSError:
            siblings.add(cpu)
    try:
        with open("/sys/fs/cgroup/cpu.max") as stream:  # "200000 100000": two cores; or "max …"
            quota, period = (int(word) for word in stream.read().split())
    except (OSError, ValueError):
        return len(siblings)
    return max(1, min(len(siblings), quota // period))


def waiting_threads():
    """Return, for people, how OpenMP's threads wait for each other: what the environment sets."""
    chosen = [f"{name}={os.environ[name]}" for name in _WAITING if name in os.environ]
    return ", ".join(chosen) or "as OpenMP has it by default"
