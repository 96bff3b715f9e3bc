"""Training ResNet-152 at 320 pixels on a CPU: MXNet's own threads against ours, and bfloat16.

    python -m benchmarks.training [--rounds 3]

Each side is a process of its own that trains the same network on the same batch of 8 noise images;
they take turns. Prints images/s, the ratios, and the losses of float32 and bfloat16 side by side.
"""

import argparse
import os
import subprocess
import sys

import numpy as np

from benchmarks.compare import describe, ratios, take_turns, write_result
from common.files import ROOT

BATCH, SIZE, CLASSES = 8, 320, 5089


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--serve", choices=["mxnet", "float32", "bfloat16"], help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.serve:
        serve(args.serve)
        return
    # Only here: the sides decide by themselves how MXNet is imported.
    from common.devices import supports_bfloat16

    names = {"mxnet": "MXNet's threads, float32", "float32": "ours, float32"}
    able, reason = supports_bfloat16()
    if able:
        names["bfloat16"] = "ours, bfloat16"
    else:
        print(f"bfloat16 is left out: {reason}")
    sides = {name: Side(kind) for kind, name in names.items()}
    measured = take_turns(sides, args.rounds)
    describe(measured)
    result = {"measured": measured, "ratios": {}, "losses": {}}
    for name, side in sides.items():
        if name != names["mxnet"]:
            ratio = result["ratios"][name] = ratios(measured, name, names["mxnet"])
            print(f"{name}: {ratio['median']:.2f} times MXNet's own threads", ratio)
        result["losses"][name] = side.losses
        print(f"{name}: losses", " ".join(f"{loss:.3f}" for loss in side.losses))
        side.close()
    write_result("training", result)


class Side:
    """A process that trains one batch for each line that it is sent, and answers with the loss."""

    def __init__(self, kind):
        environment = {k: v for k, v in os.environ.items() if k != "OMP_NUM_THREADS"}
        self.losses = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.training", "--serve", kind],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            encoding="utf-8",
            env=environment,
        )

    def __call__(self):
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        self.losses.append(float(self._process.stdout.readline()))
        return BATCH

    def close(self):
        """End the process."""
        self._process.stdin.close()
        self._process.wait()


def serve(kind):
    """Train one batch for each line of standard input."""
    if kind == "mxnet":  # before find_mxnet.py sets the number of threads
        for builtin in (bool, int, float, complex, object, str):
            vars(np).setdefault(builtin.__name__, builtin)  # as find_mxnet.py puts them back
        import mxnet  # noqa: F401
    from common import network
    from common.find_mxnet import mx
    from common.trainer import Trainer

    mx.random.seed(0)
    symbol = network.take_raw_images(network.build_resnet(152, CLASSES))
    dtype = "bfloat16" if kind == "bfloat16" else "float32"
    trainer = Trainer(symbol, [mx.cpu()], (BATCH, 3, SIZE, SIZE), dtype=dtype)
    trainer.initialise({}, {})
    trainer.start_optimizer("device", "sgd", {"learning_rate": 0.01})
    random = np.random.RandomState(0)
    images = mx.nd.array(random.randint(0, 256, (BATCH, 3, SIZE, SIZE)), dtype="uint8")
    labels = random.randint(0, CLASSES, BATCH)
    batch = mx.io.DataBatch([images], [mx.nd.array(labels)], pad=0)
    for _ in sys.stdin:
        probabilities = trainer.train(batch).asnumpy()
        trainer.settle()
        print(-np.log(probabilities[np.arange(BATCH), labels]).mean(), flush=True)


if __name__ == "__main__":
    main()
