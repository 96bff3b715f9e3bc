"""Class files: `PREFIX.classes.txt`, a class name a line, the first is label 0."""

import os
import re
from collections import Counter

from common.base.files import UserError, require_file
from common.data.unicode_names import composed

_CONTROLS = re.compile("[\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
_MAKE_IT = "make it with: python im2rec.py --list --recursive"


def read_class_names(path):
    """Return the names of a class file; a name's position is its label.

    Raises:
        UserError: missing, empty, not UTF-8, a line without a name, a name with a control
            character, two equal names. The one line names the file and the line.
    """
    require_file(path, _MAKE_IT)
    try:
        with open(path, "rb") as stream:
            text = stream.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: byte {error.start} is not UTF-8; save it as UTF-8") from None
    names = text.replace("\r\n", "\n").rstrip("\n").split("\n")
    if names == [""]:
        raise UserError(f"{path}: names no class; {_MAKE_IT}")
    _check_names(path, names)
    return names


def format_class_names(path, names):
    """Return the bytes of a class file, `path`.

    Raises:
        UserError: names that `read_class_names` would refuse.
    """
    _check_names(path, names)
    return "".join(f"{name}\n" for name in names).encode()


def class_file_of(path):
    """Return the class file that belongs to a list or record file; None where there is none.

    It is named as the file, or as the prefix that `im2rec.py --list` split: `mine.classes.txt` is
    of `mine_train.rec` and of `mine_0_val.lst`, too.
    """
    prefix, ending = os.path.splitext(path)
    if ending not in (".rec", ".lst", ".idx"):
        prefix = path
    whole = re.sub("_(train|val|test)$", "", prefix)
    for candidate in (prefix, whole, re.sub(r"_\d+$", "", whole)):
        class_file = f"{candidate}.classes.txt"
        if os.path.lexists(class_file):
            return class_file
    return None


def class_name(folder):
    """Return the class name of a folder's relative path: with `/`, and as UTF-8 can hold it.

    Bytes that are not UTF-8 become `\\xe9`, for instance.
    """
    name = folder.replace(os.sep, "/").encode("utf-8", "surrogateescape")
    return name.decode("utf-8", "backslashreplace")


def labels_by_file(path, root, folders):
    """Return {folder: label} by a class file, and the names in it that none of the folders has.

    A folder whose name is there in the other Unicode form is of that class.

    Args:
        folders: the folders below `root` that hold photographs, by their relative paths.

    Raises:
        UserError: a folder is not in the file.
    """
    names = read_class_names(path)
    label_of = {composed(name): label for label, name in enumerate(names)}
    label_of.update({name: label for label, name in enumerate(names)})
    labels = {}
    for folder in folders:
        name = class_name(folder)
        labels[folder] = label_of.get(name, label_of.get(composed(name)))
    unknown = [folder for folder, label in labels.items() if label is None]
    if unknown:
        others = f" and in {len(unknown) - 1} more" if len(unknown) > 1 else ""
        raise UserError(
            f"{path}: has no class for the photographs in"
            f" {os.path.normpath(os.path.join(root, unknown[0]))!r}{others}; rename the folder,"
            " move it out of ROOT, or add its name as the last line of the file"
        )
    used = set(labels.values())
    return labels, [name for label, name in enumerate(names) if label not in used]


def _check_names(path, names):
    for number, name in enumerate(names, 1):
        if not name.strip():
            raise UserError(f"{path}:{number}: has no class name; the line number is the label + 1")
        if _CONTROLS.search(name):
            raise UserError(
                f"{path}:{number}: the class name {name!r} holds a tab or another control"
                " character; one name a line, without columns"
            )
    twice = [name for name, count in Counter(names).items() if count > 1]
    if twice:
        raise UserError(f"{path}: names the class {twice[0]!r} twice; remove one of the lines")
