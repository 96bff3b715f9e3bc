"""sub.py: what cannot be predicted ends in one line."""

import json
import shutil

import numpy as np
import pytest

from common.evaluation.views import trained_crop_shape
from common.networks import checkpoint
from tests.conftest import require_precision
from tests.made_up_challenge import save_network


def test_files_of_another_test_set_are_not_merged_into_a_submission(folder, sub):
    rows = sub(folder, "1", "cpu", "--save-probs", folder / "a.npz")
    assert sub(folder, "--merge", folder / "a.npz", output="merged.csv") == rows
    content = json.loads((folder / "test2017.json").read_text())
    del content["images"][3]
    (folder / "test2017.json").write_text(json.dumps(content))
    sub(folder, "--merge", folder / "a.npz", output="other.csv", status=2)
    assert "its images are not those of" in sub.said and not (folder / "other.csv").exists()


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["7", "cpu"], "net-0007.params: not found; epochs that are there: 1, 2"),
        (["1,2", "cpu", "--weights", "1"], "--weights: must be 2 positive numbers"),
        (["1", "cpu", "--crop-size", "0"], "--crop-size 0: must be 1 to 10000"),
        (["1", "cpu", "--crop-size", "32,x"], "--crop-size 32,x: must be 1 to 10000 pixels, or tw"),
        (["1", "cpu", "--crop-size", "3,32,32"], "--crop-size 3,32,32: must be 1 to 10000"),
        (["1,2", "cpu", "--export-onnx", "no.onnx"], "--export-onnx: takes one network"),
        (["--merge", "a.npz", "--save-probs", "b.npz"], "--save-probs: --merge keeps none"),
        (["--merge", "a.npz", "--export-onnx", "n.onnx"], "--merge: cannot be combined with --exp"),
        (["--merge", "a.npz", "--crops", "10"], "--merge: cannot be combined with --crops 10"),
        (
            ["1", "cpu", "--export-onnx", "n.onnx", "--dtype", "bfloat16"],
            "--export-onnx: cannot be combined with --dtype bfloat16",
        ),
        (
            ["1", "cpu", "--export-onnx", "n.onnx", "--save-probs", "b.npz"],
            "--export-onnx: cannot be combined with --save-probs",
        ),
        (
            ["1", "cpu", "--save-probs", "a.csv", "--output", "./a.csv"],
            "would replace a.csv; choose",
        ),
        (["--merge", "a.npz", "b.npz", "--output", "b.npz"], "--output b.npz: would replace b.npz"),
        (["1", "cpu", "--save-probs", "nowhere/a.npz"], "nowhere/a.npz: its folder does not exist"),
    ],
)
def test_what_cannot_be_is_said_in_one_line(shared, script, arguments, said):
    flags = ["--data-dir", shared, "--model-prefix", shared / "net", "--output", shared / "no.csv"]
    error = script("sub.py", *flags, *arguments, status=2).stderr
    assert said in error
    assert error.count("\n") == 1


@pytest.mark.parametrize(
    "arguments, said",
    [
        ([], "EPOCH and GPU are needed"),
        (["1"], "EPOCH and GPU are needed"),  # and not computed on the CPU for days
        (["1", "cpu", "--merge", "a.npz"], "--merge averages files, and takes no EPOCH"),
    ],
)
def test_epoch_and_gpu_are_named_as_in_2017(script, arguments, said):
    assert said in script("sub.py", *arguments, status=2).stderr


def test_networks_of_different_sizes_need_one_that_is_named(shared, script):
    flags = ["--data-dir", shared, "--output", shared / "sizes.csv"]
    for size in (32, 48):
        save_network(str(shared / f"net{size}"), 1)
        config = {"flags": {"image_shape": f"3,{size},{size}"}}
        (shared / f"net{size}-config.json").write_text(json.dumps(config))
        flags += ["--model-prefix", shared / f"net{size}"]
    said = script("sub.py", "1", "cpu", *flags, status=2).stderr
    assert "were trained with 32 and 48 pixels" in said
    script("sub.py", "1", "cpu", *flags, "--crop-size", 32)


def test_averaged_weights_are_predicted_at_the_size_of_their_run(tmp_path):
    config = {"flags": {"image_shape": "3,48,48"}}
    (tmp_path / "run-config.json").write_text(json.dumps(config))
    assert trained_crop_shape(str(tmp_path / "run-ema")) == (48, 48)  # as older versions left it
    assert trained_crop_shape(str(tmp_path / "other-ema")) is None


def test_int8_without_a_photograph_to_calibrate_on_is_one_line(tmp_path, engine, script):
    require_precision(engine, "int8")
    save_network(str(tmp_path / "net"), 1)
    (tmp_path / "broken.jpg").write_bytes(b"no photograph")
    flags = ["--data-dir", tmp_path, "--model-prefix", tmp_path / "net", "--engine", engine]
    flags += ["--images", tmp_path / "broken.jpg", "--output", tmp_path / "out.csv"]
    said = script("sub.py", "1", "cpu", *flags, "--dtype", "int8", status=2).stderr
    assert "--dtype int8: none of the photographs that it is to be calibrated on" in said


@pytest.mark.parametrize("category_id", ["c10", 2**63])
def test_a_category_that_kaggle_s_csv_cannot_hold_is_named(folder, sub, category_id):
    path = folder / "val2017.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": category_id, "name": "n", "supercategory": "s"}]
    content["annotations"] = []
    path.write_text(json.dumps(content))
    sub(folder, "1", "cpu", status=2)
    assert "val2017.json: a category's id is not a number of 64 bits" in sub.said


def test_without_any_photograph_nothing_is_guessed(folder, sub):
    shutil.rmtree(folder / "test2017")
    sub(folder, "1", "cpu", status=2)
    assert "t0.jpg: not found, nor any other photograph of" in sub.said


def test_networks_of_other_classes_or_without_numbers_are_refused(folder, sub):
    network = checkpoint.load(str(folder / "net"), 1)
    network.params["fc1_bias"][:] = np.nan
    checkpoint.save(str(folder / "net"), 1, network)
    sub(folder, "1", "cpu", status=2)
    assert "its training has diverged" in sub.said
    save_network(str(folder / "net"), 3, num_classes=4)
    sub(folder, "3", "cpu", status=2)
    assert "has 4 classes, and the JSON of" in sub.said
