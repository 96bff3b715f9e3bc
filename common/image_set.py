"""The photographs of one set (val or test) with their ids, from records or straight from files."""

import os
from dataclasses import dataclass, field
from typing import Dict, Optional

import numpy as np

from common.annotations import Annotations, annotation_path, find_image, read_annotations
from common.files import UserError
from common.loader import FileSource, RecordSource
from common.recordio import MAX_KEY, read_list

NAMES_SHOWN = 20


@dataclass
class ImageSet:
    """The images of a set, and the ids that are to be answered for.

    `source` gives `read(position) -> (encoded bytes, label, key)`; the key is the image id.
    """

    path: str  # of the records, or of the JSON whose files are read
    source: object
    wanted_ids: np.ndarray  # (N,) int64, in the order of the JSON
    names: Dict[int, str] = field(default_factory=dict)  # image id -> file name, where known
    _positions: Optional[Dict[int, int]] = None  # image id -> position in the source

    def read_image(self, image_id):
        """Return the encoded bytes of an image; None of one that cannot be read."""
        if self._positions is None:
            self._positions = {int(key): i for i, key in enumerate(self.source.keys)}
        try:
            return self.source.read(self._positions[image_id])[0]
        except (KeyError, ValueError, OSError):
            return None

    def describe_unread(self, ids):
        """Say which photographs could not be read, and what they got."""
        shown = ", ".join(f"{i} ({self.names.get(int(i), 'no name')})" for i in ids[:NAMES_SHOWN])
        more = f" and {len(ids) - NAMES_SHOWN} more" if len(ids) > NAMES_SHOWN else ""
        return (
            f"{len(ids)} images could not be read and got the most frequent categories:"
            f" {shown}{more}"
        )


def open_image_set(data_dir, set_name):
    """Open `DIR/test.rec` (`DIR/val.rec`) where it exists, else the photographs of the JSON.

    All images of a test set are wanted, whatever the records hold; of a validation set those that
    are in the records.

    Raises:
        UserError: there is neither, or the ids are no numbers.
    """
    json_path = annotation_path(data_dir, set_name)
    rec_path = os.path.join(data_dir, f"{set_name}.rec")
    has_records = os.path.lexists(rec_path)
    if has_records and set_name != "test" and not os.path.lexists(json_path):
        annotations = Annotations([])
    else:
        annotations = read_annotations(json_path)
    for image_id, _ in annotations.images:
        if not isinstance(image_id, int) or abs(image_id) > MAX_KEY:
            raise UserError(f"{json_path}: image id {image_id!r} is no number of 64 bits")
    names = dict(annotations.images)
    ids = np.array(list(names), np.int64)
    if has_records:
        source = RecordSource(rec_path)
        # The keys of validation records need not be ids: nobody asks for a CSV of them.
        _check_keys(source.keys, rec_path, json_path, names if set_name == "test" else source.keys)
        return ImageSet(rec_path, source, ids if set_name == "test" else source.keys, names)
    labels = [annotations.labels.get(image_id, -1) for image_id in names]
    if set_name != "test" and -1 in labels:
        raise UserError(f"{json_path}: image {ids[labels.index(-1)]} has no annotation")
    paths = [find_image(data_dir, name) for name in names.values()]
    if not any(map(os.path.exists, paths)):
        raise UserError(
            f"{paths[0]}: not found, nor any other photograph of {json_path}; unpack them into"
            f" {data_dir}, or make {rec_path} with: sh gen_rec.sh"
        )
    return ImageSet(json_path, FileSource(paths, labels, ids), ids, names)


def open_records(rec_path):
    """Open a record file on its own: its images belong to no JSON."""
    source = RecordSource(rec_path)
    _check_keys(source.keys, rec_path, rec_path, source.keys)
    return ImageSet(rec_path, source, source.keys)


def _check_keys(keys, rec_path, json_path, known):
    """Raise `UserError` unless each record is of another one of the `known` images."""
    mend = "make the records anew: sh gen_rec.sh"
    unique, counts = np.unique(keys, return_counts=True)
    if len(unique) < len(keys):
        raise UserError(f"{rec_path}: two records have the key {unique[counts > 1][0]}; {mend}")
    strange = np.setdiff1d(unique, np.fromiter(known, np.int64))
    if len(strange):
        raise UserError(f"{rec_path}: record {strange[0]} is of no image of {json_path}; {mend}")


class Selection:
    """The images of a source at some positions: a source itself."""

    def __init__(self, source, positions):
        self._source, self._positions = source, np.asarray(positions, np.int64)
        self.keys = source.keys[self._positions]

    def __len__(self):
        return len(self._positions)

    def read(self, position):
        """Return (encoded bytes, label, key) of an image."""
        return self._source.read(int(self._positions[position]))

    def listed_label(self, position):
        """Return the label of an image that cannot be read."""
        return self._source.listed_label(int(self._positions[position]))

    def name(self, position):
        """Say which image it is, for people."""
        return self._source.name(int(self._positions[position]))


def read_categories(data_dir):
    """Return the `Category`s in the order of their ids; a label is a position in the list.

    The training JSON decides, then val's, then test's.

    Raises:
        UserError: none of the three names categories.
    """
    path, categories = find_categories(data_dir)
    if not categories:
        raise UserError(
            f"{path}: not found, and no other JSON of this folder names the categories; name their"
            " folder with --data-dir"
        )
    return categories


def find_categories(data_dir):
    """Return the JSON that decides, and its categories; the training JSON's name and [] of none."""
    for set_name in ("train", "val", "test"):
        path = annotation_path(data_dir, set_name)
        if os.path.lexists(path):
            categories = read_annotations(path).categories
            if categories:
                check_ids(path, categories)
                return path, categories
    return annotation_path(data_dir, "train"), []


def check_ids(path, categories):
    """Raise `UserError` unless the ids are numbers (or their digits), as Kaggle's CSV has them."""
    try:
        np.array([int(category.id) for category in categories], np.int64)
    except (ValueError, OverflowError):
        raise UserError(f"{path}: a category's id is no number of 64 bits") from None


def train_labels(data_dir):
    """Return the labels of `DIR/train.lst`, (N,) int64; none where there is no such list."""
    path = os.path.join(data_dir, "train.lst")
    if not os.path.lexists(path):
        return np.empty(0, np.int64)
    return np.array([np.atleast_1d(entry.label)[0] for entry in read_list(path)], np.int64)
