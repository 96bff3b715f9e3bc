"""sub.py, as a user calls it: the rows of its CSV, averages, int8, ONNX, interrupted runs."""

import argparse
import json
import os
import shutil
import time

import numpy as np
import pytest

from benchmarks.made_up import encode, make_photograph, write_records
from common import engines
from common.data.flags import add_data_args, add_data_aug_args
from common.data.image import decode, eval_crops
from common.data.loader import Batch, RecordSource
from common.evaluation.views import complete_view_args, load_views
from common.networks import checkpoint
from common.training.batches import open_batches
from tests.conftest import only, require_precision, with_orientation
from tests.faults.interruption import freeze
from tests.made_up_challenge import (
    CATEGORY_IDS,
    SIZE,
    compute_with_mxnet,
    peer_probabilities,
    pixels,
    read_csv,
    save_network,
)


@pytest.fixture
def int8(engine):
    """The engine, or the test is skipped where it does not compute in int8."""
    require_precision(engine, "int8")
    return engines.load(engine)


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


def test_training_and_submission_see_the_same_pixels(tmp_path):
    encoded = [encode(make_photograph(seed, 96, 128)) for seed in range(6)]
    rec = write_records(tmp_path / "val", encoded, range(6))
    parser = argparse.ArgumentParser()
    add_data_args(parser)
    add_data_aug_args(parser)
    flags = ["--data-train", rec, "--data-val", rec, "--image-shape", "3,64,64"]
    args = parser.parse_args(flags)
    args.batch_size, args.crop_size, args.crops, args.resize = 6, "64", 1, None
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


def test_views_have_the_shape_of_the_images_of_the_training_run(shared, script, engine):
    save_network(str(shared / "wide"), 1)
    config = {"flags": {"image_shape": "3,24,40"}}
    (shared / "wide-config.json").write_text(json.dumps(config))
    flags = ["--data-dir", shared, "--model-prefix", shared / "wide", "--set", "val"]
    flags += ["--crops", 12, "--engine", engine, "--output", shared / "wide.csv"]
    script("sub.py", "1", "cpu", *flags, "--save-probs", shared / "wide.npz")
    views = [
        eval_crops(decode((shared / f"train_val_images/s/n/v{i}.jpg").read_bytes()), 24, 40, 45, 12)
        for i in range(12)
    ]
    images = np.array(views)[..., ::-1].transpose(1, 0, 4, 2, 3)  # 12 of (12, 3, 24, 40), RGB
    expected = sum(peer_probabilities(shared / "wide", 1, view) / 12 for view in images)
    with np.load(shared / "wide.npz") as saved:
        np.testing.assert_allclose(saved["probabilities"], expected, rtol=2e-3, atol=1e-6)
    rows = read_csv(shared / "wide.csv")
    (shared / "wide-config.json").unlink()
    script("sub.py", "1", "cpu", *flags, "--crop-size", "24,40")
    assert read_csv(shared / "wide.csv") == rows


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


@pytest.fixture
def kill(folder, engine):
    """Start sub.py with flags, and kill it when all is predicted and nothing is written."""

    def call(*flags):
        command = ["sub.py", "1", "cpu", "--data-dir", folder, "--model-prefix", folder / "net"]
        command += ["--batch-size", 4, "--crop-size", SIZE, "--output", folder / "out.csv"]
        process = freeze(folder, ".tmp-out.csv", [*command, "--engine", engine, *flags])
        process.kill()
        process.communicate()

    return call


def test_a_killed_run_goes_on_where_it_stopped(folder, sub, kill):
    expected = sub(folder, "1", "cpu", output="whole.csv")
    kill()
    assert not (folder / "out.csv").exists()
    for i in range(8):  # what has been predicted is not read again
        (folder / "test2017" / f"t{i}.jpg").unlink()
    assert sub(folder, "1", "cpu", "--resume") == expected
    assert not (folder / ".tmp-out.csv.rows").exists()


def test_resume_reads_a_photograph_that_could_not_be_read(folder, sub, kill):
    expected = sub(folder, "1", "cpu", output="whole.csv")
    path = folder / "test2017" / "t5.jpg"
    os.rename(path, folder / "elsewhere.jpg")
    kill()
    os.rename(folder / "elsewhere.jpg", path)
    for i in range(4):  # what comes before it is not read again
        (folder / "test2017" / f"t{i}.jpg").unlink()
    assert sub(folder, "1", "cpu", "--resume") == expected
    assert "could not be read" not in sub.said


def test_a_checkpoint_that_a_later_run_has_left_is_reported(folder, sub):
    (folder / "net-log.csv").write_text("epoch,lr,loss\n1,0.1,2.0\n")
    sub(folder, "1,2", "cpu")
    assert "net-0002.params: is of an earlier run, as the log ends at epoch 1" in sub.said
    assert "net-0001.params: is" not in sub.said


def test_resume_does_not_mix_two_calibrations(folder, int8, sub, kill):
    kill("--dtype", "int8")
    for path in folder.glob("net-0001-int8*"):
        path.unlink()
    for i in range(6):  # it is calibrated on others
        (folder / "train_val_images" / "s" / "n" / f"v{i}.jpg").unlink()
    sub(folder, "1", "cpu", "--dtype", "int8", "--resume", status=2)
    assert "the interrupted run differs in checkpoints" in sub.said


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


@pytest.mark.skipif(os.name == "nt", reason="names of files are text there")
@pytest.mark.parametrize("flags", [[], ["--quiet"], ["--set", "val"]])
def test_names_of_files_need_not_be_text(folder, script, tmp_path, flags):
    prefix, output = tmp_path / os.fsdecode(b"net\xe9"), tmp_path / os.fsdecode(b"\xe9.csv")
    for ending in ("-symbol.json", "-0001.params"):
        shutil.copy(f"{folder}/net{ending}", f"{prefix}{ending}")
    command = ["sub.py", "1", "cpu", "--data-dir", folder, "--model-prefix", prefix, *flags]
    script(*command, "--crop-size", SIZE, "--output", output)
    assert output.exists() and not [*tmp_path.glob(".tmp*")]
    images = ["--images", folder / "test2017", "--output", output]
    script("sub.py", "1", "cpu", "--model-prefix", prefix, "--crop-size", SIZE, *images)


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
