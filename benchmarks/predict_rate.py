"""Images per second of this project's prediction, in one line, to compare machines.

    python -m benchmarks.predict_rate --network resnet-152 --image-size 320 --batch-size 16
    python -m benchmarks.predict_rate --engine torch --dtype bfloat16 --gpus 0
    python -m benchmarks.predict_rate --engine torch --network timm:convnext_tiny

The network has random weights, and predicts one batch of noise again and again.
"""

import numpy as np

from benchmarks import rates
from common.base.script import run_script
from common.data.loader import Batch


def main():
    rates.measure(rates.parse_args(__doc__, batch_size=16), "predict", make_predict)


def make_predict(args, engine, devices):
    """Return a function that predicts a number of batches, as sub.py does."""
    shape = (3, args.image_size, args.image_size)
    network = rates.with_random_weights(rates.build_network(args, engine), engine, shape)
    pixels = np.random.default_rng(0).integers(0, 256, (args.batch_size, *shape), dtype=np.uint8)
    if args.dtype == "int8":
        network = engine.quantize(network, pixels[:4])
    predictor = engine.Predictor(
        [network], [1], devices, args.batch_size, shape, args.dtype, args.compile
    )
    images = engine.allocate(pixels.shape, np.uint8)
    images[:] = pixels
    batch = Batch(images, None, None, pad=0, missing=[])

    def predict(batches):
        for _ in predictor.predict([batch] * batches):
            pass
        return []

    return predict


if __name__ == "__main__":
    run_script(main)
