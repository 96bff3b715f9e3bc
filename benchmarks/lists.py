"""How long mx_list.py takes for 600,000 images, and how much memory.

    python -m benchmarks.lists

The annotations are made up, in the size and shape of the challenge: long names, licences, rights
holders. Writes benchmarks/results/lists.json.
"""

import argparse
import json
import os
import random
import resource
import subprocess
import sys
import tempfile
import time

from benchmarks.compare import write_result

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
SETS = {"train": 600_000, "val": 96_000, "test": 183_000}
NUM_CATEGORIES = 5089


def make_annotations(path, num_images, first_id):
    """Write a JSON like that of the challenge."""
    draw = random.Random(first_id)
    ids = range(first_id, first_id + num_images)
    content = {
        "info": {"year": 2017},
        "images": [
            {
                "id": n,
                "width": 800,
                "height": 600,
                "file_name": f"train_val_images/Plantae/Salix × fragilis {n % NUM_CATEGORIES}/"
                f"{draw.getrandbits(128):032x}.jpg",
                "license": 3,
                "rights_holder": f"someone who took photographs {n % 9999}",
            }
            for n in ids
        ],
        "categories": [
            {"id": n, "name": f"Salix × fragilis {n}", "supercategory": f"super {n % 13}"}
            for n in range(NUM_CATEGORIES)
        ],
        "annotations": [{"id": n, "image_id": n, "category_id": n % NUM_CATEGORIES} for n in ids],
    }
    if "test" in path:
        del content["annotations"], content["categories"]
    with open(path, "w", encoding="utf-8") as stream:
        json.dump(content, stream, ensure_ascii=False)


def main():
    """Make the annotations, run mx_list.py, print and keep what it took."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        for number, (name, num_images) in enumerate(SETS.items()):
            path = os.path.join(folder, f"{name}2017.json")
            make_annotations(path, num_images, number * 1_000_000)
            print(f"{name}2017.json: {num_images} images, {os.path.getsize(path) >> 20} MB")
        command = [sys.executable, os.path.join(ROOT, "mx_list.py"), "--data-dir", folder]
        seconds = []
        for _ in range(args.repeats):
            start = time.perf_counter()
            subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
            seconds.append(round(time.perf_counter() - start, 2))
    peak_mb = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss >> 10
    result = {
        "images": sum(SETS.values()),
        "seconds": sorted(seconds),
        "peak_megabytes": peak_mb,
    }
    print(f"{result['images']} images: {sorted(seconds)} s, at most {peak_mb} MB")
    write_result("lists", result)


if __name__ == "__main__":
    main()
