"""Networks of timm that oneDNN computes wrongly, or whose files name an array twice."""

import os

import numpy as np
import pytest

from common.base.files import UserError
from common.engines.torch import convolutions, timm_networks
from common.engines.torch.runtime import torch
from common.networks import checkpoint, timm_pretrained
from tests.engines.timm_modules import (
    CLASSES,
    CPU,
    Batch,
    images,
    network_of,
    predict,
    timm,
    trainer_of,
)


def test_pixels_that_are_picked_first_give_the_same_numbers():
    torch.manual_seed(0)
    plain = torch.nn.Conv2d(6, 8, 1, stride=(2, 3), groups=2)
    picking = torch.nn.Conv2d(6, 8, 1, stride=(2, 3), groups=2)
    picking.load_state_dict(plain.state_dict())
    convolutions.pick_pixels_first(picking)
    assert picking.stride == (1, 1)
    x = torch.randn(2, 6, 9, 10)
    for layer in (plain, picking):
        layer(x).square().sum().backward()
    torch.testing.assert_close(picking(x), plain(x))
    torch.testing.assert_close(picking.weight.grad, plain.weight.grad)


@pytest.mark.parametrize(
    "layer",
    [
        torch.nn.Conv2d(16, 8, 1, stride=2),
        torch.nn.Conv2d(3, 8, 1),
        torch.nn.Conv2d(3, 8, 3, stride=2),
        torch.nn.Conv2d(3, 8, 1, stride=2, padding=1),
    ],
)
def test_other_convolutions_stay_as_they_are(layer):
    stride = layer.stride
    convolutions.pick_pixels_first(layer)
    assert layer.stride == stride and not layer._forward_pre_hooks


REPVGG = """
from tests.engines.timm_modules import *

network = network_of(timm.create_model("repvgg_a0", num_classes=CLASSES), "repvgg_a0")
raw = images(4, 128)
shape = raw.shape[1:]
trainer = trainer_of(network.for_images(shape), image_shape=shape)
batch = Batch(raw, np.array([0, 1, 2, 5], np.float32), np.arange(4), 0, [])
for _ in range(4):
    trainer.step(batch, 0.01)()
print("trained")
"""


def test_a_repvgg_is_trained_without_damage_to_the_memory(python):
    """With glibc's checks; otherwise the process died later, and elsewhere."""
    checks = {"LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3"}
    assert python(REPVGG, env={**os.environ, **checks}).stdout == "trained\n"


@pytest.mark.parametrize(("name", "side"), [("coat_tiny", 64), ("efficientformer_l1", 224)])
def test_a_checkpoint_of_shared_arrays_and_of_integers_is_whole(tmp_path, name, side):
    """CoaT has parameters of two names, EfficientFormer has integers."""
    torch.manual_seed(0)
    raw = images(4, side)
    shape = raw.shape[1:]
    begun = network_of(timm.create_model(name, num_classes=CLASSES), name).for_images(shape)
    _, frozen = begun.freeze(r".*bias")  # also a name that is no parameter's
    trainer = trainer_of(begun, image_shape=shape, frozen=frozen)
    batch = Batch(raw, np.array([0, 1, 2, 5], np.float32), np.arange(4), 0, [])
    trainer.step(batch, 0.001)()
    expected, state = trainer.evaluate(batch), trainer.state()
    checkpoint.save(str(tmp_path / "run"), 1, begun.with_arrays(state.params, state.stats))
    loaded = checkpoint.load(str(tmp_path / "run"), 1)
    np.testing.assert_allclose(predict(loaded, raw, devices=CPU), expected, atol=1e-5)


def test_a_cache_of_attention_biases_keeps_nothing():
    """A validation that is recorded on a GPU would read the old ones."""
    name = "levit_128s"
    begun = network_of(timm.create_model(name, num_classes=CLASSES), name).for_images((3, 224, 224))
    trainer = trainer_of(begun, image_shape=(3, 224, 224))
    batch = Batch(images(4, 224), np.array([0, 1, 2, 5], np.float32), np.arange(4), 0, [])
    trainer.evaluate(batch)
    caches = [
        layer.attention_bias_cache
        for layer in trainer._replica._module.modules()
        if hasattr(layer, "attention_bias_cache")
    ]
    assert caches and not any(caches)


@pytest.mark.parametrize("name", ["test_convnext", "test_vit"])
def test_a_file_of_another_architecture_is_named(tmp_path, name):
    path = str(tmp_path / "resnet18.pth")
    torch.save(timm.create_model("resnet18", num_classes=CLASSES).state_dict(), path)
    found = timm_pretrained.load_pretrained(path, timm_networks.timm_config, f"timm:{name}")
    with pytest.raises(UserError, match=rf"^{path}: timm's {name} .*: the weights are of another"):
        timm_networks.build(found, (3, 64, 64))


def test_a_file_without_a_head_is_given_one(tmp_path):
    model = timm.create_model("test_vit", num_classes=0)
    torch.save(model.state_dict(), tmp_path / "dino.pth")
    path = str(tmp_path / "dino.pth")
    found = timm_pretrained.load_pretrained(path, timm_networks.timm_config, "test_vit")
    probabilities = predict(found.with_new_head(CLASSES).for_images((3, 64, 64)), images())
    assert probabilities.shape == (3, CLASSES)
