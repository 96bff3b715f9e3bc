"""benchmarks/demo_accuracy.py: which runs are left to do, and what the table says of the others."""

import sys

import pytest

from benchmarks import compare, demo_accuracy
from common.base.files import UserError


def run(right):
    return {"right": right, "of": 25, "training_seconds": 60.0, "prediction_seconds": 9.0}


RECIPES = {
    "demo": {
        "train": "--ema 0.9",
        "predict": "",
        "epochs": "16",
        "runs": {
            "mxnet, AVX2, seed 0": run(17),
            "mxnet, AVX2, seed 1": run(20),
            "torch, default, seed 0": run(21),
        },
    }
}


def test_the_runs_that_are_left_take_turns():
    left = demo_accuracy.pending(RECIPES["demo"]["runs"], "01", ["mxnet", "torch"], ["AVX2"])
    assert left == [("0", "torch", "AVX2"), ("1", "torch", "AVX2")]


def test_the_table_has_the_mean_and_the_worst_of_every_engine_and_of_all():
    rows = demo_accuracy.table(RECIPES).splitlines()[2:]
    assert rows == [
        "| demo | mxnet, AVX2 | 2 | 18.5 (17 to 20) |",
        "| demo | torch, default | 1 | 21.0 (21 to 21) |",
        "| demo | all | 3 | 19.3 (17 to 21) |",
    ]


def test_runs_with_other_flags_are_not_mixed(monkeypatch, tmp_path):
    monkeypatch.setattr(compare, "QUICK_RESULTS", str(tmp_path))
    compare.write_result("demo_accuracy", {"recipes": RECIPES}, quick=True)
    monkeypatch.setattr(sys, "argv", ["demo_accuracy", "--quick", "--train", "--ema 0.99"])
    with pytest.raises(UserError, match="--recipe demo: has other flags in the results"):
        demo_accuracy.main()
