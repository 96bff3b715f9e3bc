"""What MXNet fuses or quantizes, sums above all: the probabilities are right."""

import numpy as np
import pytest

from common.data.loader import Batch
from common.engines import mxnet as engine
from common.engines.mxnet.fusion import without_wrong_int8_sums, without_wrong_sums
from common.engines.mxnet.precision import to_symbol
from common.engines.mxnet.runtime import mx
from common.networks import edits
from common.networks.graph import Builder
from common.networks.resnet import build_resnet
from tests.conftest import require_precision
from tests.random_networks import with_random_weights

IMAGES = np.random.RandomState(0).randint(0, 256, (4, 3, 16, 16)).astype(np.uint8)


def conv(net, x, name, filters=16):
    return net.add("Convolution", name, x, num_filter=filters, kernel=(3, 3), pad=(1, 1))


def batch_norm(net, x):
    return net.add("BatchNorm", "bn", x, fix_gamma=False)


def relu(net, x, name="relu"):
    return net.add("Activation", name, x, act_type="relu")


def network_of(body):
    """A classifier of raw images: `body` is a function of a builder and the normalised images."""
    net = Builder()
    raw = net.add("Cast", "raw_cast", net.variable("data"), dtype="float32")
    pixels = net.add("_mul_scalar", "scaled", raw, scalar=1 / 64)
    pooled = net.add("Pooling", "pool", body(net, pixels), global_pool=True, pool_type="avg")
    graph = net.graph(edits.classify(net, net.add("Flatten", None, pooled), 5, "fc1"))
    return with_random_weights(graph, IMAGES.shape[-1], seed=1)


def predicted(network, dtype="float32"):
    shape = IMAGES.shape[1:]
    predictor = engine.Predictor([network], [1], [mx.cpu()], len(IMAGES), shape, dtype)
    ((_, found),) = predictor.predict([Batch(IMAGES, None, None, pad=0, missing=[])])
    return found


def without_fusion(network):
    """What MXNet computes where it binds for training: it fuses nothing then."""
    executor = to_symbol(network.graph).simple_bind(
        mx.cpu(), data=IMAGES.shape, type_dict={"data": "uint8"}
    )
    arrays = {**executor.arg_dict, **executor.aux_dict}
    for name, value in {**network.params, **network.stats}.items():
        arrays[name][:] = mx.nd.array(value)
    return executor.forward(data=mx.nd.array(IMAGES, dtype="uint8"))[0].asnumpy()


BRANCHES = {
    "a pre-activation block": lambda net, y: conv(net, relu(net, batch_norm(net, y)), "conv1"),
    "BatchNorm": batch_norm,
    "BatchNorm behind a copy": lambda net, y: batch_norm(net, net.add("_copy", "copy", y)),
    "ReLU": lambda net, y: relu(net, y),
    "Dropout": lambda net, y: net.add("Dropout", "dropout", y),
    "itself": lambda net, y: y,
    "another sum": lambda net, y: net.add("elemwise_add", "sum1", conv(net, y, "conv1"), y),
    "convolution": lambda net, y: conv(net, y, "conv1"),
}


@pytest.mark.parametrize("is_first", [True, False])
@pytest.mark.parametrize("branch", BRANCHES.values(), ids=BRANCHES)
def test_a_convolution_is_added_to_what_is_computed_from_it(branch, is_first):
    def body(net, x):
        y = conv(net, x, "conv0")
        operands = (y, branch(net, y)) if is_first else (branch(net, y), y)
        return net.add("elemwise_add", "sum", *operands)

    network = network_of(body)
    np.testing.assert_allclose(predicted(network), without_fusion(network), rtol=1e-4)


def linear_bottleneck(net, x):
    """MobileNetV2's block: the sum of a convolution and of what nothing else is fused behind."""
    y = batch_norm(net, conv(net, x, "conv0"))
    return net.add("elemwise_add", "sum", conv(net, relu(net, conv(net, y, "conv1")), "conv2"), y)


@pytest.mark.parametrize(
    "graph", [build_resnet(18, 5), build_resnet(50, 5), network_of(linear_bottleneck).graph]
)
def test_the_sums_of_common_networks_stay_fused(graph):
    assert without_wrong_sums(graph) == graph
    assert without_wrong_int8_sums(graph) == graph


SHORTCUTS = {
    "unsigned": lambda net, x: x,  # what a ReLU gives
    "pooled": lambda net, x: net.add("Pooling", "pool0", x, kernel=(1, 1), pool_type="max"),
    "signed": lambda net, x: conv(net, x, "shortcut"),
}


@pytest.mark.parametrize("has_relu", [True, False])
@pytest.mark.parametrize("shortcut", SHORTCUTS.values(), ids=SHORTCUTS)
def test_int8_adds_numbers_of_one_sign_to_numbers_of_both(shortcut, has_relu):
    require_precision("mxnet", "int8")

    def body(net, x):
        x = relu(net, conv(net, x, "conv0"), "relu0")
        x = net.add("elemwise_add", "sum", conv(net, x, "conv1"), shortcut(net, x))
        return relu(net, x, "relu1") if has_relu else x

    assert_int8_is_near(network_of(body))


def assert_int8_is_near(network):
    exact, found = predicted(network), predicted(engine.quantize(network, IMAGES), "int8")
    logits, expected = (np.log(p) - np.log(p).mean(axis=1, keepdims=True) for p in (found, exact))
    assert np.linalg.norm(logits - expected) < 0.03 * np.linalg.norm(expected)


def test_int8_multiplies_by_a_sigmoid():
    """SiLU, as the activation and behind a pool over the whole image."""
    require_precision("mxnet", "int8")

    def body(net, x):
        y = conv(net, x, "conv0")
        y = net.add("elemwise_mul", "silu", y, net.add("sigmoid", "sigmoid0", y))
        pooled = net.add("Pooling", "squeeze", relu(net, y), global_pool=True, pool_type="avg")
        gate = net.add("Activation", "gate", conv(net, pooled, "conv1"), act_type="sigmoid")
        return conv(net, net.add("broadcast_mul", "excited", y, gate), "conv2")

    assert_int8_is_near(network_of(body))
