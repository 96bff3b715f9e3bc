"""Both engines on the same files: what one has trained, the other resumes and predicts with."""

import csv
import importlib.util

import numpy as np
import pytest

from common import engines

pytestmark = pytest.mark.skipif(
    len(engines.installed()) < 2, reason="takes MXNet and PyTorch in one environment"
)

TRAIN = [
    *("--gpus", "cpu", "--image-shape", "3,64,64", "--batch-size", "16", "--mom", "0.9"),
    *("--lr-step-epochs", "2", "--ema", "0.9", "--data-nthreads", "2"),
]

LOSSES = ("loss", "val_loss")  # columns of the log


@pytest.fixture
def train(script, sample, tiny_network, tmp_path):
    """Train the sample up to an epoch with an engine: `train("torch", 2)`."""

    def run(engine, num_epochs, *flags):
        return script(
            "fine-tune.py",
            *("--data-dir", sample, "--pretrained-model", tiny_network, *TRAIN, *flags),
            *("--model-prefix", tmp_path / "net", "--engine", engine, "--num-epochs", num_epochs),
        )

    return run


@pytest.mark.parametrize(("first", "second"), [("mxnet", "torch"), ("torch", "mxnet")])
def test_one_engine_resumes_and_submits_what_the_other_has_trained(
    train, script, sample, tmp_path, first, second
):
    train(first, 2)
    resumed = train(second, 3, "--resume")
    assert "resuming from" in resumed.stderr
    rows = {}
    for engine in (first, second):
        out = tmp_path / f"{engine}.csv"
        script(
            *("sub.py", 3, "cpu", "--data-dir", sample, "--model-prefix", tmp_path / "net"),
            *("--engine", engine, "--output", out, "--save-probs", tmp_path / f"{engine}.npz"),
        )
        rows[engine] = np.load(tmp_path / f"{engine}.npz")["probabilities"].astype(float)
    # What --save-probs writes has three digits.
    np.testing.assert_allclose(rows["mxnet"], rows["torch"], atol=1e-3)


def test_three_epochs_on_the_sample_end_with_the_same_loss(train, tmp_path):
    train("mxnet", 1)  # each engine would draw another head
    begun = {path.name: path.read_bytes() for path in tmp_path.glob("net*")}
    losses = {}
    for engine in ("mxnet", "torch"):
        for name, content in begun.items():
            (tmp_path / name).write_bytes(content)
        train(engine, 4, "--resume")
        with open(tmp_path / "net-log.csv") as stream:
            rows = [*csv.DictReader(stream)][-3:]
        losses[engine] = [[float(row[column]) for column in LOSSES] for row in rows]
    np.testing.assert_allclose(losses["torch"], losses["mxnet"], rtol=1e-3)


def test_an_engine_that_lacks_something_says_so_in_one_line(script, sample, tmp_path):
    lacking = {
        ("fine-tune.py", "--kv-store", "dist_async"): "--engine torch has none; take dist_sync",
    }
    for (name, *flags), message in lacking.items():
        done = script(name, *flags, "--data-dir", sample, "--engine", "torch", status=2)
        assert message in done.stderr.splitlines()[-1]


def test_auto_takes_what_is_installed():
    assert engines.installed() == ["mxnet", "torch"]
    assert engines.load("auto").NAME == "MXNet"
    assert importlib.util.find_spec("torch")
