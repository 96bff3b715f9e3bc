"""Networks of random weights for the tests, the same with every engine."""

import numpy as np
import pytest

from common import engines
from common.networks import Network, edits
from common.networks.graph import auxiliary_states

CONSTANTS = {"gamma": 1, "beta": 0, "bias": 0, "mean": 0, "var": 1}


def with_random_weights(graph, side, seed, variance=1):
    """Return the `Network` of a graph for images of `side` pixels.

    Weights are normal numbers whose variance is `variance` / (inputs of one output); all else is
    as MXNet's Module begins. Any engine finds the shapes; without one the test is skipped.
    """
    if not engines.installed():
        pytest.skip("no engine is installed")
    random = np.random.RandomState(seed)
    arrays = {}
    for name, shape in sorted(engines.load().infer_shapes(graph, (3, side, side)).items()):
        value = CONSTANTS.get(name.rpartition("_")[2])
        if value is None:
            array = random.standard_normal(shape) * np.sqrt(variance / np.prod(shape[1:]))
        else:
            array = np.full(shape, value)
        arrays[name] = array.astype(np.float32)
    stats = {name: arrays.pop(name) for name in auxiliary_states(graph)}
    return Network(graph, arrays, stats, edits.find_head(graph)[0])


def for_raw_images(network):
    """Return the network with statistics of its input as photographs have them, 0 to 255."""
    network.stats["bn_data_moving_mean"][:] = 120
    network.stats["bn_data_moving_var"][:] = 3600
    return network
