"""Training and validation number their classes alike, or it is reported."""

import numpy as np
import pytest

from benchmarks.made_up import encode, make_photograph, write_records
from common.base.files import UserError
from common.data.class_checks import check_classes, numbering_of
from tests.conftest import write_class_names


@pytest.fixture
def say(tmp_path, monkeypatch, caplog):
    """Check records of such labels, in a folder of their lists; return what is logged."""
    monkeypatch.chdir(tmp_path)

    def check(train=(0, 1, 2, 3), val=(0, 1, 2, 3)):
        labels = {"train.rec": np.array(train, "f"), "val.rec": np.array(val, "f")}
        check_classes(labels)
        return caplog.messages

    return check


def write_list(name, folders, first=0):
    """List two photographs of each folder; a folder's label is its place."""
    lines = [
        f"{2 * label + i}\t{label:f}\t{folder}{i}.jpg\n"
        for label, folder in enumerate(folders, first)
        for i in range(2)
    ]
    with open(name, "w", encoding="utf-8") as stream:
        stream.writelines(lines)


def test_a_class_of_two_numbers_by_the_folders_ends_in_the_commands_that_number_alike(say):
    write_list("train.lst", ["ant/", "bee/", "cat/", "dog/"])
    write_list("val.lst", ["ant/", "cat/", "dog/"])
    with pytest.raises(UserError) as error:
        say(val=(0, 1, 2))
    assert str(error.value) == (
        "val.lst: cat has the label 1, and 2 in train.lst; number both alike, and pack again what"
        " changes: python im2rec.py --list --recursive train TRAIN_FOLDER && python im2rec.py"
        " --list --recursive --classes train.classes.txt val VAL_FOLDER"
    )


def test_a_class_of_two_numbers_by_the_class_files_is_named_and_no_list_is_read(say, tmp_path):
    write_class_names("train.classes.txt", ["ant", "bee", "cat", "dog"])
    write_class_names("val.classes.txt", ["ant", "cat", "dog"])
    for name in ("train.lst", "val.lst"):
        (tmp_path / name).mkdir()  # whoever opened it would fail
    with pytest.raises(UserError, match="cat has the label 1, and 2 in train") as error:
        say(val=(0, 1, 2))
    assert str(error.value).endswith(
        "--list --recursive --classes train.classes.txt val VAL_FOLDER"
    )


def test_a_class_file_and_the_folders_of_a_list_are_compared(say):
    write_class_names("train.classes.txt", ["ant", "bee", "cat", "dog"])
    write_list("val.lst", ["ant/", "bee/", "dog/", "cat/"])
    with pytest.raises(UserError, match=r"val\.lst: dog has the label 2, and 3 in train\.classes"):
        say()


def test_another_class_in_a_label_s_place_is_named(say):
    write_list("train.lst", ["ant/", "bee/", "cat/", "dog/"])
    write_list("val.lst", ["ant/", "bee/", "cat/", "wolf/"])
    with pytest.raises(UserError, match=r"val.lst: label 3 is wolf, and dog in train.lst"):
        say()


def test_photographs_without_class_folders_are_not_taken_for_the_first_class(say):
    write_list("train.lst", ["ant/", "bee/", "cat/", "dog/"])
    write_list("val.lst", [""])
    with pytest.raises(UserError, match=r"val.lst: label 0 is no class folder, and ant in train"):
        say(val=(0, 0))


def test_the_same_classes_in_folders_of_another_start_agree(say):
    write_list("train.lst", ["photos/train/ant/", "photos/train/bee/"])
    write_list("val.lst", ["photos/val/ant/", "photos/val/bee/"])
    assert say((0, 1), (0, 1)) == []
    write_list("val.lst", ["photos/val/bee/", "photos/val/ant/"])
    with pytest.raises(UserError, match=r"bee has the label 0, and 1"):
        say((0, 1), (0, 1))


def test_classes_in_the_two_unicode_forms_agree(say):
    write_list("train.lst", ["ant/", "Tr\u00edpos/"])
    write_list("val.lst", ["ant/", "Tri\u0301pos/"])
    assert say((0, 1), (0, 1)) == []


def test_folders_that_are_no_classes_say_nothing(say):
    write_list("train.lst", ["a/", "a/", "b/"])  # as photographs of a challenge lie by month
    write_list("val.lst", ["b/", "a/", "a/"])
    assert say((0, 1, 2), (0, 1, 2)) == []
    write_list("val.lst", ["x/", "y/", "z/"])
    assert say((0, 1, 2), (0, 1, 2)) == []
    assert numbering_of("train.rec") is None
    assert numbering_of("nothing.rec") is None


def test_folders_of_which_none_is_shared_are_reported(say):
    write_list("train.lst", ["ant/", "bee/"])
    write_list("val.lst", ["fourmi/", "abeille/"])
    assert say((0, 1), (0, 1)) == [
        "val.lst: shares no class folder with train.lst, so that their labels cannot be compared"
    ]


def test_the_parts_of_one_list_share_their_class_file(tmp_path, caplog):
    write_class_names(tmp_path / "mine.classes.txt", ["ant", "bee"])
    labels = np.array([0, 1])
    check_classes({f"{tmp_path}/mine_{part}.rec": labels for part in ("train", "val")})
    assert caplog.messages == []
    assert numbering_of(f"{tmp_path}/mine_val.rec").names == {0: "ant", 1: "bee"}


def test_a_class_file_that_names_too_few_is_of_an_older_list(say):
    write_class_names("train.classes.txt", ["ant", "bee"])
    with pytest.raises(
        UserError, match=r"names 2 classes, and train.rec holds labels up to 3; make"
    ):
        say()


def test_labels_from_1_and_classes_that_one_side_lacks_are_reported(say):
    write_class_names("train.classes.txt", ["none", "ant", "bee", "cat", "dog"])
    assert say((1, 2, 3), (1, 4)) == [
        "train.rec: its labels begin at 1; number them from 0 in the list, or the network gets"
        " classes that it never sees",
        "val.rec: lacks 2 of 3 classes, so that their accuracy is not measured: bee, cat",
        "val.rec: train.rec lacks 1 of 2 classes, so that they cannot be learned: dog",
    ]


def test_a_class_of_the_class_file_that_no_record_has_is_reported(say):
    write_class_names("train.classes.txt", ["ant", "bee", "cat"])
    assert say((0, 1, 1), (0, 1)) == [
        "train.rec: has no record of 1 of the 3 classes of train.classes.txt, which cannot be"
        " learned: cat"
    ]


def test_classes_without_names_are_reported_by_number_a_few_of_them(say):
    assert say(range(9), (0,)) == [
        "val.rec: lacks 8 of 9 classes, so that their accuracy is not measured: 1, 2, 3, 4, 5, …"
    ]


def test_training_compares_the_classes_before_it_reads_a_network(tmp_path, script, engine):
    image = encode(make_photograph(0, 24, 32))
    for name, labels in (("train", (0, 0, 1, 1)), ("val", (0, 1))):
        write_records(tmp_path / name, [image] * len(labels), labels)
    (tmp_path / "train.lst").write_text("0\t0\tant/a\n1\t0\tant/b\n2\t1\tbee/a\n3\t1\tbee/b\n")
    (tmp_path / "val.lst").write_text("0\t0\tbee/c\n1\t1\tant/c\n")
    flags = ["--data-dir", tmp_path, "--gpus", "cpu", "--engine", engine]
    said = script("fine-tune.py", *flags, status=2).stderr
    assert said.startswith(f"fine-tune.py: {tmp_path}/val.lst: bee has the label 0, and 1 in")
    assert said.count("\n") == 1
