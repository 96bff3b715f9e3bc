"""Images per second of this project's prediction, in one line, to compare machines.

    python -m benchmarks.predict_rate --network resnet-152 --image-size 320 --batch-size 16
    python -m benchmarks.predict_rate --engine torch --dtype bfloat16 --gpus 0
    python -m benchmarks.predict_rate --engine torch --network timm:convnext_tiny

The network has random weights, and predicts one batch of noise again and again.
"""

import numpy as np

from benchmarks import rates
from common.base.help import whole
from common.base.script import run_script
from common.data.loader import Batch


def main():
    parser = rates.make_parser(__doc__, batch_size=16)
    parser.add_argument("--views", type=whole, default=1, help="of each image (%(default)s)")
    parser.add_argument("--networks", type=whole, default=1, help="averaged (%(default)s)")
    rates.measure(parser.parse_args(), "predict", make_predict)


def make_predict(args, engine, devices):
    """Return a function that predicts a number of batches, as sub.py does."""
    shape = (3, args.image_size, args.image_size)
    network = rates.with_random_weights(rates.build_network(args, engine), engine, shape)
    views = () if args.views == 1 else (args.views,)
    rng = np.random.default_rng(0)
    pixels = rng.integers(0, 256, (args.batch_size, *views, *shape), dtype=np.uint8)
    if args.dtype == "int8":
        network = engine.quantize(network, pixels.reshape(-1, *shape)[:4])
    networks = [network] * args.networks
    predictor = engine.Predictor(
        networks, [1] * len(networks), devices, args.batch_size, shape, args.dtype, args.compile
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
