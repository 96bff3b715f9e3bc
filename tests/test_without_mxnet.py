"""Where an engine is missing: which tests are skipped, and the environments of tests/run.sh."""

import os
import shutil
import subprocess

import pytest

from common import engines
from common.base.files import ROOT

HIDE_AND_TEST = """
import sys

import pytest

sys.modules["{module}"] = None  # as good as not installed
sys.exit(pytest.main(["-c", "{folder}/pytest.ini", "-p", "tests.conftest", "-rsE", "{folder}"]))
"""
PARTLY = """
from tests.conftest import only

@only("{module}")
def test_a(engine): 1 / 0
def test_b(engine): assert engine != "{module}"
def test_c(): pass
"""
# Notes what it is called with; `-m venv FOLDER` makes an environment of such a Python and a ruff.
FAKE_PYTHON = """#!/bin/sh
echo "$(basename "$0") $*" >>calls.txt
case $* in
--version) echo "Python 3.99.0" ;;
"-m venv"*)
    mkdir -p "$4/bin"
    cp "$0" "$4/bin/python"
    cp "$0" "$4/bin/ruff"
    ;;
esac
"""


@pytest.mark.parametrize(("module", "name"), [("mxnet", "MXNet"), ("torch", "PyTorch")])
def test_only_what_needs_a_missing_engine_is_skipped(tmp_path, python, module, name):
    """A file that imports it, a test of it, and a test that runs with every engine."""
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    runtime = f"common.engines.{module}.runtime"
    (tmp_path / "test_of_one.py").write_text(f"import {runtime}\n")
    (tmp_path / "test_partly.py").write_text(PARTLY.format(module=module))
    (tmp_path / "test_broken.py").write_text("import nothing_of_this_name\n")
    code = HIDE_AND_TEST.format(folder=tmp_path, module=module)
    output = python(code).stdout
    assert f"test_of_one.py:0: {name} is not installed" in output
    assert "ERROR" in output and "nothing_of_this_name" in output
    (tmp_path / "test_broken.py").unlink()
    done = python(code)
    others = sum(engine != module for engine in engines.installed())
    assert done.returncode == 0, done.stdout
    assert f"{1 + others} passed, {3 - (others > 0)} skipped" in done.stdout


# The variables that tests/run.sh goes by; this run may have been started with some of them.
CHOICES = ("MXNET", "ENGINE", "VENV")


@pytest.fixture
def run_tests(tmp_path):
    """Call tests/run.sh in a copy of what it needs; return what the fake Python was called with."""
    (tmp_path / "tests").mkdir()
    shutil.copy(os.path.join(ROOT, "tests/run.sh"), tmp_path / "tests")
    shutil.copytree(os.path.join(ROOT, "requirements"), tmp_path / "requirements")
    fake = tmp_path / "python3.99"
    fake.write_text(FAKE_PYTHON)
    fake.chmod(0o755)

    def call(*arguments, **chosen):
        (tmp_path / "calls.txt").unlink(missing_ok=True)
        own = {name: os.environ[name] for name in os.environ if name not in CHOICES}
        environ = {**own, "PYTHON": str(fake), **(chosen or {"MXNET": "none"})}
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


def test_an_environment_of_pytorch_alone_is_of_the_newest_python_and_runs_the_suite(run_tests):
    calls = run_tests("-k", "image", ENGINE="torch")
    assert "python3.99 -m venv --clear .venv-torch-only" in calls
    assert "python -m pip install --quiet -r requirements/torch.txt" in calls
    assert not [call for call in calls if "mxnet" in call or "common.txt" in call]
    assert calls[-1].startswith("python -m pytest") and calls[-1].endswith("-k image")
