"""Records of another list than the one beside them are refused or reported."""

import pytest

from benchmarks.made_up import encode, make_photograph, write_records
from common.base.files import UserError
from common.data.list_checks import check_list
from common.data.loader import RecordSource


@pytest.fixture
def photographs(tmp_path):
    """A folder of four photographs of each of two species."""
    for name in ("bee", "cat"):
        add_species(tmp_path / "photos" / name)
    return tmp_path / "photos"


def add_species(folder):
    folder.mkdir(parents=True)
    for seed in range(4):
        (folder / f"{seed}.jpg").write_bytes(encode(make_photograph(seed, 64, 64)))


@pytest.fixture
def packed(script, photographs, tmp_path):
    """The records of the photographs, of which one could not be packed, and their list."""
    (photographs / "cat" / "4.jpg").write_bytes(b"")
    script("im2rec.py", tmp_path / "mine", photographs, "--list", "--recursive")
    script("im2rec.py", tmp_path / "mine", photographs, status=1)
    return tmp_path / "mine.rec", tmp_path / "mine.lst"


def test_a_list_made_anew_with_another_class_ends_training(script, engine, packed, photographs):
    rec, listed = packed
    add_species(photographs / "ant")  # as many as of the others: each key keeps its label
    script("im2rec.py", rec.with_suffix(""), photographs, "--list", "--recursive")
    flags = ["--gpus", "cpu", "--engine", engine, "--data-train", rec]
    assert script("fine-tune.py", *flags, status=2).stderr.splitlines()[-1] == (
        f"fine-tune.py: {rec}: its label 0 is bee, and ant in {listed}: the records are of another"
        f" list; pack them again: python im2rec.py {rec.with_suffix('')} ROOT; or, if they are"
        " right, move the list away"
    )


def test_the_list_of_the_records_is_compared_no_further(packed, caplog):
    check_list(RecordSource(str(packed[0])))
    assert caplog.messages == []


def test_a_list_of_more_or_fewer_images_of_the_same_labels_is_reported(packed, caplog):
    rec, listed = packed
    lines = sorted(listed.read_text().splitlines(keepends=True))[2:]
    listed.write_text("".join([*lines, "90\t1\tcat/new.jpg\n"]))
    check_list(RecordSource(str(rec)))
    assert caplog.messages == [
        f"{rec}: was packed from another list than {listed} is now: 2 of its records are not"
        " listed, 1 of the list have no record; if that is not intended, pack again: python"
        f" im2rec.py {rec.with_suffix('')} ROOT"
    ]


def test_the_order_of_a_list_does_not_matter(packed, caplog):
    lines = packed[1].read_text().splitlines(keepends=True)
    packed[1].write_text("".join(reversed(lines)))
    check_list(RecordSource(str(packed[0])))
    assert caplog.messages == []


def test_the_same_folders_of_another_start_and_unicode_form_are_the_same_classes(
    script, tmp_path, caplog
):
    rec, listed = tmp_path / "mine.rec", tmp_path / "mine.lst"
    for name in ("\u00e4nt", "bee"):
        add_species(tmp_path / "photos" / name)
    script("im2rec.py", tmp_path / "mine", tmp_path, "--list", "--recursive")
    script("im2rec.py", tmp_path / "mine", tmp_path)
    again = listed.read_text("utf-8").replace("photos/", "").replace("\u00e4", "a\u0308")
    listed.write_text(again, "utf-8")
    check_list(RecordSource(str(rec)))
    assert caplog.messages == []


def test_an_image_that_was_given_another_label_since_is_named(packed):
    rec, listed = packed
    listed.write_text(listed.read_text().replace("2\t0.000000\tbee", "2\t1.000000\tbee"))
    with pytest.raises(
        UserError, match=r"mine\.rec: record 2: has the label 0, and 1 in \S+lst: t"
    ):
        check_list(RecordSource(str(rec)))


def test_records_of_another_tool_may_lack_what_is_listed_but_not_contradict_it(tmp_path, caplog):
    rec = write_records(tmp_path / "train", [encode(make_photograph(0, 24, 32))] * 3, [5, 6, 7])
    listed = tmp_path / "train.lst"
    for content in ("0\t5\ta\n7\t9\tb\n", "0\t5\ta\n0\t5\tb\n", "no list"):
        listed.write_text(content)
        check_list(RecordSource(rec))
    listed.write_text("0\t5\ta\n2\t6\tb\n")
    with pytest.raises(UserError, match=r"record 2: has the label 7, and 6 in \S+train\.lst: the"):
        check_list(RecordSource(rec))
    listed.unlink()
    check_list(RecordSource(rec))
    assert caplog.messages == []
