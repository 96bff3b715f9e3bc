"""Packing that is interrupted: killed, stopped, out of disk; and what --resume makes of it."""

import os
import random
import resource
import shutil
import signal
import subprocess
import sys
import time
from itertools import count

import cv2
import numpy as np
import pytest

from common.base.files import UserError
from common.data.encoding import Settings
from common.data.packing import WINDOW, ordered_map, pack_list
from common.data.packing_run import PackingRun
from common.data.recordio import RecordFile
from tests.faults.interruption import before_change

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
NUM_IMAGES = 300
FLAGS = ["--resize", "300", "--num-thread", "2"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A list of 300 images below a folder, five of them bad; returns the folder."""
    folder = tmp_path_factory.mktemp("photographs")
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    for number in range(20):
        image = cv2.resize(np.roll(pixels, number, axis=1), (640, 480))
        cv2.imwrite(str(folder / f"{number}.jpg"), image)
    names = [f"{n % 20}.jpg" if n % 60 != 30 else f"missing {n}.jpg" for n in range(NUM_IMAGES)]
    lines = [f"{1000 - n}\t{n % 3}\t{name}\n" for n, name in enumerate(names)]
    (folder / "train.lst").write_text("".join(lines))
    return folder


@pytest.fixture
def prefix(photographs, tmp_path):
    """The prefix of a fresh copy of the list."""
    shutil.copy(photographs / "train.lst", tmp_path)
    return tmp_path / "train"


@pytest.fixture(scope="module")
def whole(script, photographs):
    """The bytes of the .rec, the .idx and the failed.txt that an uninterrupted run makes."""
    script("im2rec.py", *FLAGS, photographs / "train", photographs, status=1)
    return contents(photographs / "train")


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


def contents(prefix):
    return [
        prefix.with_suffix(suffix).read_bytes() for suffix in (".rec", ".idx", ".rec.failed.txt")
    ]


def start(prefix, photographs, *flags, **options):
    """Start packing; return the process."""
    command = [sys.executable, os.path.join(ROOT, "im2rec.py"), *FLAGS, *flags]
    return subprocess.Popen(
        [*command, prefix, photographs], stderr=subprocess.PIPE, encoding="utf-8", **options
    )


def stop_within(prefix, process, num_bytes, number=signal.SIGKILL):
    """Send a signal once the partial file has that many bytes; return what was said."""
    partial = prefix.with_suffix(".rec.partial")
    while process.poll() is None and (not partial.exists() or partial.stat().st_size < num_bytes):
        time.sleep(0.002)
    process.send_signal(number)
    return process.communicate()[1]


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


@pytest.fixture
def stopped(prefix, photographs, whole):
    """The prefix of a run that was killed half-way."""
    stop_within(prefix, start(prefix, photographs), len(whole[0]) // 2)
    return prefix


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
    assert "was complete already" in done.stdout
    assert os.stat(f"{prefix}.rec").st_mtime_ns == before


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


def test_a_run_over_finished_files_that_is_stopped_leaves_them_whole(prefix, photographs, whole):
    start(prefix, photographs).communicate()
    stop_within(prefix, start(prefix, photographs, "--quality", "50"), 100_000)
    assert contents(prefix)[:2] == whole[:2]


@pytest.fixture
def one_photograph(tmp_path, photographs):
    """A folder with the list of one photograph, whose packing has begun, and a precious file."""
    shutil.copy(photographs / "0.jpg", tmp_path)
    (tmp_path / "train.lst").write_text("0\t0\t0.jpg\n")
    (tmp_path / "precious").write_bytes(b"precious")
    PackingRun(str(tmp_path / "train.lst"), str(tmp_path), Settings()).begin()
    return tmp_path


def test_resume_goes_on_with_the_journal_of_an_earlier_version(script, stopped, photographs, whole):
    """Earlier versions had one journal, of the run in progress or of what was finished."""
    os.rename(f"{stopped}.rec.journal.partial", f"{stopped}.rec.journal")
    done = script("im2rec.py", *FLAGS, "--resume", stopped, photographs, status=1)
    assert int(done.stderr.split("packing train.lst: ")[1].split("/")[0]) < NUM_IMAGES * 0.6
    assert contents(stopped) == whole


@pytest.mark.parametrize(
    "name",
    [
        *("train.rec.partial", "train.idx.partial"),
        *("train.rec.journal", "train.rec.journal.partial"),
    ],
)
def test_a_link_in_the_place_of_an_earlier_part_is_removed(one_photograph, name):
    (one_photograph / name).unlink(missing_ok=True)
    (one_photograph / name).symlink_to("precious")
    pack_list(str(one_photograph / "train.lst"), str(one_photograph))
    assert RecordFile(str(one_photograph / "train.rec")).keys.tolist() == [0]
    assert (one_photograph / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["train.rec.partial", "train.idx.partial"])
def test_a_link_is_not_taken_for_the_part_to_go_on_with(one_photograph, name):
    os.remove(one_photograph / name)
    (one_photograph / name).symlink_to("precious")
    with pytest.raises(UserError, match=f"{name}: is a link"):
        pack_list(str(one_photograph / "train.lst"), str(one_photograph), resume=True)
    assert (one_photograph / "precious").read_bytes() == b"precious"


def test_a_link_that_is_planted_while_records_are_packed_is_not_followed(one_photograph):
    run = PackingRun(str(one_photograph / "train.lst"), str(one_photograph), Settings())
    os.remove(one_photograph / "train.rec.journal.partial")
    (one_photograph / "train.rec.journal.partial").symlink_to("precious")
    with pytest.raises(UserError, match=r"journal\.partial: is a link"), run.writing():
        pass
    assert (one_photograph / "precious").read_bytes() == b"precious"


def test_records_that_are_a_link_are_not_changed_behind_it(one_photograph, photographs):
    """A user may have put the records on another disk; the link to them is replaced."""
    with open(one_photograph / "train.lst", "a") as stream:
        stream.write("1\t0\t1.jpg\n")
    assert len(pack_list(str(one_photograph / "train.lst"), str(one_photograph)).failures) == 1
    os.rename(one_photograph / "train.rec", one_photograph / "elsewhere.rec")
    (one_photograph / "train.rec").symlink_to("elsewhere.rec")
    before = (one_photograph / "elsewhere.rec").read_bytes()
    shutil.copy(photographs / "1.jpg", one_photograph)
    pack_list(str(one_photograph / "train.lst"), str(one_photograph), resume=True)
    assert RecordFile(str(one_photograph / "train.rec")).keys.tolist() == [0, 1]
    assert (one_photograph / "elsewhere.rec").read_bytes() == before


def run_gen_rec(*arguments, cwd=ROOT, env=None):
    command = ["sh", os.path.join(ROOT, "gen_rec.sh"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=cwd, env=env)


def test_gen_rec_packs_val_and_train_though_some_of_val_fail(prefix, photographs):
    folder = prefix.parent
    for number in range(20):
        shutil.copy(photographs / f"{number}.jpg", folder)
    (folder / "val.lst").write_text("0\t0\t0.jpg\n1\t0\tmissing.jpg\n")
    (folder / "train.lst").write_text("0\t0\t1.jpg\n1\t0\t2.jpg\n")
    done = run_gen_rec(".", cwd=folder)
    assert done.returncode == 1
    assert "val.rec: 1 packed, 1 failed" in done.stdout
    assert "train.rec: 2 packed, 0 failed" in done.stdout
    image = RecordFile(str(folder / "train.rec")).read(0).image
    assert cv2.imdecode(np.frombuffer(image, np.uint8), 1).shape == (512, 682, 3)
    (folder / "val.lst").write_text("0\t0\t0.jpg\n")
    assert run_gen_rec(folder).returncode == 0


def test_gen_rec_takes_one_folder(tmp_path):
    done = run_gen_rec(tmp_path, "--resize", "64")
    assert done.returncode == 2
    assert done.stderr.startswith("gen_rec.sh: --resize: it takes one folder; edit the settings")


def test_gen_rec_names_the_step_that_makes_a_missing_list(tmp_path):
    done = run_gen_rec(tmp_path)
    assert done.returncode == 2
    assert (
        done.stderr
        == f"im2rec.py: {tmp_path}/val.lst: not found; make it with: python mx_list.py\n"
    )


@pytest.mark.parametrize(("cores", "threads"), [(3, 3), (64, 20)])
def test_gen_rec_takes_no_more_threads_than_there_are_cores(tmp_path, cores, threads):
    programs = {"bin/getconf": f"echo {cores}", "venv/bin/python": 'echo "$@"'}
    for name, line in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "VENV": str(tmp_path / "venv"),
    }
    done = run_gen_rec(tmp_path, env={**os.environ, **environment})
    first, second = done.stdout.splitlines()
    assert f"--num-thread {threads} " in first and first.endswith(f"{tmp_path}/val {tmp_path}")
    assert f"--num-thread {threads} " in second and second.endswith(f"{tmp_path}/train {tmp_path}")


@pytest.mark.parametrize("script", ["gen_rec.sh", "run.sh"])
def test_an_environment_that_is_named_and_not_there_is_one_line(script, tmp_path):
    environment = {**os.environ, "VENV": str(tmp_path / "venv")}
    done = subprocess.run(["sh", script], env=environment, cwd=ROOT, capture_output=True, text=True)
    python = tmp_path / "venv" / "bin" / "python"
    fix = f"make the environment: VENV={tmp_path / 'venv'} sh setup.sh"
    assert (done.returncode, done.stderr) == (2, f"{python}: not found: {fix}\n")


@pytest.mark.parametrize("script", ["gen_rec.sh", "run.sh", "cluster.sh"])
def test_settings_of_the_shell_and_of_python_lead_nowhere_else(script, tmp_path):
    """With CDPATH, cd may print where it goes; with PYTHONSAFEPATH, common/ is not found."""
    here, name = os.path.split(ROOT)
    environment = {**os.environ, "CDPATH": f"{here}:{tmp_path}", "PYTHONSAFEPATH": "1"}
    command = ["sh", os.path.join(name, script), "--help"]
    if script == "gen_rec.sh":
        command[-1] = str(tmp_path)
    done = subprocess.run(command, env=environment, cwd=here, capture_output=True, text=True)
    if script == "gen_rec.sh":
        assert f"{tmp_path}/val.lst: not found" in done.stderr
    else:
        assert done.returncode == 0 and "usage: " in done.stdout
