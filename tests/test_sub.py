"""sub.py, as a user calls it, on a tiny network and a few photographs."""

import argparse
import csv
import json
import os
import shutil
import time

import numpy as np
import pytest

from benchmarks.made_up import encode, make_photograph, write_records
from common import engines
from common.data.annotations import Category
from common.data.class_table import Classes, write_table
from common.data.flags import add_data_args, add_data_aug_args
from common.data.image import decode, eval_crops
from common.data.loader import Batch, RecordSource
from common.data.recordio import read_list
from common.evaluation.views import complete_view_args, load_views
from common.networks import checkpoint
from common.training.batches import open_batches
from tests.conftest import only, require_precision, with_orientation
from tests.faults.interruption import freeze
from tests.made_up_challenge import (
    CATEGORY_IDS,
    SIZE,
    compute_with_mxnet,
    make_folder,
    peer_probabilities,
    pixels,
    read_csv,
    save_network,
)


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("sub"))


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path)


@pytest.fixture
def int8(engine):
    """The engine, or the test is skipped where it does not compute in int8."""
    require_precision(engine, "int8")
    return engines.load(engine)


@pytest.fixture
def sub(script, engine):
    """Call sub.py in a folder: `sub(folder, "1", "cpu")`; return its CSV as {id: categories}."""

    def call(folder, *arguments, output="out.csv", status=0):
        flags = ["--data-dir", folder, "--model-prefix", folder / "net", "--batch-size", 4]
        flags += ["--crop-size", SIZE, "--output", folder / output, "--engine", engine]
        call.said = script("sub.py", *arguments, *flags, status=status).stderr
        return read_csv(folder / output) if status == 0 else None

    return call


def test_every_test_image_gets_the_first_five_categories_of_a_peer(shared, sub):
    rows = sub(shared, "1", "cpu")
    probabilities = peer_probabilities(shared / "net", 1, pixels(shared, "test"))
    best = np.argsort(-probabilities, axis=1)[:, :5]
    assert list(rows) == list(range(100, 109))
    assert list(rows.values()) == np.array(CATEGORY_IDS)[best].tolist()
    assert not list(shared.glob(".*out.csv*"))


def test_records_and_photographs_give_the_same_rows(folder, sub, mx):
    expected = sub(folder, "1", "-1")
    writer = mx.recordio.MXIndexedRecordIO(str(folder / "test.idx"), str(folder / "test.rec"), "w")
    for image_id in (107, 103, 100, 101, 102, 108, 104, 106, 105):  # lists are shuffled
        image = (folder / "test2017" / f"t{image_id - 100}.jpg").read_bytes()
        header = mx.recordio.IRHeader(0, 0.0, image_id, 0)
        writer.write_idx(image_id, mx.recordio.pack(header, image))
    writer.close()
    (folder / "test2017" / "t0.jpg").unlink()
    assert sub(folder, "1", "-1") == expected


def test_of_val_only_what_the_records_hold_is_scored(folder, sub, script):
    shutil.copy(folder / "val2017.json", folder / "train2017.json")
    script("mx_list.py", "--data-dir", folder, "--val-into-train", 0.5)
    script("im2rec.py", folder / "val", folder)
    rest = {entry.index for entry in read_list(folder / "val.lst")}
    assert len(rest) == 6
    assert set(sub(folder, "1", "cpu", "--set", "val")) == rest


def test_training_and_submission_see_the_same_pixels(tmp_path):
    encoded = [encode(make_photograph(seed, 96, 128)) for seed in range(6)]
    rec = write_records(tmp_path / "val", encoded, range(6))
    parser = argparse.ArgumentParser()
    add_data_args(parser)
    add_data_aug_args(parser)
    flags = ["--data-train", rec, "--data-val", rec, "--image-shape", "3,64,64"]
    args = parser.parse_args(flags)
    args.batch_size, args.crop_size, args.crops, args.resize = 6, 64, 1, None
    complete_view_args(args, [])
    (validated,) = open_batches(args).val
    (ours,) = load_views(RecordSource(rec), args)
    np.testing.assert_array_equal(ours.images, validated.images)


def test_epochs_views_and_devices_are_averaged_as_numpy_does(shared, sub):
    flags = ["--crops", "2", "--weights", "3,1", "--save-probs", shared / "p.npz", "--set", "val"]
    rows = sub(shared, "1,2", "cpu:0,cpu:1", *flags)
    images = pixels(shared, "val")
    expected = sum(
        weight / 8 * peer_probabilities(shared / "net", epoch, view)
        for epoch, weight in ((1, 3), (2, 1))
        for view in (images, images[..., ::-1])
    )
    with np.load(shared / "p.npz") as saved:
        np.testing.assert_allclose(saved["probabilities"], expected, rtol=2e-3, atol=1e-6)
    assert [row[0] // 10 - 1 for row in rows.values()] == expected.argmax(axis=1).tolist()
    assert sub(shared, "--merge", shared / "p.npz", "--set", "val", output="merged.csv") == rows
    assert "<figure>" in (shared / "report-merged.html").read_text()
    sub(shared, "--merge", shared / "p.npz", status=2)
    assert "is of the val set" in sub.said


def test_different_networks_and_ten_views_are_averaged(shared, sub):
    save_network(str(shared / "other"), 1, width=24)
    flags = ["--model-prefix", shared / "other", "--weights", "1,2", "--crops", 10, "--resize", 50]
    sub(shared, "1", "cpu", *flags, "--set", "val", "--save-probs", shared / "ten.npz")
    views = [
        eval_crops(decode((shared / f"train_val_images/s/n/v{i}.jpg").read_bytes()), 32, 32, 50, 10)
        for i in range(12)
    ]
    images = np.array(views)[..., ::-1].transpose(1, 0, 4, 2, 3)  # 10 of (12, 3, 32, 32), RGB
    expected = sum(
        weight / 30 * peer_probabilities(shared / name, 1, view)
        for name, weight in (("other", 1), ("net", 2))
        for view in images
    )
    with np.load(shared / "ten.npz") as saved:
        np.testing.assert_allclose(saved["probabilities"], expected, rtol=2e-3, atol=1e-6)


def test_files_of_another_test_set_are_not_merged_into_a_submission(folder, sub):
    rows = sub(folder, "1", "cpu", "--save-probs", folder / "a.npz")
    assert sub(folder, "--merge", folder / "a.npz", output="merged.csv") == rows
    content = json.loads((folder / "test2017.json").read_text())
    del content["images"][3]
    (folder / "test2017.json").write_text(json.dumps(content))
    sub(folder, "--merge", folder / "a.npz", output="other.csv", status=2)
    assert "its images are not those of" in sub.said and not (folder / "other.csv").exists()


def test_the_scores_are_those_of_the_csv(shared, sub):
    rows = sub(shared, "2", "cpu", "--set", "val", "--crops", "12", output="scores.csv")
    truth = {100 + i: CATEGORY_IDS[i % 6] for i in range(12)}
    with open(shared / "report-scores.csv", encoding="utf-8", newline="") as stream:
        scores = {(row["row"], row["column"]): row["value"] for row in csv.DictReader(stream)}
    for k in (1, 5):
        wrong = [truth[image_id] not in row[:k] for image_id, row in rows.items()]
        assert scores["all", f"top-{k} error"] == f"{np.mean(wrong):.4f}"
    assert "<figure>" in (shared / "report-scores.html").read_text()


def test_damaged_and_missing_photographs_get_the_most_frequent_categories(folder, sub):
    path = folder / "test2017" / "t2.jpg"
    path.write_bytes(path.read_bytes()[:400])
    (folder / "test2017" / "t5.jpg").unlink()
    rows = sub(folder, "1", "cpu")
    assert rows[102] == rows[105] == [60, 10, 20, 30, 40]  # three of the ninth list are of label 5
    assert rows[100] != rows[102]
    assert "2 images could not be read" in sub.said
    assert f"{folder}/test2017/t5.jpg: no such file or directory; left out" in sub.said
    assert "102 (t2.jpg)" in sub.said and "105 (test2017/t5.jpg)" in sub.said


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


def test_a_killed_run_goes_on_where_it_stopped(folder, sub, engine):
    expected = sub(folder, "1", "cpu", output="whole.csv")
    command = ["sub.py", "1", "cpu", "--data-dir", folder, "--model-prefix", folder / "net"]
    command += ["--batch-size", 4, "--crop-size", SIZE, "--output", folder / "out.csv"]
    command += ["--engine", engine]
    process = freeze(folder, ".tmp-out.csv", command)  # all is predicted, nothing is written
    process.kill()
    process.communicate()
    assert not (folder / "out.csv").exists()
    for i in range(8):  # what has been predicted is not read again
        (folder / "test2017" / f"t{i}.jpg").unlink()
    assert sub(folder, "1", "cpu", "--resume") == expected
    assert not (folder / ".tmp-out.csv.rows").exists()


def test_a_run_over_records_that_were_made_anew_is_not_continued(folder, sub, script):
    lines = [f"{100 + i}\t0\ttest2017/t{i}.jpg\n" for i in range(9)]
    (folder / "test.lst").write_text("".join(lines))
    script("im2rec.py", folder / "test", folder)
    rec = folder / "test.rec"
    network = checkpoint.load(str(folder / "net"), 1)
    network.params["fc1_weight"][:] = 1e38  # the sum of two is infinite
    checkpoint.save(str(folder / "net"), 1, network)
    sub(folder, "1", "cpu", status=2)  # has begun its rows when it finds that out
    os.utime(rec, times=(time.time() + 9,) * 2)
    sub(folder, "1", "cpu", "--resume", status=2)
    assert "the interrupted run differs in images" in sub.said


def test_int8_agrees_with_float32_and_is_kept_beside_the_checkpoint(folder, int8, sub):
    rows, exact = sub(folder, "1", "cpu", "--dtype", "int8"), sub(folder, "1", "cpu")
    assert sum(rows[i][0] == exact[i][0] for i in rows) >= len(rows) - 1
    sub(folder, "1", "cpu", "--dtype", "int8")
    assert "quantized" not in sub.said
    os.utime(folder / "net-0001.params", times=(time.time() + 9,) * 2)
    sub(folder, "1", "cpu", "--dtype", "int8")
    assert "quantized; its first choice is that of float32 on 12 of 12" in sub.said


@only("mxnet")
@pytest.mark.parametrize("width", [16, 24])
def test_int8_gives_the_same_probabilities_at_every_call(shared, int8, width):
    """24 channels are padded to 32, and MXNet reads what lies in the padding."""
    save_network(str(shared / "wide"), width, width=width)
    images = pixels(shared, "val")
    network = int8.quantize(checkpoint.load(str(shared / "wide"), width), images)
    predictor = int8.Predictor([network], [1], int8.parse_devices("cpu"), 4, images.shape[1:])
    batches = [Batch(images[i : i + 4], None, None, 0, []) for i in (0, 4, 8)]
    first, *others = ([p for _, p in predictor.predict(batches)] for _ in range(10))
    for other in others:
        np.testing.assert_array_equal(first, other)
    assert [node for node in network.graph["nodes"] if "quantized" in node["op"]]


@only("mxnet")
def test_int8_leaves_the_head_in_float32(shared, int8):
    save_network(str(shared / "head"), 1, num_classes=16)  # the head's channels are not padded
    network = int8.quantize(checkpoint.load(str(shared / "head"), 1), pixels(shared, "val"))
    attributes = {node["op"]: node.get("attrs", {}) for node in network.graph["nodes"]}
    in_int8 = {op for op in attributes if attributes[op].get("quantized", "").lower() == "true"}
    assert in_int8 == {"_sg_mkldnn_conv"}


def test_onnx_runtime_gives_the_probabilities_of_mxnet(folder, script, mx):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    network = checkpoint.load(str(folder / "net"), 1)
    network.params["bn_data_gamma"][:] = 3  # MXNet reads 1 where gamma is fixed
    checkpoint.save(str(folder / "net"), 1, network)
    flags = ["--model-prefix", folder / "net", "--crop-size", SIZE]
    said = script("sub.py", "1", "cpu", "--export-onnx", folder / "net.onnx", *flags).stderr
    assert said == f"{folder}/net.onnx: opset 13, input data (N, 3, 32, 32)\n"
    session = runtime.InferenceSession(str(folder / "net.onnx"))
    images = pixels(folder, "test")
    assert [node.name for node in session.get_inputs()] == ["data"]
    for count in (1, 9):
        (ours,) = session.run(None, {"data": images[:count].astype(np.float32)})
        expected = compute_with_mxnet(str(folder / "net"), 1, images[:count].astype(np.float32))
        np.testing.assert_allclose(ours, expected, atol=1e-4)


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["7", "cpu"], "net-0007.params: not found; epochs that are there: 1, 2"),
        (["1,2", "cpu", "--weights", "1"], "--weights: must be 2 positive numbers"),
        (["1", "cpu", "--crop-size", "0"], "--crop-size 0: must be 1 to 10000"),
        (["1,2", "cpu", "--export-onnx", "no.onnx"], "--export-onnx: takes one network"),
        (["--merge", "a.npz", "--save-probs", "b.npz"], "--save-probs: --merge keeps none"),
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


@pytest.mark.parametrize("category_id", ["c10", 2**63])
def test_a_category_that_kaggle_s_csv_cannot_hold_is_named(folder, sub, category_id):
    path = folder / "val2017.json"
    content = json.loads(path.read_text())
    content["categories"] = [{"id": category_id, "name": "n", "supercategory": "s"}]
    content["annotations"] = []
    path.write_text(json.dumps(content))
    sub(folder, "1", "cpu", status=2)
    assert "val2017.json: a category's id is not a number of 64 bits" in sub.said


def test_the_csv_goes_into_the_current_folder_by_the_name_of_the_epoch(folder, script, tmp_path):
    flags = ["--data-dir", folder, "--model-prefix", folder / "net", "--crop-size", SIZE]
    (tmp_path / "elsewhere").mkdir()
    said = script("sub.py", "2", "-1", *flags, cwd=tmp_path / "elsewhere").stdout
    assert said == "submission_epoch_2.csv: 9 images\n"
    assert os.listdir(tmp_path / "elsewhere") == ["submission_epoch_2.csv"]
    assert len(read_csv(tmp_path / "elsewhere" / "submission_epoch_2.csv")) == 9


def test_quiet_prints_warnings_alone(folder, script, tmp_path):
    flags = ["1", "cpu", "--data-dir", folder, "--model-prefix", folder / "net", "--quiet"]
    flags += ["--crop-size", SIZE, "--set", "val", "--output", tmp_path / "val.csv"]
    said = script("sub.py", *flags)
    assert (said.stdout, said.stderr) == ("", "")
    assert "top-1 error" in (tmp_path / "report-val.csv").read_text()
    images = sorted((folder / "train_val_images").rglob("*.jpg"))
    images[0].write_bytes(b"no photograph")
    said = script("sub.py", *flags)
    assert said.stdout == "" and "1 images could not be read" in said.stderr


def test_a_photograph_on_its_side_is_turned_whether_packed_or_not(folder, sub, script):
    for i in range(9):
        path = folder / "test2017" / f"t{i}.jpg"
        path.write_bytes(with_orientation(path.read_bytes(), 1 + i % 8))
    as_files = sub(folder, "1", "cpu", "--save-probs", folder / "files.npz")
    script("mx_list.py", "--data-dir", folder, "--sets", "test")
    script("im2rec.py", "--quality", 100, folder / "test", folder)
    as_records = sub(folder, "1", "cpu", "--save-probs", folder / "records.npz")
    assert sum(as_files[i][0] == as_records[i][0] for i in as_files) >= 8
    with np.load(folder / "files.npz") as one, np.load(folder / "records.npz") as other:
        np.testing.assert_allclose(one["probabilities"], other["probabilities"], atol=0.03)


def test_without_any_photograph_nothing_is_guessed(folder, sub):
    shutil.rmtree(folder / "test2017")
    sub(folder, "1", "cpu", status=2)
    assert "t0.jpg: not found, nor any other photograph of" in sub.said


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


def test_networks_of_other_classes_or_without_numbers_are_refused(folder, sub):
    network = checkpoint.load(str(folder / "net"), 1)
    network.params["fc1_bias"][:] = np.nan
    checkpoint.save(str(folder / "net"), 1, network)
    sub(folder, "1", "cpu", status=2)
    assert "its training has diverged" in sub.said
    save_network(str(folder / "net"), 3, num_classes=4)
    sub(folder, "3", "cpu", status=2)
    assert "has 4 classes, and the JSON of" in sub.said
