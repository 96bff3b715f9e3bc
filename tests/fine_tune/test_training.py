"""Training as a user starts it: checkpoints, the log, what is printed."""

import contextlib
import csv
import fcntl
import json
import os
import pty
import re
import struct
import subprocess
import sys
import termios

import numpy as np
import pytest

from common.base.files import ROOT
from common.data.class_table import read_table
from common.networks import checkpoint
from common.networks.resnet import build_resnet
from tests.conftest import require_precision
from tests.fine_tune.conftest import THIS_VENV, weights
from tests.random_networks import with_random_weights


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


def test_what_is_typed_behind_run_sh_counts_from_any_folder(engine, tmp_path):
    command = ["sh", os.path.join(ROOT, "run.sh"), "--gpus", "cpu", "--data-dir", tmp_path]
    command += ["--engine", engine]
    here = {**os.environ, **THIS_VENV}
    done = subprocess.run(command, cwd=tmp_path, env=here, capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    assert done.stderr == (
        f"fine-tune.py: {tmp_path}/train.rec: not found; make it with: sh gen_rec.sh {tmp_path}\n"
    )


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
