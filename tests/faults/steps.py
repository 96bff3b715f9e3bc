"""The four steps on the sample: their commands, and the files of an uninterrupted run."""

import csv
import io
import json
import os
import re
import shutil
from pathlib import Path

import cv2
import numpy as np

from common import engines
from tests.faults.workplace import contents

# Training and submission with each engine: "training-mxnet".
TRAININGS = tuple(f"training-{engine}" for engine in engines.installed())
SUBMISSIONS = tuple(f"submission-{engine}" for engine in engines.installed())
STEPS = ("lists", "records", *TRAININGS, *SUBMISSIONS)

# What an interrupted run may leave for the next one under names of its own; it may be partial.
TEMPORARY = re.compile(r"\.tmp-.*|.*\.partial|.*\.journal")
SECONDS = re.compile("images_per_second|seconds")


class Step:
    """A step that starts in an empty folder, or over the files of an earlier run.

    Attributes:
        command: the script and its flags; `resume` is added after an interruption.
        status: the exit status of a successful run.
        starts: a `Start` in a folder with only what the step reads, and one over the files of a run
            with other flags.
        outputs: the names of the files that it leaves.
        temporaries: the names of files that exist while it writes.
        finished_folder: where an uninterrupted run has ended.
        all_files: {name: bytes} of all files that it makes, including those that it removes.
    """

    def __init__(
        self, scripts, folder, command, other, resume=(), status=0, temporaries=(), keep_all=()
    ):
        """`folder` holds what the step reads; `other` and `keep_all` are further flags."""
        self._scripts = scripts
        self.command, self.resume, self.status = list(map(str, command)), list(resume), status
        self.temporaries = temporaries
        earlier = self._run_in_copy(folder, f"{folder}-earlier", other)
        self.starts = [Start(self, folder), Start(self, earlier, is_earlier=True)]
        self.finished_folder = Path(f"{folder}-finished")
        self.outputs = set(self.starts[0].finished) - set(self.starts[0].contents)
        self.all_files = contents(self._run_in_copy(folder, f"{folder}-all", keep_all))

    def _run_in_copy(self, folder, place, flags):
        shutil.copytree(folder, place, symlinks=True)
        done = self.run(place, [*self.command, *flags])
        assert done.status == self.status, done.stderr
        return place

    def run(self, folder, command=None, fault=None):
        """Run the step in a folder; return the `Done` of `many_runs.Scripts`."""
        return self._scripts(folder, *(command or self.command), fault=fault)


class Start:
    """A folder in which a step starts, and what an uninterrupted run makes of it.

    Attributes:
        contents, finished: {name: bytes} before and after.
        seconds: how long an uninterrupted run takes.
    """

    def __init__(self, step, folder, is_earlier=False):
        self._step, self._folder, self._is_earlier = step, folder, is_earlier
        self.contents = contents(folder)
        place = self.copy_to(f"{folder}-finished")
        done = step.run(place)
        assert done.status == step.status, done.stderr
        self.finished, self.seconds = contents(place), done.seconds

    def copy_to(self, place):
        """Copy the folder to `place`; return its path."""
        shutil.rmtree(place, ignore_errors=True)
        shutil.copytree(self._folder, place, symlinks=True)
        return Path(place)

    def check_whole(self, folder):
        """Check that every file with a final name is complete: the earlier run's, or this one's."""
        before, after = comparable(self.contents), comparable(self.finished)
        found = comparable(contents(folder))
        for name, content in found.items():
            if TEMPORARY.fullmatch(name):
                continue
            if name.endswith("-log.csv"):  # it gets a row every epoch, and the row its validation
                assert content == before.get(name) or is_beginning(content, after[name])
            elif name.endswith("-curves.png"):
                assert cv2.imdecode(np.frombuffer(content, np.uint8), 1) is not None
                assert content.endswith(b"IEND\xaeB`\x82")
            else:
                versions = [files.get(name) for files in (before, after, self._step.all_files)]
                assert content in versions, f"{name}: {content[:500]}"
        # Records may be absent for a moment, so that no index is beside another run's records.
        lost = {name for name in before if name not in found and not TEMPORARY.fullmatch(name)}
        assert lost <= {"train.rec", "train.idx", "train.rec.failed.txt"} | set(before) - set(after)

    def go_on(self, folder):
        """Do what the documentation says after an interruption, and check the result.

        Returns the `Done` of the run that continues.
        """
        has_begun = contents(folder).get("run-log.csv") != self.contents.get("run-log.csv")
        # A training run that has not begun leaves the earlier one's checkpoints to --resume.
        resume = self._step.resume if has_begun or not self._is_earlier else []
        done = self._step.run(folder, [*self._step.command, *resume])
        assert done.status == self._step.status, done.stderr
        found, expected = comparable(contents(folder)), comparable(self.finished)
        assert sorted(found) == sorted(expected)
        differ = [name for name in found if found[name] != expected[name]]
        assert not differ, done.stderr
        return done


def is_beginning(rows, all_rows):
    """Return whether a log is the beginning of an uninterrupted run's."""
    return len(rows) <= len(all_rows) and all(
        cell in ("", expected[column])
        for row, expected in zip(rows, all_rows)
        for column, cell in row.items()
    )


def comparable(files):
    """Return {name: content} without what differs between runs: times, and `--resume`."""
    return {name: _comparable(name, content) for name, content in files.items()}


def _comparable(name, content):
    if TEMPORARY.fullmatch(name):
        return content
    if name.endswith("-log.csv"):
        rows = csv.DictReader(io.StringIO(content.decode()))
        return [{k: v for k, v in row.items() if not SECONDS.fullmatch(k)} for row in rows]
    if name.endswith("-config.json"):
        config = json.loads(content)
        del config["started"], config["command"]
        del config["git_revision"]  # somebody may edit the repository meanwhile
        del config["flags"]["resume"]
        return json.dumps(config).encode()
    if name.startswith("report-"):
        return content.replace(b" --resume", b"")
    return content


def make_lists(scripts, sample, folder):
    """Step 1 in `folder`."""
    for name in os.listdir(sample):
        if name.endswith(".json"):
            shutil.copy(sample / name, folder)
    os.symlink(sample / "test2017", folder / "test2017")
    return Step(
        scripts,
        folder,
        ["mx_list.py", "--data-dir", ".", "--val-into-train", "0.5", "--seed", "2"],
        other=["--seed", "1"],
        temporaries=[".tmp-train.lst", ".tmp-val.lst", ".tmp-test.lst"],
    )


def make_records(scripts, sample, folder):
    """Step 2 in `folder`; two of the photographs are missing."""
    lines = (sample / "train.lst").read_text().splitlines(keepends=True)
    lines[20:20] = ["9001\t0\tnowhere.jpg\n"]
    (folder / "train.lst").write_text("".join([*lines, "9002\t0\tno.jpg\n"]))
    return Step(
        scripts,
        folder,
        ["im2rec.py", "--resize", "300", "--num-thread", "2", "train", sample],
        other=["--quality", "50"],
        resume=["--resume"],
        status=1,
        temporaries=[
            *("train.rec.partial", "train.idx.partial", "train.rec.journal.partial"),
            *(".tmp-train.rec.journal.partial", ".tmp-train.rec.failed.txt"),
        ],
    )


def make_training(scripts, sample, folder, tiny_network, engine):
    """Step 3 in `folder`, with an engine."""
    files = ["config.json", "log.csv", "curves.png", "symbol.json", "0001.params", "0002.states"]
    return Step(
        scripts,
        folder,
        [
            *("fine-tune.py", "--data-dir", sample, "--pretrained-model", tiny_network),
            *("--engine", engine),
            *("--gpus", "cpu", "--image-shape", "3,32,32", "--batch-size", "16", "--mom", "0.9"),
            *("--num-epochs", "2", "--lr-step-epochs", "1", "--ema", "0.9", "--dropout", "0.3"),
            *("--data-nthreads", "1", "--disp-batches", "1", "--model-prefix", "run"),
            # Drawing the curves takes longer than everything else: one drawing less.
            *("--seed", "2", "--keep", "1", "--initial-validation", "0"),
        ],
        other=["--seed", "1", "--num-epochs", "3"],
        resume=["--resume"],
        temporaries=[f".tmp-run-{name}" for name in [*files, "ema-0001.params", "0002.params"]],
        keep_all=["--keep", "0"],
    )


def make_submission(scripts, sample, folder, trained, engine):
    """Step 4 in `folder`, with the checkpoints `trained`, with an engine."""
    return Step(
        scripts,
        folder,
        [
            *("sub.py", "2", "cpu", "--data-dir", sample, "--model-prefix", trained),
            *("--engine", engine),
            *("--set", "val", "--crop-size", "32", "--crops", "12", "--batch-size", "2"),
            *("--data-nthreads", "1", "--save-probs", "probs.npz", "--output", "out.csv"),
        ],
        other=["--resize", "50"],
        resume=["--resume"],
        temporaries=[
            *(".tmp-out.csv.rows", ".tmp-probs.npz", ".tmp-out.csv", ".tmp-report-out.html"),
            ".tmp-report-out.csv",
        ],
    )
