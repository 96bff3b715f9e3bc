"""The command that makes a list or a record file, for the messages that say what is missing."""

import os
import shlex

from common.base.files import DATA_DIR


def list_command(path):
    """Return what makes the `.lst` at `path`: `mx_list.py` for the challenge, else `im2rec.py`."""
    flags = " --list --recursive"
    return _command(path, ("train", "val", "test"), "python mx_list.py", "--data-dir ", flags)


def pack_command(path):
    """Return what makes the `.rec` at `path`: `gen_rec.sh` for the challenge, else `im2rec.py`."""
    return _command(path, ("train", "val"), "sh gen_rec.sh")


def _command(path, names, script, flag="", action=""):
    """Return the script's command where the file has one of its names, else that of im2rec.py."""
    prefix = os.path.splitext(path)[0]
    folder, name = os.path.split(prefix)
    if name not in names:
        return f"python im2rec.py {shlex.quote(prefix)} ROOT{action}"
    if os.path.realpath(folder) == os.path.realpath(DATA_DIR):
        return script
    return f"{script} {flag}{shlex.quote(folder or '.')}"
