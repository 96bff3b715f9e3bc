"""The linear layers of timm's networks, computed by oneDNN, give what timm's own modules give."""

import shutil

import numpy as np
import pytest

from common.engines import TrainerOptions
from common.engines import torch as engine
from common.engines.torch import fusion, linear, timm_prediction
from common.engines.torch.runtime import torch
from common.training.batches import MadeUpImages
from common.training.schedule import Schedule
from tests.engines.timm_modules import (
    CLASSES,
    CPU,
    NETWORKS,
    SHAPE,
    images,
    network_of,
    normalised,
    timm,
    timms_module,
)

if not fusion.has_onednn("cpu"):
    pytest.skip("takes a PyTorch with oneDNN", allow_module_level=True)


KINDS = [linear.OneDnnLinear, linear.JoinedLinear, linear.PackedLinear]


def layers(kind, bias=True):
    """A layer of PyTorch, and another one of ours with copies of its parameters."""
    torch.manual_seed(0)
    theirs = torch.nn.Linear(12, 20, bias=bias)
    copy = torch.nn.Linear(12, 20, bias=bias)
    copy.load_state_dict(theirs.state_dict())
    return theirs, kind(copy)


SHAPES = pytest.mark.parametrize(
    "shape", [(5, 12), (3, 5, 12), (2, 3, 5, 12), (1, 1, 1, 12)], ids=str
)


@SHAPES
@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_and_its_gradients_are_pytorchs(shape, bias):
    theirs, ours = layers(linear.OneDnnLinear, bias)
    inputs = [torch.randn(*shape).requires_grad_() for _ in range(2)]
    inputs[1].data = inputs[0].data.clone()
    outputs = [layer(x) for layer, x in zip((theirs, ours), inputs)]
    assert outputs[1].shape == outputs[0].shape
    torch.testing.assert_close(outputs[1], outputs[0])
    for output in outputs:
        (output**2).sum().backward()
    torch.testing.assert_close(inputs[1].grad, inputs[0].grad)
    for name, parameter in theirs.named_parameters():
        torch.testing.assert_close(dict(ours.named_parameters())[name].grad, parameter.grad)


@SHAPES
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("kind", KINDS)
def test_a_layer_predicts_as_pytorchs(kind, shape, bias):
    theirs, ours = layers(kind, bias)
    x = torch.randn(*shape)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("kind", KINDS)
def test_an_image_in_another_order_in_memory_is_computed(kind):
    theirs, ours = layers(kind)
    x = torch.randn(2, 12, 4, 6).permute(0, 2, 3, 1)
    with torch.inference_mode():
        torch.testing.assert_close(ours(x), theirs(x))


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_prediction_gives_timms_logits(name, dtype):
    model = timms_module(name)
    network, raw = network_of(model, name), images()
    module, _ = timm_prediction.build_to_predict(network, "cpu", (len(raw), *SHAPE), dtype)
    kinds = [type(layer) for layer in module.modules()]
    assert torch.nn.Linear not in kinds and linear.PackedLinear in kinds
    with torch.inference_mode(), torch.autocast("cpu", enabled=dtype == "bfloat16"):
        theirs = model(normalised(model, raw)).float().numpy()
    with torch.inference_mode():
        ours = module(torch.from_numpy(raw)).numpy()
    # Their bfloat16 rounds between a layer and its GELU.
    tolerance = 1e-5 if dtype == "float32" else 0.05
    np.testing.assert_allclose(ours, theirs, atol=tolerance)


def test_a_gelu_becomes_part_of_the_layer_before_it():
    class Approximate(torch.nn.GELU):
        def __init__(self):
            super().__init__("tanh")

    for activation, is_joined in (
        (torch.nn.GELU, True),
        (Approximate, True),
        (timm.layers.GELU, True),
        (timm.layers.GELUTanh, True),
        (timm.layers.QuickGELU, False),
        (torch.nn.ReLU, False),
    ):
        torch.manual_seed(0)
        mlp = timm.layers.Mlp(12, act_layer=activation).eval()
        x = torch.randn(2, 5, 12)
        with torch.no_grad():
            expected = mlp(x)
            timm_prediction._join_activations(
                torch.nn.Sequential(mlp), torch.float32, linear.PackedLinear
            )
            torch.testing.assert_close(mlp(x), expected)
        assert isinstance(mlp.act, torch.nn.Identity) == is_joined


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
def test_a_compiled_training_validates(tmp_path, monkeypatch):
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    network = network_of(timms_module("test_convnext"), "test_convnext")
    batch, found = next(iter(MadeUpImages(2, SHAPE, CLASSES))), []
    schedule = Schedule("step", 0.1, 1.0, (), warmup_updates=0, num_updates=0)
    for compiled in (False, True):
        options = TrainerOptions(2, SHAPE, schedule, compiled=compiled)
        trainer = engine.Trainer(network, CPU, options, engine.Workers("device", CPU))
        trainer.step(batch, 0.1)()
        found.append(trainer.evaluate(batch))
    np.testing.assert_allclose(*found, rtol=1e-3, atol=1e-5)
