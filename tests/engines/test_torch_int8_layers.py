"""timm's layers in 8-bit integers: what they compute, which they are, how near it is."""

import dataclasses
import os

import numpy as np
import pytest

from common.base.files import UserError
from common.engines import torch as engine
from common.engines.torch import int8_layers, linear, timm_prediction
from common.engines.torch.int8_arithmetic import Format, as_integers
from common.engines.torch.runtime import torch
from common.evaluation.quantized import load_quantized
from common.networks import checkpoint, timm_files
from tests.engines.timm_modules import (
    CPU,
    NETWORKS,
    SHAPE,
    images,
    network_of,
    predict,
    timm,
    timms_module,
)

pytestmark = pytest.mark.skipif(
    not engine.describe()["int8"].startswith("yes"), reason=engine.describe()["int8"]
)

RANGE = -2.0, 3.0


def rounded(x, number_format):
    """The numbers that integers stand for."""
    return number_format.dequantize(number_format.quantize(x))


def with_rounded_weights(layer):
    integers, scales = as_integers(layer.weight.detach())
    layer.weight.data = integers * scales.reshape(-1, *[1] * (integers.ndim - 1))
    return layer


@pytest.mark.parametrize("shape", [(5, 12), (3, 5, 12), (2, 3, 5, 12)], ids=str)
@pytest.mark.parametrize("bias", [True, False])
def test_a_linear_layer_computes_pytorchs_of_rounded_numbers(shape, bias):
    torch.manual_seed(0)
    theirs = torch.nn.Linear(12, 20, bias=bias)
    ours = int8_layers.Int8Linear(theirs, *RANGE)
    x = torch.randn(shape) * 2  # some are outside the range
    expected = with_rounded_weights(theirs)(rounded(x, ours.source))
    torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)
    assert x.dtype == torch.float32 and ours(x).dtype == torch.float32


@pytest.mark.parametrize("gelu", ["none", "tanh"])
def test_two_linear_layers_hand_integers_to_each_other(gelu):
    torch.manual_seed(0)
    first, second = torch.nn.Linear(12, 40), torch.nn.Linear(40, 8)
    x = torch.randn(30, 12)
    hidden = torch.nn.functional.gelu(first(x), approximate=gelu).detach()
    last = int8_layers.Int8Linear(second, hidden.min().item(), hidden.max().item())
    ours = int8_layers.Int8Linear(first, *RANGE, gelu, last.source)
    assert ours(x).dtype == torch.uint8
    exact = with_rounded_weights(first)(rounded(x, ours.source))
    exact = torch.nn.functional.gelu(exact, approximate=gelu)
    difference = last.source.dequantize(ours(x)) - exact
    assert difference.abs().max() <= 0.51 * last.source.scale
    torch.testing.assert_close(last(ours(x)), last(last.source.dequantize(ours(x))))


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kernel", "stride", "bias"), [(1, 1, False), (3, 2, True), (2, 2, True)])
def test_a_convolution_computes_pytorchs_of_rounded_numbers(kernel, stride, bias, layout):
    torch.manual_seed(0)
    settings = {"stride": stride, "padding": kernel // 2, "bias": bias}
    theirs = torch.nn.Conv2d(16, 24, kernel, **settings)
    ours = int8_layers.Int8Conv2d(theirs, *RANGE)
    theirs = with_rounded_weights(theirs)
    for size in (10, 14):  # its weights are laid out for the first
        x = torch.randn(2, 16, size, size).contiguous(memory_format=layout)
        expected = theirs(rounded(x, Format.of_range(*RANGE)))
        torch.testing.assert_close(ours(x), expected, atol=1e-5, rtol=1e-5)


def in_int8(name):
    network = network_of(timms_module(name), name)
    return network, engine.quantize(network, images(16, seed=1))


# The last two ask their layers for settings, and for the type of the weights.
@pytest.mark.parametrize("name", [*NETWORKS, "edgenext_xx_small", "davit_tiny"])
def test_a_network_in_int8_is_near_float32(name):
    network, quantized = in_int8(name)
    expected, found = predict(network, images(16)), predict(quantized, images(16), "int8")
    np.testing.assert_allclose(found.sum(axis=1), 1, atol=1e-5)
    assert np.abs(found - expected).max() < 0.05
    assert not np.array_equal(found, expected)


@pytest.mark.parametrize(
    ("name", "floats"),
    [
        ("test_convnext", {"head.fc", "conv_dw"}),  # depthwise convolutions
        ("test_vit", {"head"}),
        ("regnety_002", {"head.fc"}),  # convolutions in groups are dense
        ("mobilenetv3_small_050", {"classifier", "conv_dw"}),
        ("eva02_tiny_patch14_224", {"head", "attn.qkv"}),  # multiplies with qkv.weight itself
    ],
)
def test_all_dense_layers_but_the_classifier_compute_in_integers(name, floats):
    _, quantized = in_int8(name)
    module, _ = timm_prediction.build_to_predict(quantized, "cpu", (1, *SHAPE), "int8")
    kinds = torch.nn.Linear, torch.nn.Conv2d, linear.OneDnnLinear
    left = {name for name, layer in module.model.named_modules() if isinstance(layer, kinds)}
    assert not left & quantized.ranges.keys()
    assert all(layer.endswith(tuple(floats)) for layer in left)
    assert all(any(layer.endswith(end) for layer in left) for end in floats)


def test_numbers_stay_integers_within_an_mlp():
    _, quantized = in_int8("test_convnext")
    module, _ = timm_prediction.build_to_predict(quantized, "cpu", (1, *SHAPE), "int8")
    given = []
    for block in module.modules():
        if isinstance(block, timm.layers.Mlp):
            block.fc2.register_forward_pre_hook(lambda _, inputs: given.append(inputs[0].dtype))
    module(torch.from_numpy(images(1)))
    assert set(given) == {torch.uint8}


def test_a_network_whose_numbers_are_not_finite_is_named():
    network = network_of(timms_module("test_vit"), "test_vit")
    params = {**network.params, "norm.weight": np.float32("inf") * network.params["norm.weight"]}
    params["blocks.1.norm1.weight"] = np.full_like(params["blocks.1.norm1.weight"], np.nan)
    with pytest.raises(UserError, match=r"--dtype int8: the layer blocks\.1\.attn\.qkv gives NaN"):
        engine.quantize(dataclasses.replace(network, params=params), images())


def test_a_calibrated_network_is_kept_until_it_is_old_or_damaged(tmp_path, caplog):
    caplog.set_level("INFO")
    prefix = str(tmp_path / "run")
    checkpoint.save(prefix, 7, network_of(timms_module("test_vit"), "test_vit"))
    made = []

    def calibrate():
        made.append(1)
        return images(16)

    first = load_quantized(engine, prefix, 7, CPU, calibrate)
    made_file = (
        "run-0007-int8-torch-0000.safetensors: quantized; its first choice is that of float32"
    )
    assert made_file in caplog.text
    again = load_quantized(engine, prefix, 7, CPU, calibrate)
    assert len(made) == 1 and again.ranges == first.ranges
    expected = predict(first, images(), "int8")
    np.testing.assert_array_equal(predict(again, images(), "int8"), expected)
    kept = timm_files.weights_path(f"{prefix}-0007-int8-torch", 0)
    later = os.path.getmtime(kept) + 1
    os.utime(timm_files.weights_path(prefix, 7), (later, later))
    load_quantized(engine, prefix, 7, CPU, calibrate)
    assert len(made) == 2
    with open(timm_files.config_path(f"{prefix}-0007-int8-torch"), "w") as stream:
        stream.write("{")
    again = load_quantized(engine, prefix, 7, CPU, calibrate)
    assert "made again: " in caplog.text and len(made) == 3 and again.ranges == first.ranges
    assert checkpoint.find_epochs(prefix) == [7]


@pytest.mark.parametrize("ranges", [{"fc": 3}, {"fc": ["low", "high"]}, [1, 2]])
def test_a_file_with_other_ranges_is_refused(tmp_path, ranges):
    prefix = str(tmp_path / "run")
    network = network_of(timms_module("test_vit"), "test_vit")
    checkpoint.save(prefix, 7, dataclasses.replace(network, ranges=ranges))
    with pytest.raises(UserError, match=r"run-timm\.json: is not the configuration"):
        checkpoint.load(prefix, 7)
