"""mx_list.py as a user calls it."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from common.data.recordio import read_list
from tests.conftest import ROOT, limit_file_size, run_python


def make_set(name, num_images, num_categories=4, first_id=0):
    """Return the JSON of a set whose image `n` is of category id `3 * (n % num_categories) + 5`."""
    ids = range(first_id, first_id + num_images)
    content = {
        "images": [{"id": n, "file_name": f"train_val_images/Aves/é × {n}/{n}.jpg"} for n in ids]
    }
    if "test" in name:
        content["images"] = [{"id": n, "file_name": f"{n}.jpg"} for n in ids]
        return content
    content["categories"] = [
        {
            "id": 3 * rank + 5,
            "name": f"species {rank}",
            "supercategory": ["Aves", "Fungi"][rank % 2],
        }
        for rank in range(num_categories)
    ]
    content["annotations"] = [
        {"id": n, "image_id": n, "category_id": 3 * (n % num_categories) + 5} for n in ids
    ]
    return content


@pytest.fixture
def data_dir(tmp_path):
    """A folder with the JSON of 40 train, 30 val and 10 test images."""
    for name, size, first_id in [("train", 40, 0), ("val", 30, 100), ("test", 10, 1)]:
        content = json.dumps(make_set(name, size, first_id=first_id), ensure_ascii=False)
        (tmp_path / f"{name}2017.json").write_text(content, encoding="utf-8")
    return tmp_path


def lists_in(folder):
    return {path.name: path.read_bytes() for path in folder.glob("*.lst")}


def test_three_lists_are_written(script, data_dir):
    script("mx_list.py", "--data-dir", data_dir)
    train, test = read_list(data_dir / "train.lst"), read_list(data_dir / "test.lst")
    assert len(train) == 40
    assert {entry.label for entry in train} == {0.0, 1.0, 2.0, 3.0}
    for entry in train:
        assert entry.label == entry.index % 4
        assert entry.path == f"train_val_images/Aves/é × {entry.index}/{entry.index}.jpg"
    assert [entry.index for entry in train] != list(range(40))  # shuffled
    assert sorted(test) == sorted((n, 0.0, f"{n}.jpg") for n in range(1, 11))
    assert re.fullmatch(r"(\d+\t0\.000000\t\d+\.jpg\n){10}", (data_dir / "test.lst").read_text())


def test_the_same_seed_gives_the_same_lists(script, data_dir):
    script("mx_list.py", "--data-dir", data_dir, "--seed", 3)
    first = lists_in(data_dir)
    script("mx_list.py", "--data-dir", ".", "--seed", 3, cwd=data_dir)
    assert lists_in(data_dir) == first
    script("mx_list.py", "--data-dir", data_dir, "--seed", 4)
    assert lists_in(data_dir) != first


def test_the_order_of_the_annotations_does_not_matter(script, data_dir):
    script("mx_list.py", "--data-dir", data_dir)
    first = lists_in(data_dir)
    content = json.loads((data_dir / "train2017.json").read_text("utf-8"))
    content["annotations"].reverse()
    content["categories"].reverse()
    (data_dir / "train2017.json").write_text(json.dumps(content))
    script("mx_list.py", "--data-dir", data_dir)
    assert lists_in(data_dir) == first


def test_the_summary_is_what_a_person_checks(script, data_dir):
    content = make_set("train", 41)
    (data_dir / "train2017.json").write_text(json.dumps(content))
    out = script("mx_list.py", "--data-dir", data_dir).stdout
    assert (
        "train: 41 images, 4 categories in 2 super-categories; "
        "images a category: least 10, median 10, most 11" in out
    )
    assert "test: 10 images\n" in out


def test_val_into_train_moves_the_same_share_of_each_category(script, data_dir):
    out = script("mx_list.py", "--data-dir", data_dir, "--val-into-train", 0.5).stdout
    train, val = read_list(data_dir / "train.lst"), read_list(data_dir / "val.lst")
    assert (len(train), len(val)) == (55, 15)
    assert "moved 15 images of val into train" in out
    assert sorted(e.index for e in train + val) == [*range(40), *range(100, 130)]
    for label in range(4):  # 7 or 8 images of val are of each
        assert sum(entry.label == label for entry in val) in (3, 4)


def test_where_train_and_val_share_ids_the_merged_list_is_numbered_anew(script, data_dir):
    content = make_set("val", 30, first_id=0)
    (data_dir / "val2017.json").write_text(json.dumps(content))
    script("mx_list.py", "--data-dir", data_dir, "--val-into-train", 0.5)
    assert sorted(entry.index for entry in read_list(data_dir / "train.lst")) == [*range(1, 56)]


def test_a_full_disk_leaves_the_older_lists_together(script, data_dir):
    script("mx_list.py", "--data-dir", data_dir)
    older = lists_in(data_dir)
    content = make_set("val", 700, first_id=100)
    (data_dir / "val2017.json").write_text(json.dumps(content))
    command = [sys.executable, "mx_list.py", "--data-dir", data_dir, "--val-into-train", "0.1"]
    done = subprocess.run(
        command, cwd=ROOT, stderr=subprocess.PIPE, encoding="utf-8", preexec_fn=limit_file_size
    )
    assert done.returncode == 2 and "val.lst: the file size limit" in done.stderr
    assert lists_in(data_dir) == older


@pytest.mark.parametrize("flags", [["--val-into-train", "1"], ["--val-into-train", "-0.1"]])
def test_a_share_outside_0_to_1_is_refused(script, data_dir, flags):
    error = script("mx_list.py", "--data-dir", data_dir, *flags, status=2).stderr
    assert "must be from 0 to below 1" in error
    assert lists_in(data_dir) == {}


def test_ids_that_are_text_are_counted_instead(script, data_dir):
    content = {"images": [{"id": f"{n:x}-uuid", "file_name": f"{n}.jpg"} for n in range(20)]}
    (data_dir / "test2017.json").write_text(json.dumps(content))
    script("mx_list.py", "--data-dir", data_dir, "--sets", "test")
    entries = read_list(data_dir / "test.lst")
    assert all(entry.path == f"{entry.index - 1}.jpg" for entry in entries)


@pytest.mark.parametrize("subfolder", ["test2017/", ""])
def test_test_names_with_and_without_their_folder_get_the_place_where_they_lie(
    script, data_dir, subfolder
):
    (data_dir / "test2017").mkdir()
    for n in range(2, 11):  # the first one is missing
        (data_dir / f"{subfolder}{n}.jpg").write_bytes(b"x")
    content = make_set("test", 10, first_id=1)
    for image in content["images"][::2]:
        image["file_name"] = "test2017/" + image["file_name"]
    (data_dir / "test2017.json").write_text(json.dumps(content))
    script("mx_list.py", "--data-dir", data_dir, "--sets", "test")
    assert sorted(read_list(data_dir / "test.lst")) == [
        (n, 0.0, f"{subfolder}{n}.jpg") for n in range(1, 11)
    ]


def test_check_names_what_is_missing_or_empty(script, data_dir):
    for n in range(1, 11):
        (data_dir / f"{n}.jpg").write_bytes(b"x")
    flags = ["mx_list.py", "--data-dir", data_dir, "--sets", "test", "--check"]
    assert "every photograph is there" in script(*flags).stdout
    (data_dir / "3.jpg").unlink()
    (data_dir / "4.jpg").write_bytes(b"")
    error = script(*flags, status=1).stderr
    assert "1 photograph is missing:\n  3.jpg" in error
    assert "1 photograph is empty:\n  4.jpg" in error


def test_other_years_and_subsets(script, data_dir):
    os.rename(data_dir / "val2017.json", data_dir / "val2019.json")
    os.rename(data_dir / "train2017.json", data_dir / "train_mini.json")
    script("mx_list.py", "--data-dir", data_dir, "--year", 2019, "--sets", "train_mini", "val")
    assert set(lists_in(data_dir)) == {"train_mini.lst", "val.lst"}


def edit_json(path, change):
    content = json.loads(path.read_text("utf-8"))
    change(content)
    path.write_text(json.dumps(content))


def test_images_without_an_annotation_are_left_out_where_the_flag_says_so(script, data_dir):
    flags = ["mx_list.py", "--data-dir", data_dir]
    edit_json(data_dir / "val2017.json", lambda content: content["annotations"].pop(3))
    error = script(*flags, status=2).stderr
    assert "val2017.json: 1 image has no annotation, train_val_images/Aves/é × 103/103.jpg" in error
    assert error.endswith("; leave such images out with --skip-unlabelled\n")
    said = script(*flags, "--skip-unlabelled").stderr
    assert said.endswith("val2017.json: 1 image has no annotation, left out\n")
    val = read_list(data_dir / "val.lst")
    assert sorted(entry.index for entry in val) == [n for n in range(100, 130) if n != 103]


def test_left_out_images_of_text_ids_are_counted_with_the_others(script, data_dir):
    """sub.py finds an image's number by the JSON alone."""

    def change(content):
        del content["annotations"][0]
        for entry in content["images"]:
            entry["id"] = f"{entry['id']}-uuid"
        for entry in content["annotations"]:
            entry["image_id"] = f"{entry['image_id']}-uuid"

    edit_json(data_dir / "val2017.json", change)
    script("mx_list.py", "--data-dir", data_dir, "--skip-unlabelled")
    val = read_list(data_dir / "val.lst")
    assert sorted(entry.index for entry in val) == list(range(2, 31))
    assert all(entry.path.endswith(f"/{99 + entry.index}.jpg") for entry in val)


@pytest.mark.parametrize("sets", [["train", "val", "test"], ["val"], ["val", "train"]])
def test_a_val_set_of_a_part_of_the_categories_has_train_s_labels(script, data_dir, sets):
    def change(content):
        del content["categories"][1]
        content["annotations"] = [a for a in content["annotations"] if a["category_id"] != 8]

    edit_json(data_dir / "val2017.json", change)
    done = script("mx_list.py", "--data-dir", data_dir, "--skip-unlabelled", "--sets", *sets)
    assert "val2017.json: lists 3 of the 4 categories of" in done.stderr
    val = read_list(data_dir / "val.lst")
    assert {entry.label for entry in val} == {0, 2, 3}
    assert all(entry.label == entry.index % 4 for entry in val)


def test_ids_in_other_forms_and_names_of_windows_give_the_same_lists(script, data_dir):
    script("mx_list.py", "--data-dir", data_dir)
    expected = lists_in(data_dir)

    def change(content):
        for image in content["images"]:
            image.update(id=str(image["id"]), file_name=image["file_name"].replace("/", "\\"))
        for category in content["categories"]:
            category["id"] = float(category["id"])

    edit_json(data_dir / "train2017.json", change)
    error = script("mx_list.py", "--data-dir", data_dir).stderr
    assert lists_in(data_dir) == expected
    assert error.endswith("train2017.json: backslashes are read as slashes, in 40 file names\n")


def test_the_year_of_what_is_there_is_named(script, data_dir):
    for name in ("train", "val", "test"):
        os.rename(data_dir / f"{name}2017.json", data_dir / f"{name}2018.json")
    error = script("mx_list.py", "--data-dir", data_dir, status=2).stderr
    assert error.endswith("train2018.json name its year: --year 2018\n")
    script("mx_list.py", "--data-dir", data_dir, "--year", 2018)
    assert len(lists_in(data_dir)) == 3


BAD_SETS = {
    "val2017.json: not found": lambda folder: (folder / "val2017.json").unlink(),
    "test2017.json: broken JSON at line 1": lambda folder: (folder / "test2017.json").write_text(
        "{"
    ),
    "val2017.json: its category ids differ from .*: 17 ": lambda folder: (
        folder / "val2017.json"
    ).write_text(json.dumps(make_set("val", 30, 5))),
    "val2017.json: 30 images have no annotation; only a test set may": lambda folder: (
        folder / "val2017.json"
    ).write_text(json.dumps({**make_set("val", 30), "annotations": []})),
    "train2017.json: not found": lambda folder: shutil.rmtree(folder),
}


@pytest.mark.parametrize("message", BAD_SETS)
def test_bad_input_is_one_line_and_no_file_is_touched(script, data_dir, message):
    BAD_SETS[message](data_dir)
    error = script("mx_list.py", "--data-dir", data_dir, status=2).stderr
    assert re.fullmatch(rf"mx_list.py: .*({message}).*\n", error)
    assert lists_in(data_dir) == {}


def test_lists_do_without_mxnet(stand_in, data_dir):
    folder = stand_in("mxnet", "raise SystemExit('MXNet was imported')")
    status, _, error = run_python("mx_list.py", "--data-dir", data_dir, PYTHONPATH=folder)
    assert status == 0, error
    assert len(lists_in(data_dir)) == 3
