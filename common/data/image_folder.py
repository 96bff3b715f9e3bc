"""Lists of a folder of images, line for line as MXNet's `im2rec.py --list` makes them.

There are two exceptions. MXNet also lists hidden files: those whose names begin with a dot, and
those in `__MACOSX`, `@eaDir` and folders that begin with a dot. And it follows links to a parent
folder until the system stops it.
"""

import os
import random
from collections import defaultdict

from common.base.files import UserError, explain_os_error
from common.data.classes import labels_by_file
from common.data.folder_walk import join, walk
from common.data.recordio import ListEntry, is_writable_name
from common.data.unicode_names import composed

EXTENSIONS = (".jpeg", ".jpg", ".png")
_FURTHER_EXTENSIONS = (".bmp", ".jp2", ".jpe", ".tif", ".tiff", ".webp")  # that OpenCV reads
_SEED = 100  # MXNet's
_NAMES_SHOWN = 5


def list_images(root, recursive=False, extensions=EXTENSIONS, class_file=None, report=None):
    """Return the `ListEntry`s of the images in `root`, and {folder: label}.

    With `recursive` those of all folders below it too, and each folder is a label; else all are 0.

    Args:
        class_file: numbers the folders; without it they are numbered in their order.
        report: is called with each line about what is passed over or looks like a mistake.

    Raises:
        UserError: `root` is not a folder, or holds no image, or one whose name no list can carry;
            `class_file` lacks a folder.
    """
    if not os.path.isdir(root):
        raise UserError(f"{root}: not a folder; ROOT holds the images")
    found = walk(root, recursive, extensions)
    if not found.images:
        raise _no_image(root, found, extensions)
    labels, unused = {folder: label for label, folder in enumerate(found.images)}, []
    if class_file:
        labels, unused = labels_by_file(class_file, root, found.images)
    entries = []
    for folder, names in found.images.items():
        for name in names:
            entries.append(ListEntry(len(entries), labels[folder], _checked(root, folder, name)))
    lines = [*_passed_over(found, extensions), *_odd_classes(found, labels, recursive)]
    if unused:
        lines.append(f"classes of {class_file} without a photograph: {_some(unused)}")
    for line in lines if report else ():
        report(f"{root}: {line}")
    return entries, labels if recursive else {}


def image_paths(root, report):
    """Return the paths of all images in a folder and below it, whatever OpenCV reads.

    `report` is called with each line about what is passed over.

    Raises:
        UserError: there is no image.
    """
    extensions = EXTENSIONS + _FURTHER_EXTENSIONS
    found = walk(root, True, extensions)
    if not found.images:
        raise _no_image(root, found, extensions)
    for line in _passed_over(found, extensions):
        report(f"{root}: {line}")
    return [
        os.path.join(root, join(folder, name))
        for folder, names in found.images.items()
        for name in names
    ]


def parse_extensions(texts):
    """Return the endings that `.JPG`, `jpg` or `.jpg,.png` mean.

    Raises:
        UserError: there is none.
    """
    names = [name.strip().lstrip(".").lower() for text in texts for name in text.split(",")]
    if not any(names):
        raise UserError("--exts: names no ending; for example: --exts .jpg .png")
    return tuple(f".{name}" for name in names if name)


def _checked(root, folder, name):
    """Return the path relative to `root`, as a list names it."""
    path = join(folder, name)
    if not is_writable_name(path):
        raise UserError(
            f"{root}: the name {path!r} holds a tab, a newline, a leading or trailing space or the"
            " like, which a list cannot carry; rename it"
        )
    return path


def _no_image(root, found, extensions):
    """Return the error for a folder in which there is nothing to list."""
    if found.unreadable:
        return found.unreadable[0]
    message = f"{root}: holds no file that ends in {', '.join(extensions)}"
    if found.endings:
        return UserError(f"{message}, but {_endings(found, extensions)}")
    if found.hidden:
        return UserError(f"{message}, but hidden ones: {_some(found.hidden)}; rename them")
    if found.not_entered:
        return UserError(f"{message}; to enter its folders: --recursive")
    return UserError(message)


# What is reported ---------------------------------------------------------------------------------


def _passed_over(found, extensions):
    """Yield a line for each kind of thing that is not in the list."""
    if found.hidden:
        yield f"hidden files and folders, passed over: {_some(found.hidden)}"
    if found.endings:
        yield f"files of other endings, passed over: {_endings(found, extensions)}"
    if found.no_files:
        yield f"links to nothing, pipes and the like, passed over: {_some(found.no_files)}"
    if found.leading_back:
        yield f"links to a folder that they lie in, not entered: {_some(found.leading_back)}"
    for error in found.unreadable:
        yield f"passed over: {explain_os_error(error)}"
    without = set(found.folders) - {above for folder in found.images for above in _path_to(folder)}
    if without:
        yield f"folders without a photograph: {_some(sorted(without))}"


def _odd_classes(found, labels, recursive):
    """Yield a line for each way in which the folders may make unwanted classes."""
    in_root = len(found.images.get(".", ()))
    if not recursive:
        passed_over = f"; folders, not entered: {_some(found.not_entered)}"
        yield (
            f"all {in_root} photographs get label 0; with --recursive each folder is a label"
            f"{passed_over if found.not_entered else ''}"
        )
        return
    if in_root and len(labels) > 1:
        yield (
            f"{in_root} photographs lie in no folder and are a class of their own, label"
            f" {labels['.']}; move them into the folder of their class"
        )
    elif in_root:
        yield f"all {in_root} photographs lie in no folder and get label 0; make a folder a class"
    for same in _same(found.images, composed, labels):
        names = " and ".join(map(ascii, same))
        yield f"{names} differ in their Unicode form only and are two classes; make them one folder"
    for same in _same(found.images, found.real_folders.get, labels):
        yield f"one folder is several classes, by links: {_some(same)}; remove all but one"


def _same(folders, key, labels):
    """Yield the lists of folders with the same key and different labels."""
    groups = defaultdict(list)
    for folder in folders:
        groups[key(folder)].append(folder)
    return [same for same in groups.values() if len({labels[folder] for folder in same}) > 1]


def _path_to(folder):
    """Yield a folder and all that it lies in."""
    while folder:
        yield folder
        folder = os.path.dirname(folder)
    yield "."


def _some(names):
    """Say how many names there are, and some of them."""
    shown = ", ".join(map(_printable, names[:_NAMES_SHOWN]))
    return f"{len(names)} ({shown}{', …' if len(names) > _NAMES_SHOWN else ''})"


def _endings(found, extensions):
    """Say how many files have which other endings, and how those of images are listed."""
    counts = [
        f"{count} {_printable(name) or 'without one'}"
        for name, count in found.endings.most_common()
    ]
    shown = ", ".join(counts[:_NAMES_SHOWN]) + (", …" if len(counts) > _NAMES_SHOWN else "")
    further = [name for name in _FURTHER_EXTENSIONS if name in found.endings]
    if not further:
        return shown
    return f"{shown}; to list those that are images: --exts {' '.join([*extensions, *further])}"


def _printable(name):
    return name if name.isprintable() else ascii(name)


# The lists ----------------------------------------------------------------------------------------


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
