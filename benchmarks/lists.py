"""How long mx_list.py takes, and how much memory, for 10,000, 100,000 and 1,000,000 images.

    python -m benchmarks.lists

The annotations are made up, and shaped like those of the challenge: its shares of train, val and
test, long names, licences, rights holders. Writes benchmarks/results/lists.json.
"""

import json
import os
import random
import tempfile

from benchmarks.compare import make_parser, run_measured, show_run, write_result
from common.base.script import run_script

SETS = {"train": 579_184, "val": 95_986, "test": 182_707}  # images of the challenge
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
    if os.path.basename(path).startswith("test"):
        del content["annotations"], content["categories"]
    with open(path, "w", encoding="utf-8") as stream:
        json.dump(content, stream, ensure_ascii=False)


def main():
    """Make the annotations, run mx_list.py, print and keep its time and memory."""
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=3)
    args = parser.parse_args()
    growth = {}
    for images in (10_000, 100_000) if args.quick else (10_000, 100_000, 1_000_000):
        with tempfile.TemporaryDirectory() as folder:
            for number, (name, count) in enumerate(SETS.items()):
                path = os.path.join(folder, f"{name}2017.json")
                make_annotations(path, images * count // sum(SETS.values()), number * 1_000_000)
            command = ["mx_list.py", "--data-dir", folder]
            runs = [run_measured(*command) for _ in range(1 if args.quick else args.rounds)]
        seconds, peaks = zip(*runs)
        growth[str(images)] = {"seconds": seconds, "peak_bytes": max(peaks)}
        show_run(f"{images} images", seconds, max(peaks))
    write_result("lists", {"images": growth}, args.quick)


if __name__ == "__main__":
    run_script(main)
