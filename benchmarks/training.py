"""Training ResNet-152 at 320 pixels on a CPU: ours, MXNet's own threads, PyTorch.

    python -m benchmarks.training

Each side is a process of its own that trains the same network on the same batch of 8 noise images;
they take turns, those of float32 and then those of bfloat16 (16 GB of memory). PyTorch trains its
own ResNet-152 (as many convolutions of the same sizes) where TORCH_PYTHON=/path/to/python names one
that has it. Prints the losses, too. Writes benchmarks/results/training.json.
"""

import argparse
import sys

import numpy as np

from benchmarks.compare import compare, make_parser, take_turns, write_result
from benchmarks.sides import Side, close_all, serve, start_torch_sides
from common.script import run_script

BATCH, SIZE, CLASSES = 8, 320, 5089
MXNET = "MXNet's own threads, float32"
# Theirs: what is asked of benchmarks/torch_peer.py. Compiling takes minutes, so one of each kind.
PYTORCH = {
    "float32": {"PyTorch, float32": []},
    "bfloat16": {
        "PyTorch, bfloat16": ["--dtype", "bfloat16"],
        "PyTorch, bfloat16, compiled": ["--dtype", "bfloat16", "--compile"],
    },
}
ASKED = {"float32": 1.8, "bfloat16": 3.2}  # the least ratio to MXNet's own threads


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--serve", nargs=2, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve_training(args.serve[0], int(args.serve[1]))
        return
    # Only here: the sides decide by themselves how MXNet is imported.
    from common.devices import supports_bfloat16

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
    """Train a batch whenever it is asked for."""
    step = make_step(kind, layers)
    serve(lambda: (BATCH, [step()]))


def make_step(kind, layers):
    """Return a function that trains a batch and returns its loss; `kind` is a dtype or "mxnet"."""
    if kind == "mxnet":  # before find_mxnet.py sets the number of threads
        for builtin in (bool, int, float, complex, object, str):
            vars(np).setdefault(builtin.__name__, builtin)  # as find_mxnet.py puts them back
        import mxnet  # noqa: F401
    from common import network
    from common.find_mxnet import mx
    from common.fit_flags import settle_dtype
    from common.trainer import Trainer

    mx.random.seed(0)
    symbol = network.take_raw_images(network.build_resnet(layers, CLASSES))
    dtype = "bfloat16" if kind == "bfloat16" else "float32"
    settle_dtype(dtype, [mx.cpu()])
    trainer = Trainer(symbol, [mx.cpu()], (BATCH, 3, SIZE, SIZE), dtype=dtype)
    trainer.initialise({}, {})
    trainer.start_optimizer("device", "sgd", {"learning_rate": 0.01})
    random = np.random.RandomState(0)
    images = mx.nd.array(random.randint(0, 256, (BATCH, 3, SIZE, SIZE)), dtype="uint8")
    labels = random.randint(0, CLASSES, BATCH)
    batch = mx.io.DataBatch([images], [mx.nd.array(labels)], pad=0)

    def step():
        probabilities = trainer.train(batch).asnumpy()
        trainer.settle()
        return float(-np.log(probabilities[np.arange(BATCH), labels]).mean())

    return step


if __name__ == "__main__":
    run_script(main)
