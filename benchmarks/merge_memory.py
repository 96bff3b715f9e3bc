"""The memory that `sub.py --merge` needs for the whole challenge: 182,707 images, 5,089 classes.

    python -m benchmarks.merge_memory               needs 4 GB of disk for two files; some minutes
    python -m benchmarks.merge_memory --images 20000

Target: below 1 GB. Writes benchmarks/results/merge_memory.json.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time

import numpy as np

from benchmarks.compare import write_result
from common import submission
from common.files import ROOT, run_script

CLASSES = 5089


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--images", type=int, default=182707)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        write_json(folder, args.images)
        paths = [write_file(folder, number, args.images) for number in range(2)]
        command = [sys.executable, os.path.join(ROOT, "sub.py"), "--merge", *paths]
        command += ["--data-dir", folder]
        start = time.perf_counter()
        subprocess.run([*command, "--output", os.path.join(folder, "m.csv")], check=True)
        seconds = time.perf_counter() - start
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    print(f"{args.images} x {CLASSES}, 2 files: {peak / 1e6:.0f} MB at most, {seconds:.0f} s")
    write_result("merge_memory", {"images": args.images, "peak_bytes": peak, "seconds": seconds})


def write_json(folder, num_images):
    """Write the test2017.json that the merged ids are checked against, as large as the real one."""
    about = {"width": 800, "height": 600, "license": 3, "rights_holder": "somebody", "url": ""}
    images = [
        {"id": number, "file_name": f"test2017/{number:032x}.jpg", **about}
        for number in range(num_images)
    ]
    with open(os.path.join(folder, "test2017.json"), "w", encoding="utf-8") as stream:
        json.dump({"images": images}, stream)


def write_file(folder, seed, num_images):
    """Write a probability file of made-up rows; the same rows come again and again."""
    rows = np.random.default_rng(seed).dirichlet(np.full(CLASSES, 0.01), 512).astype(np.float16)

    def chunks():
        for start in range(0, num_images, len(rows)):
            yield rows[: num_images - start]

    path = os.path.join(folder, f"{seed}.npz")
    nobody = np.full(num_images, -1)
    predictions = submission.Predictions(np.arange(num_images), None, None, nobody)
    submission.write_probabilities(path, predictions, np.arange(CLASSES), chunks())
    return path


if __name__ == "__main__":
    run_script(main)
