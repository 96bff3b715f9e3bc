"""Trainers of both engines for the same small networks, and batches for them."""

import numpy as np

from common.data.loader import Batch
from common.engines import TrainerOptions
from common.engines.torch.devices import parse_devices
from common.engines.torch.initial_weights import draw
from common.engines.torch.runtime import torch
from common.engines.torch.shapes import infer_shapes
from common.engines.torch.trainer import Trainer
from common.engines.torch.workers import Workers
from common.networks import Network, edits
from common.networks.graph import Builder, auxiliary_states
from common.training.schedule import Schedule
from tests.conftest import require_engine
from tests.random_networks import for_raw_images

SHAPE, CLASSES = (3, 32, 32), 5
CPU = parse_devices("cpu")
RATE = 0.01


def schedule(rate=RATE):
    return Schedule("step", rate, 0.1, (), 0, 100)


def batch(number, size=8):
    random = np.random.RandomState(number)
    images = random.randint(0, 256, (size, *SHAPE)).astype(np.uint8)
    labels = random.randint(0, CLASSES, size).astype(np.float32)
    return Batch(images, labels, np.arange(size), 0, [])


def with_weights(graph, seed=3):
    """A network of random weights, biases, gammas, betas and statistics."""
    generator, random = torch.Generator().manual_seed(seed), np.random.RandomState(seed)
    arrays = {
        name: draw(name, shape, {}, generator).numpy()
        for name, shape in infer_shapes(graph, SHAPE).items()
    }
    for name, array in arrays.items():
        if not name.endswith("_weight") and name not in edits.fixed_gammas(graph):
            array += random.uniform(0, 0.1, array.shape).astype(np.float32)
    stats = {name: arrays.pop(name) for name in auxiliary_states(graph)}
    return Network(graph, arrays, stats, "fc1")


def smooth_network():
    """Every kind of parameter, without ReLU, at whose kink rounding grows to a difference."""
    builder = Builder()
    body = builder.add("BatchNorm", "bn_data", builder.variable("data"))
    for layer in range(2):
        # With a bias, or without padding, there would be gradients of nothing but rounding.
        shape = {"kernel": (3, 3), "pad": (1, 1), "num_filter": 8}
        body = builder.add("Convolution", f"conv{layer}", body, no_bias=True, **shape)
        body = builder.add("BatchNorm", f"bn{layer}", body, fix_gamma=False, momentum=0.8)
        body = builder.add("Activation", f"tanh{layer}", body, act_type="tanh")
        body = builder.add("Pooling", None, body, kernel=(4, 4), stride=(4, 4), pool_type="avg")
    graph = builder.graph(edits.classify(builder, body, CLASSES, "fc1"))
    return for_raw_images(with_weights(edits.take_raw_images(graph)))


def plain_network(dropout=0.0):
    """Without BatchNorm, whose statistics are those of each device's part of the batch."""
    builder = Builder()
    data = builder.add("_div_scalar", "scaled", builder.variable("data"), scalar=255)
    body = builder.add("Convolution", "conv0", data, kernel=(3, 3), stride=(4, 4), num_filter=8)
    body = builder.add("Flatten", "flat", builder.add("Activation", "relu", body, act_type="relu"))
    if dropout:
        body = builder.add("Dropout", "drop", body, p=dropout)
    graph = builder.graph(edits.classify(builder, body, CLASSES, "fc1"))
    return with_weights(edits.take_raw_images(graph))


def options(rate=RATE, batch_size=8, **settings):
    settings.setdefault("optimizer_settings", {"momentum": 0.9, "wd": 1e-3})
    return TrainerOptions(batch_size, SHAPE, schedule(rate), **settings)


def make(network, on=CPU, **settings):
    return Trainer(network, on, options(**settings), Workers("device", on))


def make_mxnets(network, count=1, **settings):
    require_engine("mxnet")
    from common.engines import mxnet
    from common.engines.mxnet.runtime import mx

    on = [mx.cpu(number) for number in range(count)]
    return mxnet.Trainer(network, on, options(**settings), mxnet.Workers("local", on))


def train(trainer, numbers, rate=RATE):
    return [trainer.step(batch(number), rate)() for number in numbers]


def assert_close(got, expected, start, share=1e-4):
    """All weights together end within a share of the way that they went."""
    assert got.keys() == expected.keys()
    way, off = (
        np.sqrt(sum(np.square(expected[name] - other[name]).sum() for name in expected))
        for other in (start, got)
    )
    assert way > 0
    assert off / way < share
