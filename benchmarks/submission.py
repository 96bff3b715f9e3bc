"""Predicting with the parts of sub.py, as in 2017, and with PyTorch: ResNet-152, 320 px, on a CPU.

    python -m benchmarks.submission

Batches of 16. The way of 2017, rewritten here: MXNet's own number of threads (half of the cores),
float32, images read one after another, and a new bind for every batch. The sides take turns, each
in a process of its own. Sides "on one batch" compute the same batch again and again: the difference
is the cost of reading and decoding. PyTorch also predicts one batch of noise, with its own
ResNet-152 (as many convolutions of the same sizes), where TORCH_PYTHON=/path/to/python names a
Python that has it. Random weights, made-up photographs of 683x512. Writes
benchmarks/results/submission.json.
"""

import argparse
import itertools
import os
import subprocess
import sys
import tempfile
from contextlib import closing

import cv2
import numpy as np

from benchmarks import rates
from benchmarks.compare import compare, make_parser, take_turns, write_result
from benchmarks.made_up import encode, make_photograph
from benchmarks.sides import Side, close_all, serve, start_torch_sides
from common.base.files import ROOT
from common.base.script import run_script

SIZE, BATCH_SIZE, CLASSES = 320, 16, 5089
OLD_WAY, ONE_BATCH = "the way of 2017, float32", ", on one batch"
BATCHES = {"float32": 2, "bfloat16": 4, "int8": 6}  # in a turn: some seconds for every side
PYTORCH = {
    "PyTorch, float32": [],
    "PyTorch, float32, compiled": ["--compile"],
    "PyTorch, bfloat16": ["--dtype", "bfloat16"],
    "PyTorch, bfloat16, compiled": ["--dtype", "bfloat16", "--compile"],
    "PyTorch, int8": ["--dtype", "int8"],
}
PEERS = {  # ours: {theirs: smallest ratio that is asked for}
    "float32": {
        OLD_WAY: 1.9,
        "PyTorch, float32": None,
        "PyTorch, float32, compiled": None,
        "float32" + ONE_BATCH: 0.95,
    },
    "bfloat16": {
        OLD_WAY: 2.8,
        "PyTorch, bfloat16": None,
        "PyTorch, bfloat16, compiled": None,
    },
    "int8": {OLD_WAY: 5.5, "PyTorch, int8": None, "int8" + ONE_BATCH: 0.95},
}


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--layers", type=int, default=152, help=argparse.SUPPRESS)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        serve_side(args)
        return
    # Imported here: each side decides how it imports MXNet.
    from common.engines.mxnet.devices import supports_bfloat16

    layers = 18 if args.quick else args.layers
    names = [OLD_WAY, "float32", "float32" + ONE_BATCH, "int8", "int8" + ONE_BATCH]
    able, reason = supports_bfloat16()
    if able:
        names.append("bfloat16")
    else:
        print(f"bfloat16 is left out: {reason}")
    with tempfile.TemporaryDirectory() as folder:
        subprocess.run(our_command("prepare", folder, layers), check=True, cwd=ROOT)
        sides = {name: Side(name, our_command(name, folder, layers)) for name in names}
        sides.update(start_torch(layers, able))
        speeds = take_turns(sides, 1 if args.quick else args.rounds)
        versions = close_all(sides)
    comparisons = [
        compare(f"submission, ResNet-{layers}, {ours}", speeds, ours, peers)
        for ours, peers in PEERS.items()
        if ours in speeds
    ]
    write_result("submission", {"comparisons": comparisons}, args.quick, versions)


def our_command(side, folder, layers):
    """Return the command of one side that computes with MXNet."""
    command = [sys.executable, "-m", "benchmarks.submission", "--side", side]
    return [*command, "--folder", folder, "--layers", str(layers)]


def start_torch(layers, with_bfloat16):
    """Start the sides that predict with PyTorch."""
    sizes = ["--layers", layers, "--batch-size", BATCH_SIZE, "--size", SIZE, "--classes", CLASSES]
    wanted = {
        name: ["predict", *sizes, "--batches", batches_of(name), *flags]
        for name, flags in PYTORCH.items()
        if with_bfloat16 or "bfloat16" not in flags
    }
    return start_torch_sides(wanted)


def batches_of(side):
    """Return how many batches a side predicts in its turn."""
    return next(number for dtype, number in BATCHES.items() if dtype in side)


def serve_side(args):
    """Prepare what the sides share, or predict batches at every request."""
    prefix, images = os.path.join(args.folder, "net"), os.path.join(args.folder, "%d.jpg")
    if args.side == "prepare":
        prepare(args.layers, prefix, images)
        return
    if args.side == OLD_WAY:
        predict = way_of_2017(prefix, images)
    else:
        dtype, _, one_batch = args.side.partition(", ")
        predict = way_of_today(prefix, images, dtype, bool(one_batch))
    batches = batches_of(args.side)

    def work():
        predict(batches)
        return batches * BATCH_SIZE, []

    serve(work)


def prepare(layers, prefix, images):
    """Save photographs, and a network of random weights in float32 and int8."""
    from common import engines
    from common.evaluation.quantized import quantized_prefix
    from common.networks import Network, checkpoint, edits, resnet

    for number in range(BATCH_SIZE):
        with open(images % number, "wb") as stream:
            stream.write(encode(make_photograph(number)))
    graph = edits.take_raw_images(resnet.build_resnet(layers, CLASSES))
    engine, shape = engines.load(), (3, SIZE, SIZE)
    network = rates.with_random_weights(Network(graph, {}, {}, "fc1"), engine, shape)
    checkpoint.save(prefix, 1, network)
    pixels = np.random.default_rng(0).integers(0, 256, (4, *shape), dtype=np.uint8)
    checkpoint.save(quantized_prefix(engine, prefix, 1), 0, engine.quantize(network, pixels))


def way_of_2017(prefix, images):
    """Return a function that predicts a number of batches in the loop of 2017, rewritten."""
    import numpy

    numpy.bool = bool  # for MXNet on numpy from 1.24 on
    import mxnet as mx

    symbol, arg_params, aux_params = mx.model.load_checkpoint(prefix, 1)

    def predict(batches):
        for _ in range(batches):
            batch = []
            for number in range(BATCH_SIZE):
                image = cv2.cvtColor(cv2.imread(images % number), cv2.COLOR_BGR2RGB)
                image = mx.image.resize_short(mx.nd.array(image), 360)
                batch.append(mx.image.center_crop(image, (SIZE, SIZE))[0].transpose((2, 0, 1)))
            module = mx.mod.Module(symbol, context=mx.cpu())
            module.bind([("data", (BATCH_SIZE, 3, SIZE, SIZE))], None, for_training=False)
            module.set_params(arg_params, aux_params)
            module.forward(mx.io.DataBatch([mx.nd.stack(*batch)], None), is_train=False)
            np.argsort(module.get_outputs()[0].asnumpy(), axis=1)

    return predict


def way_of_today(prefix, images, dtype, one_batch):
    """Return a function that predicts a number of batches as sub.py does."""
    from common import engines
    from common.data.image_set import Selection
    from common.data.loader import FileSource
    from common.evaluation.quantized import quantized_prefix
    from common.evaluation.submission import make_rows, row_type
    from common.evaluation.views import load_views
    from common.networks import checkpoint

    engine = engines.load()
    devices = engine.parse_devices("cpu")
    engine.check(dtype, devices)
    saved = (quantized_prefix(engine, prefix, 1), 0) if dtype == "int8" else (prefix, 1)
    networks = [checkpoint.load(*saved)]
    predictor = engine.Predictor(networks, [1], devices, BATCH_SIZE, (3, SIZE, SIZE), dtype)
    source = FileSource([images % number for number in range(BATCH_SIZE)])
    flags = argparse.Namespace(
        crops=1,
        crop_shape=(SIZE, SIZE),
        resize=360,
        batch_size=BATCH_SIZE,
        data_nthreads=os.cpu_count(),
    )
    with closing(load_views(source, flags)) as loader:
        first = next(iter(loader))

    def predict(batches):
        # Nothing is queued before or after: what runs ahead must not run in another side's turn.
        photographs = Selection(source, np.arange(batches * BATCH_SIZE) % BATCH_SIZE)
        with closing(load_views(photographs, flags)) as loader:
            read = itertools.repeat(first, batches) if one_batch else loader
            for batch, probabilities in predictor.predict(read):
                make_rows(row_type(CLASSES, False), batch, probabilities, labelled=False)

    return predict


if __name__ == "__main__":
    run_script(main)
