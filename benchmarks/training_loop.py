"""What our training loop costs over the bare forward, backward and update of the same Module.

    python -m benchmarks.training_loop

ResNet-50 at 320 pixels, batches of 8, on a CPU, in turns: the bare Module on one synthetic batch,
our loop on the same batch (`--benchmark 1`), and our loop on records with the 2017 augmentation.
Writes benchmarks/results/training_loop.json.
"""

import argparse
import logging
import os
import tempfile

from benchmarks.compare import compare, make_parser, take_turns, write_result
from benchmarks.made_up import encode, make_photograph, write_records
from common import engines
from common.base.script import run_script
from common.data.flags import add_data_args, add_data_aug_args
from common.engines.mxnet.runtime import mx
from common.networks import Network, edits, resnet
from common.training import batches, fit
from common.training.flags import add_fit_args

BATCH, SIZE, CLASSES, BATCHES = 8, 320, 1000, 4
BARE = "the bare Module on one batch"


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    layers = 18 if options.quick else 50
    logging.basicConfig(level=logging.WARNING)
    with tempfile.TemporaryDirectory() as folder:
        images = [encode(make_photograph(number)) for number in range(BATCH * BATCHES)]
        write_records(
            os.path.join(folder, "train"), images, [i % CLASSES for i in range(len(images))]
        )
        args, engine = training_args("--data-dir", folder), engines.load()
        records = batches.open_batches(args, allocate=engine.allocate)
        made_up = batches.MadeUpImages(
            BATCH, (3, SIZE, SIZE), CLASSES, num_batches=BATCHES, allocate=engine.allocate
        )
        train = records.train
        run = start_run(args, engine, layers, records)
        module, batch = run.trainer._module, as_mxnet(next(iter(made_up)))

        def bare():
            for _ in range(BATCHES):
                module.forward_backward(batch)
                module.update()
            mx.nd.waitall()
            return BATCH * BATCHES

        def loop(train):
            run.data.train = train
            run.train_epoch(0)
            return BATCH * BATCHES

        sides = {
            BARE: bare,
            "on one batch": lambda: loop(made_up),
            "on records": lambda: loop(train),
        }
        speeds = take_turns(sides, 1 if options.quick else options.rounds)
        train.close()
    comparisons = [
        compare(f"the training loop {name}, ResNet-{layers}", speeds, name, {BARE: 0.97})
        for name in list(sides)[1:]
    ]
    write_result("training_loop", {"comparisons": comparisons}, options.quick)


def training_args(*flags):
    """The flags of fine-tune.py that this benchmark needs."""
    parser = argparse.ArgumentParser()
    add_fit_args(parser)
    add_data_args(parser)
    add_data_aug_args(parser)
    parser.set_defaults(freeze=None, head_lr_mult=1.0, num_classes=CLASSES, batch_size=BATCH)
    return parser.parse_args(["--image-shape", f"3,{SIZE},{SIZE}", *flags])


def start_run(args, engine, layers, data):
    """Return the `Run` of a ResNet that starts from random weights."""
    network = Network(edits.take_raw_images(resnet.build_resnet(layers, CLASSES)), {}, {}, "fc1")
    devices = engine.parse_devices("cpu")
    workers = engine.Workers(args.kv_store, devices)
    return fit.Run(args, engine, network, data, devices, workers, begin_epoch=0)


def as_mxnet(batch):
    """Return a batch as MXNet's Module takes it."""
    images, labels = mx.nd.array(batch.images, dtype="uint8"), mx.nd.array(batch.labels)
    return mx.io.DataBatch([images], [labels], pad=batch.pad)


if __name__ == "__main__":
    run_script(main)
