"""The iNaturalist JSON: read, check, join by image id, labels <-> category ids."""

import glob
import json
import os
import re
import unicodedata
from collections import namedtuple
from dataclasses import dataclass, field, replace
from typing import Dict, List, Tuple, Union

from common.base.files import UserError, require_file
from common.data.challenge import how_to_get, json_name, where_from
from common.data.recordio import MAX_KEY, is_writable_name
from common.data.unicode_names import find_form

Category = namedtuple("Category", ["id", "name", "supercategory"])


@dataclass
class Annotations:
    """One set of the challenge, as read from its JSON.

    Ids of one kind are all numbers of 64 bits or all text: 11, 11.0 and "11" are the number 11.

    Attributes:
        images: (image id, file name) in the JSON's order.
        labels: image id -> label, 0 to N - 1; empty for a test set.
        categories: in the order of their ids; a label is a position in this list, so
            `categories[label].id` is the category id. Empty where the JSON has none.
        notes: what was read differently from what the JSON says, for people.
    """

    images: List[Tuple[Union[int, str], str]]
    labels: Dict[Union[int, str], int] = field(default_factory=dict)
    categories: List[Category] = field(default_factory=list)
    notes: List[str] = field(default_factory=list)


def annotation_path(data_dir, set_name, year=2017):
    """Return the path of a set's JSON: `DIR/train2017.json`, or `DIR/train.json` as in 2021.

    Where neither exists, it is the official name.
    """
    official = json_name(set_name, year)
    names = (f"{set_name}{year}.json", official, f"{set_name}.json", official)
    paths = [os.path.join(data_dir, name) for name in names]
    return next(filter(os.path.lexists, paths), paths[-1])


def read_annotations(path):
    """Read and check a COCO-style JSON of iNaturalist.

    Raises:
        UserError: no such file (says where to get it), broken JSON, or an entry that contradicts
            another: the one line names the file and the entry.
    """
    content = _parse(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no JSON object; unpack it again from {where_from(path)}")
    categories = _read_categories(path, content)
    images, notes = _read_images(path, content)
    labels = _read_labels(path, content, images, categories)
    return Annotations(images, labels, categories, notes)


def find_jsons(data_dir, *set_names):
    """Return the JSON of each year in a folder: of the first of the sets that has one."""
    paths = {}
    for set_name in set_names:
        for path in sorted(glob.glob(os.path.join(glob.escape(data_dir), f"{set_name}*.json"))):
            year = re.fullmatch(rf"{set_name}(\d{{4}})?\.json", os.path.basename(path))
            if year:
                paths.setdefault(year.group(1), path)
    return list(paths.values())


def image_keys(ids):
    """Return the keys of a set's images in lists and records, in the order of the JSON's `ids`.

    They are the ids, or 1, 2, ... where an id cannot be a key: text, or less than 0.
    """
    if all(type(image_id) is int and 0 <= image_id <= MAX_KEY for image_id in ids):
        return list(ids)
    return list(range(1, len(ids) + 1))


def label_by(path, annotations, categories, reference):
    """Return the `annotations` of the JSON `path` with labels by the `categories` of `reference`.

    A validation set may list only a part of the categories that the network is trained on.

    Raises:
        UserError: a category is not one of them, or has another name.
    """
    label_of = {as_id(category.id): label for label, category in enumerate(categories)}
    own = annotations.categories
    for category in own:
        label = label_of.get(as_id(category.id))
        if label is None:
            raise UserError(
                f"{path}: its category ids differ from those of {reference}: {category.id}"
                f" ({category.name}) is not one of them; take both from one challenge"
            )
        if not _same_name(category, categories[label]):
            raise UserError(
                f"{path}: its category {category.id} is {category.name}, and that of {reference} is"
                f" {categories[label].name}; take both from one challenge"
            )
    if len(own) == len(categories):
        return annotations
    moved = [label_of[as_id(category.id)] for category in own]
    labels = {image_id: moved[label] for image_id, label in annotations.labels.items()}
    note = f"lists {len(own)} of the {len(categories)} categories of {reference}"
    return replace(
        annotations, labels=labels, categories=categories, notes=[*annotations.notes, note]
    )


def _same_name(one, other):
    """Return whether two categories of one id may be the same: a name may be missing."""
    names = {unicodedata.normalize("NFC", category.name) for category in (one, other)}
    return len(names - {str(one.id)}) < 2


def find_image(data_dir, file_name, folder="test2017"):
    """Return the path of a photograph: `DIR/X`, or `DIR/test2017/X` where only that exists.

    A name that begins with `test2017/` is also looked for in `DIR`, and every name in its other
    Unicode form. Of a photograph that is not found it is `DIR/X`.
    """
    candidates = [file_name, os.path.join(folder, file_name)]
    if file_name.startswith(folder + "/"):
        candidates.append(file_name[len(folder) + 1 :])
    for candidate in candidates:
        path = find_form(os.path.join(data_dir, candidate))
        if os.path.exists(path):
            return path
    return os.path.join(data_dir, file_name)


def _parse(path):
    require_file(path, how_to_get(path))
    try:
        with open(path, "rb") as stream:
            return json.loads(stream.read().decode("utf-8-sig"), object_hook=_keep_what_is_used)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UserError(
            f"{path}: broken JSON at {where} ({error.msg}); unpack it again from {where_from(path)}"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {error.start} is not UTF-8; unpack it again from {where_from(path)}"
        ) from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply to be annotations") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: {error}; unpack it again from {where_from(path)}") from None


_SURROGATES = re.compile("[\ud800-\udfff]")  # not characters: UTF-8 has no bytes for them
_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_NUMBER = re.compile(r"0|-?[1-9][0-9]{0,18}").fullmatch
_USED = ("id", "file_name", "image_id", "category_id", "name", "supercategory")


def _keep_what_is_used(entry):
    """Drop width, licence, rights holder, ...: they are most of the memory of 600,000 images."""
    if "images" in entry or "annotations" in entry:
        return entry
    return {key: entry[key] for key in _USED if key in entry}


def _entries(path, content, key, required):
    """Return the list `content[key]`, each entry an object that holds the `required` keys."""
    entries = content.get(key)
    if not isinstance(entries, list):
        what = "has no" if entries is None else "holds no list as its"
        raise UserError(f'{path}: {what} "{key}"; unpack it again from {where_from(path)}')
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f'{path}: "{key}"[{position}] is not an object')
        for name in required:
            if name not in entry:
                raise UserError(f'{path}: "{key}"[{position}] has no "{name}"')
            if name.endswith("id") and as_id(entry[name]) is None:
                raise UserError(
                    f'{path}: "{key}"[{position}]: its "{name}" is neither a whole number nor'
                    " plain text"
                )
    return entries


def as_id(value):
    """Return an id in the form in which ids are compared; None of what is not one.

    Numbers of 64 bits and their digits are integers, everything else is text; "007" is not 7.
    """
    if type(value) is not int:
        whole = type(value) is float and value.is_integer() and abs(value) < 1 << 53
        if whole or (type(value) is str and _NUMBER(value)):
            value = int(value)
    if type(value) is int:
        return value if -MAX_KEY <= value <= MAX_KEY else str(value)
    return value if type(value) is str and not _CONTROLS.search(value) else None


def _read_categories(path, content):
    if "categories" not in content and not content.get("annotations"):
        return []  # a test set may have none
    by_id, kinds = {}, set()
    for entry in _entries(path, content, "categories", ("id",)):
        category_id = as_id(entry["id"])
        kinds.add(type(entry["id"]) is str)
        if by_id.setdefault(category_id, entry) is not entry:
            raise UserError(f"{path}: two categories have the id {category_id}")
    id_of = _of_one_kind(by_id)
    if len(kinds) > 1 and any(type(category_id) is str for category_id in id_of.values()):
        raise UserError(f"{path}: some category ids are numbers, others text")
    return [
        Category(
            category_id,
            _CONTROLS.sub("\ufffd", str(_name_of(entry, category_id))),
            _CONTROLS.sub("\ufffd", str(entry.get("supercategory") or "")),
        )
        for category_id, entry in sorted(zip(id_of.values(), by_id.values()), key=lambda e: e[0])
    ]


def _name_of(entry, category_id):
    name = entry.get("name")
    return category_id if name is None else name


def _of_one_kind(ids):
    """Return {id: the same as a number, or as text where not all of them are numbers}."""
    as_text = any(type(each) is str for each in ids)
    return {each: str(each) if as_text else each for each in ids}


def _read_images(path, content):
    """Return [(image id, file name)], and notes on what was read differently."""
    folder, names, changed = os.path.dirname(path), {}, 0
    for entry in _entries(path, content, "images", ("id", "file_name")):
        image_id, file_name = as_id(entry["id"]), entry["file_name"]
        fault = _fault_of_name(file_name)
        if fault:
            raise UserError(f"{path}: image {image_id}: file_name {file_name!r} {fault}")
        if image_id in names:
            raise UserError(f"{path}: two images have the id {image_id}")
        names[image_id] = file_name
        if "\\" in file_name and not os.path.lexists(os.path.join(folder, file_name)):
            names[image_id] = file_name.replace("\\", "/")  # as systems other than Windows write it
            changed += 1
    if not names:
        raise UserError(f'{path}: "images" is empty; unpack it again from {where_from(path)}')
    notes = [f"backslashes are read as slashes, in {changed} file names"] if changed else []
    return list(zip(_of_one_kind(names).values(), names.values())), notes


def _fault_of_name(file_name):
    """Return why a list or a folder could not hold `file_name`; None for a good one."""
    if not isinstance(file_name, str) or not file_name.strip():
        return "is not a name"
    if file_name[0] in "/\\" or re.match("[A-Za-z]:", file_name):
        return "is absolute; it must lie in the data folder"
    if ".." in file_name and ".." in re.split(r"[/\\]", file_name):
        return "leads out of the data folder"
    if not is_writable_name(file_name) or _SURROGATES.search(file_name):
        return (
            "holds a tab, a newline, a leading or trailing space or the like,"
            " which a list cannot carry"
        )
    return None


def _read_labels(path, content, images, categories):
    if not content.get("annotations"):
        return {}
    label_of = {as_id(category.id): label for label, category in enumerate(categories)}
    id_of = {as_id(image_id): image_id for image_id, _ in images}
    labels = {}
    for entry in _entries(path, content, "annotations", ("image_id", "category_id")):
        image_id, category_id = as_id(entry["image_id"]), as_id(entry["category_id"])
        if image_id not in id_of:
            raise UserError(f"{path}: an annotation is of image {image_id}, which is not there")
        if category_id not in label_of:
            raise UserError(
                f"{path}: image {image_id} is annotated as category {category_id}, "
                "which is not there"
            )
        label = label_of[category_id]
        other = labels.setdefault(id_of[image_id], label)
        if other != label:  # several boxes of one category are one label
            raise UserError(
                f"{path}: image {image_id} has two annotations, of category {categories[other].id}"
                f" and of category {category_id}; keep one of them"
            )
    return labels
