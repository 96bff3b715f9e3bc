"""The sample is laid out as the challenge lays out its data."""

import json

import pytest


def test_the_sample_is_split_by_taxon_and_complete(sample):
    counts = {}
    for name in ("train", "val", "test"):
        content = json.loads((sample / f"{name}2017.json").read_text())
        counts[name] = len(content["images"])
        for image in content["images"]:
            assert (sample / image["file_name"]).is_file()
        assert ("annotations" in content) == (name != "test")
        if name != "test":
            assert {row["category_id"] for row in content["annotations"]} == set(range(6))
    assert counts == {"train": 59, "val": 21, "test": 25}


def test_the_split_is_the_same_every_time(sample, script, tmp_path):
    script("data/make_sample.py", "--data-dir", tmp_path)
    for name in ("train2017.json", "val2017.json", "test2017.json", "solution.csv"):
        assert (tmp_path / name).read_bytes() == (sample / name).read_bytes()


def test_a_submission_is_scored_against_the_truth(sample, script, tmp_path):
    truth = dict(line.split(",") for line in (sample / "solution.csv").read_text().split()[1:])
    rows = [f"{image},{(int(label) + 1) % 6} {label}" for image, label in truth.items()]
    submission = tmp_path / "submission.csv"
    submission.write_text("\n".join(["id,predicted", *rows]) + "\n")
    said = script("data/score_sample.py", submission, sample / "solution.csv").stdout
    assert said == "top-1 error 1.000 (0 of 25 right)\ntop-5 error 0.000 (25 of 25 right)\n"
    submission.write_text("\n".join(["id,predicted", *rows[1:]]) + "\n")
    said = script("data/score_sample.py", submission, sample / "solution.csv", status=2).stderr
    assert "lacks 1 ids" in said


@pytest.mark.parametrize("wrong", ["nothing.csv", "train2017.json"])
def test_a_wrong_submission_is_named(sample, script, wrong):
    said = script("data/score_sample.py", sample / wrong, sample / "solution.csv", status=2).stderr
    assert wrong in said
