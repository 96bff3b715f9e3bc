"""Lists of a folder of images, line for line as MXNet's `im2rec.py --list` makes them."""

import os
import random

from common.files import UserError
from common.recordio import ListEntry, is_writable_name

_SEED = 100  # MXNet's


def list_images(root, recursive=False, extensions=(".jpeg", ".jpg", ".png")):
    """Return the `ListEntry`s of the images in `root`, and {folder: label}.

    With `recursive` those of all folders below it too, and each folder is a label; else all are 0.

    Raises:
        UserError: `root` is no folder, or holds no image, or one whose name no list can carry.
    """
    if not os.path.isdir(root):
        raise UserError(f"{root}: not a folder; ROOT holds the images")
    entries, labels = [], {}
    for folder, folders, names in os.walk(root, followlinks=True):
        folders[:] = sorted(name for name in folders if not _leads_back(folder, name))
        if not recursive:
            folders.clear()
        for name in sorted(names):
            path = os.path.join(folder, name)
            if os.path.splitext(name)[1].lower() in extensions and os.path.isfile(path):
                label = labels.setdefault(os.path.relpath(folder, root), len(labels))
                entries.append(ListEntry(len(entries), label, _checked(root, path)))
    if not entries:
        raise UserError(f"{root}: holds no file that ends in {', '.join(extensions)}")
    return entries, labels if recursive else {}


def _leads_back(folder, name):
    """Return whether a subfolder is a link to a folder that it lies in: a walk without an end."""
    path = os.path.join(folder, name)
    if not os.path.islink(path):
        return False
    target = os.path.realpath(path)
    return os.path.commonpath([target, os.path.realpath(folder)]) == target


def _checked(root, path):
    """Return the path from `root` on, as a list names it."""
    name = os.path.relpath(path, root)
    if not is_writable_name(name):
        raise UserError(
            f"{root}: the name {name!r} holds a tab, a newline, an edge space or the like, which a"
            " list cannot carry; rename it"
        )
    return name


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
