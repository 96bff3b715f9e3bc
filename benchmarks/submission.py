"""Predicting with sub.py's parts against the way of 2017: ResNet-152, 320 px, batch 16, the CPU.

    python -m benchmarks.submission                       about ten minutes on two cores
    python -m benchmarks.submission --layers 18 --rounds 1

The way of 2017, written afresh here: MXNet's own number of threads (half of the cores), float32,
images read one after another, and a new bind for every batch. The sides take turns, each in a
process of its own, because the number of threads is fixed at the import. "synthetic" sides compute
the same batch again and again: what is left of reading and decoding. Random weights, made-up
photographs of 683x512. Writes benchmarks/results/submission.json.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time

import cv2
import numpy as np

from benchmarks.compare import ratios, write_result
from benchmarks.made_up import encode, make_photograph
from common.files import run_script

SIZE, BATCH_SIZE, CLASSES = 320, 16, 5089
BASE = "2017"
# At least so many times the other side.
TARGETS = {
    ("float32", BASE): 1.9,
    ("bfloat16", BASE): 2.8,
    ("int8", BASE): 5.5,
    ("float32", "float32 synthetic"): 0.95,
    ("int8", "int8 synthetic"): 0.95,
}


def main():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--layers", type=int, default=152)
    parser.add_argument("--batches", type=int, default=2, help="per measurement")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    parser.add_argument("--folder", help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.side:
        print(json.dumps(measure(args)))
        return
    with tempfile.TemporaryDirectory() as folder:
        call(args, folder, "prepare")
        sides = [BASE, "float32", "float32 synthetic", "int8", "int8 synthetic"]
        sides += ["bfloat16"] if call(args, folder, "bfloat16 there") else []
        measured = {side: {"wall": []} for side in sides}
        for _ in range(args.rounds):
            for side in sides:
                measured[side]["wall"].append(call(args, folder, side))
                print(f"{side:18s} {measured[side]['wall'][-1]:6.2f} images/s", flush=True)
    result = {"layers": args.layers, "images_per_second": measured, "ratios": {}}
    for (ours, theirs), target in TARGETS.items():
        if ours in measured:
            ratio = ratios(measured, ours, theirs)
            result["ratios"][f"{ours} / {theirs}"] = ratio
            low, median, high = ratio["min"], ratio["median"], ratio["max"]
            print(f"{ours} / {theirs}: {median:.2f} ({low:.2f} to {high:.2f}), target {target}")
    write_result("submission", result)


def call(args, folder, side):
    environment = dict(os.environ)
    environment.pop("OMP_NUM_THREADS", None)
    command = [sys.executable, "-m", "benchmarks.submission", "--side", side, "--folder", folder]
    command += ["--layers", str(args.layers), "--batches", str(args.batches)]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return json.loads(done.stdout)


def measure(args):
    """Return the images per second of one side, without its start and one batch to warm up."""
    prefix, images = os.path.join(args.folder, "net"), os.path.join(args.folder, "%d.jpg")
    count = args.batches * BATCH_SIZE
    if args.side == "prepare":
        return prepare(args.layers, prefix, images)
    if args.side == BASE:
        work = way_of_2017(prefix, images)
    elif args.side == "bfloat16 there":
        from common.devices import supports_bfloat16

        return supports_bfloat16()[0]
    else:
        dtype, _, synthetic = args.side.partition(" ")
        work = way_of_today(prefix, images, dtype, bool(synthetic))
    next(work)
    start = time.perf_counter()
    for _ in range(args.batches):
        next(work)
    return count / (time.perf_counter() - start)


def prepare(layers, prefix, images):
    """Save photographs, and a network of random weights in float32 and int8."""
    from common import checkpoint
    from common.find_mxnet import mx
    from common.network import build_resnet, take_raw_images
    from common.quantize import quantize, quantized_prefix

    for number in range(BATCH_SIZE):
        with open(images % number, "wb") as stream:
            stream.write(encode(make_photograph(number)))
    symbol = take_raw_images(build_resnet(layers, CLASSES))
    module = mx.mod.Module(symbol)
    module.bind([("data", (1, 3, SIZE, SIZE))], [("softmax_label", (1,))], for_training=False)
    module.init_params(mx.init.Xavier(magnitude=1))
    network = (symbol, *module.get_params())
    checkpoint.save(prefix, 1, *network)
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3, SIZE, SIZE), dtype=np.uint8)
    checkpoint.save(quantized_prefix(prefix, 1), 0, *quantize(*network, pixels))
    return True


def way_of_2017(prefix, images):
    """Yield after each batch of the loop of 2017, written afresh."""
    import numpy

    numpy.bool = bool  # for MXNet on numpy from 1.24 on
    import mxnet as mx

    symbol, arg_params, aux_params = mx.model.load_checkpoint(prefix, 1)
    numbers = itertools.cycle(range(BATCH_SIZE))
    while True:
        batch = []
        for number in itertools.islice(numbers, BATCH_SIZE):
            image = cv2.cvtColor(cv2.imread(images % number), cv2.COLOR_BGR2RGB)
            image = mx.image.resize_short(mx.nd.array(image), 360)
            batch.append(mx.image.center_crop(image, (SIZE, SIZE))[0].transpose((2, 0, 1)))
        module = mx.mod.Module(symbol, context=mx.cpu())
        module.bind([("data", (BATCH_SIZE, 3, SIZE, SIZE))], None, for_training=False)
        module.set_params(arg_params, aux_params)
        module.forward(mx.io.DataBatch([mx.nd.stack(*batch)], None), is_train=False)
        np.argsort(module.get_outputs()[0].asnumpy(), axis=1)
        yield


def way_of_today(prefix, images, dtype, synthetic):
    """Yield after each batch of `Predictor.predict`, as sub.py calls it."""
    from common import checkpoint
    from common.find_mxnet import mx
    from common.image_set import Selection
    from common.loader import FileSource
    from common.network import convert_precision
    from common.predict import Predictor, load_views
    from common.quantize import quantized_prefix
    from common.submission import make_rows, row_type

    if dtype == "int8":
        network = checkpoint.load(quantized_prefix(prefix, 1), 0)
    else:
        symbol, arg_params, aux_params = checkpoint.load(prefix, 1)
        network = convert_precision(symbol, dtype), arg_params, aux_params
    predictor = Predictor([network], [1], [mx.cpu()], BATCH_SIZE, (3, SIZE, SIZE))
    source = FileSource([images % number for number in range(BATCH_SIZE)])
    flags = argparse.Namespace(
        crops=1, crop_size=SIZE, resize=360, batch_size=BATCH_SIZE, data_nthreads=os.cpu_count()
    )
    endless = Selection(source, np.arange(10_000) % BATCH_SIZE)
    batches = load_views(endless, flags)
    if synthetic:
        batches = itertools.repeat(next(iter(batches)))
    for batch, probabilities in predictor.predict(batches):
        make_rows(row_type(CLASSES, False), batch, probabilities, labelled=False)
        yield


if __name__ == "__main__":
    run_script(main)
