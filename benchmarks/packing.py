"""Ours against MXNet's im2rec.py and the bare cv2 loop: photographs packed a second, and memory.

    python -m benchmarks.packing                  400 made-up photographs, 800x600, --resize 512
    python -m benchmarks.packing --photographs DIR
    python -m benchmarks.packing --large          3,000 photographs of 6000x4000: our peak memory

All sides pack the same list with the same flags, in turn, whole processes from start to end.
Writes benchmarks/results/packing.json (packing_large.json).
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

from benchmarks.compare import describe, ratios, write_result
from common.files import ROOT, UserError, run_script
from common.image_folder import list_images
from common.recordio import ListEntry, write_list

FLAGS = ["--resize", "512", "--quality", "95"]
# MXNet's tool needs numpy's old names, which common.find_mxnet puts back.
PEER = """
import os, runpy, sys
from common.find_mxnet import mx
tool = os.path.join(os.path.dirname(mx.__file__), "tools", "im2rec.py")
runpy.run_path(tool, run_name="__main__")
"""
# What the codec takes: no record is made, nothing written. Each process takes its share of lines.
BARE_LOOP = """
import os, sys
import cv2
prefix, root, part, parts = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
cv2.setNumThreads(1)
for line in list(open(prefix + ".lst"))[part::parts]:
    image = cv2.imread(os.path.join(root, line.rstrip("\\n").split("\\t")[-1]), 1)
    height, width = image.shape[:2]
    size = (512, height * 512 // width) if height > width else (width * 512 // height, 512)
    cv2.imencode(".jpg", cv2.resize(image, size), [cv2.IMWRITE_JPEG_QUALITY, 95])
"""


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--photographs", help="a folder of JPEGs (default: made-up photographs)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--large", type=int, nargs="?", const=3000, help="measure the memory with so many"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.large:
            measure_memory(folder, args.large)
        else:
            measure_speed(folder, args.photographs, args.rounds)


def make_photographs(folder, count, width, height):
    """Write photograph-like JPEGs: smooth shapes with the noise of a sensor."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.add(image, rng.integers(0, 24, image.shape, dtype=np.uint8), dst=image)
        cv2.imwrite(os.path.join(folder, f"{number:04}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])


def measure_speed(folder, photographs, rounds):
    """Print and keep the images a second of every side, its start-up left out."""
    if photographs is None:
        photographs = os.path.join(folder, "photographs")
        os.mkdir(photographs)
        make_photographs(photographs, 400, 800, 600)
    entries, _ = list_images(photographs, recursive=True)
    write_list(os.path.join(folder, "all.lst"), entries)
    write_list(os.path.join(folder, "one.lst"), entries[:1])
    result = {}
    for workers in sorted({1, os.cpu_count()}):
        measured = {
            name: {"wall": [], "cpu": []} for name in ("ours", "MXNet's im2rec.py", "bare cv2 loop")
        }
        for number in range(-1, rounds):  # the first one does not count
            for name, numbers in measured.items():
                start_up, everything = (
                    seconds_of(name, os.path.join(folder, prefix), photographs, workers)
                    for prefix in ("one", "all")
                )
                if number >= 0:
                    wall, cpu = (b - a for a, b in zip(start_up, everything))
                    numbers["wall"].append((len(entries) - 1) / wall)
                    numbers["cpu"].append(cpu / (len(entries) - 1))
        print(f"--num-thread {workers}")
        describe(measured)
        result[f"{workers} workers"] = {"measured": measured}
        for name in list(measured)[1:]:
            ratio = ratios(measured, "ours", name)
            cpu = statistics.median(measured[name]["cpu"]) / statistics.median(
                measured["ours"]["cpu"]
            )
            print(
                f"ours / {name}: {{min:.2f}} {{median:.2f}} {{max:.2f}}".format(**ratio),
                f"times as fast, {cpu:.2f} by CPU time",
            )
            result[f"{workers} workers"][f"ours / {name}"] = {**ratio, "by CPU time": cpu}
    write_result("packing", result)


def seconds_of(name, prefix, root, workers):
    """Return how long one side takes for a list, (wall, CPU), as processes from start to end."""
    flags = [*FLAGS, "--num-thread", str(workers), prefix, root]
    commands = {
        "ours": [[os.path.join(ROOT, "im2rec.py"), *flags]],
        "MXNet's im2rec.py": [["-c", PEER, *flags]],
        "bare cv2 loop": [
            ["-c", BARE_LOOP, prefix, root, str(part), str(workers)] for part in range(workers)
        ],
    }
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    start, cpu_start = time.perf_counter(), cpu_seconds_of_children()
    running = [subprocess.Popen([sys.executable, *c], cwd=ROOT, **quiet) for c in commands[name]]
    statuses = [process.wait() for process in running]
    if any(statuses):
        raise UserError(f"{name}: failed")
    return time.perf_counter() - start, cpu_seconds_of_children() - cpu_start


def cpu_seconds_of_children():
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def measure_memory(folder, count):
    """Print and keep our peak memory with two workers and `count` large photographs."""
    make_photographs(folder, 10, 6000, 4000)
    entries = [ListEntry(n, 0.0, f"{n % 10:04}.jpg") for n in range(count)]
    prefix = os.path.join(folder, "train")
    write_list(f"{prefix}.lst", entries)
    command = [sys.executable, os.path.join(ROOT, "im2rec.py"), *FLAGS, "--num-thread", "2"]
    subprocess.run([*command, prefix, folder], check=True)
    megabytes = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    print(f"{len(entries)} photographs of 6000x4000: at most {megabytes} MB")
    write_result("packing_large", {"photographs": len(entries), "peak_megabytes": megabytes})


if __name__ == "__main__":
    run_script(main)
