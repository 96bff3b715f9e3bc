"""The predictor of the PyTorch engine: ensembles, views, devices, precisions, errors."""

import dataclasses

import numpy as np
import pytest

from common.base.files import UserError
from common.engines import torch as torch_engine
from common.engines.torch import fusion, operators
from common.engines.torch.memory import copy_to
from common.engines.torch.runtime import torch
from common.engines.torch.shapes import shapes_of
from common.networks import Network, edits
from common.networks.graph import Builder
from tests.conftest import require_precision
from tests.engines.small_networks import (
    BODIES,
    CLASSES,
    assert_engines_agree,
    batches_of,
    conv,
    gluon_graph,
    inception_bn,
    inception_resnet,
    logits_of,
    of_images,
    predict,
    resnext,
    with_random_weights,
)


@pytest.fixture(scope="module")
def network():
    return with_random_weights(of_images(resnext), 33)


@pytest.fixture(scope="module")
def other():
    return with_random_weights(of_images(inception_bn), 33, seed=1)


def test_an_ensemble_is_averaged_by_its_weights(network, other):
    assert_engines_agree([network, other], 33, weights=[3, 1])
    (both,) = predict(torch_engine, [network, other], 33, weights=[3, 1])
    (first,), (second,) = (predict(torch_engine, [one], 33) for one in (network, other))
    np.testing.assert_allclose(both, 0.75 * first + 0.25 * second, rtol=1e-5)


def test_the_views_of_an_image_are_averaged(network):
    assert_engines_agree(network, 33, views=4)


def test_batches_come_back_in_order_without_their_padding(network):
    assert_engines_agree(network, 33, count=5, pad=1)
    batches = [*batches_of(33, count=5, pad=1)]
    predictor = torch_engine.Predictor(
        [network], [1], torch_engine.parse_devices("cpu"), 3, (3, 33, 33)
    )
    predicted = [*predictor.predict(batches)]
    assert [batch for batch, _ in predicted] == batches
    assert [len(values) for _, values in predicted] == [3, 3, 3, 3, 2]
    assert predictor.num_classes == CLASSES


def test_several_devices_give_what_one_gives(network):
    one, two = (
        predict(torch_engine, [network], 33, count=3, devices=devices)
        for devices in ("cpu", "cpu:0,cpu:1")
    )
    np.testing.assert_array_equal(one, two)


def test_memory_of_the_engine_is_read_without_a_copy(network):
    (batch,) = batches_of(33)
    array = torch_engine.allocate(batch.images.shape, np.uint8)
    assert array.dtype == np.uint8 and array.flags.writeable
    array[:] = batch.images
    assert copy_to(array, torch.device("cpu")).data_ptr() == array.ctypes.data
    predictor = torch_engine.Predictor(
        [network], [1], torch_engine.parse_devices("cpu"), 3, (3, 33, 33)
    )
    own, (expected,) = (
        dataclasses.replace(batch, images=array),
        predict(torch_engine, [network], 33),
    )
    ((_, values),) = predictor.predict([own])
    np.testing.assert_array_equal(values, expected)


def test_a_predictor_leaves_its_networks_as_they_are(network):
    before = {name: array.copy() for name, array in {**network.params, **network.stats}.items()}
    predict(torch_engine, [network], 33)
    for name, array in {**network.params, **network.stats}.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_the_bits_give_nearly_the_same_probabilities(network, dtype):
    require_precision("torch", dtype)
    (full,), (half,) = (predict(torch_engine, [network], 33, dtype=d) for d in ("float32", dtype))
    assert half.dtype == np.float32
    np.testing.assert_allclose(half.sum(1), 1, rtol=1e-5)
    assert 0 < abs(half - full).max() < 0.03


def copied(net, data):
    """A sum is read as it is after the ReLU that could overwrite it."""
    x = conv(net, data, "a", 8, act=None)
    total = net.add("elemwise_add", "sum", x, conv(net, x, "b", 8, act=None))
    kept = net.add("_copy", "kept", total)
    relu = net.add("Activation", "relu", total, act_type="relu")
    return net.add("elemwise_add", "out", kept, relu)


def doubled(net, data):
    """A convolution that is added to itself."""
    x = net.add("Convolution", "conv", data, num_filter=8, kernel=(3, 3))
    return net.add("Activation", "relu", net.add("elemwise_add", "twice", x, x), act_type="relu")


@pytest.mark.parametrize("body", [*BODIES, doubled])
def test_integers_give_nearly_the_same_probabilities(body):
    require_precision("torch", "int8")
    network = with_random_weights(of_images(body), 33)
    quantized = torch_engine.quantize(network, next(batches_of(33)).images)
    (full,) = predict(torch_engine, [network], 33)
    for _ in range(2):  # nothing that is kept was overwritten
        (found,) = predict(torch_engine, [quantized], 33, dtype="int8")
        assert 0 < abs(found - full).max() < 0.02


@pytest.mark.parametrize("use_onednn", [True, False])
@pytest.mark.parametrize("body", [*BODIES, copied, doubled])
def test_a_module_that_is_rewritten_for_prediction_gives_the_same_logits(body, use_onednn):
    network = with_random_weights(of_images(body), 33)
    images = next(batches_of(33)).images
    module = operators.build(network, channels_last=True)
    num_steps = len(module.plan.steps)
    _, entries = shapes_of(module.plan, images.shape)
    fusion.prepare(module, entries, "float32", use_onednn)
    with torch.inference_mode():
        for _ in range(2):  # nothing that is kept was overwritten
            logits = module(torch.from_numpy(images)).numpy()
            np.testing.assert_allclose(logits, logits_of(network, images), rtol=1e-4, atol=1e-4)
    assert len(module.plan.steps) < num_steps or body in (doubled, inception_resnet)


def standardised(net, data):
    """A convolution and an inner FullyConnected with weights that the graph computes."""
    weight = net.add("L2Normalization", "unit", net.variable("free_weight", shape=(8, 3, 3, 3)))
    attrs = {"num_filter": 8, "kernel": (3, 3), "no_bias": True}
    x = net.add("Convolution", "conv", data, weight, **attrs)
    x = net.add("Activation", "relu", net.add("BatchNorm", "bn", x), act_type="relu")
    pooled = net.add("Flatten", "flat", net.add("Pooling", "pool", x, global_pool=True))
    weight = net.add("L2Normalization", "unit1", net.variable("free1_weight", shape=(8, 8)))
    x = net.add("FullyConnected", "fc0", pooled, weight, num_hidden=8, no_bias=True)
    return net.add("Reshape", "map", x, shape="(0, 0, 1, 1)")


def test_weights_may_be_computed_in_the_graph():
    network = with_random_weights(of_images(standardised), 33)
    assert_engines_agree(network, 33)
    (full,) = predict(torch_engine, [network], 33)
    for dtype in ("bfloat16", "int8"):
        require_precision("torch", dtype)
        images = next(batches_of(33)).images
        computed = torch_engine.quantize(network, images) if dtype == "int8" else network
        (found,) = predict(torch_engine, [computed], 33, dtype=dtype)
        np.testing.assert_allclose(found, full, atol=0.03)


# --- Errors ---------------------------------------------------------------------------------------


def test_networks_of_other_classes_are_not_averaged(network):
    graph, params, head = edits.swap_head(network.graph, network.params, 3)
    params.update({f"{head}_weight": np.zeros((3, 32), "f"), f"{head}_bias": np.zeros(3, "f")})
    with pytest.raises(UserError, match="the networks have 3 and 7 classes; only networks of"):
        predict(torch_engine, [network, Network(graph, params, network.stats)], 33)


def test_a_checkpoint_that_does_not_fit_is_named(network):
    params = {**network.params, "fc1_bias": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match=r"fc1_bias should be \(7,\), and is \(3,\); are both"):
        predict(torch_engine, [network.with_arrays(params, network.stats)], 33)
    del params["fc1_bias"]
    with pytest.raises(UserError, match=r"fc1_bias should be \(7,\), and is nothing; are both"):
        predict(torch_engine, [network.with_arrays(params, network.stats)], 33)


def test_images_that_are_too_small_are_an_error_of_one_line():
    network = Network(edits.take_raw_images(gluon_graph("squeezenet1_0")), {}, {})
    with pytest.raises(UserError, match=r"does not take images of 32x32 .*--crop-size"):
        predict(torch_engine, [network], 32)
    with pytest.raises(
        UserError, match="--image-shape 3,32,32: this network cannot take such"
    ) as e:
        torch_engine.infer_shapes(network.graph, (3, 32, 32))
    assert "\n" not in str(e.value)


def test_weights_that_diverged_are_an_error(network):
    params = {**network.params, "fc1_bias": np.full(CLASSES, np.nan, np.float32)}
    with pytest.raises(UserError, match="are NaN or infinite: its training has diverged"):
        predict(torch_engine, [network.with_arrays(params, network.stats)], 33)


@pytest.mark.parametrize(
    "op, attrs, what",
    [
        ("SpatialTransformer", {}, "a SpatialTransformer"),
        ("Convolution", {"layout": "NHWC", "kernel": (1, 1)}, "a Convolution with layout=NHWC"),
        ("LeakyReLU", {"act_type": "new"}, "a LeakyReLU with act_type=new"),
    ],
)
def test_an_operator_that_is_not_computed_is_one_line_before_anything_long(op, attrs, what):
    net = Builder()
    graph = net.graph(net.add(op, "odd", net.variable("data"), **attrs))
    message = f"--engine torch: the layer odd is {what}, which this engine does not compute; use"
    with pytest.raises(UserError, match=message):
        operators.build(Network(graph, {}, {}))
