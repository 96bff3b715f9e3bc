"""im2rec.py --list, with MXNet's own tool as the expectation."""

import os
import shutil

import pytest

from common.data.recordio import read_list
from tests.conftest import run_python

LIST_FLAGS = [
    "",
    "--recursive",
    "--recursive --no-shuffle",
    "--recursive --exts .png",
    "--recursive --train-ratio 0.6",
    "--recursive --train-ratio 0.5 --test-ratio 0.2",
    "--recursive --train-ratio 0.7 --test-ratio 0.3 --chunks 3",
    "--recursive --chunks 5",
]


@pytest.mark.parametrize("flags", LIST_FLAGS)
def test_lists_are_those_of_mxnet_s_tool(script, peer, tmp_path, photographs, capsys, flags):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    out = script("im2rec.py", tmp_path / "a/x", photographs, "--list", *flags.split()).stdout
    peer(tmp_path / "b/x", photographs, "--list", *flags.split())
    mine = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    classes = mine.pop("x.classes.txt", b"").decode().splitlines()  # which MXNet does not write
    assert mine == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert mine
    labels = capsys.readouterr().out  # which folder is which label
    assert labels in out
    assert labels.splitlines() == [f"{name} {label}" for label, name in enumerate(classes)]


def test_names_that_the_terminal_cannot_show_are_listed_and_packed(tmp_path, photographs):
    def im2rec(*arguments):
        return run_python("im2rec.py", *arguments, PYTHONIOENCODING="ascii")

    for name in (b"\xe9t\xe9/a.jpg", "柳/b.jpg".encode()):  # Latin-1, UTF-8
        path = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(os.path.dirname(path))
        shutil.copy(photographs / "Aves/wide.jpg", path)
    status, out, _ = im2rec("--list", "--recursive", tmp_path / "x", tmp_path)
    assert status == 0
    assert out.startswith("\\u67f3 0\n\\udce9t\\udce9 1\n")
    assert im2rec(tmp_path / "x", tmp_path)[0] == 0
    with open(tmp_path / "x.lst", "ab") as stream:
        stream.write(b"7\t0\tg\xe8ne.jpg\n")
    status, _, error = im2rec(tmp_path / "x", tmp_path)
    assert status == 1
    assert "not packed: g\\udce8ne.jpg: no such file" in error


def test_a_name_that_a_list_cannot_carry_is_said_and_no_line_of_a_list(script, tmp_path):
    folder = tmp_path / "photographs" / "x\n7\t0\t.."
    folder.mkdir(parents=True)
    (folder / "secret.jpg").touch()
    arguments = ["--list", "--recursive", tmp_path / "train", tmp_path / "photographs"]
    error = script("im2rec.py", *arguments, status=2).stderr
    assert "the name 'x\\n7\\t0\\t../secret.jpg' holds a tab, a newline" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "train.lst").exists()


def test_folders_that_lead_back_into_themselves_are_listed_once(script, tmp_path):
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "a.jpg").touch()
    for name, target in (("up", ".."), ("here", "."), ("fish", "../fish")):
        (tmp_path / "birds" / name).symlink_to(target)
    (tmp_path / "fish").mkdir()
    (tmp_path / "fish" / "b.jpg").touch()
    script("im2rec.py", "--list", "--recursive", tmp_path / "train", tmp_path / "birds")
    assert {entry.path for entry in read_list(tmp_path / "train.lst")} == {"a.jpg", "fish/b.jpg"}
