"""Measure our code and its peers in turn, in one run, and report the ratio.

A machine's speed changes by the minute; taking turns gives every side the same minutes. Results
are kept in benchmarks/results/NAME.json; benchmarks/tables.py makes tables from them.
"""

import argparse
import contextlib
import json
import os
import platform
import statistics
import subprocess
import sys
import time
from importlib import metadata

from common.base.files import ROOT, UserError, atomic_open

RESULTS = os.path.join(ROOT, "benchmarks", "results")
QUICK_RESULTS = os.path.join(ROOT, "benchmarks", "quick")  # of --quick; git ignores them
# What a speed depends on, besides the processor: {title: names of its packages}.
PACKAGES = {
    "numpy": ["numpy"],
    "OpenCV": ["opencv-python", "opencv-python-headless"],
    "MXNet": ["mxnet", "mxnet-cu80", "mxnet-cu117"],
}
INSTRUCTIONS = ["avx2", "avx512f", "avx512_vnni", "avx512_bf16", "amx_bf16"]


def make_parser(description):
    """Return a parser with the flag that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=description, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick",
        action="store_true",
        help="a small version, to see that it works; its results go to benchmarks/quick/",
    )
    return parser


def take_turns(sides, rounds):
    """Run every side once a round, after a warm-up round that does not count.

    Args:
        sides: `{name: function}`; a function works and returns how many images it has processed.

    Returns:
        `{name: [units per second, one a round]}`.
    """
    speeds = {name: [] for name in sides}
    for number in range(-1, rounds):
        for name, work in sides.items():
            start = time.perf_counter()
            count = work()
            seconds = time.perf_counter() - start
            if number >= 0:
                speeds[name].append(count / seconds)
    return speeds


def compare(what, speeds, ours, peers):
    """Print how many times as fast as its peers a side is; return the comparison to be kept.

    Args:
        what: the work, as the tables call it.
        speeds: of `take_turns`.
        peers: `{name: smallest ratio that is asked for, or None}`; peers without a speed were left
            out of this run.
    """
    print(f"\n{what}\n  {ours}: {describe_range(speeds[ours])} a second")
    against = {peer: speeds[peer] for peer in peers if peer in speeds}
    for peer, theirs in against.items():
        times = ratios(speeds[ours], theirs)
        line = f"  {peer}: {describe_range(theirs)} a second, ours {describe_range(times)} times"
        least = peers[peer]
        if least is not None:
            met = statistics.median(times) >= least
            line += f"; asked for: {least}" if met else f"; SHORT of {least}"
        print(line, flush=True)
    return {"what": what, "ours": speeds[ours], "against": against}


def ratios(ours, theirs):
    """Return how many times as fast ours was, in each round."""
    return [mine / other for mine, other in zip(ours, theirs)]


def describe_range(values):
    """Return the median of some numbers, and their range: "1.24 (1.22 to 1.36)"."""
    low, median, high = min(values), statistics.median(values), max(values)
    digits = 0 if median >= 100 else 1 if median >= 10 else 2
    spread = f" ({low:.{digits}f} to {high:.{digits}f})" if len(values) > 1 else ""
    return f"{median:.{digits}f}{spread}"


def markdown(header, rows):
    """Return a table in Markdown."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join(f"| {' | '.join(str(cell) for cell in line)} |" for line in lines)


def run_measured(script, *arguments):
    """Run a script of the repository; return (seconds, peak bytes of its resident memory)."""
    command = [sys.executable, os.path.join(ROOT, script), *arguments]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)  # this child and those that it waited for
    seconds = time.perf_counter() - start
    process.returncode = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
    if process.returncode:
        raise UserError(f"{script} failed with status {process.returncode}; see its output above")
    return seconds, usage.ru_maxrss * 1024


def show_run(what, seconds, peak_bytes):
    """Print what `run_measured` found."""
    times = ", ".join(f"{value:.1f}" for value in sorted(seconds))
    print(f"{what}: {times} s, at most {peak_bytes / 1e6:.0f} MB", flush=True)


# --- Results ------------------------------------------------------------------------------------


def read_result(name, quick=False):
    """Return the result kept under a name; empty where nothing was measured yet."""
    path = os.path.join(QUICK_RESULTS if quick else RESULTS, f"{name}.json")
    if not os.path.exists(path):
        return {}
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)


def read_comparisons(name, quick=False):
    """Return (`{what: comparison}`, `{title: version}`) of the result kept under a name.

    Raises:
        UserError: it was measured on another processor.
    """
    kept = read_result(name, quick)
    if not kept:
        return {}, {}
    machine = kept["machine"]
    if machine["processor"] != processor_name():
        raise UserError(
            f"{name}.json: its rows were measured on another processor ({machine['processor']});"
            " measure all of them: leave --only out"
        )
    return {row["what"]: row for row in kept["comparisons"]}, dict(machine["versions"])


def add_versions(versions, more):
    """Add to `{title: version}`; where rows were measured with several, all of them are named."""
    for title, version in more.items():
        known = versions.get(title, version)
        versions[title] = known if version in known.split(" and ") else f"{known} and {version}"


def write_result(name, result, quick=False, versions=None):
    """Keep a result, with the machine that it was measured on and the versions of the software."""
    folder = QUICK_RESULTS if quick else RESULTS
    os.makedirs(folder, exist_ok=True)
    with atomic_open(os.path.join(folder, f"{name}.json")) as stream:
        json.dump({**result, "machine": describe_machine(versions or {})}, stream, indent=1)
        stream.write("\n")


def describe_machine(versions):
    """Return the processor, its cores, and the versions of our software and of `versions`."""
    found = {"Python": platform.python_version()}
    for title, packages in PACKAGES.items():
        for package in packages:
            with contextlib.suppress(metadata.PackageNotFoundError):
                found[title] = metadata.version(package)
    return {
        "processor": processor_name(),
        "cores": os.cpu_count(),
        "instructions": [name for name in INSTRUCTIONS if name in processor_field("flags").split()],
        "system": platform.system(),
        "versions": {**found, **versions},
        "date": time.strftime("%F"),
    }


def processor_name():
    """Return the processor's model, e.g. "AMD EPYC"; else its architecture."""
    return processor_field("model name") or platform.processor() or platform.machine()


def processor_field(name):
    """Return a field of /proc/cpuinfo for the first core; "" on other systems."""
    if os.path.exists("/proc/cpuinfo"):
        with open("/proc/cpuinfo", encoding="utf-8", errors="replace") as stream:
            for line in stream:
                key, _, value = line.partition(":")
                if key.strip() == name:
                    return value.strip()
    return ""
