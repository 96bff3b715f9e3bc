"""Measure ours and the peers' in turn, in one run, and say the ratio.

A machine's speed changes by the minute; taking turns gives every side the same minutes.
"""

import contextlib
import json
import os
import platform
import statistics
import time
from importlib import metadata

from common.files import atomic_open

RESULTS = os.path.join(os.path.dirname(os.path.abspath(__file__)), "results")
# What a speed depends on, besides the processor: packages by the names that they come under.
PACKAGES = {
    "numpy": ["numpy"],
    "OpenCV": ["opencv-python", "opencv-python-headless"],
    "MXNet": ["mxnet", "mxnet-cu80", "mxnet-cu117"],
}
INSTRUCTIONS = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"]


def take_turns(sides, rounds=5):
    """Run every side once a round, after a round that does not count; return what was measured.

    Args:
        sides: `{name: function}`; a function works and returns how much it has done (images).

    Returns:
        `{name: {"wall": [units per second], "cpu": [CPU seconds per unit]}}`, a number a round.
    """
    measured = {name: {"wall": [], "cpu": []} for name in sides}
    for number in range(-1, rounds):
        for name, work in sides.items():
            start, cpu_start = time.perf_counter(), time.process_time()
            count = work()
            seconds, cpu = time.perf_counter() - start, time.process_time() - cpu_start
            if number >= 0:
                measured[name]["wall"].append(count / seconds)
                measured[name]["cpu"].append(cpu / count)
    return measured


def ratios(measured, ours, theirs):
    """Return how many times as fast ours is, of each round: {"min", "median", "max"}."""
    pairs = zip(measured[ours]["wall"], measured[theirs]["wall"])
    values = sorted(mine / peer for mine, peer in pairs)
    return {"min": values[0], "median": statistics.median(values), "max": values[-1]}


def describe(measured, unit="images"):
    """Print a line a side: the median of its speed, its range, its CPU time."""
    for name, numbers in measured.items():
        wall, cpu = sorted(numbers["wall"]), statistics.median(numbers["cpu"])
        print(
            f"{name:42s} {statistics.median(wall):8.1f} {unit}/s"
            f" ({wall[0]:.1f} to {wall[-1]:.1f}), {1000 * cpu:.2f} ms CPU each"
        )


def read_result(name):
    """Return what `benchmarks/results/NAME.json` holds; empty where it was not measured yet."""
    path = os.path.join(RESULTS, f"{name}.json")
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)


def write_result(name, result):
    """Write `benchmarks/results/NAME.json`, with the machine it was measured on."""
    os.makedirs(RESULTS, exist_ok=True)
    with atomic_open(os.path.join(RESULTS, f"{name}.json")) as stream:
        json.dump({**result, "machine": describe_machine()}, stream, indent=1)
        stream.write("\n")


def describe_machine():
    """Return the processor, its cores and the versions of what computes on it."""
    versions = {"Python": platform.python_version()}
    for title, packages in PACKAGES.items():
        for package in packages:
            with contextlib.suppress(metadata.PackageNotFoundError):
                versions[title] = metadata.version(package)
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "machine": platform.machine(),
        "instructions": [name for name in INSTRUCTIONS if name in processor_field("flags").split()],
        "system": platform.system(),
        "versions": versions,
        "time": time.strftime("%F"),
    }


def processor_name():
    """Return the processor's own name, as "AMD EPYC"; that of its kind where it tells none."""
    return processor_field("model name") or platform.processor() or platform.machine()


def processor_field(name):
    """Return what Linux says of the first core; nothing on other systems."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            for line in stream:
                key, _, value = line.partition(":")
                if key.strip() == name:
                    return value.strip()
    return ""
