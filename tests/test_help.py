"""`--help` of every script: what it does, an example to copy, the flags in groups, the defaults."""

import os
import re
import subprocess
import sys

import pytest

from common.base.files import ROOT


def help_of(*command):
    done = subprocess.run(
        [*command, "--help"],
        cwd=ROOT,
        env={**os.environ, "COLUMNS": "200"},  # no default is broken by a long folder's name
        capture_output=True,
        encoding="utf-8",
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def files_here():
    """The repository's files and folders, without those that tests beside this one make."""
    return set(os.listdir(ROOT)) - {".hypothesis", ".pytest_cache"}


@pytest.mark.parametrize(
    ("name", "groups"),
    [
        ("mx_list.py", ["what is read and written", "the lists"]),
        ("im2rec.py", ["making a list", "packing", "checking a record file"]),
        ("fine-tune.py", ["Network", "Devices", "Schedule", "Checkpoints", "Data", "Augmentation"]),
        ("sub.py", ["Files", "Prediction"]),
        ("data/make_sample.py", []),
    ],
)
def test_a_script_tells_its_flags_in_groups_their_defaults_and_an_example(name, groups):
    text = help_of(sys.executable, name)
    assert re.search(rf"python {name} \S", text) or f"python {name}\n" in text
    assert [group for group in groups if f"\n{group}:\n" not in text] == []
    assert "(default: " in text


@pytest.mark.parametrize(
    ("command", "example"),
    [
        (["sh", "setup.sh"], "sh setup.sh cpu"),
        (["sh", "demo.sh"], "sh demo.sh"),
        (["sh", "gen_rec.sh"], "sh gen_rec.sh DIR"),
        (["sh", "run.sh"], "sh run.sh"),
        (["sh", "cluster.sh"], "sh cluster.sh HOST"),
        ([sys.executable, "data/score_sample.py"], "python data/score_sample.py submission"),
        ([sys.executable, "-m", "common.modelzoo"], "python -m common.modelzoo import"),
        ([sys.executable, "-m", "common.doctor"], "python -m common.doctor"),
        ([sys.executable, "-m", "common.find_mxnet"], "python -m common.doctor"),  # its old name
    ],
)
def test_other_commands_show_how_they_are_typed(command, example):
    before = files_here()
    assert example in help_of(*command)
    assert files_here() == before
