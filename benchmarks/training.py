"""Training ResNet-152 at 320 pixels on a CPU: ours, MXNet's own threads, PyTorch.

    python -m benchmarks.training

Each side is a process of its own that trains the same network on the same batch of 8 noise images.
They take turns, first those of float32, then those of bfloat16 (16 GB of memory). PyTorch trains
its own ResNet-152 (as many convolutions of the same sizes) where TORCH_PYTHON=/path/to/python names
a Python that has it. Also prints the losses. Writes benchmarks/results/training.json.
"""

import argparse
import sys

import numpy as np

from benchmarks.compare import compare, make_parser, take_turns, write_result
from benchmarks.sides import Side, close_all, serve, start_torch_sides
from common.base.script import run_script

BATCH, SIZE, CLASSES, LEARNING_RATE = 8, 320, 5089, 0.01
IMAGE_SHAPE = (3, SIZE, SIZE)
MXNET = "MXNet's own threads, float32"
# The arguments of benchmarks/torch_peer.py. Compiling takes minutes, so there is one of each kind.
PYTORCH = {
    "float32": {"PyTorch, float32": []},
    "bfloat16": {
        "PyTorch, bfloat16": ["--dtype", "bfloat16"],
        "PyTorch, bfloat16, compiled": ["--dtype", "bfloat16", "--compile"],
    },
}
ASKED = {"float32": 1.8, "bfloat16": 3.2}  # smallest ratio to MXNet's own threads that is asked for


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve_training(args.serve[0], int(args.serve[1]))
        return
    # Imported here: each side decides how it imports MXNet.
    from common.engines.mxnet.devices import supports_bfloat16

    layers = 18 if args.quick else 152
    able, reason = supports_bfloat16()
    if not able:
        print(f"bfloat16 is left out: {reason}")
    result, versions = {"comparisons": [], "losses": {}}, {}
    for dtype in ("float32", "bfloat16") if able else ("float32",):
        torch_sides = start_torch(dtype, layers)
        sides = {
            "ours": start_side(dtype, layers),
            MXNET: start_side("mxnet", layers),
            **torch_sides,
        }
        speeds = take_turns(sides, 1 if args.quick else args.rounds)
        what = f"training ResNet-{layers}, {dtype}"
        peers = {MXNET: ASKED[dtype], **dict.fromkeys(torch_sides)}
        result["comparisons"].append(compare(what, speeds, "ours", peers))
        for name, side in sides.items():
            result["losses"][f"{dtype}: {name}"] = side.losses
            print(f"  losses of {name}:", " ".join(f"{loss:.3f}" for loss in side.losses))
        versions.update(close_all(sides))
    write_result("training", result, args.quick, versions)


def start_side(kind, layers):
    """Start a process that trains with MXNet."""
    command = [sys.executable, "-m", "benchmarks.training", "--serve", kind, str(layers)]
    return Side(kind, command)


def start_torch(dtype, layers):
    """Start the processes that train with PyTorch."""
    sizes = ["--layers", layers, "--batch-size", BATCH, "--size", SIZE, "--classes", CLASSES]
    wanted = {name: ["train", *sizes, *flags] for name, flags in PYTORCH[dtype].items()}
    return start_torch_sides(wanted)


def serve_training(kind, layers):
    """Train a batch at every request."""
    step = make_step(kind, layers)
    serve(lambda: (BATCH, [step()]))


def make_step(kind, layers):
    """Return a function that trains a batch and returns its loss; `kind` is a dtype or "mxnet"."""
    if kind == "mxnet":  # before the engine sets the number of threads
        for builtin in (bool, int, float, complex, object, str):
            vars(np).setdefault(builtin.__name__, builtin)  # the aliases that numpy 1.24 removed
        import mxnet  # noqa: F401
    from common import engines
    from common.networks import Network, edits, resnet
    from common.training.batches import MadeUpImages
    from common.training.schedule import Schedule

    engine = engines.load()
    devices = engine.parse_devices("cpu")
    dtype = "bfloat16" if kind == "bfloat16" else "float32"
    engine.check(dtype, devices)
    graph = edits.take_raw_images(resnet.build_resnet(layers, CLASSES))
    schedule = Schedule("step", LEARNING_RATE, 1.0, (), warmup_updates=0, num_updates=0)
    options = engines.TrainerOptions(BATCH, IMAGE_SHAPE, schedule, dtype)
    trainer = engine.Trainer(
        Network(graph, {}, {}, "fc1"), devices, options, engine.Workers("device", devices)
    )
    batch = next(iter(MadeUpImages(BATCH, IMAGE_SHAPE, CLASSES, allocate=engine.allocate)))
    rows, classes = np.arange(BATCH), batch.labels.astype(int)

    def step():
        probabilities = trainer.step(batch, LEARNING_RATE)()
        trainer.synchronize()
        return float(-np.log(probabilities[rows, classes]).mean())

    return step


if __name__ == "__main__":
    run_script(main)
