"""Packing that is interrupted: killed, stopped, out of disk; and what --resume makes of it."""

import os
import random
import resource
import signal
import time

import pytest

from common.data.packing import WINDOW, ordered_map
from tests.packing.conftest import FLAGS, NUM_IMAGES, contents, start, stop_within


def test_results_come_in_order_and_few_wait_behind_a_slow_one():
    taken = []

    def items():
        for number in range(200):
            taken.append(number)
            yield number

    def work(number):
        time.sleep(0.05 if number == 0 else 0)
        return number

    for expected, result in enumerate(ordered_map(work, items(), 2)):
        assert result == expected
        assert len(taken) - expected <= 2 * WINDOW
    assert expected == 199


def check_that_targets_are_absent_or_whole(prefix, whole):
    for path, content in zip((prefix.with_suffix(".rec"), prefix.with_suffix(".idx")), whole):
        assert not path.exists() or path.read_bytes() == content


def test_a_killed_run_leaves_no_half_file_and_goes_on(script, prefix, photographs, whole):
    stop_within(prefix, start(prefix, photographs), len(whole[0]) // 2)
    assert not prefix.with_suffix(".rec").exists()
    assert not prefix.with_suffix(".idx").exists()
    kept = prefix.with_suffix(".rec.partial").stat().st_size
    assert len(whole[0]) // 2 <= kept < len(whole[0])
    done = script("im2rec.py", *FLAGS, "--resume", prefix, photographs, status=1)
    assert int(done.stderr.split("packing train.lst: ")[1].split("/")[0]) < NUM_IMAGES * 0.6
    assert contents(prefix) == whole
    assert not list(prefix.parent.glob("*.partial"))


@pytest.mark.slow
def test_killed_again_and_again_it_still_finishes_to_the_same_bytes(prefix, photographs, whole):
    draw = random.Random(0)
    for _ in range(20):
        prefix.with_suffix(".rec").unlink(missing_ok=True)  # where it came to the end
        process = start(prefix, photographs, "--resume")
        time.sleep(0.25 + draw.random() * 0.4)
        process.kill()
        process.communicate()
        check_that_targets_are_absent_or_whole(prefix, whole)
    process = start(prefix, photographs, "--resume")
    process.communicate()
    assert contents(prefix) == whole


def test_a_run_killed_between_the_two_renames_goes_on(script, prefix, photographs, whole):
    start(prefix, photographs).communicate()
    prefix.with_suffix(".rec").rename(f"{prefix}.rec.partial")
    error = script("im2rec.py", *FLAGS, "--resume", prefix, photographs, status=1).stderr
    assert "packing train.lst:" not in error  # no image was left to pack
    assert contents(prefix) == whole


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_stopped_run_says_how_to_go_on(script, prefix, photographs, whole, number, status):
    process = start(prefix, photographs)
    error = stop_within(prefix, process, len(whole[0]) // 4, number)
    assert process.returncode == status
    assert "train.rec: not done; the same command with --resume goes on" in error
    assert "Traceback" not in error
    script("im2rec.py", *FLAGS, "--resume", prefix, photographs, status=1)
    assert contents(prefix) == whole


def test_a_full_disk_is_one_line_and_the_run_goes_on(script, prefix, photographs, whole):
    def small_disk():
        resource.setrlimit(resource.RLIMIT_FSIZE, (len(whole[0]) // 3,) * 2)

    error = start(prefix, photographs, preexec_fn=small_disk).communicate()[1]
    assert "train.rec: the file size limit" in error.splitlines()[-1]
    assert "Traceback" not in error
    script("im2rec.py", *FLAGS, "--resume", prefix, photographs, status=1)
    assert contents(prefix) == whole


def cut(path):
    os.truncate(path, path.stat().st_size - 777)


def zero_the_end(path):
    size = path.stat().st_size
    os.truncate(path, size - 50_000)
    os.truncate(path, size)


@pytest.mark.parametrize("suffix", [".rec.partial", ".idx.partial"])
@pytest.mark.parametrize("damage", [cut, zero_the_end, os.remove])
def test_what_a_lost_power_spoilt_is_packed_again(
    script, stopped, photographs, whole, suffix, damage
):
    path = stopped.with_suffix(suffix)
    if damage is zero_the_end and suffix == ".idx.partial":
        path.write_bytes(path.read_bytes()[:-500] + bytes(500))
    elif damage is cut and suffix == ".idx.partial":
        os.truncate(path, path.stat().st_size - 77)
    else:
        damage(path)
    script("im2rec.py", *FLAGS, "--resume", stopped, photographs, status=1)
    assert contents(stopped) == whole


@pytest.mark.parametrize(
    "line",
    [
        *('"x"', '"settings"', "5", "null", "[]", '["finished"]', '{"settings": 5}', "[" * 100_000),
        *('{"finished": 5}', '{"index": 970, "path": 5, "reason": "x"}', '{"index": 970}'),
        '{"index": "970", "path": "missing 30.jpg", "reason": "x"}',
        '{"index": 970, "path": "\\ud800", "reason": "x"}',
    ],
)
def test_what_a_damaged_journal_does_not_confirm_is_packed_again(
    script, stopped, photographs, whole, line
):
    journal = stopped.with_suffix(".rec.journal.partial")
    settings, *failures = journal.read_text().splitlines(keepends=True)
    journal.write_text("".join([settings, f"{line}\n", *failures]))
    script("im2rec.py", *FLAGS, "--resume", stopped, photographs, status=1)
    assert contents(stopped) == whole


@pytest.mark.parametrize("line", ["5", '[["bytes", SIZE]]', '{"packed": "x", "bytes": SIZE}'])
def test_a_result_that_its_journal_does_not_confirm_is_packed_again(
    script, prefix, photographs, whole, line
):
    script("im2rec.py", *FLAGS, prefix, photographs, status=1)
    *rest, _ = prefix.with_suffix(".rec.journal").read_text().splitlines(keepends=True)
    finished = line.replace("SIZE", str(len(whole[0])))
    journal = "".join([*rest, f'{{"finished": {finished}}}\n'])
    prefix.with_suffix(".rec.journal").write_text(journal)
    done = script("im2rec.py", *FLAGS, "--resume", prefix, photographs, status=1)
    assert f"295 packed, 5 failed, {len(whole[0])} bytes\n" in done.stdout
    assert contents(prefix) == whole


def test_a_journal_without_settings_is_one_line(script, stopped, photographs):
    stopped.with_suffix(".rec.journal.partial").write_text('{"settings": 5}\n')
    error = script("im2rec.py", *FLAGS, "--resume", stopped, photographs, status=2).stderr
    assert "train.rec.partial: was begun with another resize (None, not 300); remove it" in error


def test_other_flags_are_not_mixed_into_a_partial_file(script, stopped, photographs, whole):
    flags = ["--resize", "200", "--num-thread", "2", "--resume"]
    error = script("im2rec.py", *flags, stopped, photographs, status=2).stderr
    assert "train.rec.partial: was begun with another resize (300, not 200)" in error
    script("im2rec.py", *FLAGS, stopped, photographs, status=1)  # without --resume: anew
    assert contents(stopped) == whole


def test_another_list_is_not_mixed_into_a_partial_file(script, stopped, photographs):
    with open(f"{stopped}.lst", "a") as stream:
        stream.write("5000\t0\t0.jpg\n")
    error = script("im2rec.py", *FLAGS, "--resume", stopped, photographs, status=2).stderr
    assert "train.rec.partial: was begun with another list" in error


def test_the_number_of_threads_may_change(script, stopped, photographs, whole):
    flags = ["--resize", "300", "--num-thread", "5", "--resume"]
    script("im2rec.py", *flags, stopped, photographs, status=1)
    assert contents(stopped) == whole


def test_what_is_whole_is_left_alone_by_resume(script, prefix, photographs):
    script("im2rec.py", *FLAGS, prefix, photographs, status=1)
    before = os.stat(f"{prefix}.rec").st_mtime_ns
    done = script("im2rec.py", *FLAGS, "--resume", prefix, photographs, status=1)
    assert "295 packed, 5 failed" in done.stdout
    assert "was complete already; to pack it anew, remove it first" in done.stdout
    assert os.stat(f"{prefix}.rec").st_mtime_ns == before
    os.remove(f"{prefix}.rec")
    done = script("im2rec.py", *FLAGS, "--resume", prefix, photographs, status=1)
    assert "295 packed, 5 failed" in done.stdout and "already" not in done.stdout


def test_resume_says_why_it_packs_what_is_whole_anew(script, prefix, photographs):
    script("im2rec.py", *FLAGS, prefix, photographs, status=1)
    before = os.stat(f"{prefix}.rec").st_mtime_ns
    flags = ["--resize", "100", "--num-thread", "2", "--resume"]
    error = script("im2rec.py", *flags, prefix, photographs, status=1).stderr
    why = f"{prefix}.rec: was packed with another resize (300, not 100): packing anew"
    assert error.splitlines()[0] == why
    assert os.stat(f"{prefix}.rec").st_mtime_ns > before
    os.symlink(photographs, prefix.parent / "linked")
    error = script("im2rec.py", *flags, prefix, prefix.parent / "linked", status=1).stderr
    assert f"another root ({photographs}, not {prefix.parent}/linked): packing anew" in error


@pytest.mark.parametrize("flags", [[], ["--resume"]])
def test_a_wrong_root_leaves_what_is_finished_as_it_was(script, prefix, photographs, flags):
    script("im2rec.py", *FLAGS, prefix, photographs, status=1)
    before = {path.name: path.read_bytes() for path in prefix.parent.iterdir()}
    (prefix.parent / "wrong").mkdir()
    error = script("im2rec.py", *FLAGS, *flags, prefix, prefix.parent / "wrong", status=2).stderr
    assert "none of the first 100 images" in error
    (prefix.parent / "wrong").rmdir()
    assert {path.name: path.read_bytes() for path in prefix.parent.iterdir()} == before
    done = script("im2rec.py", *FLAGS, "--resume", prefix, photographs, status=1)
    assert "was complete already" in done.stdout


def test_a_run_over_finished_files_that_is_stopped_leaves_them_whole(prefix, photographs, whole):
    start(prefix, photographs).communicate()
    stop_within(prefix, start(prefix, photographs, "--quality", "50"), 100_000)
    assert contents(prefix)[:2] == whole[:2]


def test_resume_goes_on_with_the_journal_of_an_earlier_version(script, stopped, photographs, whole):
    """Earlier versions had one journal, of the run in progress or of what was finished."""
    os.rename(f"{stopped}.rec.journal.partial", f"{stopped}.rec.journal")
    done = script("im2rec.py", *FLAGS, "--resume", stopped, photographs, status=1)
    assert int(done.stderr.split("packing train.lst: ")[1].split("/")[0]) < NUM_IMAGES * 0.6
    assert contents(stopped) == whole
