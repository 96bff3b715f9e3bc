"""Finds the images in a folder of photographs, and what is passed over there."""

import os
from collections import Counter
from dataclasses import dataclass, field
from typing import Dict, List

_NOT_MEANT = {"__macosx", "@eadir", "thumbs.db"}  # of macOS, of Synology's servers, of Windows


@dataclass
class FolderContents:
    """What `walk` has found; folders and files are named relative to its root, which is `.`

    Attributes:
        images: {folder: names of the images in it}, in the order of MXNet's `im2rec.py`.
        folders: all that were entered.
        not_entered: the subfolders, where only the root is looked at.
        hidden: names that begin with a dot, and the like: not meant to be listed.
        leading_back: links to a folder that the link itself lies in.
        no_files: links to nothing, pipes.
        endings: how many files of each other ending there are.
        unreadable: an `OSError` for each folder that may not be read.
        real_folders: {folder with images: where it really is}.
    """

    images: Dict[str, List[str]] = field(default_factory=dict)
    folders: List[str] = field(default_factory=list)
    not_entered: List[str] = field(default_factory=list)
    hidden: List[str] = field(default_factory=list)
    leading_back: List[str] = field(default_factory=list)
    no_files: List[str] = field(default_factory=list)
    endings: Counter = field(default_factory=Counter)
    unreadable: List[OSError] = field(default_factory=list)
    real_folders: Dict[str, str] = field(default_factory=dict)


def walk(root, recursive, extensions):
    """Return the `FolderContents` of `root`, and with `recursive` of all folders below it.

    Links are followed, but no real folder is entered twice on one path: of two albums that link to
    each other, each is found inside the other one, and no deeper.
    """
    found = FolderContents()
    real_paths = {root: [os.path.realpath(root)]}  # of each folder: all real ones of its path
    for path, folders, names in os.walk(root, followlinks=True, onerror=found.unreadable.append):
        folder, real_path = os.path.relpath(path, root), real_paths.pop(path)
        found.folders.append(folder)
        found.hidden += [join(folder, name) for name in sorted(folders + names) if is_hidden(name)]
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        _look_at_files(found, path, folder, sorted(names), extensions)
        if folder in found.images:
            found.real_folders[folder] = real_path[-1]
        if not recursive:
            found.not_entered = list(folders)
            folders.clear()
        for name in list(folders):
            real = _real_folder(os.path.join(path, name), real_path[-1])
            if any(_holds(real, above) for above in real_path):
                found.leading_back.append(join(folder, name))
                folders.remove(name)
            else:
                real_paths[os.path.join(path, name)] = [*real_path, real]
    return found


def is_hidden(name):
    """Return whether a file or folder of this name is not meant to be listed."""
    return name.startswith(".") or name.lower() in _NOT_MEANT


def join(folder, name):
    """Return the path of a name in a folder, which may be `.`"""
    return name if folder == "." else os.path.join(folder, name)


def _look_at_files(found, path, folder, names, extensions):
    for name in names:
        if is_hidden(name):
            continue
        ending = os.path.splitext(name)[1].lower()
        if not os.path.isfile(os.path.join(path, name)):
            found.no_files.append(join(folder, name))
        elif ending in extensions:
            found.images.setdefault(folder, []).append(name)
        else:
            found.endings[ending] += 1


def _real_folder(path, real_parent):
    """Return where a folder really is, by where its parent really is."""
    if os.path.islink(path):
        return os.path.realpath(path)
    return os.path.join(real_parent, os.path.basename(path))


def _holds(folder, other):
    """Return whether a real folder is the other one, or contains it."""
    return other == folder or other.startswith(folder.rstrip(os.sep) + os.sep)
