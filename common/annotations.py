"""The iNaturalist JSON: read, check, join by image id, labels <-> category ids."""

import json
import os
import re
from collections import namedtuple
from dataclasses import dataclass, field
from typing import Dict, List, Tuple

from common.files import UserError, require_file
from common.recordio import is_writable_name
from common.unicode_names import find_form

ARCHIVES = "https://ml-inat-competition-datasets.s3.amazonaws.com"

Category = namedtuple("Category", ["id", "name", "supercategory"])


@dataclass
class Annotations:
    """One set of the challenge, as its JSON tells it.

    Attributes:
        images: (image id, file name) in the JSON's order.
        labels: image id -> label, 0 to N - 1; empty for a test set.
        categories: in the order of their ids; a label is a position in this list, so
            `categories[label].id` is the category id. Empty where the JSON has none.
    """

    images: List[Tuple[int, str]]
    labels: Dict[int, int] = field(default_factory=dict)
    categories: List[Category] = field(default_factory=list)


def annotation_path(data_dir, set_name, year=2017):
    """Return the path of a set's JSON: `DIR/train2017.json`, or `DIR/train.json` as in 2021."""
    dated = os.path.join(data_dir, f"{set_name}{year}.json")
    plain = os.path.join(data_dir, f"{set_name}.json")
    return plain if os.path.lexists(plain) and not os.path.lexists(dated) else dated


def read_annotations(path):
    """Read and check a COCO-style JSON of iNaturalist.

    Raises:
        UserError: no such file (says where to get it), broken JSON, or an entry that contradicts
            another: the one line names the file and the entry.
    """
    content = _parse(path)
    if not isinstance(content, dict):
        raise UserError(f"{path}: holds no JSON object; get it again: {_archive(path)}")
    categories = _read_categories(path, content)
    images = _read_images(path, content)
    return Annotations(images, _read_labels(path, content, images, categories), categories)


def find_image(data_dir, file_name, folder="test2017"):
    """Return where a photograph lies: `DIR/X`, or `DIR/test2017/X` where only that exists.

    A name that leads with `test2017/` is found in `DIR` too, and each in the other Unicode form.
    What is nowhere is `DIR/X`.
    """
    candidates = [file_name, os.path.join(folder, file_name)]
    if file_name.startswith(folder + "/"):
        candidates.append(file_name[len(folder) + 1 :])
    for candidate in candidates:
        path = find_form(os.path.join(data_dir, candidate))
        if os.path.exists(path):
            return path
    return os.path.join(data_dir, file_name)


def _archive(path):
    """Say where the JSON `path` comes from, by the year in its name."""
    name = os.path.basename(path)
    year = re.search(r"\d{4}", name)
    if not year or year.group() != "2017":
        return "see https://github.com/visipedia/inat_comp"
    return f"{ARCHIVES}/2017/{'test2017.zip' if 'test' in name else 'train_val2017.zip'}"


def _parse(path):
    require_file(path, f"unpack it from {_archive(path)}")
    try:
        with open(path, "rb") as stream:
            return json.loads(stream.read().decode("utf-8-sig"), object_hook=_keep_what_is_used)
    except json.JSONDecodeError as error:
        where = f"line {error.lineno}, column {error.colno}"
        raise UserError(
            f"{path}: broken JSON at {where} ({error.msg}); unpack it again from {_archive(path)}"
        ) from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}: byte {error.start} is not UTF-8; unpack it again from {_archive(path)}"
        ) from None
    except RecursionError:
        raise UserError(f"{path}: is nested too deeply to be annotations") from None
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"{path}: {error}; unpack it again from {_archive(path)}") from None


_SURROGATES = re.compile("[\ud800-\udfff]")  # of no letter: UTF-8 has no bytes for them
_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
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
        raise UserError(f'{path}: {what} "{key}"; unpack it again from {_archive(path)}')
    for position, entry in enumerate(entries):
        if not isinstance(entry, dict):
            raise UserError(f'{path}: "{key}"[{position}] is no object')
        for name in required:
            if name not in entry:
                raise UserError(f'{path}: "{key}"[{position}] has no "{name}"')
            if name.endswith("id") and not _is_id(entry[name]):
                raise UserError(f'{path}: "{key}"[{position}] has an "{name}" that is no number')
    return entries


def _is_id(value):
    return type(value) is int or (type(value) is str and not _CONTROLS.search(value))


def _read_categories(path, content):
    if "categories" not in content and not content.get("annotations"):
        return []  # a test set may come without
    by_id = {}
    for entry in _entries(path, content, "categories", ("id",)):
        category_id = entry["id"]
        if by_id.setdefault(category_id, entry) is not entry:
            raise UserError(f"{path}: two categories have the id {category_id}")
    if len({type(category_id) for category_id in by_id}) > 1:
        raise UserError(f"{path}: some category ids are numbers, others text")
    return [
        Category(
            category_id,
            _CONTROLS.sub("\ufffd", str(entry.get("name", category_id))),
            _CONTROLS.sub("\ufffd", str(entry.get("supercategory") or "")),
        )
        for category_id, entry in sorted(by_id.items())
    ]


def _read_images(path, content):
    names = {}
    for entry in _entries(path, content, "images", ("id", "file_name")):
        image_id, file_name = entry["id"], entry["file_name"]
        fault = _fault_of_name(file_name)
        if fault:
            raise UserError(f"{path}: image {image_id}: file_name {file_name!r} {fault}")
        if image_id in names:
            raise UserError(f"{path}: two images have the id {image_id}")
        names[image_id] = file_name
    if not names:
        raise UserError(f'{path}: "images" is empty; unpack it again from {_archive(path)}')
    return list(names.items())


def _fault_of_name(file_name):
    """Return why a list or a folder could not hold `file_name`; None for a good one."""
    if not isinstance(file_name, str) or not file_name.strip():
        return "is no name"
    if file_name[0] in "/\\" or re.match("[A-Za-z]:", file_name):
        return "is absolute; it must lie in the data folder"
    if ".." in file_name and ".." in re.split(r"[/\\]", file_name):
        return "climbs out of the data folder"
    if not is_writable_name(file_name) or _SURROGATES.search(file_name):
        return "holds a tab, a newline, an edge space or the like, which a list cannot carry"
    return None


def _read_labels(path, content, images, categories):
    if not content.get("annotations"):
        return {}
    label_of_category = {category.id: label for label, category in enumerate(categories)}
    image_ids = {image_id for image_id, _ in images}
    labels = {}
    for entry in _entries(path, content, "annotations", ("image_id", "category_id")):
        image_id, category_id = entry["image_id"], entry["category_id"]
        if image_id not in image_ids:
            raise UserError(f"{path}: an annotation is of image {image_id}, which is not there")
        if category_id not in label_of_category:
            raise UserError(
                f"{path}: image {image_id} is annotated as category {category_id}, "
                "which is not there"
            )
        if image_id in labels:
            raise UserError(f"{path}: image {image_id} has two annotations")
        labels[image_id] = label_of_category[category_id]
    return labels
