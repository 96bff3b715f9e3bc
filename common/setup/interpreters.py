"""The Pythons of this machine: which of them can make an environment for an engine."""

import glob
import os
import subprocess
import sys
from dataclasses import dataclass
from typing import Tuple

_MXNET = ((3, 8), (3, 12))  # numpy 1, which MXNet needs, has wheels for no newer Python
# The oldest and the newest Python of each file in requirements/ that setup.sh installs.
VERSIONS = {
    "cpu": _MXNET,
    "cu117": _MXNET,
    "cu80": _MXNET,
    "cpu-1.5": _MXNET,
    "torch": ((3, 8), None),
    "both": ((3, 9), (3, 12)),
}

_PROBE = "import ensurepip, sys, venv; print('%d.%d' % sys.version_info[:2])"


@dataclass(frozen=True)
class Interpreter:
    """A Python with its venv module: a path or a name on the PATH, and e.g. `(3, 11)`."""

    path: str
    version: Tuple[int, int]

    def fits(self, kind):
        """Return whether it can run what requirements/KIND.txt installs."""
        least, most = VERSIONS[kind]
        return least <= self.version and (most is None or self.version <= most)

    def __str__(self):
        return "Python " + ".".join(map(str, self.version))


def range_of(kind):
    """Return `"3.8 to 3.12"`, or `"3.8 or newer"`."""
    least, most = VERSIONS[kind]
    first = ".".join(map(str, least))
    return f"{first} or newer" if most is None else f"{first} to {'.'.join(map(str, most))}"


def probe(path):
    """Return the `Interpreter` of a path or name; None where it cannot make an environment."""
    try:
        done = subprocess.run(
            [path, "-c", _PROBE],
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            errors="replace",
        )
        major, minor = done.stdout.split(".")
        return Interpreter(path, (int(major), int(minor)))
    except (OSError, ValueError):  # it is not there, or not a Python that has venv
        return None


def find(kind, earlier=None):
    """Return an `Interpreter` that fits, or None.

    Args:
        earlier: the one that the present environment was made with, which is tried first.
    """
    for path in _candidates(earlier):
        interpreter = probe(path)
        if interpreter and interpreter.fits(kind):
            return interpreter
    return None


def _candidates(earlier):
    if earlier:
        yield earlier
    yield from ("python3", sys.executable)
    yield from (f"python3.{minor}" for minor in (11, 12, 10, 9, 8, 13, 14))
    yield "python"
    for pattern in (
        os.path.expanduser("~/.pyenv/versions/3.*/bin/python"),
        "/usr/local/bin/python3.*",
        "/opt/python*/bin/python3",
    ):
        yield from sorted(glob.glob(pattern))
