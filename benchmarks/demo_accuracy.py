"""How many test photographs the demo names right, whatever rounds its sums.

    python -m benchmarks.demo_accuracy              the demo as it is: 30 runs of about two minutes
    python -m benchmarks.demo_accuracy --recipe one-view --predict ""
    python -m benchmarks.demo_accuracy --recipe average --train "--ema 0.9" \\
        --predict "--crops 10 --model-prefix {prefix}-ema"
    python -m benchmarks.demo_accuracy --engines torch --seeds 0,1 --instructions AVX2,default
    python -m benchmarks.demo_accuracy --quick      one run of one epoch

A run is the training and the prediction of demo.sh with a seed, an engine and a limit to the vector
instructions of oneDNN, which computes for both engines. Each limit rounds otherwise, as another
processor does. A recipe is a name for further flags of fine-tune.py and sub.py; {prefix} in them is
the prefix of the checkpoints. The engines and the limits take turns, seed by seed.

Adds to benchmarks/results/demo_accuracy.json run by run, and leaves out the runs that are there:
the same command continues after an interruption.
"""

import os
import shlex
import statistics
import tempfile
import time

from benchmarks.compare import make_parser, markdown, read_result, write_result
from benchmarks.learning import EPOCHS, TRAINING, call, count_right, prepare
from benchmarks.sides import ONEDNN_LIMITS
from common import engines
from common.base.files import UserError
from common.base.script import run_script

DEMO_VIEWS = "--crops 10"  # as demo.sh predicts


def main():
    args = parse_args()
    flags = {"train": args.train, "predict": args.predict, "epochs": args.epochs}
    result = read_result("demo_accuracy", args.quick)
    recipes = result.get("recipes", {})
    recipe = recipes.setdefault(args.recipe, {**flags, "runs": {}})
    if {name: recipe[name] for name in flags} != flags:
        raise UserError(f"--recipe {args.recipe}: has other flags in the results; name it anew")
    with tempfile.TemporaryDirectory() as folder:
        data_dir, network = prepare(folder)
        for run in pending(recipe["runs"], args.seeds, args.engines, args.instructions):
            recipe["runs"][name_of(*run)] = found = measure(run, args, folder, data_dir, network)
            write_result("demo_accuracy", {"recipes": recipes}, args.quick)
            print(f"{args.recipe}, {name_of(*run)}: {describe(found)}", flush=True)
    print(table(recipes))


def parse_args():
    parser = make_parser(__doc__)
    parser.add_argument("--recipe", default="demo", help="a name for the flags (default: demo)")
    parser.add_argument("--train", default="", metavar="FLAGS", help="more flags of fine-tune.py")
    parser.add_argument(
        "--predict", default=DEMO_VIEWS, metavar="FLAGS", help="flags of sub.py (%(default)s)"
    )
    parser.add_argument(
        "--epochs", default=str(EPOCHS), help="sub.py's checkpoints (default: %(default)s)"
    )
    parser.add_argument("--seeds", default="0,1,2,3,4", help="default: %(default)s")
    parser.add_argument(
        "--engines", default=",".join(engines.installed()), help="default: all here"
    )
    parser.add_argument(
        "--instructions",
        default="SSE41,AVX2,default",
        help="values of DNNL_MAX_CPU_ISA; default: the processor's best (default: %(default)s)",
    )
    args = parser.parse_args()
    if args.quick:
        args.train, args.epochs = f"{args.train} --num-epochs 1 --lr-step-epochs ''", "1"
    for name in ("seeds", "engines", "instructions"):
        values = getattr(args, name).split(",")
        setattr(args, name, values[-1:] if args.quick else values)
    return args


def name_of(seed, engine, instructions):
    return f"{engine}, {instructions}, seed {seed}"


def pending(runs, seeds, names, instructions):
    """Return (seed, engine, instructions) of the runs that are not in the results, in turns."""
    wanted = [(seed, name, limit) for seed in seeds for name in names for limit in instructions]
    return [run for run in wanted if name_of(*run) not in runs]


def measure(run, args, folder, data_dir, network):
    """Train and predict once; return what is kept of it."""
    seed, engine, instructions = run
    environ = {} if instructions == "default" else dict.fromkeys(ONEDNN_LIMITS, instructions)
    prefix, output = os.path.join(folder, "net"), os.path.join(folder, "test.csv")
    places = ["--data-dir", data_dir, "--model-prefix", prefix, "--engine", engine]
    training = [*TRAINING, "--pretrained-model", network, "--gpus", "cpu", "--seed", seed]
    start = time.perf_counter()
    call("fine-tune.py", *places, *training, *shlex.split(args.train), **environ)
    trained = time.perf_counter()
    views = ["--batch-size", "16", "--output", output]
    more = shlex.split(args.predict.format(prefix=prefix))
    call("sub.py", args.epochs, "cpu", *places, *views, *more, **environ)
    return {
        **count_right(output, os.path.join(data_dir, "test-solution.csv")),
        "training_seconds": trained - start,
        "prediction_seconds": time.perf_counter() - trained,
    }


def describe(run):
    seconds = run["training_seconds"] + run["prediction_seconds"]
    return f"{run['right']} of {run['of']}, {seconds:.0f} s"


def table(recipes):
    """Return a table in Markdown: a row for each recipe, engine and limit, and for each recipe."""
    rows = []
    for name, recipe in recipes.items():
        sides = {}
        for run, found in recipe["runs"].items():
            sides.setdefault(run.rpartition(", seed ")[0], []).append(found)
        for side, found in {**sides, "all": list(recipe["runs"].values())}.items():
            right = [run["right"] for run in found]
            spread = f"{statistics.mean(right):.1f} ({min(right)} to {max(right)})"
            rows.append([name, side, len(found), spread])
    return markdown(["recipe", "engine, instructions", "runs", "right of 25"], rows)


if __name__ == "__main__":
    run_script(main)
