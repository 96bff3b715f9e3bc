"""sub.py --set val: scores, and the classes and labels that they are compared with."""

import csv
import json
import os
import shutil

import numpy as np
import pytest

from common.data.annotations import Category
from common.data.class_table import Classes, write_table
from common.data.recordio import read_list
from tests.conftest import write_class_names
from tests.made_up_challenge import CATEGORY_IDS


def test_of_val_only_what_the_records_hold_is_scored(folder, sub, script):
    shutil.copy(folder / "val2017.json", folder / "train2017.json")
    script("mx_list.py", "--data-dir", folder, "--val-into-train", 0.5)
    script("im2rec.py", folder / "val", folder)
    rest = {entry.index for entry in read_list(folder / "val.lst")}
    assert len(rest) == 6
    assert set(sub(folder, "1", "cpu", "--set", "val")) == rest


def test_of_the_photographs_too_only_what_was_not_moved_into_train_is_scored(folder, sub, script):
    shutil.copy(folder / "val2017.json", folder / "train2017.json")
    script("mx_list.py", "--data-dir", folder, "--val-into-train", 0.5)
    rest = {entry.index for entry in read_list(folder / "val.lst")}
    assert set(sub(folder, "1", "cpu", "--set", "val")) == rest and len(rest) == 6
    assert "val.lst: of the 12 images of" in sub.said


def test_records_that_are_older_than_their_list_are_not_scored(known, sub, script):
    lines = [f"{i}\t{i % 6}\ttrain_val_images/s/n/v{i}.jpg\n" for i in range(12)]
    (known / "own.lst").write_text("".join(lines))
    script("im2rec.py", known / "own", known)
    (known / "own.lst").write_text("".join(lines).replace("4\t4\t", "4\t5\t"))
    sub(known, "1", "cpu", "--set", "val", "--data-val", known / "own.rec", status=2)
    assert "own.rec: record 4: has the label 4, and 5 in" in sub.said


def test_records_that_number_the_classes_otherwise_are_not_scored(known, sub, script):
    """Made where the training JSON was not there, of a val JSON that lacks the first category."""
    content = json.loads((known / "val2017.json").read_text())
    del content["categories"][0]
    lacking = [each for each in content["annotations"] if each["category_id"] == CATEGORY_IDS[0]]
    content["annotations"] = [each for each in content["annotations"] if each not in lacking]
    gone = {each["image_id"] for each in lacking}
    content["images"] = [each for each in content["images"] if each["id"] not in gone]
    (known / "val2017.json").write_text(json.dumps(content))
    (known / "test2017.json").unlink()
    script("mx_list.py", "--data-dir", known, "--sets", "val")
    script("im2rec.py", known / "val", known)
    sub(known, "1", "cpu", "--set", "val", status=2)
    assert "val.rec: its list gives" in sub.said and sub.said.count("\n") == 1
    (known / "val.rec").unlink()
    assert len(sub(known, "1", "cpu", "--set", "val")) == 10  # the photographs themselves
    (known / "val2017.json").unlink()
    write_class_names(str(known / "val.classes.txt"), [f"n{i}" for i in CATEGORY_IDS[1:]])
    script("im2rec.py", known / "val", known)
    sub(known, "1", "cpu", "--set", "val", status=2)
    assert "val.classes.txt: n20 has the label 0, which n10 (category 10) has in" in sub.said


def test_the_scores_are_those_of_the_csv(shared, sub):
    rows = sub(shared, "2", "cpu", "--set", "val", "--crops", "12", output="scores.csv")
    truth = {100 + i: CATEGORY_IDS[i % 6] for i in range(12)}
    with open(shared / "report-scores.csv", encoding="utf-8", newline="") as stream:
        scores = {(row["row"], row["column"]): row["value"] for row in csv.DictReader(stream)}
    for k in (1, 5):
        wrong = [truth[image_id] not in row[:k] for image_id, row in rows.items()]
        assert scores["all", f"top-{k} error"] == f"{np.mean(wrong):.4f}"
    assert "<figure>" in (shared / "report-scores.html").read_text()


def test_a_photograph_that_cannot_be_read_is_scored_by_its_own_label(folder, sub):
    (folder / "train_val_images" / "s" / "n" / "v4.jpg").unlink()
    sub(folder, "1", "cpu", "--set", "val", "--save-probs", folder / "a.npz")
    with np.load(folder / "a.npz") as arrays:
        assert arrays["labels"].tolist() == [i % 6 for i in range(12)]


def test_a_damaged_record_is_scored_by_the_list_or_not_at_all(folder, sub, script):
    lines = [f"{100 + i}\t{i % 6}\ttrain_val_images/s/n/v{i}.jpg\n" for i in range(12)]
    (folder / "val.lst").write_text("".join(lines))
    script("im2rec.py", folder / "val", folder)
    records = bytearray((folder / "val.rec").read_bytes())
    start = int((folder / "val.idx").read_text().split()[2 * 4 + 1])
    records[start : start + 4] = b"oops"
    (folder / "val.rec").write_bytes(records)
    sub(folder, "1", "cpu", "--set", "val", "--save-probs", folder / "a.npz")
    with np.load(folder / "a.npz") as arrays:
        assert arrays["labels"].tolist() == [i % 6 for i in range(12)]
    (folder / "val.lst").unlink()
    sub(folder, "1", "cpu", "--set", "val")
    assert "val.rec: record 104" in sub.said and "1 images are not scored" in sub.said
    assert "super-category,all,images,11" in (folder / "report-out.csv").read_text()


def test_records_of_other_images_are_named_before_the_prediction(folder, sub, script):
    lines = [f"{100 + i}\t0\ttest2017/t{i}.jpg\n" for i in range(8)]
    (folder / "test.lst").write_text("".join([*lines, "7\t0\ttest2017/t8.jpg\n"]))
    script("im2rec.py", folder / "test", folder)
    sub(folder, "1", "cpu", status=2)
    assert f"{folder}/test.rec: record 7 is of no image of {folder}/test2017.json" in sub.said
    assert "predicting" not in sub.said


@pytest.fixture
def known(folder):
    """The folder, whose networks carry their classes."""
    names = [Category(i, f"n{i}", f"s{i % 20}") for i in CATEGORY_IDS]
    write_table(folder / "net-classes.csv", Classes("", names))
    return folder


def test_the_checkpoint_s_classes_stand_in_for_the_training_json(known, sub):
    expected = sub(known, "1", "cpu")
    (known / "val2017.json").unlink()
    content = json.loads((known / "test2017.json").read_text())
    del content["categories"]
    (known / "test2017.json").write_text(json.dumps(content))
    assert sub(known, "1", "cpu") == expected
    (known / "net-classes.csv").unlink()
    sub(known, "1", "cpu", status=2)
    assert "train2017.json: not found, and no other JSON of this folder names" in sub.said


def test_a_json_of_other_categories_than_the_checkpoint_s_is_refused(known, sub):
    content = json.loads((known / "val2017.json").read_text())
    content["categories"][2]["id"] = 31
    (known / "train2017.json").write_text(json.dumps({**content, "annotations": []}))
    sub(known, "1", "cpu", status=2)
    fault = "train2017.json: its class 2 is n30 (category 31), and n30 (category 30) in"
    assert fault in sub.said and sub.said.count("\n") == 1


def test_validation_records_are_scored_without_a_json(known, sub, script):
    lines = [f"{i}\t{i % 6}\ttrain_val_images/s/n/v{i}.jpg\n" for i in range(12)]
    (known / "own.lst").write_text("".join(lines))
    script("im2rec.py", "--pass-through", known / "own", known)
    with_json = sub(known, "1", "cpu", "--set", "val", "--save-probs", known / "a.npz")
    errors = (known / "report-out.csv").read_text()
    rows = sub(known, "1", "cpu", "--set", "val", "--data-val", known / "own.rec")
    assert rows == {i: with_json[100 + i] for i in range(12)}  # as the records are named
    for path in (*known.glob("*2017.json"), known / "train.lst"):
        path.unlink()
    os.rename(known / "own.rec", known / "val.rec")
    os.rename(known / "own.idx", known / "val.idx")
    assert sub(known, "1", "cpu", "--set", "val") == rows
    said = (known / "report-out.csv").read_text()
    assert said.splitlines()[:5] == errors.splitlines()[:5] and "n30" in said
    flags = ["--merge", known / "a.npz", "--set", "val"]
    assert sub(known, *flags, output="merged.csv") == with_json
    assert "n30" in (known / "report-merged.csv").read_text()
    (known / "net-classes.csv").unlink()
    numbers = sub(known, "1", "cpu", "--set", "val")
    assert numbers[3] == [category // 10 - 1 for category in rows[3]]
    assert "the classes are named by number" in sub.said


def test_records_are_named_only_to_be_scored(shared, sub):
    sub(shared, "1", "cpu", "--data-val", "own.rec", status=2)
    assert sub.said == "sub.py: --data-val: holds records to score; add --set val\n"


def test_merged_probabilities_bring_the_names_and_show_their_own_photographs(known, sub, script):
    sub(known, "1", "cpu", "--set", "val", "--save-probs", known / "a.npz")
    for path in (*known.glob("net-*"), *known.glob("*2017.json")):
        path.unlink()
    lines = [f"{100 + i}\t{5 - i % 6}\ttrain_val_images/s/n/v{i}.jpg\n" for i in range(12)]
    (known / "val.lst").write_text("".join(lines))  # another set of the same numbers
    script("im2rec.py", known / "val", known)
    sub(known, "--merge", known / "a.npz", "--set", "val")
    page = (known / "report-out.html").read_text()
    assert "n30" in page and "<figure>" not in page
    assert "named by number" not in sub.said
