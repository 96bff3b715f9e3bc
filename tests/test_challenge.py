"""Other challenges than 2017's: the names of their files, their CSV, ids that are text."""

import csv
import json
import os
import sys

import numpy as np
import pytest

import mx_list
import sub
from common.base.files import UserError
from common.data.annotations import annotation_path, read_annotations
from common.data.challenge import csv_format, folder_of_test, json_name, where_from
from common.evaluation import submission
from tests.made_up_challenge import (
    CATEGORY_IDS,
    SIZE,
    make_folder,
    peer_probabilities,
    pixels,
)

ARCHIVES = "https://ml-inat-competition-datasets.s3.amazonaws.com"


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path)


@pytest.fixture
def predict(folder, engine, monkeypatch):
    """Call sub.py's `main()` in the folder: `predict("--year", 2018)`; return its CSV's rows."""

    def call(*arguments, output="out.csv"):
        flags = [] if "--merge" in arguments else ["1", "cpu", "--model-prefix", folder / "net"]
        flags += ["--data-dir", folder, "--crop-size", SIZE, "--batch-size", 4]
        flags += ["--output", folder / output, "--engine", engine, *arguments]
        monkeypatch.setattr(sys, "argv", ["sub.py", *map(str, flags)])
        sub.main()
        with open(folder / output, encoding="utf-8", newline="") as stream:
            return list(csv.reader(stream))

    return call


@pytest.fixture
def make_lists(folder, monkeypatch):
    def call(*flags):
        monkeypatch.setattr(sys, "argv", ["mx_list.py", "--data-dir", str(folder), *flags])
        return mx_list.main()

    return call


def edit_json(path, change):
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def top_five(folder, set_name="test"):
    """The categories that a peer chooses, [[five ids]] in the order of the JSON."""
    probabilities = peer_probabilities(folder / "net", 1, pixels(folder, set_name))
    return np.array(CATEGORY_IDS)[np.argsort(-probabilities, axis=1)[:, :5]].tolist()


# --- Names and formats ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("set_name", "year", "name", "archive"),
    [
        ("train", 2017, "train2017.json", f"{ARCHIVES}/2017/train_val2017.zip"),
        ("test", 2017, "test2017.json", f"{ARCHIVES}/2017/test2017.zip"),
        ("val", 2018, "val2018.json", f"{ARCHIVES}/2018/val2018.json.tar.gz"),
        ("test", 2019, "test2019.json", f"{ARCHIVES}/2019/test2019.json.tar.gz"),
        ("train_mini", 2021, "train_mini.json", "the archive of its challenge: see https://"),
        ("test", 2021, "public_test.json", "the archive of its challenge: see https://"),
        ("test", 2030, "test2030.json", "the archive of its challenge: see https://"),
    ],
)
def test_what_is_missing_is_named_as_its_year_named_it(tmp_path, set_name, year, name, archive):
    assert json_name(set_name, year) == name
    path = annotation_path(str(tmp_path), set_name, year)
    assert where_from(path).startswith(archive)
    with pytest.raises(UserError, match=f"{tmp_path}/{name}: not found; unpack it from {archive}"):
        read_annotations(path)


def test_the_year_that_is_there_is_named(tmp_path):
    (tmp_path / "test2018.json").touch()
    with pytest.raises(
        UserError,
        match=r"test2017.json: not found; for .*/test2018.json name its year: --year 2018",
    ):
        read_annotations(annotation_path(str(tmp_path), "test"))


class Flags:
    def __init__(self, year=2017, places=None, header=None):
        self.year, self.places, self.header = year, places, header


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (Flags(2017), (5, "id,predicted")),
        (Flags(2018), (3, "id,predicted")),
        (Flags(2019), (1, "id,predicted")),
        (Flags(2021), (5, "Id,Predicted")),
        (Flags(2030), (5, "id,predicted")),
        (Flags(2018, places=7), (7, "id,predicted")),
        (Flags(2018, header="image,class"), (3, "image,class")),
    ],
)
def test_a_submission_is_what_its_year_asked_for_or_the_flags(flags, expected):
    assert csv_format(flags) == expected


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (Flags(places=0), "--places 0: must be 1 or more"),
        (Flags(header="id"), "--header id: must be two names with a comma between them, e.g. Id"),
        (Flags(header="id,"), "--header id,: must be two names"),
        (Flags(header="id,a\nb"), "must be two names"),
        (Flags(header=""), "must be two names"),
    ],
)
def test_a_submission_that_cannot_be_is_refused(flags, message):
    with pytest.raises(UserError, match=message):
        csv_format(flags)


# --- Predicting for other years ------------------------------------------------------------------


def make_of_year(folder, year):
    """Rename what is of 2017 as the files of another year are named."""
    os.rename(folder / "test2017", folder / folder_of_test(year))
    for set_name in ("val", "test"):
        path = folder / f"{set_name}2017.json"
        text = path.read_text().replace("test2017/", f"{folder_of_test(year)}/")
        (folder / json_name(set_name, year)).write_text(text)
        path.unlink()


@pytest.mark.parametrize(
    ("year", "header", "places"),
    [
        (2018, ["id", "predicted"], 3),
        (2019, ["id", "predicted"], 1),
        (2021, ["Id", "Predicted"], 5),
    ],
)
def test_every_year_has_its_submission(folder, predict, year, header, places):
    best = top_five(folder)
    make_of_year(folder, year)
    rows = predict("--year", year)
    assert rows[0] == header
    assert rows[1:] == [
        [str(100 + i), " ".join(map(str, row[:places]))] for i, row in enumerate(best)
    ]


def test_without_the_year_its_flag_is_named(folder, predict):
    make_of_year(folder, 2019)
    (folder / "val2019.json").rename(folder / "val2017.json")  # the categories are found
    with pytest.raises(UserError, match=r"test2017.json: not found; .*: --year 2019"):
        predict()


def read_errors(folder, output):
    with open(folder / f"report-{output}", encoding="utf-8", newline="") as stream:
        rows = csv.DictReader(stream)
        return {r["column"]: r["value"] for r in rows if r["row"] == "all" and "top" in r["column"]}


def test_the_places_of_a_row_change_no_score(folder, predict):
    five = predict("--set", "val", "--save-probs", folder / "a.npz")
    one = predict("--set", "val", "--places", 1, "--header", "a,b", output="one.csv")
    assert one == [["a", "b"], *([key, row.split()[0]] for key, row in five[1:])]
    assert read_errors(folder, "one.csv") == read_errors(folder, "out.csv")
    merged = ["--merge", folder / "a.npz", "--set", "val"]
    assert predict(*merged, "--places", 1, "--header", "a,b", output="merged.csv") == one
    assert read_errors(folder, "merged.csv") == read_errors(folder, "out.csv")
    six = predict(*merged, "--places", 6, output="six.csv")
    assert [row.rsplit(" ", 1)[0] for _, row in six[1:]] == [row for _, row in five[1:]]


def test_more_than_five_places_are_predicted_where_they_are_asked_for(folder, predict):
    best = predict("--places", 6, "--save-probs", folder / "a.npz")
    assert [len(row.split()) for _, row in best[1:]] == [6] * 9
    assert predict("--merge", folder / "a.npz", "--places", 6, output="merged.csv") == best


# --- Ids that are text ---------------------------------------------------------------------------


def name_in_text(content):
    """Give images ids as camera traps have them; one holds what CSV and HTML quote."""
    new = {image["id"]: f"{image['id']:x}-<i>,{'é' * (i == 1)}" for i, image in
           enumerate(content["images"])}  # fmt: skip
    for image in content["images"]:
        image["id"] = new[image["id"]]
    for annotation in content.get("annotations", []):
        annotation["image_id"] = new[annotation["image_id"]]


@pytest.fixture
def with_text(folder):
    for set_name in ("val", "test"):
        edit_json(folder / f"{set_name}2017.json", name_in_text)
    return folder


def ids_of(folder, set_name):
    return [each for each, _ in read_annotations(str(folder / f"{set_name}2017.json")).images]


@pytest.mark.parametrize("image_id", ["1f-uuid", "007", 2**63])
def test_an_id_of_any_kind_is_in_the_csv_as_in_the_json(folder, predict, image_id):
    best = top_five(folder)
    edit_json(folder / "test2017.json", lambda c: c["images"][3].update(id=image_id))
    rows = predict()[1:]
    assert rows[3] == [str(image_id), " ".join(map(str, best[3]))]
    assert [row[0] for row in rows[:3]] == ["100", "101", "102"]


def test_ids_of_text_go_from_the_lists_to_the_csv(with_text, make_lists, script, predict):
    best = [" ".join(map(str, row)) for row in top_five(with_text)]
    as_files = predict(output="files.csv")
    assert as_files[1:] == [list(row) for row in zip(ids_of(with_text, "test"), best)]
    make_lists("--sets", "test")
    script("im2rec.py", "--quality", 100, "--encoding", ".png", with_text / "test", with_text)
    for path in (with_text / "test2017").iterdir():
        path.unlink()
    assert predict("--save-probs", with_text / "a.npz") == as_files
    with np.load(with_text / "a.npz", allow_pickle=False) as arrays:
        assert arrays["ids"].tolist() == ids_of(with_text, "test")
    merged = ["--merge", with_text / "a.npz", with_text / "a.npz"]
    assert predict(*merged, output="merged.csv") == as_files


def test_an_interrupted_run_over_ids_of_text_goes_on(with_text, predict, monkeypatch):
    def interrupt(*_):
        raise KeyboardInterrupt

    whole = predict(output="whole.csv")
    with monkeypatch.context() as patch:
        patch.setattr(submission, "write_submission", interrupt)
        with pytest.raises(KeyboardInterrupt):
            predict()
    for i in range(8):  # what has been predicted is not read again
        (with_text / "test2017" / f"t{i}.jpg").unlink()
    assert predict("--resume") == whole


def test_of_val_the_records_that_are_left_keep_their_ids(with_text, make_lists, script, predict):
    (with_text / "train2017.json").write_text((with_text / "val2017.json").read_text())
    as_files = predict("--set", "val", output="files.csv")
    make_lists("--val-into-train", "0.5", "--sets", "train", "val")
    script("im2rec.py", "--encoding", ".png", with_text / "val", with_text)
    rest = predict("--set", "val")
    assert len(rest) == 7 and all(row in as_files for row in rest)
    page = (with_text / "report-out.html").read_text()
    wrong = [key for key, row in rest[1:] if f"image {key.replace('<', '&lt;')[:5]}" in page]
    assert wrong and "<i>" not in page  # the worst mistakes are shown, by their ids


def test_records_that_were_numbered_by_another_json_are_refused(
    with_text, make_lists, script, predict
):
    make_lists("--sets", "test")
    script("im2rec.py", with_text / "test", with_text)
    edit_json(with_text / "test2017.json", lambda content: content["images"].reverse())
    with pytest.raises(UserError, match=r"test.rec: record \d is of test2017/t\d.jpg, and image"):
        predict()


# --- Validation sets of a part of the categories -------------------------------------------------


def leave_out_category(number):
    """Drop a category and its images' annotations."""

    def change(content):
        content["categories"] = [c for c in content["categories"] if c["id"] != number]
        content["annotations"] = [
            a for a in content["annotations"] if a["category_id"] != number
        ]  # fmt: skip

    return change


def test_a_val_set_of_a_part_of_the_categories_is_scored_by_train_s(folder, predict, caplog):
    val = folder / "val2017.json"
    (folder / "train2017.json").write_text(val.read_text())
    edit_json(val, leave_out_category(20))
    rows = predict("--set", "val", "--save-probs", folder / "a.npz")
    assert len(rows) == 11
    assert "val2017.json: 2 images have no annotation and are left out" in caplog.text
    with np.load(folder / "a.npz") as arrays:
        assert arrays["labels"].tolist() == [0, 2, 3, 4, 5] * 2


def test_a_val_set_with_a_category_of_its_own_is_not_scored(folder, predict):
    (folder / "train2017.json").write_text((folder / "val2017.json").read_text())
    edit_json(folder / "train2017.json", leave_out_category(60))
    with pytest.raises(UserError, match=r"val2017.json: .* of the training: 60 \(n60\) is not one"):
        predict("--set", "val")
