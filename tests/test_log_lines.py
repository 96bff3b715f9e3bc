"""What a run prints: MXNet's lines, the line of an epoch for people, or warnings alone."""

import argparse
import logging
import re

import pytest

from common.training import log_lines
from common.training.history import History

SCORES = {"loss": "1.5", "top1": "0.25", "top5": "0.75", "images_per_second": "212.34"}
VALIDATION = {"val_loss": "1.25", "val_top1": "0.5", "val_top5": "0.9"}


@pytest.fixture
def log(tmp_path, monkeypatch, caplog):
    """Log the rows `{epoch: columns}` of a run of 4 epochs, 100 seconds each; return the lines."""
    caplog.set_level(logging.INFO)

    def call(rows, epochs_done=0):
        args = argparse.Namespace(num_epochs=4)
        history = History(str(tmp_path / "log.csv"), [1, 5])
        clock = [0.0]
        monkeypatch.setattr(log_lines.time, "monotonic", lambda: clock[0])
        lines = log_lines.EpochLines(args, history, epochs_done)
        for epoch, columns in rows.items():
            history.update(epoch, columns)
            clock[0] += 100
            lines.log_first() if epoch == epochs_done else lines.log(epoch)
        return caplog.messages

    return call


def test_an_epoch_is_one_line_with_its_scores_the_best_the_speed_and_the_time_left(log):
    better = {**VALIDATION, "val_top5": "0.95"}
    assert log({0: VALIDATION, 1: {**SCORES, **better}, 2: {**SCORES, **VALIDATION}}) == [
        "Before training: validation loss 1.250, top-1 50.0%, top-5 90.0%",
        "Epoch 1 of 4: loss 1.500, validation loss 1.250, top-1 50.0%, top-5 95.0%;"
        " best top-5 95.0% (epoch 1); 212.3 images/s; 0:05:00 left",
        "Epoch 2 of 4: loss 1.500, validation loss 1.250, top-1 50.0%, top-5 90.0%;"
        " best top-5 95.0% (epoch 1); 212.3 images/s; 0:03:20 left",
    ]


def test_without_validation_the_scores_are_those_of_training(log):
    assert log({1: SCORES}) == [
        "Epoch 1 of 4: loss 1.500, top-1 25.0%, top-5 75.0% of training; 212.3 images/s;"
        " 0:05:00 left"
    ]


def test_a_resumed_run_takes_the_time_of_its_own_epochs(log):
    first, second = log({2: VALIDATION, 3: {**SCORES, **VALIDATION}}, epochs_done=2)
    assert first.startswith("After epoch 2: validation loss 1.250, ")
    assert second.endswith("; 0:01:40 left")


def test_a_validation_that_is_not_wanted_is_no_line(log):
    assert log({2: SCORES}, epochs_done=2) == []


def test_a_plain_log_has_no_time_and_names_only_other_machines(python):
    for rank, expected in ((0, "a line\n"), (1, "Node[1] a line\n")):
        code = f"""
        import logging
        from common.base.script import start_log
        start_log({rank}, is_plain=True)
        logging.info("a line")
        """
        assert python(code).stderr == expected


def test_mxnets_lines_are_as_they_were(python):
    code = """
    import argparse, logging
    from common.training import log_lines
    for log, quiet in ("mxnet", False), ("plain", False), ("mxnet", True):
        log_lines.start(argparse.Namespace(log=log, quiet=quiet), rank=2)
        log_lines.mxnet_lines.info("Epoch[0] Train-accuracy=%f of %s", 0.5, log)
        logging.warning("a warning")
        print("a result")
    """
    said = python(code)
    time = r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"
    lines = [
        rf"{time} Node\[2\] Epoch\[0\] Train-accuracy=0\.500000 of mxnet",
        rf"{time} Node\[2\] a warning",
        r"Node\[2\] a warning",
        rf"{time} Node\[2\] a warning",
    ]
    assert re.fullmatch("".join(f"{line}\n" for line in lines), said.stderr)
    assert said.stdout == "a result\n" * 2


def test_the_bar_calls_an_epoch_as_the_lines_do():
    titles = [log_lines.bar_title(argparse.Namespace(log=log, num_epochs=3), 0) for log in
              ("mxnet", "plain")]  # fmt: skip
    assert titles == ["Epoch 0", "Epoch 1 of 3"]
