"""How many classes the network gets: as many as are named, else as the labels of the records."""

import logging

from common.base.files import UserError
from common.data.annotations import find_jsons, read_annotations
from common.data.classes import class_file_of, read_class_names


def count_classes(args, largest):
    """Return the number of classes: `--num-classes`, or as many as a class file names or there are.

    Args:
        largest: {record file: its largest label}, that of training first.

    Raises:
        UserError: the flag contradicts the records or what names their classes.
    """
    held = 1 + max(largest.values())
    class_file = class_file_of(next(iter(largest)))
    named = len(read_class_names(class_file)) if class_file else 0
    if not args.num_classes:
        return max(held, named)
    for path, label in largest.items():
        if label >= args.num_classes:
            raise UserError(
                f"--num-classes {args.num_classes}: {path} holds labels up to {label};"
                f" leave the flag out, or give --num-classes {max(held, named)}"
            )
    if args.num_classes > held:
        source = class_file
        if not class_file and not args.data_train:
            source, named = _named_by_json(args.data_dir)
        if source and args.num_classes > named:
            raise UserError(
                f"--num-classes {args.num_classes}: {source} names {named}; give --num-classes"
                f" {max(held, named)}, or leave the flag out"
            )
        logging.warning(
            "--num-classes %d: the records hold labels 0 to %d only; the network learns %d classes"
            " that it never sees",
            args.num_classes,
            held - 1,
            args.num_classes - held,
        )
    return args.num_classes


def _named_by_json(data_dir):
    """Return the training JSON that names the most categories, and how many; else "" and 0."""
    found = ("", 0)
    for path in find_jsons(data_dir, "train"):
        try:
            number = len(read_annotations(path).categories)
        except UserError:  # training needs no JSON
            continue
        found = max(found, (path, number), key=lambda item: item[1])
    return found
