"""Checks that training and validation number their classes alike, before any long work.

The class files decide, `PREFIX.classes.txt`. Without them the folders in the lists decide, if
each label is one folder and each folder one label. Records alone hold numbers and no names.
"""

import logging
import os
from dataclasses import dataclass
from typing import Dict

import numpy as np

from common.base.files import UserError
from common.data.classes import class_file_of, class_name, read_class_names
from common.data.recordio import is_writable_name
from common.data.unicode_names import composed

NAMES_SHOWN = 5


@dataclass
class Numbering:
    """What the labels of records mean: the file that says so, and {label: class name}."""

    path: str
    names: Dict[int, str]


def numbering_of(rec_path):
    """Return the `Numbering` of a record file; None where no file beside it names the classes."""
    class_file = class_file_of(rec_path)
    if class_file:
        return Numbering(class_file, dict(enumerate(read_class_names(class_file))))
    list_path = f"{_prefix(rec_path)}.lst"
    names = folders_of_list(list_path)
    return Numbering(list_path, names) if names else None


def _prefix(rec_path):
    return os.path.splitext(rec_path)[0]


def folders_of_list(list_path):
    """Return {label: folder} of a list; nothing unless each label is one folder, and vice versa.

    An eighth of the time of `read_list`, which checks every line: 0.3 s for 600,000 lines.
    """
    if not os.path.isfile(list_path):
        return {}
    pairs = set()
    try:
        with open(list_path, encoding="utf-8-sig", errors="surrogateescape") as stream:
            for line in stream:
                if line.strip():
                    _, label, path = line.strip().split("\t")
                    pairs.add((label, path.rpartition("/")[0]))
        names = {int(float(label)): class_name(folder or ".") for label, folder in pairs}
    except (ValueError, OverflowError, OSError):  # reading the list itself reports it
        return {}
    one_to_one = len(names) == len(set(names.values())) == len(pairs)
    is_of_classes = one_to_one and all(map(is_writable_name, names.values()))
    return dict(sorted(names.items())) if is_of_classes else {}


def last_folder(path):
    """Return the last folder of a class's path, in one Unicode form."""
    return composed(path).rpartition("/")[2]


def check_classes(labels):
    """Compare the classes of record files; log a warning about what is only incomplete.

    Args:
        labels: {record file: its labels, (N,)}, that of training first, validation's second.

    Raises:
        UserError: a class has two numbers, or a class file names too few classes.
    """
    numberings = {path: numbering_of(path) for path in labels}
    for path, numbering in numberings.items():
        if numbering and numbering.path.endswith(".txt"):
            _check_length(path, numbering, int(labels[path].max()))
    train = numberings[next(iter(labels))]
    if len(labels) > 1 and all(numberings.values()):
        _compare(*numberings.items())
    _report_gaps(train, *labels.items())


def _check_length(rec_path, numbering, largest):
    if largest >= len(numbering.names):
        raise UserError(
            f"{numbering.path}: names {len(numbering.names)} classes, and {rec_path} holds labels"
            f" up to {largest}; make both again, first the list: python im2rec.py --list"
            f" --recursive {_prefix(rec_path)} FOLDER"
        )


def _compare(train, val):
    """Raise `UserError` where a class of validation has another label than in training."""
    (_, ours), (_, theirs) = train, val
    if ours.path == theirs.path or len(ours.names) == 1:
        return
    label_of, others = _comparable(ours.names, theirs.names)
    by_folders = ".lst" in (ours.path[-4:], theirs.path[-4:])
    if by_folders and len(others) > 1 and not label_of.keys() & others.keys():
        logging.warning(
            "%s: shares no class folder with %s, so that their labels cannot be compared",
            theirs.path,
            ours.path,
        )
        return
    name_of = {label: name for name, label in label_of.items()}
    for name, label in sorted(others.items(), key=lambda item: item[1]):
        if label_of.get(name, label) != label:
            fault = f"{name} has the label {label}, and {label_of[name]} in {ours.path}"
        elif name_of.get(label, name) != name:
            fault = f"label {label} is {_shown(name)}, and {name_of[label]} in {ours.path}"
        else:
            continue
        raise UserError(f"{theirs.path}: {fault}; {_way_to_one_numbering(train, val)}")


def _comparable(ours, theirs):
    """Return {name: label} of two numberings, by whole names or, where none is shared, by the last
    folder alone: `train/cat` and `val/cat`.
    """
    whole = [{composed(name): label for label, name in each.items()} for each in (ours, theirs)]
    last = [{last_folder(name): label for name, label in each.items()} for each in whole]
    as_many = all(len(short) == len(long) for short, long in zip(last, whole))
    return whole if whole[0].keys() & whole[1].keys() or not as_many else last


def _shown(name):
    return "no class folder" if name == "." else name


def _way_to_one_numbering(train, val):
    """Return the commands that number validation as training is."""
    (train_rec, ours), (val_rec, _) = train, val
    first = ""
    class_file = ours.path
    if class_file.endswith(".lst"):  # the list made again is the same, and has its class file
        first = f"python im2rec.py --list --recursive {_prefix(train_rec)} TRAIN_FOLDER && "
        class_file = f"{_prefix(train_rec)}.classes.txt"
    return (
        f"number both alike, and pack again what changes: {first}python im2rec.py --list"
        f" --recursive --classes {class_file} {_prefix(val_rec)} VAL_FOLDER"
    )


def _report_gaps(numbering, train, val=None):
    """Warn of labels that begin above 0, and of classes that one of the two files lacks."""
    names = numbering.names if numbering else {}
    train_path, train_labels = train[0], np.unique(train[1])
    if train_labels[0] > 0:
        logging.warning(
            "%s: its labels begin at %d; number them from 0 in the list, or the network gets"
            " classes that it never sees",
            train_path,
            train_labels[0],
        )
    _report_unseen(numbering, train_path, train_labels, val)
    if val is None:
        return
    val_path, val_labels = val[0], np.unique(val[1])
    lacking, extra = (
        np.setdiff1d(train_labels, val_labels),
        np.setdiff1d(val_labels, train_labels),
    )
    if len(lacking):
        logging.warning(
            "%s: lacks %d of %d classes, so that their accuracy is not measured: %s",
            val_path,
            len(lacking),
            len(train_labels),
            _listed(lacking, names),
        )
    if len(extra):
        logging.warning(
            "%s: %s lacks %d of %d classes, so that they cannot be learned: %s",
            val_path,
            train_path,
            len(extra),
            len(val_labels),
            _listed(extra, names),
        )


def _report_unseen(numbering, train_path, train_labels, val):
    """Warn of the classes that a class file names and that neither of the two files has."""
    if numbering is None or not numbering.path.endswith(".txt"):
        return
    held = train_labels if val is None else np.union1d(train_labels, val[1])
    unseen = np.setdiff1d(np.arange(train_labels[0], len(numbering.names)), held)
    if len(unseen):
        logging.warning(
            "%s: has no record of %d of the %d classes of %s, which cannot be learned: %s",
            train_path,
            len(unseen),
            len(numbering.names),
            numbering.path,
            _listed(unseen, numbering.names),
        )


def _listed(labels, names):
    shown = ", ".join(names.get(int(label), f"{label:.0f}") for label in labels[:NAMES_SHOWN])
    return f"{shown}, …" if len(labels) > NAMES_SHOWN else shown
