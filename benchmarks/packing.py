"""Our packing against MXNet's im2rec.py and a bare cv2 loop: photographs a second, and memory.

    python -m benchmarks.packing                  400 made-up photographs, 800x600, --resize 512
    python -m benchmarks.packing --photographs DIR
    python -m benchmarks.packing --large          our peak memory, 3,000 photographs of 6000x4000

All sides pack the same list with the same flags, in turn, as whole processes from start to end.
Writes benchmarks/results/packing.json (packing_large.json).
"""

import os
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

from benchmarks.compare import compare, make_parser, run_measured, show_run, write_result
from common.base.files import ROOT, UserError, write_together
from common.base.script import run_script
from common.data.image_folder import list_images
from common.data.recordio import ListEntry, format_list

PEERS = {"MXNet's `im2rec.py`": 1.0, "a bare loop over cv2": 0.9}
FLAGS = ["--resize", "512", "--quality", "95"]
# MXNet's tool needs names that numpy 1.24 removed; common.engines.mxnet.runtime restores them.
MXNET_TOOL = """
import os, runpy, sys
from common.engines.mxnet.runtime import mx
tool = os.path.join(os.path.dirname(mx.__file__), "tools", "im2rec.py")
runpy.run_path(tool, run_name="__main__")
"""
# The cost of the codec alone: it makes no records and writes nothing. N processes share the lines.
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
    parser = make_parser(__doc__)
    parser.add_argument("--photographs", help="a folder of JPEGs (default: made-up photographs)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument(
        "--large", type=int, nargs="?", const=3000, help="measure the memory with so many images"
    )
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        if args.large:
            measure_memory(folder, 40 if args.quick else args.large, args.quick)
        else:
            measure_speed(folder, args)


def make_photographs(folder, count, width, height):
    """Write photograph-like JPEGs: smooth shapes with the noise of a sensor."""
    rng = np.random.default_rng(0)
    for number in range(count):
        coarse = rng.integers(0, 255, (12, 16, 3), dtype=np.uint8)
        image = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_CUBIC)
        cv2.add(image, rng.integers(0, 24, image.shape, dtype=np.uint8), dst=image)
        cv2.imwrite(os.path.join(folder, f"{number:04}.jpg"), image, [cv2.IMWRITE_JPEG_QUALITY, 90])


def measure_speed(folder, args):
    """Compare and keep the images per second of every side, without its start-up."""
    photographs = args.photographs
    if photographs is None:
        photographs = os.path.join(folder, "photographs")
        os.mkdir(photographs)
        make_photographs(photographs, 100 if args.quick else 400, 800, 600)
    write_lists(folder, photographs)
    comparisons = []
    for workers in sorted({1, os.cpu_count()}):
        speeds = {name: [] for name in ("ours", *PEERS)}
        for number in range(-1, 1 if args.quick else args.rounds):  # the first one does not count
            for name, numbers in speeds.items():
                speed = images_a_second(name, folder, photographs, workers)
                if number >= 0:
                    numbers.append(speed)
        what = f"packing, {workers} worker{'s' * (workers > 1)}"
        comparisons.append(compare(what, speeds, "ours", PEERS))
    write_result("packing", {"comparisons": comparisons}, args.quick)


def write_lists(folder, photographs):
    """Write a list of all photographs, and one of a single photograph: it measures the start-up."""
    entries, _ = list_images(photographs, recursive=True)
    lists = {"all.lst": entries, "one.lst": entries[:1]}
    write_together({os.path.join(folder, n): format_list(each) for n, each in lists.items()})


def images_a_second(name, folder, photographs, workers):
    """Return how fast one side packs the lists of `write_lists`, without its start-up."""
    start_up, everything = (
        seconds_of(name, os.path.join(folder, prefix), photographs, workers)
        for prefix in ("one", "all")
    )
    with open(os.path.join(folder, "all.lst"), encoding="utf-8") as stream:
        return (sum(1 for _ in stream) - 1) / (everything - start_up)


def seconds_of(name, prefix, root, workers):
    """Return how long the processes of one side take for a list, from start to end."""
    flags = [*FLAGS, "--num-thread", str(workers), prefix, root]
    commands = {
        "ours": [[os.path.join(ROOT, "im2rec.py"), *flags]],
        "MXNet's `im2rec.py`": [["-c", MXNET_TOOL, *flags]],
        "a bare loop over cv2": [
            ["-c", BARE_LOOP, prefix, root, str(part), str(workers)] for part in range(workers)
        ],
    }
    quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL}
    start = time.perf_counter()
    running = [subprocess.Popen([sys.executable, *c], cwd=ROOT, **quiet) for c in commands[name]]
    statuses = [process.wait() for process in running]
    if any(statuses):
        raise UserError(f"{name}: failed")
    return time.perf_counter() - start


def measure_memory(folder, count, quick):
    """Print and keep our peak memory with two workers and `count` large photographs."""
    make_photographs(folder, 10, 6000, 4000)
    prefix = os.path.join(folder, "train")
    entries = [ListEntry(n, 0.0, f"{n % 10:04}.jpg") for n in range(count)]
    write_together({f"{prefix}.lst": format_list(entries)})
    seconds, peak = run_measured("im2rec.py", *FLAGS, "--num-thread", "2", prefix, folder)
    show_run(f"{count} photographs of 6000x4000", [seconds], peak)
    result = {"photographs": count, "seconds": [seconds], "peak_bytes": peak}
    write_result("packing_large", result, quick)


if __name__ == "__main__":
    run_script(main)
