"""A message that says what is missing names the command that makes it, as the user must type it."""

import os
import shlex

import pytest

from common.base.files import DATA_DIR
from common.data.commands import list_command, pack_command


@pytest.mark.parametrize("command", [list_command, pack_command])
def test_the_challenge_has_scripts_of_its_own(command):
    script = {list_command: "python mx_list.py", pack_command: "sh gen_rec.sh"}[command]
    flag = " --data-dir" if command is list_command else ""
    ending = ".lst" if command is list_command else ".rec"
    assert command(os.path.join(DATA_DIR, f"val{ending}")) == script
    assert command(f"elsewhere/val{ending}") == f"{script}{flag} elsewhere"
    assert command(f"val{ending}") == f"{script}{flag} ."
    assert shlex.split(command(f"my photographs/val{ending}"))[-1] == "my photographs"


def test_gen_rec_packs_no_test_photographs_and_mx_list_lists_them():
    assert list_command("x/test.lst") == "python mx_list.py --data-dir x"
    assert pack_command("x/test.rec") == "python im2rec.py x/test ROOT"


def test_other_names_are_of_somebodys_own_photographs():
    assert list_command("data/mine.lst") == "python im2rec.py data/mine ROOT --list --recursive"
    assert pack_command("data/my set.rec") == "python im2rec.py 'data/my set' ROOT"
