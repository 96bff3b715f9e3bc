"""TensorBoard's event files: what TensorBoard reads in them, and whose files they are."""

import os

import pytest

from common.training.event_files import crc32c, forget_after, tag_of, write_epoch

ROWS = {
    0: {"epoch": 0, "val_loss": "1.900000", "val_top1": "0.100000"},
    1: {"epoch": "1", "lr": "0.01", "loss": "1.500000", "val_loss": "", "seconds": "3.25"},
    300: {"epoch": 300, "lr": "1e-05", "loss": "0.25", "val_top5": "nan", "val_top1": "0.9"},
}
EXPECTED = {
    "loss/train": [(1, 1.5), (300, 0.25)],
    "loss/val": [(0, 1.9)],
    "lr": [(1, 0.01), (300, 1e-5)],
    "seconds": [(1, 3.25)],
    "top1/val": [(0, 0.1), (300, 0.9)],
}


@pytest.fixture
def folder(tmp_path):
    for epoch, row in ROWS.items():
        write_epoch(str(tmp_path), "run", epoch, row)
    return tmp_path


def test_tensorboard_reads_the_curves(folder):
    pytest.importorskip("tensorboard")
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    curves = EventAccumulator(str(folder)).Reload()
    assert sorted(curves.Tags()["scalars"]) == sorted(EXPECTED)
    for tag, points in EXPECTED.items():
        got = [(event.step, event.value) for event in curves.Scalars(tag)]
        assert [step for step, _ in got] == [step for step, _ in points]
        assert [value for _, value in got] == pytest.approx([value for _, value in points])


def test_the_checksum_is_that_of_the_standard():
    assert crc32c(b"123456789") == 0xE3069283
    assert crc32c(bytes(32)) == 0x8A9136AA


def test_a_file_holds_the_values_of_its_epoch(folder):
    data = (folder / "events.out.tfevents.00000001.run").read_bytes()
    assert b"brain.Event:2" in data
    assert b"\n\nloss/train\x15\x00\x00\xc0\x3f" in data  # the tag, and 1.5 as a float
    assert b"loss/val" not in data


def test_columns_become_curves_in_groups():
    columns = ("loss", "val_loss", "top1", "val_top5", "lr", "images_per_second")
    tags = ["loss/train", "loss/val", "top1/train", "top5/val", "lr", "images_per_second"]
    assert list(map(tag_of, columns)) == tags


def test_epochs_that_are_trained_again_are_forgotten_and_other_runs_are_not(folder):
    write_epoch(str(folder), "other.run", 7, ROWS[1])
    (folder / "notes.txt").touch()
    forget_after(str(folder), "run", 0)
    kept = ["events.out.tfevents.00000000.run", "events.out.tfevents.00000007.other.run"]
    assert sorted(os.listdir(folder)) == [*kept, "notes.txt"]
