"""Whether two revisions write the same bytes: runs every step with both, and compares the files.

    python -m benchmarks.same_bytes /path/to/an/older/checkout        about 10 minutes on two cores

Both checkouts run with this Python, on the sample (`requirements/sample.txt`). Compared are lists,
records, checkpoints, optimizer states, logs (without their times), CSVs and probabilities of eight
kinds of training run. Both revisions then resume the older one's checkpoints, and the results are
compared too. Prints a line for each file that differs; the exit status is 1 where one does.
"""

import argparse
import csv
import os
import subprocess
import sys
import tempfile

from benchmarks.learning import find_weights
from common.base.files import ROOT, UserError
from common.base.script import run_script

TRAIN = """fine-tune.py --data-dir data --pretrained-model lite0 --gpus cpu --image-shape 3,64,64
    --batch-size 16 --num-epochs 2 --data-nthreads 2 --lr 0.01"""
RUNS = {  # further flags
    "plain": "--lr-step-epochs 1",
    "momentum": "--mom 0.9 --wd 1e-4 --lr-step-epochs 1",
    "cosine": "--mom 0.9 --lr-scheduler cosine --warmup-epochs 0.5 --ema 0.9",
    "adam": "--optimizer adam --lr 0.001 --label-smoothing 0.1",
    "nadam": "--optimizer nadam --lr 0.001 --dropout 0.2",
    "frozen": "--freeze stem|block[0-9]_ --head-lr-mult 10 --mom 0.9",
    "devices": "--gpus cpu:0,cpu:1 --mom 0.9",
    "scratch": "--from-scratch --rgb-mean 120,115,100 --rgb-std 58,57,57",
}
PREDICT = "--data-dir data --batch-size 8 --data-nthreads 2 --model-prefix run-momentum"
PREDICTIONS = {  # EPOCH, GPU and further flags of sub.py
    "test": "2 cpu",
    "val": "1,2 cpu --set val --crops 10 --save-probs val.npz",
    "devices": "2 cpu:0,cpu:1 --crops 2",
}
CHECKPOINT = (  # what a run that goes on after epoch 1 reads
    "symbol.json",
    "0001.params",
    "0001.states",
    "ema-symbol.json",
    "ema-0001.params",
)
TIMES = ("seconds", "images_per_second")  # columns of a log that differ between any two runs
WITH_TIMES_OR_PATHS = ("-config.json", ".png", ".html", ".journal")  # not compared


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("other", help="a checkout of the revision to compare with")
    other = os.path.abspath(parser.parse_args().other)
    with tempfile.TemporaryDirectory() as folder:
        before, after = os.path.join(folder, "before"), os.path.join(folder, "after")
        for checkout, target in ((other, before), (ROOT, after)):
            run_all_steps(checkout, target)
        for checkout, target in ((other, before), (ROOT, after)):
            resume(checkout, before, os.path.join(target, "resumed"))
        same, different = compare(before, after)
    for name in different:
        print(f"differs: {name}")
    print(f"{same} files are the same, {len(different)} differ")
    return 1 if different else 0


def run_all_steps(checkout, folder):
    """Run every step of a revision in a new folder, from the photographs to the predictions."""
    os.mkdir(folder)

    def step(*command):
        run(checkout, folder, *command)

    step("data/make_sample.py", "--data-dir", "data")
    step("-m", "common.modelzoo", "import", "--model-dir", ".", "--name", "lite0", find_weights())
    step("mx_list.py", "--data-dir", "data", "--val-into-train", "0.3")
    for name in ("train", "val"):
        step("im2rec.py", "--resize", "128", f"data/{name}", "data")
    for name, flags in RUNS.items():
        step(*f"{TRAIN} {flags} --model-prefix run-{name}".split())
    for name, flags in PREDICTIONS.items():
        step(*f"sub.py {flags} {PREDICT} --output out-{name}.csv".split())


def resume(checkout, start, target):
    """Go on after the first epoch of the runs in `start`; write to the new folder `target`."""
    os.mkdir(target)
    for name, flags in RUNS.items():
        for ending in CHECKPOINT:
            source = os.path.join(start, f"run-{name}-{ending}")
            if os.path.exists(source):
                os.link(source, os.path.join(target, os.path.basename(source)))
        prefix = ["--load-epoch", "1", "--model-prefix", os.path.join(target, f"run-{name}")]
        run(checkout, start, *f"{TRAIN} {flags}".split(), *prefix)


def run(checkout, folder, script, *flags):
    """Run a script, or the module behind `-m`, of a checkout in a folder."""
    command = [script if script == "-m" else os.path.join(checkout, script), *flags]
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": checkout, "OMP_NUM_THREADS": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed:\n{done.stderr}")


def compare(before, after):
    """Return how many files of two folders are the same, and the names of those that differ."""
    names = sorted(
        {
            os.path.relpath(os.path.join(place, name), folder)
            for folder in (before, after)
            for place, _, files in os.walk(folder)
            for name in files
            if not name.endswith(WITH_TIMES_OR_PATHS)
        }
    )
    different = []
    for name in names:
        old, new = (content(os.path.join(folder, name)) for folder in (before, after))
        if None in (old, new):
            different.append(f"{name} (only {'before' if new is None else 'after'})")
        elif old != new:
            different.append(name)
    return len(names) - len(different), different


def content(path):
    """Return what a file holds, without the times in a log; None where there is no such file."""
    if not os.path.exists(path):
        return None
    if path.endswith("-log.csv"):
        with open(path, newline="", encoding="utf-8") as stream:
            rows = list(csv.DictReader(stream))
        return [{name: row[name] for name in row if name not in TIMES} for row in rows]
    with open(path, "rb") as stream:
        return stream.read()


if __name__ == "__main__":
    run_script(main)
