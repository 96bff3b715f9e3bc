"""Which choice pays: flags of fine-tune.py, each compared with the plain run of the same seed.

    python -m benchmarks.choices --jobs 2           about an hour on two cores
    python -m benchmarks.choices --engine torch --gpus 0 --jobs 8      on a GPU
    python -m benchmarks.choices --variants plain,mixup --seeds 0,1
    python -m benchmarks.choices --data FOLDER --prepare    makes the pictures and the network alone
    python -m benchmarks.choices --quick            one seed, one epoch of fewer pictures

The pictures are small grey pieces of sixteen photographs (`benchmarks/pictures.py`); the class is
the photograph. The 2,441 for training have a long tail: 380 of the first class, a tenth of that of
the last. The 2,400 for validation are 150 of each class, so that their top-1 accuracy is the mean
over the classes. EfficientNet-Lite0 of ImageNet is fine-tuned on them at 64 pixels.

`pytorch` and `pytorch-adamw` are the same training written plainly in PyTorch
(`benchmarks/torch_fine_tune.py`), which begins with the same weights and is fed the same batches.
`pytorch-nchw` is `pytorch` with its arrays in another order in memory: what rounding alone changes.
`timm` is the same network as timm computes it, for the flags that only its networks have.

A difference is that between two runs of one seed: the mean over the seeds, and its 95 % confidence
interval (Student's t). Adds to benchmarks/results/choices.json run by run, and leaves out the runs
that are there: the same command continues after an interruption.
"""

import concurrent.futures
import contextlib
import csv
import importlib.util
import math
import multiprocessing
import os
import shutil
import statistics
import sys
import tempfile
import time

from benchmarks.compare import make_parser, markdown, read_result, write_result
from benchmarks.learning import find_weights, import_network
from benchmarks.pictures import write_pictures
from common.base.files import UserError, replacing
from common.base.script import run_script
from common.engines.choice import choose

PHOTOGRAPHS = [
    *("astronaut.png", "brick.png", "camera.png", "cell.png", "chelsea.png", "clock_motion.png"),
    *("coffee.png", "coins.png", "grass.png", "gravel.png", "hubble_deep_field.jpg", "moon.png"),
    *("page.png", "retina.jpg", "rocket.jpg", "text.png"),
]
LARGEST, SMALLEST = 380, 38  # training pictures of the first class, and of the last
VALIDATION = 150  # pictures of each class
EPOCHS = 5
TRAINING = (
    "--image-shape 3,64,64 --batch-size 64 --lr 0.04 --mom 0.9 --initial-validation 0 --keep 1"
    " --data-nthreads 2 --quiet"
)
# The same network as timm computes it, with the same weights.
TIMM = "--architecture tf_efficientnet_lite0.in1k"
TIMM_WEIGHTS = "tf_efficientnet_lite0.pth"
VARIANTS = {  # further flags
    "plain": "",
    "mixup": "--mixup 0.2",
    "cutmix": "--cutmix 1",
    "rand-augment": "--rand-augment 2,9",
    "random-erasing": "--random-erasing 0.25",
    "accumulate": "--accumulate 2 --batch-size 32",
    "clip-norm": "--clip-norm 1",
    "label-smoothing": "--label-smoothing 0.1",
    "ema": "--ema 0.99",
    "logit-adjustment": "--logit-adjustment 1",
    "class-balance": "--class-balance 1",
    "adamw": "--optimizer adamw --mom 0 --lr 0.001 --wd 0.01",
    "timm": TIMM,
    "timm-layer-decay": f"{TIMM} --layer-decay 0.75",
    "timm-drop-path": f"{TIMM} --drop-path 0.1",
    "pytorch": "",
    "pytorch-nchw": "",
    "pytorch-adamw": "--optimizer adamw --mom 0 --lr 0.001 --wd 0.01",
}
PEERS = {  # in PyTorch: (what each is compared with, the order of its arrays)
    "pytorch": ("plain", "nhwc"),
    "pytorch-nchw": ("pytorch", "nchw"),
    "pytorch-adamw": ("adamw", "nhwc"),
}
OF_TIMM = ("timm", "timm-layer-decay", "timm-drop-path")  # the others are compared with the first
SCORES = ("val_top1", "val_loss")
# 97.5 % quantile of Student's t with 1, 2, 3, … degrees of freedom.
STUDENT_T = (12.706, 4.303, 3.182, 2.776, 2.571, 2.447, 2.365, 2.306, 2.262)


def main():
    args = parse_args()
    with contextlib.ExitStack() as stack:
        folder = args.data or os.path.join(stack.enter_context(tempfile.TemporaryDirectory()), "d")
        prepare(folder, args.quick)
        if args.prepare:
            return
        engine, _, _ = choose(args.engine, args.gpus, "float32", "train")
        setup = {"engine": engine.NAME, "gpus": args.gpus}
        result = {"setup": setup, "runs": {}, **read_result("choices", args.quick)}
        if result["setup"] != setup:
            raise UserError(
                "benchmarks/results/choices.json: its runs are of another engine or device; move it"
                " away, or go on with the same --engine and --gpus"
            )
        left = pending(result["runs"], args.seeds, able(args.variants, engine))
        if any(variant in OF_TIMM for variant, _ in left):
            write_timm_weights(folder)
        for (variant, seed), run in measure_all(left, folder, args):
            result["runs"].setdefault(variant, {})[seed] = run
            write_result("choices", result, args.quick, versions(engine, args.gpus))
            print(f"{variant}, seed {seed}: {describe(run)}", flush=True)
        print(table(result["runs"]))


def parse_args():
    parser = make_parser(__doc__)
    parser.add_argument("--variants", default=",".join(VARIANTS), help="default: %(default)s")
    parser.add_argument("--seeds", default="0,1,2,3,4", help="default: %(default)s")
    parser.add_argument("--engine", default="auto", help="as in fine-tune.py (default: auto)")
    parser.add_argument("--gpus", default="cpu", help="as in fine-tune.py (default: cpu)")
    parser.add_argument("--jobs", type=int, default=1, help="runs at once (default: 1)")
    parser.add_argument("--data", metavar="FOLDER", help="pictures and network; made if missing")
    parser.add_argument("--prepare", action="store_true", help="make the FOLDER of --data, no more")
    args = parser.parse_args()
    args.variants, args.seeds = args.variants.split(","), args.seeds.split(",")
    if args.quick:
        args.seeds = args.seeds[:1]
    for variant in args.variants:
        if variant not in VARIANTS:
            raise UserError(f"--variants {variant}: must be of {', '.join(VARIANTS)}")
    if args.prepare and not args.data:
        raise UserError("--prepare: needs a folder; name it with --data FOLDER")
    return args


def prepare(folder, quick):
    """Make a folder with the pictures and the network, unless it is there."""
    if os.path.isdir(folder):
        return
    parent = os.path.dirname(os.path.abspath(folder))
    os.makedirs(parent, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=parent) as temporary:
        made = os.path.join(temporary, "made")
        os.mkdir(made)
        share = 10 if quick else 1
        counts = {
            "train": [count // share for count in long_tail(len(PHOTOGRAPHS))],
            "val": [VALIDATION // share] * len(PHOTOGRAPHS),
        }
        write_pictures(made, PHOTOGRAPHS, counts)
        shutil.copyfile(find_weights(), f"{import_network(made)}.pth")
        os.rename(made, folder)


def write_timm_weights(folder):
    """Write the network's weights under timm's names, unless they are there.

    The file's names are those of another package, which has the same layers in the same order.
    """
    path = os.path.join(folder, TIMM_WEIGHTS)
    if os.path.exists(path):
        return
    import timm
    import torch

    weights = torch.load(os.path.join(folder, "efficientnet-lite0.pth"), weights_only=True)
    names = timm.create_model("tf_efficientnet_lite0").state_dict()
    with replacing(path) as temporary:
        torch.save(dict(zip(names, weights.values())), temporary)


def long_tail(num_classes):
    """Return how many training pictures each class has: in geometric progression."""
    ratio = (SMALLEST / LARGEST) ** (1 / (num_classes - 1))
    return [round(LARGEST * ratio**label) for label in range(num_classes)]


def able(variants, engine):
    """Return the variants that can run here; print which cannot, and why."""
    lacking = {}
    if not importlib.util.find_spec("timm"):
        lacking = dict.fromkeys(OF_TIMM, "needs the package timm")
    if engine.NAME != "PyTorch":
        lacking = dict.fromkeys(("adamw", *OF_TIMM, *PEERS), "needs --engine torch")
    for variant in variants:
        if variant in lacking:
            print(f"{variant} is left out: {lacking[variant]}")
    return [variant for variant in variants if variant not in lacking]


def pending(runs, seeds, variants):
    """Return (variant, seed) of the runs that are not in the results, seed by seed."""
    wanted = [(variant, seed) for seed in seeds for variant in variants]
    return [(variant, seed) for variant, seed in wanted if seed not in runs.get(variant, {})]


def measure_all(runs, folder, args):
    """Yield ((variant, seed), what was measured) of every run, as they end.

    Each of the processes makes one run after the other, and starts its engine once.
    """
    if args.jobs > 1:
        os.environ["OMP_NUM_THREADS"] = "1"  # of the processes, which load their engine anew
    context = multiprocessing.get_context("spawn")
    with concurrent.futures.ProcessPoolExecutor(args.jobs, context) as pool:
        waiting = {pool.submit(measure, *run, folder, args): run for run in runs}
        try:
            for done in concurrent.futures.as_completed(waiting):
                yield waiting[done], done.result()
        finally:
            for future in waiting:
                future.cancel()


def measure(variant, seed, folder, args):
    """Train once; return the scores and the time."""
    epochs = 1 if args.quick else EPOCHS
    with tempfile.TemporaryDirectory() as files:
        prefix = os.path.join(files, "net")
        name = TIMM_WEIGHTS if variant in OF_TIMM else "efficientnet-lite0"
        network = os.path.join(folder, name)
        places = ["--data-dir", folder, "--pretrained-model", network, "--gpus", args.gpus]
        steps = str(epochs - 1) if epochs > 1 else ""
        schedule = ["--num-epochs", str(epochs), "--lr-step-epochs", steps]
        flags = [*places, *TRAINING.split(), *schedule, "--seed", seed, *VARIANTS[variant].split()]
        start = time.perf_counter()
        if variant in PEERS:
            from benchmarks import torch_fine_tune  # here: it needs PyTorch

            parsed = with_flags(flags).parse_args()
            scores = torch_fine_tune.fine_tune(parsed, PEERS[variant][1])
        else:
            flags += ["--engine", args.engine]
            records = ["--data-dir", files, "--data-train", os.path.join(folder, "train.rec")]
            with_flags([*flags, *records, "--model-prefix", prefix]).main()
            scores = validate(f"{prefix}-ema" if variant == "ema" else prefix, flags, epochs)
        return {**scores, "seconds": time.perf_counter() - start}


def with_flags(flags):
    """Return fine-tune.py as a module that is about to read these flags."""
    sys.argv = ["fine-tune.py", *flags]
    return importlib.import_module("fine-tune")


def validate(prefix, flags, epochs):
    """Return the scores of what was trained: of a run with no epoch left, in its log's last row.

    Nothing is validated in the epochs before, which would take a quarter of the time.
    """
    way_on = f"--load-epoch {epochs} --initial-validation 1 --ema 0 --mom 0".split()
    with_flags([*flags, *way_on, "--model-prefix", prefix]).main()
    with open(f"{prefix}-log.csv", newline="", encoding="utf-8") as stream:
        *_, last = csv.DictReader(stream)
    return {name: float(last[name]) for name in SCORES}


def versions(engine, gpus):
    """Return what computes: the engine's versions, and the GPU's name."""
    found = engine.versions()
    if gpus != "cpu":
        described = engine.describe().items()
        found.update({title: name.split(",")[0] for title, name in described if "GPU" in title})
    return found


def describe(run):
    return f"{100 * run['val_top1']:.1f} %, loss {run['val_loss']:.3f}, {run['seconds']:.0f} s"


# --- The table ----------------------------------------------------------------------------------


def table(runs):
    """Return the table in Markdown: a row for each variant, and how far it is from another one."""
    rows = [row(variant, runs) for variant in VARIANTS if variant in runs]
    header = ["what", "compared with", "seeds", "val top-1, %", "difference, points"]
    return markdown([*header, "val loss", "difference"], rows)


def row(variant, runs):
    """Return the cells of a variant: its scores, and their differences with intervals."""
    reference = compared_with(variant)
    cells = [words(variant), words(reference) if reference else "", len(runs[variant])]
    for score, factor, digits in (("val_top1", 100, 1), ("val_loss", 1, 3)):
        values = [factor * run[score] for run in runs[variant].values()]
        gaps = [factor * gap for gap in differences(runs, variant, score)]
        cells += [told(*interval(values), digits), told_difference(gaps, digits)]
    return cells


def words(variant):
    """Return what the table calls a variant."""
    name = f"`{VARIANTS[variant]}`" if VARIANTS[variant] else "plain"
    return f"{name}, PyTorch in {PEERS[variant][1].upper()}" if variant in PEERS else name


def compared_with(variant):
    """Return the variant that this one is compared with; None for the plain run."""
    if variant in OF_TIMM[1:]:
        return OF_TIMM[0]
    return None if variant == "plain" else PEERS.get(variant, ("plain",))[0]


def told(mean, half, digits, sign=""):
    """Return "64.3 ± 1.6"; without an interval, of one seed, "64.3"."""
    return f"{mean:{sign}.{digits}f}" + ("" if math.isnan(half) else f" ± {half:.{digits}f}")


def told_difference(gaps, digits):
    """Return the mean difference and its interval; bold where the interval excludes 0."""
    if not gaps:
        return ""
    mean, half = interval(gaps)
    text = told(mean, half, digits, "+")
    return f"**{text}**" if abs(mean) > half else text


def differences(runs, variant, score):
    """Return what a variant's score is more than its reference's, for each seed of both."""
    reference, ours = runs.get(compared_with(variant), {}), runs[variant]
    return [ours[seed][score] - reference[seed][score] for seed in ours if seed in reference]


def interval(values):
    """Return the mean of some numbers, and half of its 95 % confidence interval (NaN of one)."""
    mean, freedom = statistics.mean(values), len(values) - 1
    if not freedom:
        return mean, math.nan
    t = STUDENT_T[min(freedom, len(STUDENT_T)) - 1]  # beyond the table: a bit too wide
    return mean, t * statistics.stdev(values) / math.sqrt(len(values))


if __name__ == "__main__":
    run_script(main)
