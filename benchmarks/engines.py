"""Both engines in one run, and plain PyTorch: ResNet-152 at 320 px, trained and used on a CPU.

    python -m benchmarks.engines

Run by a Python that has both engines. Each side is a process of its own; they take turns. The peer
is the same network written plainly in PyTorch, at its best: compiled or not, whichever is faster.
The ratios of the engines are what `common/engines/choice.py` decides by. Random weights, batches of
noise. Writes benchmarks/results/engines.json.
"""

import os
import sys

from benchmarks.compare import compare, make_parser, take_turns, write_result
from benchmarks.sides import close_all, start_sides, start_torch_sides
from common.base.script import run_script

SIZE, CLASSES = 320, 5089
BATCH_SIZES = {"predict": 16, "train": 8}
BATCHES = {"float32": 1, "bfloat16": 2, "int8": 3}  # in a turn: some seconds for every side
# Compiling takes minutes, and was measured to gain nothing in training (ResNet-50, 160 px: 1.01
# times in float32, 1.00 in bfloat16).
COMPILED = [("predict", "float32"), ("predict", "bfloat16")]
ASKED = 0.97  # smallest ratio to plain PyTorch


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="WORK,DTYPE", help="e.g. predict,int8")
    args = parser.parse_args()
    os.environ.setdefault("TORCH_PYTHON", sys.executable)
    works = [(work, dtype) for work in BATCH_SIZES for dtype in BATCHES]
    works.remove(("train", "int8"))
    if args.only:
        works = [work for work in works if ",".join(work) in args.only]
    comparisons, versions = [], {}
    for work, dtype in works:
        comparison = compare_engines(args, work, dtype, versions)
        comparisons += [comparison] if comparison else []
    write_result("engines", {"comparisons": comparisons}, args.quick, versions)


def compare_engines(args, work, dtype, versions):
    """Measure the sides of one kind of work; return the comparison, or None where there is none."""
    layers = 18 if args.quick else 152
    ours = start_ours(layers, work, dtype)
    if "ours, PyTorch" not in ours:
        close_all(ours)
        return None
    sides = {**ours, **start_peers(layers, work, dtype)}
    speeds = take_turns(sides, 1 if args.quick else args.rounds)
    versions.update(close_all(sides))
    peers = {name: None if name in ours else ASKED for name in sides if name != "ours, PyTorch"}
    return compare(f"{work}ing ResNet-{layers}, {dtype}", speeds, "ours, PyTorch", peers)


def start_ours(layers, work, dtype):
    """Start a side for each engine, and say which are left out."""
    wanted = {"ours, MXNet": ["--engine", "mxnet"], "ours, PyTorch": ["--engine", "torch"]}
    if (work, dtype) in COMPILED:
        wanted["ours, PyTorch --compile"] = ["--engine", "torch", "--compile"]
    command = [sys.executable, "-m", f"benchmarks.{work}_rate", "--serve"]
    command += ["--network", f"resnet-{layers}", "--image-size", SIZE, "--dtype", dtype]
    command += ["--batch-size", BATCH_SIZES[work], "--batches", BATCHES[dtype]]
    return start_sides({name: [*command, *flags] for name, flags in wanted.items()})


def start_peers(layers, work, dtype):
    """Start the sides that are written plainly in PyTorch."""
    flags = [work, "--pre-activation", "--layers", layers, "--batch-size", BATCH_SIZES[work]]
    flags += ["--size", SIZE, "--classes", CLASSES, "--batches", BATCHES[dtype], "--dtype", dtype]
    wanted = {"plain PyTorch": flags}
    if (work, dtype) in COMPILED:
        wanted["plain PyTorch, compiled"] = [*flags, "--compile"]
    return start_torch_sides(wanted)


if __name__ == "__main__":
    run_script(main)
