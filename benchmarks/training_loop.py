"""What our training loop costs over the bare forward, backward and update of the same Module.

    python -m benchmarks.training_loop

ResNet-50 at 320 pixels, batches of 8, on a CPU, in turns: the bare Module on one synthetic batch,
our loop on the same (`--benchmark 1`), and our loop on records with the 2017 augmentation. Writes
benchmarks/results/training_loop.json.
"""

import argparse
import logging
import os
import tempfile

from benchmarks.compare import compare, make_parser, take_turns, write_result
from benchmarks.made_up import encode, make_photograph, write_records
from common import data, fit, fit_flags, iterators, network
from common.find_mxnet import mx
from common.script import run_script

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
        args = training_args("--data-dir", folder)
        real, _ = data.get_record_iterators(args)
        synthetic = iterators.SyntheticIterator(
            BATCH, (3, SIZE, SIZE), CLASSES, num_batches=BATCHES
        )
        run = start_run(args, layers, synthetic)
        batch = next(synthetic)

        def bare():
            for _ in range(BATCHES):
                run.trainer._module.forward_backward(batch)
                run.trainer._module.update()
            mx.nd.waitall()
            return BATCH * BATCHES

        def loop(iterator):
            run.train = iterator
            run.train_epoch(0)
            return BATCH * BATCHES

        sides = {
            BARE: bare,
            "on one batch": lambda: loop(synthetic),
            "on records": lambda: loop(real),
        }
        speeds = take_turns(sides, 1 if options.quick else options.rounds)
        real.close()
    comparisons = [
        compare(f"the training loop {name}, ResNet-{layers}", speeds, name, {BARE: 0.97})
        for name in list(sides)[1:]
    ]
    write_result("training_loop", {"comparisons": comparisons}, options.quick)


def training_args(*flags):
    """The flags of fine-tune.py that this benchmark needs."""
    parser = argparse.ArgumentParser()
    fit_flags.add_fit_args(parser)
    data.add_data_args(parser)
    data.add_data_aug_args(parser)
    parser.set_defaults(freeze=None, head_lr_mult=1.0, num_classes=CLASSES, batch_size=BATCH)
    return parser.parse_args(["--image-shape", f"3,{SIZE},{SIZE}", *flags])


def start_run(args, layers, train):
    """A training of a ResNet from random weights."""
    symbol = network.take_raw_images(network.build_resnet(layers, CLASSES))
    run = fit.Run(args, symbol, {}, {}, "fc1", train, None, [mx.cpu()], "device")
    run.start(begin_epoch=0)
    return run


if __name__ == "__main__":
    run_script(main)
