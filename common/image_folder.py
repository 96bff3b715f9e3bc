"""Lists of a folder of images, line for line as MXNet's `im2rec.py --list` makes them."""

import os
import random

from common.files import UserError
from common.recordio import ListEntry

_SEED = 100  # MXNet's


def list_images(root, recursive=False, extensions=(".jpeg", ".jpg", ".png")):
    """Return the `ListEntry`s of the images in `root`, and {folder: label}.

    With `recursive` those of all folders below it too, and each folder is a label; else all are 0.

    Raises:
        UserError: `root` is no folder, or holds no image.
    """
    if not os.path.isdir(root):
        raise UserError(f"{root}: not a folder; ROOT holds the images")
    entries, labels = [], {}
    for folder, folders, names in os.walk(root, followlinks=True):
        folders.sort()
        if not recursive:
            folders.clear()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.splitext(name)[1].lower() in extensions and os.path.isfile(path):
                label = labels.setdefault(os.path.relpath(folder, root), len(labels))
                entries.append(ListEntry(len(entries), label, os.path.relpath(path, root)))
    if not entries:
        raise UserError(f"{root}: holds no file that ends in {', '.join(extensions)}")
    return entries, labels if recursive else {}


def split_list(entries, shuffle=True, chunks=1, train_ratio=1.0, test_ratio=0.0):
    """Return {what follows the prefix in a list's name: its entries}."""
    entries = list(entries)
    if shuffle:
        random.Random(_SEED).shuffle(entries)
    size = -(-len(entries) // chunks)
    num_test, num_train = int(size * test_ratio), int(size * train_ratio)
    parts = {}
    for number in range(chunks):
        chunk = entries[number * size : (number + 1) * size]
        name = f"_{number}" if chunks > 1 else ""
        if train_ratio == 1.0:
            parts[name] = chunk
            continue
        if test_ratio:
            parts[name + "_test"] = chunk[:num_test]
        if train_ratio + test_ratio < 1.0:
            parts[name + "_val"] = chunk[num_test + num_train :]
        parts[name + "_train"] = chunk[num_test : num_test + num_train]
    return parts
