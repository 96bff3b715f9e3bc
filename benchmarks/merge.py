"""The time and memory that `sub.py --merge` needs for five networks and the whole challenge.

    python -m benchmarks.merge                      needs 10 GB of disk; some minutes

182,707 images x 5,089 classes of made-up probabilities, in float16 as `--save-probs` writes them.
Writes benchmarks/results/merge.json.
"""

import json
import os
import tempfile

import numpy as np

from benchmarks.compare import make_parser, run_measured, show_run, write_result
from common.base.script import run_script
from common.evaluation import probability_files, submission

NETWORKS, IMAGES, CLASSES = 5, 182_707, 5089


def main():
    args = make_parser(__doc__).parse_args()
    images = 5_000 if args.quick else IMAGES
    with tempfile.TemporaryDirectory() as folder:
        paths = [write_file(folder, number, images) for number in range(NETWORKS)]
        num_bytes = sum(os.path.getsize(path) for path in paths)
        write_json(folder, images)
        print(f"{NETWORKS} files written, {num_bytes / 1e9:.1f} GB", flush=True)
        places = ["--data-dir", folder, "--output", os.path.join(folder, "merged.csv")]
        seconds, peak = run_measured("sub.py", "--merge", *paths, *places)
    show_run(f"{NETWORKS} networks, {images} images", [seconds], peak)
    result = {"networks": NETWORKS, "images": images, "classes": CLASSES, "bytes": num_bytes}
    write_result("merge", {**result, "seconds": [seconds], "peak_bytes": peak}, args.quick)


def write_json(folder, num_images):
    """Write the test2017.json that the merged ids are checked against, of the real one's size."""
    about = {"width": 800, "height": 600, "license": 3, "rights_holder": "somebody", "url": ""}
    images = [
        {"id": number, "file_name": f"test2017/{number:032x}.jpg", **about}
        for number in range(num_images)
    ]
    with open(os.path.join(folder, "test2017.json"), "w", encoding="utf-8") as stream:
        json.dump({"images": images}, stream)


def write_file(folder, seed, num_images):
    """Write a probability file of made-up rows, which repeat."""
    rows = np.random.default_rng(seed).dirichlet(np.full(CLASSES, 0.01), 512).astype(np.float16)

    def chunks():
        for start in range(0, num_images, len(rows)):
            yield rows[: num_images - start]

    path = os.path.join(folder, f"{seed}.npz")
    nobody = np.full(num_images, -1)
    predictions = submission.Predictions(np.arange(num_images), None, None, nobody)
    probability_files.write_probabilities(path, predictions, np.arange(CLASSES), chunks())
    return path


if __name__ == "__main__":
    run_script(main)
