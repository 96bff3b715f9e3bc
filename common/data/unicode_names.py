"""File names in two Unicode forms: `é` as one letter (NFC), or `e` and an accent (NFD, a Mac's)."""

import os
import unicodedata


def composed(name):
    """Return a name in the form NFC, in which two names that look the same are equal."""
    return unicodedata.normalize("NFC", name)


def find_form(path):
    """Return the path of what is there in `path`'s or the other Unicode form; else `path` itself.

    An archive made on a Mac holds decomposed names, lists and JSON files composed ones, or vice
    versa. Each folder of the path may be in another form.
    """
    if path.isascii() or os.path.lexists(path):
        return path
    folder, name = os.path.split(path)
    if folder and name:
        folder = find_form(folder)
    for form in ("NFC", "NFD"):
        candidate = os.path.join(folder, unicodedata.normalize(form, name))
        if os.path.lexists(candidate):
            return candidate
    return path
