"""Training as a user starts it: checkpoints, resume, and what is said when something is wrong."""

import contextlib
import csv
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
import time

import numpy as np
import pytest

from common.base.files import ROOT
from common.data.annotations import Category
from common.data.class_table import Classes, read_table, write_table
from common.networks import checkpoint
from common.networks.resnet import build_resnet
from tests.conftest import only, require_precision
from tests.random_networks import with_random_weights

THIS_VENV = {"VENV": os.path.relpath(sys.prefix, ROOT)}  # for the shell scripts


@pytest.fixture
def flags(engine, sample, tiny_network, tmp_path):
    """The flags of a short training on the sample, which writes `tmp_path/run-*`."""
    return [
        *("--data-dir", str(sample), "--pretrained-model", tiny_network, "--gpus", "cpu"),
        *("--engine", engine),
        *("--image-shape", "3,64,64", "--batch-size", "16", "--num-epochs", "3", "--mom", "0.9"),
        *("--lr-step-epochs", "2", "--data-nthreads", "2", "--disp-batches", "2"),
        *("--model-prefix", str(tmp_path / "run")),
    ]


def weights(prefix, epoch):
    """All weights and statistics of a checkpoint, `{name: numpy array}`."""
    network = checkpoint.load(str(prefix), epoch)
    return {**network.params, **network.stats}


def assert_equal_weights(prefix, other, epoch):
    expected = weights(prefix, epoch)
    for name, array in weights(other, epoch).items():
        np.testing.assert_array_equal(array, expected[name], err_msg=name)


def start(*arguments):
    """Start fine-tune.py and leave it running."""
    command = [sys.executable, os.path.join(ROOT, "fine-tune.py"), *map(str, arguments)]
    return subprocess.Popen(command, stderr=subprocess.PIPE, encoding="utf-8", cwd=ROOT)


def wait_for(path, seconds=120):
    deadline = time.monotonic() + seconds
    while not os.path.exists(path):
        assert time.monotonic() < deadline, f"{path} did not appear"
        time.sleep(0.02)


def wait_for_epoch(prefix, epoch):
    """Wait until a checkpoint is written, and its row of the log, which says whose it is."""
    wait_for(f"{prefix}-{epoch:04d}.params")
    for _ in range(6000):
        with open(f"{prefix}-log.csv") as stream:
            if any(row["epoch"] == str(epoch) for row in csv.DictReader(stream)):
                return
        time.sleep(0.02)
    raise AssertionError(f"the log of {prefix} has no row of epoch {epoch}")


def test_a_training_leaves_checkpoints_a_log_curves_and_its_settings(script, flags, tmp_path):
    said = script("fine-tune.py", *flags).stderr
    assert checkpoint.find_epochs(str(tmp_path / "run")) == [1, 2, 3]
    with open(tmp_path / "run-log.csv") as stream:
        rows = list(csv.DictReader(stream))
    assert [row["epoch"] for row in rows] == ["0", "1", "2", "3"]
    assert [row["lr"] for row in rows] == ["", "0.01", "0.01", "0.001"]
    assert all(0 <= float(row["val_top5"]) <= 1 for row in rows)
    assert (tmp_path / "run-curves.png").read_bytes().startswith(b"\x89PNG")
    config = json.loads((tmp_path / "run-config.json").read_text())
    assert config["flags"]["batch_size"] == 16
    classes = read_table(str(tmp_path / "run-classes.csv")).categories
    assert [category.id for category in classes] == list(range(6))
    assert classes[0].name == "Actinoptychus"
    assert "Before training: validation-accuracy=" in said
    assert "Epoch[0] Batch [2]\tSpeed: " in said
    assert "Node[0] Epoch 3 of 3: loss " in said.splitlines()[-1]


def test_mxnets_own_tool_reads_the_log(script, flags, tmp_path, mx):
    log = tmp_path / "log.txt"
    log.write_text(script("fine-tune.py", *flags).stderr)
    tool = os.path.join(os.path.dirname(mx.__file__), "tools", "parse_log.py")
    parse_log = [sys.executable, "-W", "ignore", tool, log]
    table = subprocess.check_output(parse_log, encoding="utf-8").splitlines()
    assert table[0] == "| epoch | train-accuracy | val-accuracy | time |"
    assert len(table) == 2 + 3
    with open(tmp_path / "run-log.csv") as stream:
        last = list(csv.DictReader(stream))[-1]
    assert [float(cell) for cell in table[-1].split("|")[2:4]] == [
        float(last["top1"]),
        float(last["val_top1"]),
    ]


def test_on_a_terminal_a_bar_tells_the_time_left(flags):
    ours, terminal = pty.openpty()
    fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("4H", 30, 100, 0, 0))
    # Images so large that the bar, which moves ten times a second, is seen on its way.
    flags = [*flags, "--num-epochs", "1", "--image-shape", "3,384,384"]
    command = [sys.executable, "fine-tune.py", *map(str, flags)]
    with subprocess.Popen(command, stderr=terminal, cwd=ROOT) as running:
        os.close(terminal)
        said = b""
        with contextlib.suppress(OSError):  # the terminal's other end is closed
            while True:
                said += os.read(ours, 4096)
    assert running.returncode == 0
    assert re.search(r"Epoch 0:  [257][05]%.*/64 \[\d\d:\d\d<\d\d:\d\d, .*images/s", said.decode())
    assert b"Batch [2]" not in said


def test_a_plain_log_is_one_line_an_epoch(script, flags):
    said = script("fine-tune.py", *flags, "--log", "plain").stderr.splitlines()
    lines = [line for line in said if "top-5" in line]
    assert [line.partition(":")[0] for line in lines] == [
        "Before training",
        *(f"Epoch {epoch} of 3" for epoch in (1, 2, 3)),
    ]
    scores = r"loss \d\.\d{3}, validation loss \d\.\d{3}, top-1 \d+\.\d%, top-5 \d+\.\d%"
    best = r"best top-5 \d+\.\d% \(epoch \d\)"
    assert re.fullmatch(rf".*: {scores}; {best}; \d+\.\d images/s; 0:00:00 left", lines[-1])
    assert not [line for line in said if "Epoch[" in line or "Saved checkpoint" in line]


def test_a_quiet_run_prints_nothing_and_leaves_its_files(script, flags, tmp_path):
    said = script("fine-tune.py", *flags, "--num-epochs", 1, "--lr-step-epochs", "", "--quiet")
    assert (said.stdout, said.stderr) == ("", "")
    assert checkpoint.find_epochs(str(tmp_path / "run")) == [1]
    said = script("fine-tune.py", *flags, "--load-epoch", 7, "--quiet", status=2).stderr
    assert said.startswith("fine-tune.py: ")


def test_a_killed_run_goes_on_to_the_very_same_weights(script, flags, tmp_path):
    flags += ["--dropout", "0.3", "--ema", "0.9"]
    script("fine-tune.py", *flags, "--model-prefix", tmp_path / "whole")
    running = start(*flags, "--resume")  # there is nothing yet: starts afresh
    wait_for_epoch(tmp_path / "run", 1)
    running.send_signal(signal.SIGKILL)
    running.wait()
    said = script("fine-tune.py", *flags, "--resume").stderr
    assert "resuming from" in said
    assert_equal_weights(tmp_path / "whole", tmp_path / "run", 3)
    assert_equal_weights(tmp_path / "whole-ema", tmp_path / "run-ema", 3)
    tables = [
        (tmp_path / f"{name}-classes.csv").read_text() for name in ("whole", "run", "run-ema")
    ]
    assert len(set(tables)) == 1
    assert len((tmp_path / "run-log.csv").read_text().splitlines()) == 5


def test_momentum_correction_begins_with_the_step_of_the_rate(script, flags, tmp_path):
    mxnets = tmp_path / "mxnets-rule"
    script("fine-tune.py", *flags)
    script("fine-tune.py", *flags, "--model-prefix", mxnets, "--momentum-correction", 0)
    assert_equal_weights(tmp_path / "run", mxnets, 2)
    corrected, other = weights(tmp_path / "run", 3), weights(mxnets, 3)
    assert (corrected["fc1_weight"] != other["fc1_weight"]).any()


def test_resume_passes_over_a_damaged_checkpoint(script, flags, tmp_path):
    script("fine-tune.py", *flags)
    os.truncate(tmp_path / "run-0003.params", 1000)
    said = script("fine-tune.py", *flags, "--resume").stderr
    assert "passed over:" in said
    assert "run-0003.params" in said
    assert "resuming from" in said
    assert "run-0002.params" in said


def test_a_new_run_goes_on_from_itself_and_not_from_what_was_there(script, flags, tmp_path):
    script("fine-tune.py", *flags)
    script("fine-tune.py", *flags, "--num-epochs", 1, "--seed", 5)
    said = script("fine-tune.py", *flags, "--num-epochs", 2, "--seed", 5, "--resume").stderr
    assert re.search(r"passed over: .*run-0003\.params: of an earlier run", said)
    assert re.search(r"resuming from .*run-0001\.params", said)


def test_a_checkpoint_that_is_not_there_is_no_silent_restart(script, flags, tmp_path):
    said = script("fine-tune.py", *flags, "--load-epoch", 7, status=2).stderr
    assert "run-symbol.json: not found" in said
    script("fine-tune.py", *flags, "--num-epochs", 1)
    said = script("fine-tune.py", *flags, "--load-epoch", 7, status=2).stderr
    assert "run-0007.params: not found; epochs that are there: 1" in said


def test_a_checkpoint_of_other_classes_is_not_trained_on(script, flags, tmp_path):
    others = [Category(i, f"species {i}", "") for i in range(1, 7)]
    write_table(tmp_path / "run-classes.csv", Classes("", others))
    said = script("fine-tune.py", *flags, "--load-epoch", 1, status=2).stderr.splitlines()[-1]
    assert "train2017.json: its class 0 is Actinoptychus (category 0), and species 1 (categ" in said
    assert "train with the classes of the checkpoint, or choose another --model-prefix" in said


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_run_that_is_asked_to_stop_names_its_last_checkpoint(flags, tmp_path, number, status):
    running = start(*flags, "--num-epochs", 500)
    wait_for(tmp_path / "run-0002.params")
    running.send_signal(number)
    _, said = running.communicate(timeout=60)
    assert running.returncode == status
    assert "Traceback" not in said
    assert "the last checkpoint is" in said
    assert "--load-epoch" in said


def test_two_cpu_devices_train_as_one(script, flags, tmp_path):
    # Three epochs are few: with MXNet's rule past gradients go on to count after the step.
    script("fine-tune.py", *flags, "--gpus", "cpu:0,cpu:1", "--momentum-correction", 0)
    with open(tmp_path / "run-log.csv") as stream:
        rows = list(csv.DictReader(stream))[1:]
    assert float(rows[-1]["loss"]) < float(rows[0]["loss"])
    assert [row["lr"] for row in rows] == ["0.01", "0.01", "0.001"]


def test_from_scratch_takes_the_network_and_none_of_its_weights(
    script, flags, tiny_network, tmp_path
):
    said = script("fine-tune.py", *flags, "--from-scratch", "--num-epochs", 1, "--lr", 1e-6).stderr
    assert f"the weights of {tiny_network} are not used" in said
    trained, before = weights(tmp_path / "run", 1), weights(tiny_network, 0)
    assert trained.keys() == before.keys()
    for name in before.keys() - {"fc1_weight"}:
        assert not name.endswith("_weight") or abs(trained[name] - before[name]).mean() > 1e-3


def test_bfloat16_tracks_float32_and_is_not_float32(script, engine, flags, tmp_path):
    """From a network whose BatchNorms have seen photographs, as those of a pretrained one have."""
    require_precision(engine, "bfloat16")
    settled = tmp_path / "settled"
    script("fine-tune.py", *flags, "--num-epochs", 8, "--model-prefix", settled)
    flags += ["--pretrained-model", settled, "--pretrained-epoch", 8]
    if engine == "torch":  # at the default rate one of the six losses differs by 8 %
        flags += ["--lr", "0.003"]
    losses = []
    for dtype in ("float32", "bfloat16"):
        script("fine-tune.py", *flags, "--dtype", dtype, "--model-prefix", tmp_path / dtype)
        with open(tmp_path / f"{dtype}-log.csv") as stream:
            rows = list(csv.DictReader(stream))
        losses.append([[float(row[name]) for name in ("loss", "val_loss")] for row in rows[1:]])
    assert losses[0] != losses[1]
    np.testing.assert_allclose(losses[1], losses[0], rtol=0.05)
    for name, array in weights(tmp_path / "bfloat16", 3).items():
        assert array.dtype == np.float32, name


def test_only_the_newest_and_the_best_checkpoints_are_kept(script, flags, tmp_path):
    script("fine-tune.py", *flags, "--num-epochs", 5, "--keep", 2)
    with open(tmp_path / "run-log.csv") as stream:
        rows = [row for row in csv.DictReader(stream) if row["epoch"] != "0"]
    best = max(
        rows, key=lambda r: (float(r["val_top5"]), float(r["val_top1"]), -float(r["val_loss"]))
    )
    kept = checkpoint.find_epochs(str(tmp_path / "run"))
    assert kept == sorted({int(best["epoch"]), 4, 5})
    assert (tmp_path / "run-classes.csv").exists()


def test_a_dry_run_tells_what_is_needed_and_writes_nothing(script, flags, tmp_path):
    said = script("fine-tune.py", *flags, "--dry-run").stderr
    assert "dry run: a batch of 16 takes" in said
    assert "3 checkpoints need" in said
    assert "network: 3x64x64 images, 6 classes, 0.1 M parameters" in said
    assert re.search(r"devices: cpu(\(0\)|:0); CPU threads:", said)
    assert "memory: this process at most" in said
    assert os.listdir(tmp_path) == []


def test_reading_is_measured_and_a_batch_is_shown_without_training(script, flags, tmp_path):
    said = script("fine-tune.py", *flags, "--test-io", 1).stderr
    assert re.search(r"reading alone: \d+\.\d images/s \(64 images\)", said)
    script("fine-tune.py", *flags, "--preview", tmp_path / "sheet.png")
    assert os.listdir(tmp_path) == ["sheet.png"]


def test_a_run_that_would_fill_the_disk_is_refused_before_it_begins(script, flags, tmp_path):
    flags += ["--num-epochs", 10**9]
    said = script("fine-tune.py", *flags, status=2).stderr
    assert re.search(r"1000000000 checkpoints need \d+\.\d\d GB, .* free some space, or", said)
    assert os.listdir(tmp_path) == []
    said = script("fine-tune.py", *flags, "--keep", 2, "--dry-run").stderr
    assert "4 checkpoints need" in said


def test_the_disk_must_hold_the_moving_averages_too(script, flags):
    def needed(*more):
        said = script("fine-tune.py", *flags, "--num-epochs", 10**4, "--dry-run", *more).stderr
        return float(re.search(r"10000 checkpoints need (\d+\.\d\d) GB", said).group(1))

    assert needed("--mom", "0", "--ema", "0.9") == pytest.approx(2 * needed("--mom", "0"), rel=0.1)


def test_a_moving_average_of_another_network_is_named(script, flags, tmp_path):
    script("fine-tune.py", *flags, "--num-epochs", 1)
    other = with_random_weights(build_resnet(10, 6, width=4), 64, 0)
    checkpoint.save(str(tmp_path / "run-ema"), 1, other)
    said = script("fine-tune.py", *flags, "--load-epoch", 1, "--ema", 0.9, status=2).stderr
    assert re.search(r"run-ema-0001\.params: has no average of \S+; it is of another", said)


def test_a_loss_that_is_no_number_ends_the_run_and_names_the_last_good_checkpoint(
    script, flags, tmp_path
):
    said = script("fine-tune.py", *flags, "--lr", "1e30", status=2).stderr
    assert "became NaN or infinite" in said
    assert "no epoch was finished, so the run begins anew, with a lower --lr" in said
    script("fine-tune.py", *flags, "--num-epochs", 1)
    said = script("fine-tune.py", *flags, "--lr", "1e30", "--resume", status=2).stderr
    last = said.splitlines()[-1]
    assert "became NaN or infinite" in last
    assert f"the last checkpoint is {tmp_path}/run-0001.params: go on with --resume" in last
    assert checkpoint.find_epochs(str(tmp_path / "run")) == [1]


def test_two_runs_of_the_same_prefix_do_not_mix(script, flags, tmp_path):
    running = start(*flags, "--num-epochs", 500)
    try:
        wait_for(tmp_path / "run-0001.params")
        said = script("fine-tune.py", *flags, status=2).stderr
    finally:
        running.kill()
        running.communicate()
    assert "another run is training to it" in said


def test_run_sh_without_its_gpus_says_what_there_is(engine):
    no_gpus = {**os.environ, **THIS_VENV, "CUDA_VISIBLE_DEVICES": ""}
    command = ["sh", "run.sh", "--engine", engine]
    done = subprocess.run(command, cwd=ROOT, env=no_gpus, capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line]
    assert "--gpus 0,1,2,3" in line
    assert "run on the CPU with --gpus cpu" in line


def test_what_is_typed_behind_run_sh_counts_from_any_folder(engine, tmp_path):
    command = ["sh", os.path.join(ROOT, "run.sh"), "--gpus", "cpu", "--data-dir", tmp_path]
    command += ["--engine", engine]
    here = {**os.environ, **THIS_VENV}
    done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    assert done.stderr == (
        f"fine-tune.py: {tmp_path}/train.rec: not found; make it with: sh gen_rec.sh\n"
    )


def test_missing_records_name_the_step_that_makes_them(script, flags, tmp_path):
    said = script("fine-tune.py", *flags, "--data-dir", tmp_path, status=2).stderr
    assert "train.rec" in said
    assert "gen_rec.sh" in said


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--batch-size", "1000"), "--batch-size 1000"),
        (("--num-classes", "3"), "--num-classes 3"),
        (("--lr-step-epochs", "2,1"), "epochs must increase"),
        (("--gpus", "9"), "--gpus 9"),
        (("--freeze", "conv9"), "matches no parameter"),
        (("--layer-before-fullc", "pool9"), "its last ones are: .*pool1"),
        (("--pretrained-model", "model/nothing"), "model/nothing"),
        (("--model-prefix", "no/such/folder/net"), "there is no folder"),
        (("--image-shape", "3,64"), "--image-shape"),
        (("--ema", "1.5"), "--ema 1.5"),
        (("--kv-store", "nccl"), "--kv-store nccl: is for GPUs"),
        (("--kv-store", "dist_sink"), "--kv-store: invalid choice"),
        (("--kv-store", "local", "--gc-type", "2bit"), "--gc-type 2bit: is not for"),
        (("--top-k", "0"), "--top-k 0: not whole numbers from 1 on"),
        (("--loss-scale", "0"), "--loss-scale and --gc-threshold must be more than 0"),
        (("--head-lr-mult", "-1"), "--head-lr-mult -1.0: must be 0 or more"),
    ],
)
def test_a_wrong_flag_is_one_line(script, flags, wrong, message, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    said = script("fine-tune.py", *flags, *wrong, status=2).stderr
    last = said.splitlines()[-1]
    assert last.startswith("fine-tune.py: ")
    assert re.search(message, last), said


@only("mxnet")
def test_float16_is_refused_on_a_cpu(script, flags):
    said = script("fine-tune.py", *flags, "--dtype", "float16", status=2).stderr
    assert said.splitlines()[-1].startswith("fine-tune.py: --dtype float16: is for GPUs")


@pytest.mark.slow
def test_the_zoos_resnet_152_takes_a_head_of_5089_species(script, engine, sample, tmp_path):
    """One step and one checkpoint of the very network, at 320 pixels, from zoo-shaped files."""
    network = with_random_weights(build_resnet(152, 11221), 224, seed=0)
    checkpoint.save(str(tmp_path / "resnet-152"), 0, network)
    lines = (sample / "train.lst").read_text().splitlines()[:2]
    (tmp_path / "train.lst").write_text("\n".join(lines) + "\n")
    script("im2rec.py", tmp_path / "train", sample, "--resize", "512")
    said = script(
        "fine-tune.py",
        *("--data-dir", tmp_path, "--pretrained-model", tmp_path / "resnet-152"),
        *("--num-classes", 5089, "--batch-size", 2, "--num-epochs", 1),
        *("--model-prefix", tmp_path / "inat", "--gpus", "cpu", "--engine", engine),
    ).stderr
    assert "the records hold labels 0 to" in said
    trained, before = weights(tmp_path / "inat", 1), weights(tmp_path / "resnet-152", 0)
    assert trained["fc1_weight"].shape == (5089, 2048)
    assert (trained["stage4_unit3_conv3_weight"] != before["stage4_unit3_conv3_weight"]).any()


def test_a_variant_goes_to_the_pretrained_file(script, flags, tmp_path):
    said = script("fine-tune.py", *flags, "--variant", "efficientnet_lite0", status=2).stderr
    assert "--variant efficientnet_lite0: is for PyTorch files" in said
