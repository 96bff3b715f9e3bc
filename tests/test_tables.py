"""The tables of the pages are those that benchmarks/tables.py makes of the kept results."""

import os
import sys

import pytest

from benchmarks import compare, plan, tables
from benchmarks.compare import read_result, take_turns
from benchmarks.sides import Side
from common.base.files import ROOT, UserError

MACHINE = {
    "processor": "Z80",
    "cores": 2,
    "instructions": ["avx512_bf16"],
    "system": "CP/M",
    "versions": {"Python": "3.11.7"},
    "date": "2026-11-24",
}


@pytest.mark.parametrize("page", tables.PAGES)
def test_nobody_edited_a_table_by_hand(page):
    results = {name: read_result(name) for name in tables.COMMANDS}
    with open(os.path.join(ROOT, page), encoding="utf-8") as stream:
        text = stream.read()
    assert text == tables.fill(text, results)


def test_rows_that_are_not_measured_anew_stay_with_their_versions(monkeypatch, tmp_path):
    monkeypatch.setattr(compare, "RESULTS", str(tmp_path))
    assert compare.read_comparisons("engines") == ({}, {})
    row = {"what": "training", "ours": [1], "against": {}}
    compare.write_result("engines", {"comparisons": [row]}, versions={"PyTorch": "2.13"})
    rows, versions = compare.read_comparisons("engines")
    assert rows == {"training": row}
    for version in ("2.13", "2.14"):
        compare.add_versions(versions, {"PyTorch": version})
    assert versions["PyTorch"] == "2.13 and 2.14"
    monkeypatch.setattr(compare, "processor_name", lambda: "Z80")
    with pytest.raises(UserError, match="another processor"):
        compare.read_comparisons("engines")


def test_a_ratio_is_told_with_its_spread_its_command_and_its_machine():
    comparison = {"what": "packing", "ours": [30, 20, 10], "against": {"peer": [10, 10, 10]}}
    results = {"packing": {"comparisons": [comparison], "machine": MACHINE}}
    table = tables.make_table("packing", results)
    assert "| packing | peer | **2.00** (1.00 to 3.00) | 20.0 | 10.0 |" in table
    assert table.endswith(
        "`python -m benchmarks.packing`: Z80, 2 cores, BF16; CP/M, Python 3.11.7; 2026-11-24."
    )


def test_the_highlights_hold_one_comparison_of_each_result_with_all_its_peers():
    first, last = (
        {"what": what, "ours": [30, 20, 10], "against": {"peer": [10, 10, 10], "loop": [40, 40, 5]}}
        for what in ("first", "last")
    )
    result = {"comparisons": [first, last], "machine": MACHINE}
    table = tables.make_table("highlights", dict.fromkeys(tables.HIGHLIGHTS, result))
    row = "| {} | 20.0 | peer: 2.00; loop: 0.75 |"
    assert table.count(row.format("last")) == 1  # packing
    assert table.count(row.format("first")) == 2  # feeding, and training on a GPU


def test_what_was_not_measured_names_its_command():
    page = tables.fill("<!-- table: scaling -->\nold\n<!-- end -->", {"scaling": {}})
    assert "Not measured yet: `python -m benchmarks.scaling`." in page
    assert "old" not in page


def test_a_marker_of_no_table_is_refused():
    with pytest.raises(UserError, match="<!-- table: speed -->: must be of packing, "):
        tables.fill("<!-- table: speed -->\n<!-- end -->", {})


def test_accuracies_are_told_with_mean_and_deviation_over_the_seeds():
    seeds = {
        str(seed): {"training_seconds": 40, "test": {"right": right, "of": 25}, "val": val}
        for seed, right, val in ((0, 20, {"right": 7, "of": 21}), (1, 15, {"right": 7, "of": 21}))
    }
    results = {"learning": {"runs": {"ten-crops": seeds}, "machine": MACHINE}}
    row = "| 2 | 70.0 ± 14.1 | 33.3 ± 0.0 | 40 |"
    assert row in tables.make_table("learning", results)


def test_the_gain_of_the_momentum_is_that_between_the_two_runs_of_a_seed():
    seeds = {
        str(seed): {
            "1": {"val_top1": top1, "val_loss": 1.0},
            "0": {"val_top1": 0.5, "val_loss": 1.25},
        }
        for seed, top1 in ((0, 0.6), (1, 0.5))
    }
    table = tables.make_table("momentum", {"momentum": {"runs": seeds, "machine": MACHINE}})
    assert "`--momentum-correction 1`) | 2 | 55.0 ± 7.1 | 1.000 ± 0.000 |" in table
    assert "| gained, seed by seed |  | +5.0 ± 7.1 | -0.250 ± 0.000 |" in table
    assert "in each seed, in points: +10.0, +0.0." in table


@pytest.mark.parametrize(
    ("machines", "cores", "network", "slowest", "rate"),
    [
        (1, 8, 10, "GPUs", 400),  # 4 GPUs of 100 images/s
        (1, 2, 10, "reading", 200),  # two cores of 100 images/s
        # 48 images in 0.12 s, then 2 * 3/4 * 274 MB in 0.329 s, on four machines
        (4, 8, 10, "network", 4 * 48 / (0.12 + 0.3291)),
    ],
)
def test_the_plan_names_what_bounds_it(machines, cores, network, slowest, rate):
    engine = plan.ENGINES["mxnet"]
    planned = plan.make_plan(engine, machines, 4, 100, cores, network, packs=50, feeds=100)
    assert planned.slowest == slowest
    assert planned.rate == pytest.approx(rate, rel=1e-3)
    assert planned.packing == pytest.approx(675_170 / (50 * cores))


def test_the_plan_hides_the_exchange_behind_the_backward_pass():
    # 64 images a GPU in 0.64 s, of which 0.427 s are the backward pass; the exchange takes 0.329 s
    cluster = {"machines": 4, "gpus": 4, "gpu_rate": 100, "cores": 8, "packs": 50, "feeds": 100}
    planned = plan.make_plan(plan.ENGINES["torch"], network=10, **cluster)
    assert planned.slowest == "GPUs" and planned.rate == pytest.approx(1600)
    slower = plan.make_plan(plan.ENGINES["torch"], network=1, **cluster)
    assert slower.slowest == "network"
    assert slower.rate == pytest.approx(4 * 256 / (0.64 + 3.291 - 0.64 * 2 / 3), rel=1e-3)


def test_every_chart_is_drawn(tmp_path):
    ratio = {"what": "work", "ours": [2, 3], "against": {"peer": [1, 1]}}
    run = {"training_seconds": 1, "test": {"right": 1, "of": 2}, "val": {"right": 1, "of": 2}}
    speeds = {"1": [5, 6], "2": [9, 11]}
    results = {name: {"comparisons": [ratio]} for name in tables.COMMANDS}
    results["scaling"] = {"packing": speeds, "feeding": speeds}
    results["learning"] = {"runs": {"plain": {"0": run, "1": run}}}
    tables.draw_charts(results, str(tmp_path))
    drawn = {name for name, (_, draw, _) in tables.TABLES.items() if draw}
    assert {path.stem for path in tmp_path.glob("*.png")} == drawn


def test_a_side_that_is_a_process_takes_turns_and_names_its_last_words():
    code = """
from benchmarks.sides import serve
turns = iter([3, 3])
serve(lambda: (next(turns), [0.5]), {"numbers": "1"})
"""
    side = Side("ours", [sys.executable, "-c", code])
    assert len(take_turns({"ours": side}, rounds=1)["ours"]) == 1
    assert (side.losses, side.versions) == ([0.5, 0.5], {"numbers": "1"})
    with pytest.raises(UserError, match="ours: StopIteration"):
        side()
