"""The comparison of the files of two revisions, by benchmarks/same_bytes.py."""

import pytest

from benchmarks.same_bytes import compare


@pytest.fixture
def folders(tmp_path):
    """The folders `before` and `after`, of equal runs."""
    for name, seconds in (("before", "2.5"), ("after", "3.5")):
        folder = tmp_path / name
        (folder / "resumed").mkdir(parents=True)
        (folder / "run-0001.params").write_bytes(b"weights")
        (folder / "resumed" / "run-0002.params").write_bytes(b"weights")
        (folder / "run-log.csv").write_text(f"epoch,train_loss,seconds\n1,0.5,{seconds}\n")
        (folder / "run-config.json").write_text(name)
    return tmp_path / "before", tmp_path / "after"


def test_times_and_paths_are_not_compared(folders):
    assert compare(*folders) == (3, [])


def test_files_that_differ_or_are_missing_are_named(folders):
    before, after = folders
    (after / "run-0001.params").write_bytes(b"weighty")
    (after / "run-log.csv").write_text("epoch,train_loss,seconds\n1,0.6,2.5\n")
    (after / "resumed" / "run-0002.params").unlink()
    (after / "new.csv").write_text("")
    same, different = compare(before, after)
    assert same == 0
    assert different == [
        "new.csv (only after)",
        "resumed/run-0002.params (only before)",
        "run-0001.params",
        "run-log.csv",
    ]
