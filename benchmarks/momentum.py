"""What momentum correction gains at a step of the rate: the same training with it and without.

    python -m benchmarks.momentum                   about 15 minutes on two cores
    python -m benchmarks.momentum --seeds 0,1
    python -m benchmarks.momentum --quick           one seed, two epochs of fewer pictures

The pictures are small grey pieces of ten photographs that scikit-image carries (public domain or
CC0); the class is the photograph. The 1,200 pieces for training come from its left part, the 600
for validation from its right part. EfficientNet-Lite0 of ImageNet is fine-tuned on them at 64
pixels: 4 epochs of SGD, rate 0.02, momentum 0.9, a step of 0.1 before the last epoch.

Up to the step both runs of a seed are equal to the bit, so that part is trained once; the last
epoch continues from there, once with each rule. The seed chooses the order of the pictures, their
augmentation and the new weights. Adds to benchmarks/results/momentum.json, seed by seed.
"""

import csv
import os
import statistics
import tempfile

from benchmarks.compare import make_parser, read_result, write_result
from benchmarks.learning import call, import_network
from benchmarks.pictures import write_pictures
from common.base.script import run_script

PHOTOGRAPHS = [
    *("astronaut.png", "brick.png", "camera.png", "chelsea.png", "coffee.png"),
    *("grass.png", "gravel.png", "hubble_deep_field.jpg", "retina.jpg", "rocket.jpg"),
]
PIECES = {"train": 120, "val": 60}  # of each photograph
SCORES = ("val_top1", "val_loss")  # columns of the log

RULES = {  # the value of --momentum-correction, and what it does
    "1": "the velocity follows the rate (`--momentum-correction 1`)",
    "0": "MXNet's rule (`--momentum-correction 0`)",
}


def main():
    args = parse_args()
    with tempfile.TemporaryDirectory() as folder:
        network = import_network(folder)
        write_pieces(folder, args.quick)
        for seed in args.seeds:
            runs = measure(seed, folder, network, epochs=2 if args.quick else 4)
            keep(seed, runs, args.quick)
            print(f"seed {seed}: {describe(runs)}", flush=True)
    show(read_result("momentum", args.quick)["runs"])


def parse_args():
    parser = make_parser(__doc__)
    parser.add_argument("--seeds", default="0,1,2,3,4", help="default: %(default)s")
    args = parser.parse_args()
    args.seeds = [0] if args.quick else [int(seed) for seed in args.seeds.split(",")]
    return args


def write_pieces(folder, quick):
    """Write train.rec and val.rec."""
    counts = {part: count // 10 if quick else count for part, count in PIECES.items()}
    counts = {part: [count] * len(PHOTOGRAPHS) for part, count in counts.items()}
    write_pictures(folder, PHOTOGRAPHS, counts)


def measure(seed, folder, network, epochs):
    """Train one seed up to the step, and from there with each rule; return `{rule: scores}`."""
    prefix, step = os.path.join(folder, f"seed-{seed}"), str(epochs - 1)
    flags = f"""--data-train {folder}/train.rec --data-val {folder}/val.rec --num-classes 10
        --pretrained-model {network} --model-prefix {prefix} --gpus cpu --seed {seed}
        --image-shape 3,64,64 --batch-size 16 --lr 0.02 --mom 0.9 --lr-step-epochs {step}
        --initial-validation 0""".split()
    call("fine-tune.py", *flags, "--num-epochs", step)
    runs = {}
    for rule in RULES:
        way_on = ["--load-epoch", step, "--num-epochs", str(epochs)]
        call("fine-tune.py", *flags, *way_on, "--momentum-correction", rule)
        with open(f"{prefix}-log.csv", newline="", encoding="utf-8") as stream:
            *_, before, last = csv.DictReader(stream)
        runs[rule] = {name: float(last[name]) for name in SCORES}
        runs[rule]["val_top1_before_the_step"] = float(before["val_top1"])
    return runs


def keep(seed, runs, quick):
    """Add a seed to the results, in place of an earlier result of it."""
    kept = read_result("momentum", quick).get("runs", {})
    kept[str(seed)] = runs
    write_result("momentum", {"runs": kept}, quick)


def describe(runs):
    return ", ".join(
        f"--momentum-correction {rule}: {100 * run['val_top1']:.1f} %, loss {run['val_loss']:.3f}"
        for rule, run in runs.items()
    )


def score(runs, rule, name):
    """Return (mean, standard deviation) of a rule's score over the seeds."""
    return mean_and_deviation([seed[rule][name] for seed in runs.values()])


def gains(runs, name):
    """Return what the correction adds to a score, seed by seed."""
    return [seed["1"][name] - seed["0"][name] for seed in runs.values()]


def mean_and_deviation(values):
    return statistics.mean(values), statistics.stdev(values) if len(values) > 1 else 0.0


def show(runs):
    """Print a line for each rule, and one with the differences between the two runs of a seed."""
    lines = {w: [score(runs, rule, name) for name in SCORES] for rule, w in RULES.items()}
    lines["gained, seed by seed"] = [mean_and_deviation(gains(runs, name)) for name in SCORES]
    print(f"\n{'':58s} {'val top-1':>16s} {'val loss':>16s}")
    for words, (top1, loss) in lines.items():
        print(
            f"{words:58s} {100 * top1[0]:6.1f} % +- {100 * top1[1]:4.1f}"
            f" {loss[0]:7.3f} +- {loss[1]:.3f}"
        )


if __name__ == "__main__":
    run_script(main)
