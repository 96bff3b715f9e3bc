"""The command that makes a list or a record file, for the messages that say what is missing."""

import os
import shlex

from common.base.files import DATA_DIR

_LISTED, _PACKED = ("train", "val", "test"), ("train", "val")  # by mx_list.py, by gen_rec.sh


def list_command(path):
    """Return what makes the `.lst` at `path`: `mx_list.py` for the challenge, else `im2rec.py`."""
    prefix = os.path.splitext(path)[0]
    folder, name = os.path.split(prefix)
    if name not in _LISTED:
        return f"python im2rec.py {shlex.quote(prefix)} ROOT --list --recursive"
    return f"python mx_list.py{'' if _is_default(folder) else f' --data-dir {_quote(folder)}'}"


def pack_command(path):
    """Return what makes the `.rec` at `path`: `gen_rec.sh` for the challenge, else `im2rec.py`."""
    prefix = os.path.splitext(path)[0]
    folder, name = os.path.split(prefix)
    if name not in _PACKED:
        return f"python im2rec.py {shlex.quote(prefix)} ROOT"
    return f"sh gen_rec.sh{'' if _is_default(folder) else f' {_quote(folder)}'}"


def _is_default(folder):
    return os.path.realpath(folder) == os.path.realpath(DATA_DIR)


def _quote(folder):
    return shlex.quote(folder or ".")
