"""Class files: which belongs to a list or record file, and what no class file is."""

import os

import pytest

from common.base.files import UserError
from common.data.classes import class_file_of, class_name, read_class_names
from tests.conftest import write_class_names


def test_names_come_back_in_their_order(tmp_path):
    path = str(tmp_path / "mine.classes.txt")
    names = ["Aves/Anas acuta", "Plantae/Salix × fragilis é", ".", "a b "]
    write_class_names(path, names)
    assert (tmp_path / "mine.classes.txt").read_bytes() == ("\n".join(names) + "\n").encode()
    assert read_class_names(path) == names


@pytest.mark.parametrize("content", [b"\xef\xbb\xbfant\r\nbee\r\n", b"ant\nbee", b"ant\nbee\n\n"])
def test_a_file_that_an_editor_saved_is_read(tmp_path, content):
    (tmp_path / "mine.classes.txt").write_bytes(content)
    assert read_class_names(str(tmp_path / "mine.classes.txt")) == ["ant", "bee"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "names no class"),
        (b"\n\n", "names no class"),
        (b"ant\n\nbee\n", ":2: has no class name"),
        (b"ant\nbee\nant\n", "names the class 'ant' twice"),
        (b"0\tant\n1\tbee\n", r":1: the class name '0\\tant' holds a tab"),
        (b"ant\n\x1b[31mbee\n", ":2: the class name .* control character"),
        ("ant\nbee\n".encode("utf-16"), "byte 0 is not UTF-8"),
        (b"ant\n\xe9t\xe9\n", "byte 4 is not UTF-8"),
    ],
)
def test_what_is_no_class_file_is_one_line(tmp_path, content, message):
    path = tmp_path / "mine.classes.txt"
    path.write_bytes(content)
    with pytest.raises(UserError, match=rf"mine.classes.txt[^\n]*{message}[^\n]*\Z"):
        read_class_names(str(path))


def test_a_missing_class_file_says_how_to_make_it(tmp_path):
    with pytest.raises(UserError, match=r"classes.txt: not found; .* im2rec.py --list --recursive"):
        read_class_names(str(tmp_path / "mine.classes.txt"))


@pytest.mark.parametrize("names", [["ant", "ant"], ["a\nb"], [""]])
def test_names_that_could_not_be_read_back_are_not_written(tmp_path, names):
    with pytest.raises(UserError, match=r"mine.classes.txt"):
        write_class_names(str(tmp_path / "mine.classes.txt"), names)
    assert not os.listdir(tmp_path)


PARTS = ["", "_train", "_val", "_test", "_0", "_12", "_0_train", "_12_test"]


@pytest.mark.parametrize("name", ["mine", *(f"mine{part}.rec" for part in PARTS), "mine_val.lst"])
def test_all_parts_of_a_list_have_one_class_file(tmp_path, name):
    assert class_file_of(str(tmp_path / name)) is None
    (tmp_path / "mine.classes.txt").touch()
    assert class_file_of(str(tmp_path / name)) == str(tmp_path / "mine.classes.txt")


def test_a_class_file_of_the_very_name_is_preferred(tmp_path):
    for name in ("mine", "mine_2017", "mine_2017_train"):
        (tmp_path / f"{name}.classes.txt").touch()
    for name in ("mine_2017_train.rec", "mine_2017.rec", "mine.rec"):
        expected = name.replace(".rec", ".classes.txt")
        assert class_file_of(str(tmp_path / name)) == str(tmp_path / expected)
    assert class_file_of(str(tmp_path / "other_train.rec")) is None


def test_a_folder_of_no_utf_8_letters_has_a_name_that_a_class_file_holds():
    assert class_name(os.fsdecode("柳/".encode() + b"\xe9t\xe9")) == "柳/\\xe9t\\xe9"
