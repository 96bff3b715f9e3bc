"""Small pictures to learn from: grey pieces of the photographs that scikit-image carries.

The class of a picture is its photograph. Training pictures come from the left part of it, those for
validation from the right part. The photographs are public domain, CC0, or without known copyright
restrictions (the docstrings of `skimage.data`).
"""

import importlib.util
import os

import cv2
import numpy as np

from benchmarks.made_up import encode, write_records
from common.base.files import UserError

SIDE = 72  # pixels of a picture
NOISE = 6  # standard deviation, of 255


def write_pictures(folder, names, counts):
    """Write train.rec and val.rec.

    Args:
        names: of the photographs.
        counts: `{"train": [pieces of each photograph], "val": …}`.
    """
    photographs = [cv2.imread(path, cv2.IMREAD_GRAYSCALE) for path in find_photographs(names)]
    for part, numbers in counts.items():
        rng = np.random.default_rng(len(part))
        rounds = range(max(numbers))
        labels = [label for turn in rounds for label, n in enumerate(numbers) if turn < n]
        pictures = [encode(cut_piece(photographs[label], part, rng)) for label in labels]
        write_records(os.path.join(folder, part), pictures, labels)


def find_photographs(names):
    """Return the paths of scikit-image's photographs, whose code is not needed."""
    found = importlib.util.find_spec("skimage")
    if found is None:
        raise UserError(
            "the photographs are not installed; run: python -m pip install --no-deps"
            " -r requirements/test-photographs.txt"
        )
    return [os.path.join(os.path.dirname(found.origin), "data", name) for name in names]


def cut_piece(photograph, part, rng):
    """Return a random piece of the part, enlarged to `(SIDE, SIDE)`, with noise in it."""
    height, width = photograph.shape
    side = int(rng.integers(24, 56))
    border = width * 3 // 5
    top = rng.integers(0, height - side)
    left = rng.integers(0, border - side) if part == "train" else rng.integers(border, width - side)
    piece = photograph[top : top + side, left : left + side].astype(np.float32)
    piece += rng.normal(0, NOISE, piece.shape).astype(np.float32)
    piece = cv2.resize(piece, (SIDE, SIDE), interpolation=cv2.INTER_CUBIC)
    return np.clip(piece, 0, 255).astype(np.uint8)
