"""Checks that records were packed from the list that lies beside them now.

A list that was made anew numbers photographs and classes anew, and so does the class file beside
it: the names of the classes would then be those of other labels than the records hold.
"""

import logging
import os

import numpy as np

from common.base.files import UserError
from common.data.class_checks import folders_of_list, last_folder
from common.data.commands import pack_command
from common.data.integrity import failed_keys
from common.data.loader import SAMPLED_LABELS
from common.data.packing_run import digest_of_list, packed_list
from common.data.recordio import read_list


def check_list(source):
    """Compare the `RecordSource` of records with the `.lst` beside them, where there is one.

    im2rec.py notes the list that it packs, so that the records of that list are compared no
    further. Those of other tools may rightly lack images: samples of their labels are compared.

    Raises:
        UserError: a class has another label in the list, or an image has.
    """
    prefix = os.path.splitext(source.path)[0]
    list_path = f"{prefix}.lst"
    packed, folders = packed_list(source.path)
    try:
        if packed and packed == digest_of_list(list_path):
            return
        entries = read_list(list_path)
    except (OSError, UserError):  # missing, or damaged: the records need no list
        return
    listed = {entry.index: np.atleast_1d(entry.label)[0] for entry in entries}
    _check_folders(source, list_path, folders)
    _check_labels(source, list_path, listed, len(source) if packed else SAMPLED_LABELS)
    if not packed:
        return
    keys = set(source.keys.tolist())
    unlisted, lacking = keys - listed.keys(), listed.keys() - keys - failed_keys(prefix)
    if unlisted or lacking:
        logging.warning(
            "%s: was packed from another list than %s is now: %d of its records are not listed, %d"
            " of the list have no record; if that is not intended, pack again: %s",
            *(source.path, list_path, len(unlisted), len(lacking), pack_command(source.path)),
        )


def _check_folders(source, list_path, folders):
    """Compare the last folders of the classes: lists may be relative to different folders."""
    for label, folder in folders_of_list(list_path).items():
        packed = folders.get(label, folder)
        if last_folder(packed) != last_folder(folder):
            raise UserError(
                f"{source.path}: its label {label} is {packed}, and {folder} in {list_path}:"
                f" {_of_another_list(source)}"
            )


def _check_labels(source, list_path, listed, most):
    positions = np.linspace(0, len(source) - 1, min(len(source), most)).astype(int)
    labels, damaged = source.header_labels(positions)
    for position, label, is_damaged in zip(positions, labels, damaged):
        expected = np.float32(listed.get(int(source.keys[position]), label))
        if label != expected and not is_damaged:
            raise UserError(
                f"{source.name(position)}: has the label {label:g}, and {expected:g} in"
                f" {list_path}: {_of_another_list(source)}"
            )


def _of_another_list(source):
    return (
        f"the records are of another list; pack them again: {pack_command(source.path)}; or, if"
        " they are right, move the list away"
    )
