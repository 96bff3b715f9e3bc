"""Photographs that had failed and are mended: --resume packs them into finished records."""

import os
import shutil
import signal
from itertools import count

import pytest

from common.data.encoding import Settings
from common.data.packing import pack_list
from common.data.packing_run import PackingRun
from common.data.recordio import RecordFile
from tests.faults.interruption import before_change
from tests.packing.conftest import FLAGS, contents


def test_resume_packs_an_image_that_was_mended(script, tmp_path, photographs):
    for number in range(6):
        shutil.copy(photographs / f"{number}.jpg", tmp_path)
    (tmp_path / "train.lst").write_text("".join(f"{n}\t0\t{n}.jpg\n" for n in range(8)))
    command = ["im2rec.py", *FLAGS, "--resume", tmp_path / "train", tmp_path]
    assert "6 packed, 2 failed" in script(*command, status=1).stdout
    shutil.copy(photographs / "6.jpg", tmp_path)
    done = script(*command, status=1)
    assert "7 packed, 1 failed" in done.stdout
    shutil.copy(photographs / "7.jpg", tmp_path)
    os.rename(tmp_path / "train.rec", tmp_path / "train.rec.partial")  # as if it had been killed
    assert "8 packed, 0 failed" in script(*command).stdout
    assert RecordFile(str(tmp_path / "train.rec")).keys.tolist() == list(range(8))


def records_of(prefix):
    return [prefix.with_suffix(suffix).read_bytes() for suffix in (".rec", ".idx")]


@pytest.fixture
def mended(script, tmp_path, photographs):
    """Twelve photographs, packed while the 2nd was empty; now only the 2nd is there, and whole.

    Returns the prefix, and the .rec and .idx of all twelve.
    """
    prefix = tmp_path / "train"
    prefix.with_suffix(".lst").write_text("".join(f"{n}\t0\t{n}.jpg\n" for n in range(12)))
    script("im2rec.py", *FLAGS, prefix, photographs)
    whole = records_of(prefix)
    for number in range(12):
        shutil.copy(photographs / f"{number}.jpg", tmp_path)
    (tmp_path / "1.jpg").write_bytes(b"")
    assert "11 packed, 1 failed" in script("im2rec.py", *FLAGS, prefix, tmp_path, status=1).stdout
    for number in range(12):
        (tmp_path / f"{number}.jpg").unlink()
    shutil.copy(photographs / "1.jpg", tmp_path)
    return prefix, whole


def pack_and_stop(prefix, num_records, resume):
    """Pack, and stop as Ctrl-C does where the next record would be one too many."""
    add_record = PackingRun.add_record

    def stop(run, key, frame):
        if run.num_records == num_records:
            raise KeyboardInterrupt
        add_record(run, key, frame)

    with pytest.MonkeyPatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(PackingRun, "add_record", stop)
        pack_list(f"{prefix}.lst", str(prefix.parent), Settings(resize=300), resume=resume)


@pytest.mark.parametrize("num_renamed", range(4))
def test_resume_takes_finished_records_over_without_their_photographs(script, mended, num_renamed):
    prefix, whole = mended
    for suffix in [".rec", ".idx", ".rec.journal"][:num_renamed]:  # as if killed at the end
        os.rename(f"{prefix}{suffix}", f"{prefix}{suffix}.partial")
    done = script("im2rec.py", *FLAGS, "--resume", prefix, prefix.parent)
    assert "12 packed, 0 failed" in done.stdout
    assert num_renamed or "12/12 images" in done.stderr
    assert records_of(prefix) == whole
    assert not prefix.with_suffix(".rec.failed.txt").exists()
    done = script("im2rec.py", *FLAGS, "--resume", prefix, prefix.parent)
    assert "was complete already" in done.stdout


@pytest.mark.parametrize("num_records", [0, 1, 2, 7])
def test_what_is_finished_stays_whole_where_packing_a_mended_image_is_stopped(
    script, mended, num_records
):
    prefix, whole = mended
    before = contents(prefix)
    pack_and_stop(prefix, num_records, resume=True)
    assert contents(prefix) == before
    script("im2rec.py", *FLAGS, "--resume", prefix, prefix.parent)
    assert records_of(prefix) == whole


@pytest.mark.slow
def test_packing_a_mended_image_is_killed_between_any_two_changes_of_files(scripts, mended):
    prefix, whole = mended
    before = records_of(prefix)
    command = ["im2rec.py", *FLAGS, "--resume", "train", prefix.parent]
    for number in count(1):
        folder = shutil.copytree(prefix.parent, prefix.parent / "copy")
        done = scripts(folder, *command, fault=before_change(number))
        if done.status != -signal.SIGKILL:
            break
        for name, *versions in zip(("train.rec", "train.idx"), before, whole):
            assert not (folder / name).exists() or (folder / name).read_bytes() in versions
        assert scripts(folder, *command).status == 0
        assert records_of(folder / "train") == whole
        shutil.rmtree(folder)
    assert number > 10


def test_a_run_without_resume_takes_nothing_over_when_it_goes_on(script, mended, photographs):
    prefix, _ = mended
    for number in range(12):  # other photographs
        shutil.copy(photographs / f"{19 - number}.jpg", prefix.parent / f"{number}.jpg")
    pack_and_stop(prefix, 3, resume=False)
    script("im2rec.py", *FLAGS, "--resume", prefix, prefix.parent)
    gone_on = records_of(prefix)
    script("im2rec.py", *FLAGS, prefix, prefix.parent)
    assert records_of(prefix) == gone_on


def test_a_finished_record_that_is_damaged_is_packed_again(script, mended, photographs):
    prefix, whole = mended
    with open(f"{prefix}.rec", "r+b") as stream:
        stream.seek(RecordFile(f"{prefix}.rec").offsets[3])
        stream.write(bytes(8))
    shutil.copy(photographs / "4.jpg", prefix.parent)
    script("im2rec.py", *FLAGS, "--resume", prefix, prefix.parent)
    assert records_of(prefix) == whole


def test_an_index_of_other_records_is_named_before_any_is_taken_over(script, mended):
    prefix, whole = mended
    before = prefix.with_suffix(".rec").read_bytes()
    prefix.with_suffix(".idx").write_text("0\t0\n")
    command = ["im2rec.py", *FLAGS, "--resume", prefix, prefix.parent]
    assert "train.idx: is not the index of" in script(*command, status=2).stderr
    assert prefix.with_suffix(".rec").read_bytes() == before
    script("im2rec.py", "--reindex", prefix)
    script(*command)
    assert records_of(prefix) == whole
