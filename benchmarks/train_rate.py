"""Images per second of this project's training, in one line, to compare machines.

    python -m benchmarks.train_rate --network resnet-152 --image-size 320 --batch-size 8
    python -m benchmarks.train_rate --engine torch --dtype bfloat16 --gpus 0 --batch-size 64
    python -m benchmarks.train_rate --gpus 0 --records data/train.rec --threads 16
    python -m benchmarks.train_rate --engine torch --network timm:convnext_tiny

The network has random weights, and trains with SGD, as run.sh has it: on one batch of noise again
and again, or on records, which are read and augmented as fine-tune.py does it.
`python fine-tune.py --dry-run` measures your own flags.
"""

import argparse
import itertools

import numpy as np

from benchmarks import rates
from common.base.processor import usable_cores
from common.base.script import run_script
from common.data.flags import add_data_args, add_data_aug_args
from common.engines import TrainerOptions
from common.training.batches import MadeUpImages, open_batches
from common.training.schedule import Schedule

LEARNING_RATE = 0.01


def main():
    parser = rates.make_parser(__doc__, batch_size=8)
    parser.add_argument("--records", metavar="REC", help="train on these (default: on noise)")
    parser.add_argument("--threads", type=int, default=usable_cores(), help="that decode")
    rates.measure(parser.parse_args(), "train", make_train)


def make_train(args, engine, devices):
    """Return a function that trains on a number of batches, and returns their losses."""
    shape = (3, args.image_size, args.image_size)
    schedule = Schedule("step", LEARNING_RATE, 1.0, (), warmup_updates=0, num_updates=0)
    options = TrainerOptions(args.batch_size, shape, schedule, args.dtype, args.compile)
    workers = engine.Workers("device", devices)
    trainer = engine.Trainer(rates.build_network(args, engine), devices, options, workers)
    batches = endless(open_loader(args, engine.allocate))

    def train(count):
        losses, waiting = [], None
        for batch in itertools.islice(batches, count):
            read = trainer.step(batch, LEARNING_RATE)
            if waiting is not None:  # one batch late, as common/training/fit.py counts them
                losses.append(loss_of(*waiting))
            waiting = batch, read
        losses.append(loss_of(*waiting))
        trainer.synchronize()
        return losses

    return train


def open_loader(args, allocate):
    """Return the batches of an epoch: of the records, or of noise."""
    if not args.records:
        shape = (3, args.image_size, args.image_size)
        return MadeUpImages(args.batch_size, shape, args.num_classes, allocate=allocate)
    parser = argparse.ArgumentParser()
    add_data_args(parser)
    add_data_aug_args(parser)
    size = str(args.image_size)
    flags = ["--data-train", args.records, "--data-val", args.records]
    flags += ["--image-shape", f"3,{size},{size}", "--data-nthreads", str(args.threads)]
    flags += ["--num-classes", str(args.num_classes)]
    settings = parser.parse_args(flags)
    settings.batch_size, settings.label_smoothing = args.batch_size, 0.0
    data = open_batches(settings, allocate=allocate)
    data.val.close()
    return data.train


def endless(loader):
    """Yield the batches of one epoch after another."""
    for epoch in itertools.count():
        loader.set_epoch(epoch)
        yield from loader


def loss_of(batch, read):
    rows = np.arange(len(batch.labels))
    return float(-np.log(read()[rows, batch.labels.astype(int)]).mean())


if __name__ == "__main__":
    run_script(main)
