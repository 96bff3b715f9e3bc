"""A short training on the sample."""

import sys

import pytest

from common.networks import checkpoint

THIS_VENV = {"VENV": sys.prefix}  # for the shell scripts


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
