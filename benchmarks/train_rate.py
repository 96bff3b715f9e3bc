"""Images per second of this project's training, in one line, to compare machines.

    python -m benchmarks.train_rate --network resnet-152 --image-size 320 --batch-size 8
    python -m benchmarks.train_rate --engine torch --dtype bfloat16 --gpus 0
    python -m benchmarks.train_rate --engine torch --network timm:convnext_tiny

The network has random weights, and trains on one batch of noise again and again, with SGD as run.sh
has it. `python fine-tune.py --dry-run` measures your own flags.
"""

import numpy as np

from benchmarks import rates
from common.base.script import run_script
from common.engines import TrainerOptions
from common.training.batches import MadeUpImages
from common.training.schedule import Schedule

LEARNING_RATE = 0.01


def main():
    rates.measure(rates.parse_args(__doc__, batch_size=8), "train", make_train)


def make_train(args, engine, devices):
    """Return a function that trains on a number of batches, and returns their losses."""
    shape = (3, args.image_size, args.image_size)
    schedule = Schedule("step", LEARNING_RATE, 1.0, (), warmup_updates=0, num_updates=0)
    options = TrainerOptions(args.batch_size, shape, schedule, args.dtype, args.compile)
    workers = engine.Workers("device", devices)
    trainer = engine.Trainer(rates.build_network(args, engine), devices, options, workers)
    made_up = MadeUpImages(args.batch_size, shape, args.num_classes, allocate=engine.allocate)
    batch = next(iter(made_up))
    rows, classes = np.arange(args.batch_size), batch.labels.astype(int)

    def train(batches):
        losses = []
        for _ in range(batches):
            probabilities = trainer.step(batch, LEARNING_RATE)()
            losses.append(float(-np.log(probabilities[rows, classes]).mean()))
        trainer.synchronize()
        return losses

    return train


if __name__ == "__main__":
    run_script(main)
