"""The photographs of one set (val or test) with their ids, from records or straight from files."""

import logging
import os
import unicodedata
from dataclasses import dataclass, field
from typing import Dict, Optional, Union

import numpy as np

from common.base.files import UserError
from common.data.annotations import (
    Annotations,
    annotation_path,
    as_id,
    find_image,
    image_keys,
    label_by,
    read_annotations,
)
from common.data.challenge import folder_of_test, how_to_get
from common.data.commands import pack_command
from common.data.list_checks import check_list
from common.data.loader import FileSource, RecordSource
from common.data.recordio import read_list

NAMES_SHOWN = 20


@dataclass
class ImageSet:
    """The images of a set, and the ids that must be predicted.

    `source` gives `read(position) -> (encoded bytes, label, key)`; the key is the image id, or
    stands for it where ids are text.
    """

    path: str  # of the records, or of the JSON whose files are read
    source: object
    wanted_ids: np.ndarray  # (N,) int64 or text, in the order of the JSON
    names: Dict[Union[int, str], str] = field(default_factory=dict)  # image id -> file name
    wanted_keys: Optional[np.ndarray] = None  # (N,) int64, of the wanted ids; None: the same
    is_compared: bool = True  # False: labels are those of records, which no JSON knows
    _positions: Optional[Dict[Union[int, str], int]] = None  # image id -> position in the source

    def __post_init__(self):
        if self.wanted_keys is None:
            self.wanted_keys = self.wanted_ids

    def read_image(self, image_id):
        """Return the encoded bytes of an image; None of one that cannot be read."""
        try:
            return self.source.read(self._position_of()[image_id])[0]
        except (KeyError, ValueError, OSError):
            return None

    def _position_of(self):
        """Return {image id: position in the source}."""
        if self._positions is None:
            id_of = dict(zip(self.wanted_keys.tolist(), self.wanted_ids.tolist()))
            self._positions = {id_of.get(key): i for i, key in enumerate(self.source.keys.tolist())}
        return self._positions

    def is_of(self, ids, labels):
        """Return whether these are its images, with their true labels (-1: not known)."""
        if set(ids.tolist()) != set(self.wanted_ids.tolist()):
            return False
        position_of = self._position_of()
        return all(
            label < 0 or self.source.listed_label(position_of[image_id]) in (-1, label)
            for image_id, label in zip(ids.tolist(), labels.tolist())
            if image_id in position_of
        )

    def describe_unread(self, ids):
        """Say which photographs could not be read, and what they got."""
        shown = ", ".join(f"{i} ({self.names.get(i.item(), 'no name')})" for i in ids[:NAMES_SHOWN])
        more = f" and {len(ids) - NAMES_SHOWN} more" if len(ids) > NAMES_SHOWN else ""
        return (
            f"{len(ids)} images could not be read and got the most frequent categories:"
            f" {shown}{more}"
        )


def open_image_set(data_dir, set_name, year=2017, categories=None):
    """Open `DIR/test.rec` (`DIR/val.rec`) where it exists, else the photographs of the JSON.

    All images of a test set are wanted, whatever the records hold; of a validation set those that
    are in the records, or that have an annotation.

    Args:
        categories: by which the annotations of a validation JSON are labelled; None: those of
            `read_categories`.

    Raises:
        UserError: there is neither, or the records are of other images.
    """
    json_path = annotation_path(data_dir, set_name, year)
    rec_path = os.path.join(data_dir, f"{set_name}.rec")
    has_records = os.path.lexists(rec_path)
    if has_records and set_name != "test" and not os.path.lexists(json_path):
        annotations = Annotations([])
    else:
        annotations = read_annotations(json_path)
    names = dict(annotations.images)
    id_of = dict(zip(image_keys(list(names)), names))  # by the key that mx_list.py gives it
    if has_records:
        source = RecordSource(rec_path)
        if set_name == "test":
            _check_keys(source.keys, rec_path, json_path, id_of)
            _check_list(rec_path, json_path, id_of, names)
            return _image_set(rec_path, source, id_of, names)
        return _open_validation(source, json_path, annotations, categories, id_of)
    labels = annotations.labels
    if set_name != "test":
        categories = categories or read_categories(data_dir, year)
        labels = label_by(json_path, annotations, categories, "the training").labels
        id_of = _labelled(json_path, id_of, labels)
        id_of = _still_validation(rec_path, json_path, id_of)
    paths = [find_image(data_dir, names[each], folder_of_test(year)) for each in id_of.values()]
    if not any(map(os.path.exists, paths)):
        raise UserError(
            f"{paths[0]}: not found, nor any other photograph of {json_path}; unpack them into"
            f" {data_dir}, or make {rec_path} with: {pack_command(rec_path)}"
        )
    labels = [labels.get(each, -1) for each in id_of.values()]
    source = FileSource(paths, labels, np.array(list(id_of), np.int64))
    return _image_set(json_path, source, id_of, names)


def _open_validation(source, json_path, annotations, categories, id_of):
    """Return the `ImageSet` of validation records.

    They may have other keys than the images of the JSON: their CSV is not submitted.
    """
    names = dict(annotations.images)
    _check_keys(source.keys, source.path, json_path, source.keys)
    check_list(source)
    is_compared = False
    if categories:
        is_compared = _compare_labels(source.path, json_path, annotations, categories, id_of)
    id_of = _ids_of_records(source.keys.tolist(), source.path, id_of, names)
    return _image_set(source.path, source, id_of, names, is_compared)


def _image_set(path, source, id_of, names, is_compared=True):
    """Return the `ImageSet` of the images that `id_of` names, {key: id}."""
    ids, keys = np.array(list(id_of.values())), np.array(list(id_of), np.int64)
    return ImageSet(path, source, ids, names, keys, is_compared)


def _compare_labels(rec_path, json_path, annotations, categories, id_of):
    """Compare the labels in the list of validation records with those that the JSON's ids have.

    Returns:
        whether the list is of the JSON's photographs: else there is nothing to compare.

    Raises:
        UserError: a photograph has another label in the list.
    """
    label_of = {as_id(category.id): label for label, category in enumerate(categories)}
    moved = [label_of.get(as_id(category.id)) for category in annotations.categories]
    names, compared = dict(annotations.images), False
    for entry in _entries_of(rec_path):
        image_id, listed = id_of.get(entry.index), np.atleast_1d(entry.label)[0]
        label = moved[annotations.labels[image_id]] if image_id in annotations.labels else None
        if label is None or _file_name(entry.path) != _file_name(names[image_id]):
            continue
        compared = True
        if listed != label:
            raise UserError(
                f"{rec_path}: its list gives {entry.path} the label {listed:g}, and by the"
                f" classes of the training and {json_path} it has {label}; put the training JSON"
                " into this folder, and make the lists and records anew"
            )
    return compared


def _still_validation(rec_path, json_path, id_of):
    """Return the part of `id_of` that `val.lst` names: `--val-into-train` trains on the others."""
    listed = {entry.index for entry in _entries_of(rec_path)}
    kept = {key: image_id for key, image_id in id_of.items() if key in listed}
    if not kept or len(kept) == len(id_of):
        return id_of
    logging.warning(
        "%s.lst: of the %d images of %s the %d are scored that it lists",
        *(os.path.splitext(rec_path)[0], len(id_of), json_path, len(kept)),
    )
    return kept


def _labelled(json_path, id_of, labels):
    """Return the part of `id_of` that can be scored; raise `UserError` where there is none."""
    labelled = {key: image_id for key, image_id in id_of.items() if image_id in labels}
    if not labelled:
        raise UserError(f"{json_path}: has no annotations, and without them nothing can be scored")
    if len(labelled) < len(id_of):
        number = len(id_of) - len(labelled)
        logging.warning("%s: %d images have no annotation and are left out", json_path, number)
    return labelled


def _ids_of_records(keys, rec_path, id_of, names):
    """Return {key: id} of validation records; the keys where they are not those of the JSON."""
    are_of_json = all(key in id_of for key in keys) and not _strangers(rec_path, id_of, names)
    return {key: id_of[key] if are_of_json else key for key in keys}


def _check_list(rec_path, json_path, id_of, names):
    """Raise `UserError` where the list of test records numbers the JSON's images differently."""
    for entry in _strangers(rec_path, id_of, names):
        raise UserError(
            f"{rec_path}: record {entry.index} is of {entry.path}, and image {entry.index} of"
            f" {json_path} is {names[id_of[entry.index]]}; make lists and records anew"
        )


def _strangers(rec_path, id_of, names):
    """Return the entries of the records' list that are of other photographs than in the JSON.

    Only where images are numbered, because their ids are text: a number fits any JSON.
    """
    if all(key == image_id for key, image_id in id_of.items()):
        return []
    return [
        entry
        for entry in _entries_of(rec_path)
        if entry.index in id_of and _file_name(entry.path) != _file_name(names[id_of[entry.index]])
    ]


def _entries_of(rec_path):
    """Return what the list of records names; nothing where it is gone, or was edited since."""
    try:
        return read_list(os.path.splitext(rec_path)[0] + ".lst")
    except UserError:
        return []


def _file_name(path):
    """Return a file's name without its folder, in one Unicode form."""
    return unicodedata.normalize("NFC", os.path.basename(path))


def open_records(rec_path):
    """Open a record file on its own: its images belong to no JSON."""
    source = RecordSource(rec_path)
    _check_keys(source.keys, rec_path, rec_path, source.keys)
    check_list(source)
    return ImageSet(rec_path, source, source.keys, {})


def _check_keys(keys, rec_path, json_path, known):
    """Raise `UserError` unless each record is of another one of the `known` images."""
    fix = f"make the records anew: {pack_command(rec_path)}"
    unique, counts = np.unique(keys, return_counts=True)
    if len(unique) < len(keys):
        raise UserError(f"{rec_path}: two records have the key {unique[counts > 1][0]}; {fix}")
    strange = np.setdiff1d(unique, np.fromiter(known, np.int64))
    if len(strange):
        raise UserError(f"{rec_path}: record {strange[0]} is of no image of {json_path}; {fix}")


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


def read_categories(data_dir, year=2017):
    """Return the `Category`s in the order of their ids; a label is a position in the list.

    The training JSON decides, then val's, then test's.

    Raises:
        UserError: none of the three names categories.
    """
    path, categories = find_categories(data_dir, year)
    if not categories:
        raise UserError(
            f"{path}: not found, and no other JSON of this folder names the categories;"
            f" {how_to_get(path)}, or name its folder: --data-dir"
        )
    return categories


def find_categories(data_dir, year=2017):
    """Return the JSON that names categories, and these; else the training JSON's name and []."""
    for set_name in ("train", "val", "test"):
        path = annotation_path(data_dir, set_name, year)
        if os.path.lexists(path):
            categories = read_annotations(path).categories
            if categories:
                check_ids(path, categories)
                return path, categories
    return annotation_path(data_dir, "train", year), []


def check_ids(path, categories):
    """Raise `UserError` unless the ids are numbers (or their digits), as in Kaggle's CSV."""
    try:
        np.array([int(category.id) for category in categories], np.int64)
    except (ValueError, OverflowError):
        raise UserError(f"{path}: a category's id is not a number of 64 bits") from None


def train_labels(data_dir):
    """Return the labels of `DIR/train.lst`, (N,) int64; none where there is no such list."""
    path = os.path.join(data_dir, "train.lst")
    if not os.path.lexists(path):
        return np.empty(0, np.int64)
    return np.array([np.atleast_1d(entry.label)[0] for entry in read_list(path)], np.int64)
