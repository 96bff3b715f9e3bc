"""Disks that become full, and file size limits: the messages, what is kept, how a run continues."""

import re
import subprocess
from itertools import count

import pytest

from tests.faults.interruption import at_file_size, fill_disk, full_before_change
from tests.faults.steps import STEPS, TRAININGS


@pytest.fixture(scope="module")
def small_disk(tmp_path_factory):
    """A disk of 16 MB."""
    folder = tmp_path_factory.mktemp("disk")
    command = ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", folder]
    try:
        done = subprocess.run(command, stderr=subprocess.PIPE, encoding="utf-8")
    except FileNotFoundError:
        pytest.skip("there is no mount")
    if done.returncode:
        pytest.skip(f"a small disk cannot be mounted: {done.stderr.strip()}")
    yield folder
    subprocess.run(["umount", folder], check=True)


def check_complaint(step, start, folder, done, reason):
    """Check a run that could not write: one line, and no partial file."""
    assert done.status == 2, done
    assert "Traceback" not in done.stderr
    *others, last = done.stderr.splitlines()
    assert re.fullmatch(rf"{step.command[0]}: .*{reason}.*", last), last
    assert not [line for line in others if re.search(reason, line)]
    start.check_whole(folder)


@pytest.mark.parametrize(
    "name", ["lists", *(pytest.param(n, marks=pytest.mark.slow) for n in STEPS[1:])]
)
def test_a_disk_that_is_full_from_any_change_of_a_file_on(step, name, small_disk, seeded, cases):
    ballast, tried, names_resume = small_disk / "ballast", 0, 0
    for number in count(1, 4 if name in TRAININGS else 1):
        start = seeded.choice(step.starts)
        folder = start.copy_to(small_disk / "case")
        left = seeded.choice([0, 0, 4096, 8192])
        done = step.run(folder, fault=full_before_change(number, ballast, left))
        if not ballast.exists():
            break
        if done.status != step.status:
            check_complaint(step, start, folder, done, "free some space")
            names_resume += "--resume" in done.stderr
        ballast.unlink()
        start.go_on(folder)
        tried += 1
    assert tried > 5
    assert bool(step.resume) == bool(names_resume)
    cases(tried)


@pytest.mark.parametrize("name", TRAININGS)
def test_a_training_that_the_disk_is_too_small_for_is_refused(step, name, small_disk):
    start = step.starts[1]
    folder = start.copy_to(small_disk / "case")
    fill_disk(small_disk / "ballast", left=100_000)
    done = step.run(folder)
    (small_disk / "ballast").unlink()
    reason = r"2 checkpoints need 0\.\d\d GB, .* has 0\.00 GB free; free some space"
    check_complaint(step, start, folder, done, reason)
    start.go_on(folder)


@pytest.mark.parametrize("limits", [1, pytest.param(12, marks=pytest.mark.slow)])
@pytest.mark.parametrize("name", STEPS)
def test_a_file_size_limit_stops_a_step_with_one_line(step, name, limits, seeded, tmp_path, cases):
    cases(limits)
    for _ in range(limits):
        start = seeded.choice(step.starts)
        folder = start.copy_to(tmp_path / "case")
        limit = seeded.randrange(max(len(start.finished[name]) for name in step.outputs))
        done = step.run(folder, fault=at_file_size(limit))
        check_complaint(step, start, folder, done, "the file size limit")
        start.go_on(folder)
