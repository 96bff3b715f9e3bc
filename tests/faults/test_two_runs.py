"""Two runs at once with the same output: the second stops, and a crashed one blocks no other."""

import pytest

from tests.faults.interruption import freeze, launch
from tests.faults.steps import STEPS

# Where the first run is frozen, and what the second one prints.
WHILE = {
    "lists": (".tmp-val.lst", "mx_list.py: ./train.lst: another run is writing it"),
    "records": (".tmp-train.rec.failed.txt", "im2rec.py: train.rec: another run is writing it"),
    "training": (".tmp-run-0001.params", "fine-tune.py: run: another run is training to it"),
    "submission": (".tmp-out.csv", "sub.py: out.csv: another run is predicting for it"),
}


@pytest.mark.parametrize("name", STEPS)
def test_the_second_of_two_runs_stops_and_a_crashed_one_locks_nobody_out(
    step, name, seeded, tmp_path, cases
):
    cases(2)
    place, message = WHILE[name.partition("-")[0]]
    start = seeded.choice(step.starts)
    folder = start.copy_to(tmp_path / "case")
    first = freeze(folder, place, step.command)
    try:
        second = step.run(folder)
        assert second.status == 2
        assert second.stderr.splitlines()[-1] == f"{message}; wait for it or stop it"
        start.check_whole(folder)
    finally:
        first.kill()
        first.communicate()
    start.go_on(folder)


@pytest.mark.slow
@pytest.mark.parametrize("name", STEPS)
def test_of_runs_that_start_at_once_one_does_the_work(step, name, seeded, tmp_path, cases):
    cases(4)
    start = seeded.choice(step.starts)
    folder = start.copy_to(tmp_path / "case")
    runs = [launch(folder, step.command) for _ in range(4)]
    said = [run.communicate(timeout=100)[1] for run in runs]
    assert {run.returncode for run in runs} <= {step.status, 2}, said
    assert step.status in {run.returncode for run in runs}, said
    refused = [text.splitlines()[-1] for run, text in zip(runs, said) if run.returncode == 2]
    assert all("another run is" in line for line in refused), refused
    start.go_on(folder)
