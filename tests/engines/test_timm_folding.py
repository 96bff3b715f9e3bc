"""What is folded in networks of timm that only predict: they give what they gave before."""

import numpy as np
import pytest

from common.engines import torch as engine
from common.engines.torch import timm_folding, timm_prediction
from common.engines.torch.runtime import torch
from tests.conftest import require_precision
from tests.engines.timm_modules import (
    SHAPE,
    images,
    network_of,
    normalised,
    predict,
    timm,
    timms_module,
)


def count(model, kind):
    return sum(isinstance(layer, kind) for layer in model.modules())


# Of others a few norms stay: those that begin a block, behind a sum.
@pytest.mark.parametrize(
    ("name", "norms"),
    [("regnety_002", 0), ("tf_efficientnetv2_b0", 0), ("resnet18", 0), ("resnetv2_18", 9)],
)
def test_batch_norms_are_folded_into_the_convolutions_before_them(name, norms):
    model = timms_module(name)
    network = network_of(model, name)
    module, _ = timm_prediction.build_to_predict(network, "cpu", (3, *SHAPE), "float32")
    assert count(model, torch.nn.BatchNorm2d) > 9
    assert count(module, torch.nn.BatchNorm2d) == norms
    expected = torch.softmax(model(normalised(model, images())), 1).detach().numpy()
    np.testing.assert_allclose(predict(network, images()), expected, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("test_convnext", {}),
        ("test_convnext", {"conv_mlp": True}),
        ("test_vit", {"init_values": 1.0}),
    ],
)
@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_layer_scales_are_folded_into_the_linear_layers_before_them(name, arguments, dtype):
    require_precision("torch", dtype)
    model = timms_module(name, **arguments)
    scales = [weight for key, weight in model.named_parameters() if "gamma" in key]
    for number, weight in enumerate(scales):
        torch.manual_seed(number)
        torch.nn.init.uniform_(weight, -1, 1)
    network = network_of(model, name).with_arguments(**arguments)
    expected = torch.softmax(model(normalised(model, images())), 1).detach().numpy()
    if dtype == "int8":
        network = engine.quantize(network, images())
    module, _ = timm_prediction.build_to_predict(network, "cpu", (3, *SHAPE), dtype)
    assert scales and not [key for key, _ in module.named_parameters() if "gamma" in key]
    tolerance = 1e-5 if dtype == "float32" else 0.03
    np.testing.assert_allclose(predict(network, images(), dtype), expected, atol=tolerance)


class Layers(torch.nn.Module):
    """A convolution, a norm with statistics, and what a network makes of them."""

    def __init__(self, compute, kind=torch.nn.Conv2d, norm=timm.layers.BatchNormAct2d):
        super().__init__()
        torch.manual_seed(0)
        self.conv, self.norm, self.compute = kind(3, 3, 3, padding=1), norm(3), compute
        self.norm.running_mean.normal_()
        self.norm.running_var.uniform_(0.5, 2)
        torch.nn.init.uniform_(self.norm.weight, -1, 1)

    def forward(self, x):
        return self.compute(self.conv, self.norm, x)


class Weightless(torch.nn.Conv2d):
    """A convolution with filters of its own."""

    def forward(self, x):
        weight = self.weight / self.weight.std()
        return torch.nn.functional.conv2d(x, weight, self.bias, padding=1)


@pytest.mark.parametrize(
    ("layers", "is_folded"),
    [
        (Layers(lambda conv, norm, x: norm(conv(x))), True),
        (Layers(lambda conv, norm, x: norm(conv(x)), norm=torch.nn.BatchNorm2d), True),
        (Layers(lambda conv, norm, x: norm(conv(x) * 2)), False),
        (Layers(lambda conv, norm, x: norm(conv(x).relu_())), False),
        (Layers(lambda conv, norm, x: (y := conv(x)) + norm(y)), False),
        (Layers(lambda conv, norm, x: norm(conv(conv(x)))), False),
        (Layers(lambda conv, norm, x: norm(norm(conv(x)))), False),
        (Layers(lambda conv, norm, x: norm(conv(x)), kind=Weightless), False),
    ],
    ids=[
        "plain",
        "no ReLU",
        "a product",
        "in place",
        "two readers",
        "conv twice",
        "norm twice",
        "own filters",
    ],
)
def test_only_what_one_norm_alone_reads_is_folded(layers, is_folded):
    layers.eval()
    x = torch.randn(2, 3, 8, 8)
    with torch.no_grad():
        expected = layers(x)
        timm_folding.fold(layers, x[:1])
        torch.testing.assert_close(layers(x), expected)
    assert count(layers, torch.nn.BatchNorm2d) == (not is_folded)
