"""Runs that are killed or asked to stop: what is on the disk, and how they continue."""

import os
import shutil
import signal
import subprocess
import time
from itertools import count
from pathlib import Path

import pytest

from common.base.files import ROOT
from tests.faults.interruption import at_moment, before_change, launch
from tests.faults.steps import STEPS, TRAININGS

LIBRARIES = {"mxnet": "libmxnet.so", "torch": "libtorch_cpu.so"}
few_and_many = pytest.mark.parametrize("moments", [1, pytest.param(25, marks=pytest.mark.slow)])


def has_stopped(done, number):
    """Check the messages of a run that got a signal; return whether it came before the end."""
    if number == signal.SIGKILL or done.status == -number:  # while Python imports the script
        return done.status == -number
    assert "Traceback" not in done.stderr, done.stderr
    if done.status == 128 + number:
        name = "SIGTERM" if number == signal.SIGTERM else "Ctrl-C"
        assert done.stderr.splitlines()[-1].endswith(f": stopped by {name}")
    return done.status == 128 + number


@few_and_many
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_is_stopped_at_any_moment_goes_on_to_the_same_result(
    step, name, number, moments, seeded, tmp_path, cases
):
    cases(moments)
    while moments:
        start = seeded.choice(step.starts)
        folder = start.copy_to(tmp_path / "case")
        done = step.run(folder, fault=at_moment(number, seeded.uniform(0, start.seconds)))
        moments -= has_stopped(done, number)
        start.check_whole(folder)
        start.go_on(folder)


@few_and_many
@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_is_killed_while_it_writes_leaves_no_half_file(
    step, name, moments, seeded, tmp_path, cases
):
    cases(moments)
    while moments:
        start = seeded.choice(step.starts)
        folder = start.copy_to(tmp_path / "case")
        path = seeded.choice(step.temporaries)
        step.run(folder, fault=at_moment(signal.SIGKILL, seeded.uniform(0, 0.002), path))
        if (folder / path).exists():  # it was not renamed or removed before the signal
            start.check_whole(folder)
            start.go_on(folder)
            moments -= 1


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_a_step_that_is_killed_between_two_changes_of_files_goes_on(
    step, name, seeded, tmp_path, cases
):
    tried = 0
    for number in count(1, 4 if name in TRAININGS else 1):
        start = seeded.choice(step.starts)
        folder = start.copy_to(tmp_path / "case")
        done = step.run(folder, fault=before_change(number))
        if done.status != -signal.SIGKILL:
            break
        start.check_whole(folder)
        start.go_on(folder)
        tried += 1
    assert tried > 10
    cases(tried)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_new_training_over_an_earlier_one_goes_on_as_itself(step, name, tmp_path):
    _, earlier = step.starts
    folder = earlier.copy_to(tmp_path / "case")
    step.run(folder, fault=at_moment(signal.SIGKILL, 0, ".tmp-run-0002.params"))
    done = earlier.go_on(folder)
    assert "passed over: run-0003.params: of an earlier run" in done.stderr
    assert "resuming from run-0001.params" in done.stderr


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="needs Linux's /proc")
@few_and_many
def test_ctrl_c_while_an_engine_is_imported_is_one_line(moments, seeded, tmp_path, cases, engine):
    cases(moments)
    for _ in range(moments):
        process = launch(tmp_path, ["fine-tune.py", "--gpus", "cpu", "--engine", engine])
        maps = Path(f"/proc/{process.pid}/maps")
        while LIBRARIES[engine] not in maps.read_text():
            assert process.poll() is None
            time.sleep(0.01)
        time.sleep(seeded.uniform(0, 0.5))
        process.send_signal(signal.SIGINT)
        said = process.communicate()[1].strip()
        if process.returncode == 130:
            assert said == "fine-tune.py: stopped by Ctrl-C"
        else:  # it found that there are no records, perhaps just before the signal
            assert process.returncode in (2, -signal.SIGINT)
            assert "train.rec: not found" in said and len(said.splitlines()) == 1


def assert_no_process_is_left(group):
    with pytest.raises(ProcessLookupError):
        os.killpg(group, 0)


@pytest.mark.parametrize(("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_that_is_stopped_ends_within_a_batch_and_names_its_checkpoint(
    step, name, tmp_path, number, status
):
    folder = step.starts[0].copy_to(tmp_path / "case")
    flags = ["--num-epochs", "100", "--image-shape", "3,96,96"]
    process = launch(folder, [*step.command, *flags], start_new_session=True)
    for line in process.stderr:
        if "Epoch[1] Batch [2]" in line:  # of four
            break
    process.send_signal(number)
    said = [line for line in process.communicate(timeout=60)[1].splitlines() if line]
    assert process.returncode == status
    assert len([line for line in said if "Batch [" in line]) <= 1
    assert "the last checkpoint is run-0001.params: go on with --resume" in said[-2]
    assert_no_process_is_left(process.pid)


SIGNALS = pytest.mark.parametrize(
    ("number", "status"), [(signal.SIGTERM, 143), (signal.SIGINT, 130), (signal.SIGHUP, 129)]
)


@SIGNALS
def test_who_stops_demo_sh_stops_its_step_too(tmp_path, number, status):
    for name in ("demo.sh", "common/background.sh"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        shutil.copy(os.path.join(ROOT, name), tmp_path / name)
    (tmp_path / "setup.sh").write_text("echo begun\nexec sleep 60\n")
    command = ["sh", str(tmp_path / "demo.sh")]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        while process.stdout.readline() != b"begun\n":
            assert process.poll() is None
        process.send_signal(number)
        process.communicate(timeout=20)  # until nobody holds its output any more
    assert process.returncode == status


@SIGNALS
def test_who_stops_gen_rec_sh_stops_the_packing_too(sample, tmp_path, number, status):
    photograph = (sample / "train.lst").read_text().split("\t")[2].splitlines()[0]
    lines = [f"{number}\t0\t{photograph}\n" for number in range(20_000)]
    (tmp_path / "val.lst").write_text("".join(lines))
    os.symlink(sample / "train_val_images", tmp_path / "train_val_images")
    with open(tmp_path / "said", "w+") as said:
        command = ["sh", os.path.join(ROOT, "gen_rec.sh"), "."]
        process = subprocess.Popen(command, cwd=tmp_path, stderr=said, start_new_session=True)
        while not (tmp_path / "val.rec.partial").exists():
            assert process.poll() is None
            time.sleep(0.01)
        process.send_signal(number)  # to the shell alone, as `kill` does
        assert process.wait(timeout=60) == status
        said.seek(0)
        assert "val.rec: not done; the same command with --resume goes on" in said.read()
    assert_no_process_is_left(process.pid)
