"""Training that is stopped, killed, begun anew or continued."""

import csv
import os
import re
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from common.base.files import ROOT
from common.data.annotations import Category
from common.data.class_table import Classes, write_table
from common.evaluation.views import trained_crop_shape
from common.networks import checkpoint
from common.networks.resnet import build_resnet
from tests.fine_tune.conftest import weights
from tests.random_networks import with_random_weights


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
    assert trained_crop_shape(str(tmp_path / "run-ema")) == (64, 64)
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


def test_resume_does_not_overwrite_checkpoints_of_which_none_can_be_taken(script, flags, tmp_path):
    script("fine-tune.py", *flags, "--num-epochs", 1)
    (tmp_path / "run-0001.states").write_bytes(b"\x80 as MXNet's Module writes them")
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    said = script("fine-tune.py", *flags, "--resume", status=2).stderr.splitlines()[-1]
    assert "run-0001.states: is a pickle" in said
    assert "remove it to continue without the optimizer's state. No checkpoint of" in said
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_a_new_run_over_an_earlier_one_says_so(script, flags, tmp_path):
    warning = "has 3 checkpoints of an earlier run, up to epoch 3, which this run overwrites"
    assert warning not in script("fine-tune.py", *flags).stderr
    for way in (["--resume"], ["--load-epoch", 3]):
        assert "earlier run" not in script("fine-tune.py", *flags, *way).stderr
    said = script("fine-tune.py", *flags, "--num-epochs", 1).stderr
    assert said.count(f"{tmp_path}/run: {warning} from epoch 1 on; to keep them, stop it") == 1


def test_a_new_run_goes_on_from_itself_and_not_from_what_was_there(script, flags, tmp_path):
    script("fine-tune.py", *flags)
    script("fine-tune.py", *flags, "--num-epochs", 1, "--seed", 5)
    said = script("fine-tune.py", *flags, "--num-epochs", 2, "--seed", 5, "--resume").stderr
    assert re.search(r"passed over: .*run-0003\.params: of an earlier run", said)
    assert re.search(r"resuming from .*run-0001\.params", said)


def test_a_checkpoint_that_is_not_there_is_no_silent_restart(script, flags, tmp_path):
    said = script("fine-tune.py", *flags, "--load-epoch", 7, status=2).stderr
    assert "run-symbol.json: not found" in said
    script("fine-tune.py", *flags, "--num-epochs", 2)
    for way in ([], ["--resume"]):  # which may be after the first stage, but not before it
        said = script("fine-tune.py", *flags, *way, "--load-epoch", 7, status=2).stderr
        assert "run-0007.params: not found; epochs that are there: 1, 2" in said


def test_a_run_that_has_nothing_to_train_leaves_later_epochs_in_the_log(script, flags, tmp_path):
    script("fine-tune.py", *flags, "--num-epochs", 2)
    log = (tmp_path / "run-log.csv").read_text()
    said = script("fine-tune.py", *flags, "--num-epochs", 1, "--load-epoch", 1).stderr
    assert "1 epochs are trained already: nothing is left to do" in said
    assert (tmp_path / "run-log.csv").read_text() == log


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


def test_a_damaged_moving_average_is_passed_over(script, flags, tmp_path):
    script("fine-tune.py", *flags, "--num-epochs", 2, "--ema", 0.9)
    os.truncate(tmp_path / "run-ema-0002.params", 999)
    said = script("fine-tune.py", *flags, "--resume", "--ema", 0.9).stderr
    assert re.search(r"passed over: \S+run-ema-0002\.params: ", said)
    assert "run-0001.params" in said
    os.truncate(tmp_path / "run-ema-0003.params", 999)
    said = script("fine-tune.py", *flags, "--load-epoch", 3, "--ema", 0.9, status=2).stderr
    assert said.count("run-ema-0003.params") == 1


def test_the_state_of_another_optimizer_is_refused(script, flags, tmp_path):
    def train(epochs, *others, status=0):
        return script("fine-tune.py", *flags, "--num-epochs", epochs, *others, status=status).stderr

    train(1, "--optimizer", "adam")
    said = train(2, "--optimizer", "sgd", "--load-epoch", 1, status=2)
    assert "run-0001.states: is the state of --optimizer adam; go on with that, or remove" in said
    (tmp_path / "run-0001.states").unlink()
    assert "starts without its state" in train(2, "--optimizer", "sgd", "--load-epoch", 1)
    train(3, "--optimizer", "nag", "--load-epoch", 2)  # whose state means the same


def test_a_flag_that_a_checkpoint_has_decided_is_named(script, flags):
    script("fine-tune.py", *flags, "--num-epochs", 1)
    said = script("fine-tune.py", *flags, "--num-epochs", 2, "--resume").stderr
    assert "does nothing" not in said
    said = script("fine-tune.py", *flags, "--num-epochs", 3, "--resume", "--dropout", 0.5).stderr
    assert "--dropout 0.5: does nothing to a run that goes on, which began with 0.0" in said
    said = script("fine-tune.py", *flags, "--num-epochs", 3, "--resume").stderr
    assert "does nothing" not in said


def test_records_of_another_list_than_so_far_are_reported(script, flags, sample, tmp_path):
    entries = (sample / "val.lst").read_text().splitlines(keepends=True)
    said = []
    for epochs, lines in ((1, entries), (2, entries), (3, entries[1:])):
        (tmp_path / "val.lst").write_text("".join(lines))
        script("im2rec.py", tmp_path / "val", sample)
        flags += ["--data-val", tmp_path / "val.rec", "--num-epochs", epochs]
        said.append(script("fine-tune.py", *flags, "--resume").stderr)
    warning = "run-config.json: validation was on records of another list so far: it may score"
    assert [warning in each for each in said] == [False, False, True]


def test_a_wrong_folder_of_tensorboard_leaves_the_log_of_an_earlier_run(script, flags, tmp_path):
    script("fine-tune.py", *flags, "--num-epochs", 1)
    log = (tmp_path / "run-log.csv").read_bytes()
    (tmp_path / "events").write_text("")
    said = script("fine-tune.py", *flags, "--tensorboard", tmp_path / "events", status=2).stderr
    assert "events" in said.splitlines()[-1]
    assert (tmp_path / "run-log.csv").read_bytes() == log


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
