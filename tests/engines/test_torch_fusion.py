"""Layers that are joined for prediction compute what they did apart."""

import numpy as np
import pytest

from common.engines import torch as engine
from common.engines.torch import fusion
from common.engines.torch.predictor import load
from common.engines.torch.runtime import torch
from common.networks import Network
from common.networks.graph import Builder, auxiliary_states
from tests.conftest import require_precision

pytestmark = pytest.mark.skipif(
    not torch.backends.mkldnn.is_available(), reason="this PyTorch is built without oneDNN"
)
SHAPE = (4, 16, 12, 12)


def pre_activation(padding=0, output="both"):
    """A norm and a ReLU before two convolutions, of which one has a bias, and their sum."""
    net = Builder()
    body = net.add("BatchNorm", "norm", net.variable("data"), fix_gamma=False, eps=1e-3)
    body = net.add("Activation", "relu", body, act_type="relu")
    window = {"kernel": (1 + 2 * padding,) * 2, "pad": (padding,) * 2, "num_filter": 8}
    one = net.add("Convolution", "one", body, no_bias=True, **window)
    other = net.add("Convolution", "other", body, **window)
    total = net.add("elemwise_add", "total", one, other)
    if output == "relu":  # which somebody else reads, too
        total = net.add("Concat", "all", total, body, dim=1)
    pooled = net.add("Pooling", "pool", total, global_pool=True, pool_type="avg", kernel=(1, 1))
    return net.graph(
        net.add("FullyConnected", "fc", net.add("Flatten", "flat", pooled), num_hidden=5)
    )


def with_numbers(graph, scales):
    """Random numbers; `scales` are the norm's, repeated over its channels."""
    random = np.random.RandomState(0)
    arrays = {
        name: random.normal(0, 0.5, shape).astype(np.float32)
        for name, shape in engine.infer_shapes(graph, SHAPE[1:]).items()
    }
    arrays["norm_gamma"] = np.resize(np.float32(scales), SHAPE[1])
    arrays["norm_moving_var"] = random.uniform(0.5, 2, SHAPE[1]).astype(np.float32)
    stats = {name: arrays.pop(name) for name in auxiliary_states(graph)}
    return Network(graph, arrays, stats)


def both_ways(network, dtype):
    """The logits of the module as it is built, and after `prepare`; and its steps then."""
    images = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    plain, _ = load(network, "cpu", SHAPE)
    joined, entries = load(network, "cpu", SHAPE, dtype)
    fusion.prepare(joined, entries, dtype, use_onednn=True)
    with torch.no_grad():
        return plain.eval()(images), joined(images), [step.op for step in joined.plan.steps]


@pytest.mark.parametrize("scales", [[1.0], [-0.5, 2.0], [0.0, 1.0, -1.0], [1e-30, 1e-3, 1.0]])
@pytest.mark.parametrize("padding", [0, 1])
@pytest.mark.parametrize("output", ["both", "relu"])
def test_a_norm_before_a_relu_is_joined_with_it(scales, padding, output):
    expected, got, steps = both_ways(
        with_numbers(pre_activation(padding, output), scales), "float32"
    )
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5)
    joins = padding == 0 and output == "both"
    assert ("clamp" in steps) == joins
    assert ("BatchNorm" in steps) != joins


def test_bfloat16_scales_by_a_convolution():
    require_precision("torch", "bfloat16")
    expected, got, steps = both_ways(with_numbers(pre_activation(1), [-0.5, 2.0]), "bfloat16")
    np.testing.assert_allclose(got, expected, atol=0.05 * expected.abs().max())
    assert "BatchNorm" not in steps and "Activation" not in steps


def test_a_sum_overwrites_what_nobody_reads_later():
    """Two residual units: each norm reads a sum that the next sum reads, too."""
    net = Builder()
    body = net.add("Convolution", "first", net.variable("data"), num_filter=16, kernel=(1, 1))
    for unit in range(3):
        x = net.add("BatchNorm", f"norm{unit}", body, fix_gamma=False)
        x = net.add("Activation", f"relu{unit}", x, act_type="relu")
        x = net.add("Convolution", f"conv{unit}", x, num_filter=16, kernel=(1, 1))
        body = net.add("elemwise_add", f"sum{unit}", x, body)
    pooled = net.add("Pooling", "pool", body, global_pool=True, pool_type="avg", kernel=(1, 1))
    graph = net.graph(
        net.add("FullyConnected", "fc", net.add("Flatten", "f", pooled), num_hidden=5)
    )
    random = np.random.RandomState(0)
    arrays = {
        name: random.uniform(0.1, 0.5, shape).astype(np.float32)
        for name, shape in engine.infer_shapes(graph, SHAPE[1:]).items()
    }
    stats = {name: arrays.pop(name) for name in auxiliary_states(graph)}
    network = Network(graph, arrays, stats)
    images = torch.randn(SHAPE, generator=torch.Generator().manual_seed(1))
    plain, _ = load(network, "cpu", SHAPE)
    joined, entries = load(network, "cpu", SHAPE)
    fusion.prepare(joined, entries, "float32", use_onednn=True)
    with torch.no_grad():
        for _ in range(2):  # nothing that is kept was overwritten
            np.testing.assert_allclose(joined(images), plain.eval()(images), rtol=1e-4)
    sums = [step.compute.in_place for step in joined.plan.steps if len(step.inputs) == 2]
    assert sums == [True] * 3
