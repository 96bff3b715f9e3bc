"""The Pythons of a machine, and what each may be for."""

import sys

import pytest

from common.setup import interpreters
from common.setup.interpreters import Interpreter


def test_this_python_is_found_and_one_that_is_none_is_not():
    found = interpreters.probe(sys.executable)
    assert found == Interpreter(sys.executable, sys.version_info[:2])
    assert interpreters.probe("false") is interpreters.probe("/nowhere/python") is None


def stand_in(folder, name, version):
    """Write what says that it is a Python of this version."""
    path = folder / name
    path.write_text(f"#!/bin/sh\necho {version}\n")
    path.chmod(0o755)
    return str(path)


@pytest.fixture
def only_here(tmp_path, monkeypatch):
    """A folder which alone is looked through."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", "/nowhere/python")
    monkeypatch.setattr(interpreters.glob, "glob", lambda pattern: [])
    return tmp_path


@pytest.mark.parametrize(
    ("kind", "version"),
    [("cpu", (3, 12)), ("cu117", (3, 12)), ("both", (3, 12)), ("torch", (3, 13))],
)
def test_the_first_python_that_fits_is_taken(only_here, kind, version):
    stand_in(only_here, "python3", "3.13")
    stand_in(only_here, "python3.12", "3.12")
    assert interpreters.find(kind).version == version


def test_the_python_of_the_present_environment_comes_first(only_here):
    stand_in(only_here, "python3", "3.12")
    earlier = stand_in(only_here, "earlier", "3.9")
    assert interpreters.find("cpu", earlier).path == earlier


def test_where_no_python_fits_there_is_none(only_here):
    stand_in(only_here, "python3", "3.13")
    stand_in(only_here, "python3.8", "3.8")
    assert interpreters.find("both") is None


def test_the_ranges_are_said_as_people_say_them():
    assert interpreters.range_of("cpu") == "3.8 to 3.12"
    assert interpreters.range_of("torch") == "3.8 or newer"
