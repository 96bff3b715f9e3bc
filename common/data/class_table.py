"""The classes of a checkpoint, `PREFIX-classes.csv`, and where they are taken from.

    label,category_id,name,supercategory
    0,2590,Danaus plexippus,Insecta

In memory they are `Category`s in the order of their labels. A category id is of a challenge's JSON;
where the classes are folders it is None, and the cell is empty.
"""

import csv
import logging
import os
import re
from dataclasses import dataclass, field
from typing import List

import numpy as np

from common.base.files import UserError, atomic_open, require_file
from common.data.annotations import Category, as_id, find_jsons, read_annotations
from common.data.class_checks import last_folder, numbering_of
from common.data.image_set import check_ids, find_categories, read_categories
from common.data.unicode_names import composed

_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f]")
COLUMNS = ["label", "category_id", "name", "supercategory"]


@dataclass
class Classes:
    """The classes of a network, in the order of their labels; none where they are not known."""

    source: str  # names in messages where they are from
    categories: List[Category] = field(default_factory=list)

    @property
    def have_ids(self):
        """Whether they are the categories of a challenge."""
        return any(category.id is not None for category in self.categories)


# --- The file -----------------------------------------------------------------------------------


def table_path(prefix):
    """Return the name of the classes of the checkpoints `PREFIX-0001.params`, …"""
    return f"{prefix}-classes.csv"


def write_table(path, classes):
    """Write `Classes` as a table; remove the table of an earlier run where they are not known."""
    if not classes.categories:
        if os.path.lexists(path):
            os.remove(path)
        return
    with atomic_open(path) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(COLUMNS)
        for label, (category_id, name, supercategory) in enumerate(classes.categories):
            writer.writerow((label, category_id, name, supercategory))


def read_table(path):
    """Return the `Classes` of a table.

    Raises:
        UserError: missing, not such a table, or its labels are not 0, 1, 2…
    """
    require_file(path, "fine-tune.py writes it when it begins")
    try:
        with open(path, encoding="utf-8-sig", newline="") as stream:
            header, *rows = csv.reader(stream, strict=True)
        if header != COLUMNS or not rows:
            raise ValueError(f"its columns are not {','.join(COLUMNS)}")
        categories = []
        for label, row in enumerate(rows):
            number, category_id, name, supercategory = row
            if number != str(label) or _CONTROLS.search("".join(row)):
                raise ValueError(f"line {label + 2} is not label {label} with its name")
            category_id = as_id(category_id) if category_id else None
            categories.append(Category(category_id, name, supercategory))
        ids = {category.id for category in categories}
        if ids != {None} and (None in ids or len(ids) < len(categories)):
            raise ValueError("a category id is missing or is there twice")
    except (ValueError, csv.Error) as error:
        raise UserError(
            f"{path}: not the classes of a network ({error}); restore it, or remove it to take the"
            " categories of the JSON"
        ) from None
    return Classes(path, categories)


def require_same(classes, other, fix):
    """Raise `UserError` where two `Classes` differ; the message begins with the `other`'s source.

    Category ids decide where both have them. A folder is the class of its name, or of its id.
    """
    ours, theirs = classes.categories, other.categories
    if len(ours) != len(theirs):
        fault = f"has {len(theirs)} classes, and {classes.source} {len(ours)}"
    else:
        pairs = enumerate(zip(ours, theirs))
        label = next((label for label, (a, b) in pairs if not _is_same(a, b)), None)
        if label is None:
            return
        fault = (
            f"its class {label} is {_described(theirs[label])}, and"
            f" {_described(ours[label])} in {classes.source}"
        )
    raise UserError(f"{other.source}: {fault}; {fix}")


def require_numbering(classes, rec_path):
    """Raise `UserError` where records number their classes otherwise than a network's `Classes`.

    Folders none of which has the name or the id of a category cannot be compared with categories.
    """
    numbering = numbering_of(rec_path)
    known = classes.categories if classes else []
    if not numbering or not known:
        return
    if classes.have_ids and not _share_a_name(numbering.names.values(), known):
        logging.warning(
            "%s: names none of the classes of %s, so that their labels cannot be compared",
            *(numbering.path, classes.source),
        )
        return
    for label, name in numbering.names.items():
        if label >= len(known):
            fault = f"{name} has the label {label}, and {classes.source} has {len(known)} classes"
        elif not _is_same(Category(None, name, ""), known[label]):
            fault = f"{name} has the label {label}, which {_described(known[label])} has in"
            fault += f" {classes.source}"
        else:
            continue
        raise UserError(
            f"{numbering.path}: {fault}; number the folders alike (im2rec.py --classes), and pack"
            " them again"
        )


def _is_same(a, b):
    """Return whether two categories may be the same; one without an id is a folder."""
    if a.id is not None and b.id is not None:
        return str(a.id) == str(b.id)
    folder, other = (a, b) if a.id is None else (b, a)
    if other.id is not None and str(other.id) in _ids_in(folder.name):
        return True
    # The folders that all classes of a list lie in are not in the name of a class.
    name, other_name = f"/{composed(folder.name)}", f"/{composed(other.name)}"
    return name.endswith(other_name) or other_name.endswith(name)


def _share_a_name(folders, categories):
    """Return whether a folder has the name or the id of a category."""
    ids, names = {str(each.id) for each in categories}, {composed(each.name) for each in categories}
    return any(
        last_folder(folder) in names or not ids.isdisjoint(_ids_in(folder)) for folder in folders
    )


def _ids_in(folder):
    """Return the ids that a folder may be named by: `2590`, or `00004_Animalia_…` as in 2021."""
    last = last_folder(folder)
    number = re.match(r"0*(\d+)_", last)
    return {last, number.group(1)} if number else {last}


def _described(category):
    return category.name if category.id is None else f"{category.name} (category {category.id})"


# --- The classes of training --------------------------------------------------------------------


def classes_of_run(args, num_classes, begin_epoch):
    """Return the `Classes` of the records that fine-tune.py trains on; none for made-up images.

    Raises:
        UserError: the run goes on with a checkpoint of other classes.
    """
    if args.benchmark:
        return Classes("--benchmark")
    train_path = args.data_train or os.path.join(args.data_dir, "train.rec")
    classes = classes_of_records(args.data_dir, train_path, num_classes)
    table = table_path(args.model_prefix)
    if begin_epoch and classes.categories and os.path.lexists(table):
        fix = "train with the classes of the checkpoint, or choose another --model-prefix"
        require_same(read_table(table), classes, fix)
    return classes


def classes_of_records(data_dir, train_path, num_classes):
    """Return the `Classes` of training records; none where nothing fits their number.

    A JSON of the folder names them, else the class file, else the folders of the list. A class file
    that contradicts the JSON counts: its records were made from folders.
    """
    folders = _classes_of_folders(train_path, num_classes)
    challenge = _classes_of_json(data_dir, num_classes)
    if not challenge.categories:
        return folders
    if folders.categories and folders.source.endswith(".txt"):
        try:
            require_same(challenge, folders, "its names are taken")
        except UserError as error:
            logging.warning(str(error))
            return folders
    return challenge


def _classes_of_folders(train_path, num_classes):
    """Return the classes of the class file, else of the folders in the list; none without both."""
    numbering = numbering_of(train_path)
    if numbering is None:
        return Classes(train_path)
    # A class without a photograph is in no list, and has its number as its name.
    names = [numbering.names.get(label, str(label)) for label in range(num_classes)]
    if numbering.path.endswith(".lst"):
        names = _without_shared_folders(names)
    return Classes(numbering.path, [Category(None, name, "") for name in names])


def _without_shared_folders(names):
    """Return the paths without the folders that all of them lie in: `photos/cat` is `cat`."""
    paths = [name.split("/") for name in names]
    while all(len(path) > 1 and path[0] == paths[0][0] for path in paths):
        paths = [path[1:] for path in paths]
    return ["/".join(path) for path in paths]


def _classes_of_json(data_dir, num_classes):
    """Return the categories of the first year's JSON that has as many; none where none has."""
    for path in find_jsons(data_dir, "train", "val", "test"):
        try:
            categories = read_annotations(path).categories
        except UserError as error:  # training needs no JSON
            logging.warning("%s; the classes are not named by it", error)
            continue
        if len(categories) == num_classes:
            return Classes(path, categories)
    return Classes(data_dir)


def write_tables(prefixes, classes, begin_epoch):
    """Write the table beside the checkpoints of each prefix, at the beginning of a training run.

    A run that goes on with a checkpoint keeps the table that is there.
    """
    for path in map(table_path, prefixes):
        if not begin_epoch or not os.path.lexists(path):
            write_table(path, classes)


# --- The classes of prediction ------------------------------------------------------------------


def classes_of_networks(prefixes, args, required=False):
    """Return the `Classes` of networks: of their tables, else of the JSON of `--data-dir`.

    The JSON is not read for photographs that belong to no challenge: `--images`, `--data-val`.

    Args:
        args: the flags of sub.py.
        required: raise `UserError` where nothing names the classes.

    Raises:
        UserError: tables differ, or the JSON differs from them, or is damaged.
    """
    tables = [read_table(path) for path in map(table_path, prefixes) if os.path.lexists(path)]
    for other in tables[1:]:
        require_same(tables[0], other, "only networks of the same classes can be averaged")
    found = next((table for table in tables if table.have_ids), *tables[:1] or [Classes("")])
    if args.images:
        return found
    if found.have_ids:
        check_ids(found.source, found.categories)
    if args.data_val:
        return found
    path, categories = find_categories(args.data_dir, args.year)
    if not categories:
        if required and not found.categories:
            read_categories(args.data_dir, args.year)  # says what is missing
        if required and not found.have_ids:
            logging.warning(
                "%s: has no category ids, and no JSON of %s names categories: the CSV holds labels",
                *(found.source, args.data_dir),
            )
        return found
    if not found.categories:
        return Classes(f"the JSON of {args.data_dir}", categories)
    fix = "name the folder of the training data: --data-dir"
    if found.have_ids and not os.path.basename(path).startswith("train"):
        # It may name fewer categories; its annotations name them by their ids.
        known = {str(category.id) for category in found.categories}
        for category in categories:
            if str(category.id) not in known:
                what = f"{_described(category)} is not among the classes of {found.source}"
                raise UserError(f"{path}: {what}; {fix}")
        return found
    require_same(found, Classes(path, categories), fix)
    return Classes(path, categories)


def categories_of_networks(classes, num_classes, args):
    """Return the categories of the networks of sub.py, of `num_classes`, each with an id.

    The label stands for an id that is not known. Without a table, the classes are the categories of
    a JSON of `--data-dir` that has as many; without one, they are named by number.

    Raises:
        UserError: the network has another number of classes.
    """
    prefix = args.model_prefix[0]
    if not classes.categories:
        classes = _classes_of_json(args.data_dir, num_classes)
    if not classes.categories:
        logging.warning("%s: not found; the classes are named by number", table_path(prefix))
        return numbered(range(num_classes))
    if len(classes.categories) != num_classes:
        raise UserError(
            f"{prefix}: has {num_classes} classes, and {classes.source} {len(classes.categories)};"
            " is --data-dir the folder of the training data?"
        )
    return _with_ids(classes)


def categories_of_ids(classes, ids, path, names=None):
    """Return the categories of the ids that a probability file holds, with its names if known.

    Raises:
        UserError: they are not those of `classes`.
    """
    if not classes.categories:
        if names is not None:
            return [Category(*pair, "") for pair in zip(ids.tolist(), names.tolist())]
        logging.warning("%s: names no classes; they are named by number", path)
        return numbered(ids)
    categories = _with_ids(classes)
    if [category.id for category in categories] != list(ids):
        raise UserError(f"{path}: its categories are not those of {classes.source}")
    return categories


def numbered(ids):
    """Return categories that are named by their ids."""
    return [Category(number, str(number), "") for number in np.asarray(ids).tolist()]


def _with_ids(classes):
    """Return the categories; the label stands for an id that is not known."""
    return [
        category if classes.have_ids else category._replace(id=label)
        for label, category in enumerate(classes.categories)
    ]
