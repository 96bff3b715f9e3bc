"""Where MXNet is not installed: which tests are skipped, and the environment of tests/run.sh."""

import os
import shutil
import subprocess

import pytest

from common.base.files import ROOT

HIDE_AND_TEST = """
import sys

import pytest

sys.modules["mxnet"] = None  # as good as not installed
sys.exit(pytest.main(["-c", "{folder}/pytest.ini", "-p", "tests.conftest", "-rsE", "{folder}"]))
"""
# Notes what it is called with; `-m venv FOLDER` makes an environment of such a Python and a ruff.
FAKE_PYTHON = """#!/bin/sh
echo "$(basename "$0") $*" >>calls.txt
case $* in
--version) echo "Python 3.99.0" ;;
"-m venv"*)
    mkdir -p .venv-none/bin
    cp "$0" .venv-none/bin/python
    cp "$0" .venv-none/bin/ruff
    ;;
esac
"""


def test_only_what_needs_mxnet_is_skipped(tmp_path, python):
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    (tmp_path / "test_of_mxnet.py").write_text("from common.engines.mxnet.runtime import mx\n")
    (tmp_path / "test_partly.py").write_text("def test_a(mx): 1 / 0\ndef test_b(): pass\n")
    (tmp_path / "test_broken.py").write_text("import nothing_of_this_name\n")
    output = python(HIDE_AND_TEST.format(folder=tmp_path)).stdout
    assert "test_of_mxnet.py:0: MXNet is not installed" in output
    assert "ERROR" in output and "nothing_of_this_name" in output
    (tmp_path / "test_broken.py").unlink()
    done = python(HIDE_AND_TEST.format(folder=tmp_path))
    assert done.returncode == 0 and "1 passed, 2 skipped" in done.stdout


@pytest.fixture
def run_tests(tmp_path):
    """Call tests/run.sh in a copy of what it needs; return what the fake Python was called with."""
    (tmp_path / "tests").mkdir()
    shutil.copy(os.path.join(ROOT, "tests/run.sh"), tmp_path / "tests")
    shutil.copytree(os.path.join(ROOT, "requirements"), tmp_path / "requirements")
    fake = tmp_path / "python3.99"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)

    def call(*arguments):
        (tmp_path / "calls.txt").unlink(missing_ok=True)
        environ = {**os.environ, "MXNET": "none", "PYTHON": str(fake)}
        command = ["sh", str(tmp_path / "tests/run.sh"), *arguments]
        subprocess.run(command, check=True, env=environ, capture_output=True)
        return (tmp_path / "calls.txt").read_text().splitlines()

    return call


def test_an_environment_without_mxnet_is_made_once(run_tests, tmp_path):
    calls = run_tests("-k", "image")
    assert "python3.99 -m venv --clear .venv-none" in calls
    assert "python -m pip install --quiet -r requirements/no-mxnet.txt" in calls
    pytest_and_flags = "python -m pytest -n auto --maxprocesses 8 --dist worksteal"
    assert calls[-1] == f"{pytest_and_flags} -k image"
    assert run_tests() == ["python3.99 --version", *calls[-3:-1], pytest_and_flags]
    with open(tmp_path / "requirements/no-mxnet.txt", "a") as stream:
        stream.write("another\n")
    assert "python3.99 -m venv --clear .venv-none" in run_tests()
