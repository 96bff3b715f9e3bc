"""ONNX classifiers become networks that are fed raw images: numpy computes the same numbers."""

import numpy as np
import pytest

from common.base.files import UserError
from common.networks import edits, onnx_files
from tests.networks.onnx_graphs import probabilities

onnx = pytest.importorskip("onnx")

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)


def classifier(path, weights_are_inputs, operator="Relu"):
    """Write conv, relu, mean over the image, Gemm: as PyTorch's exporter does."""
    random = np.random.RandomState(0)
    weights = {
        "w": random.randn(4, 3, 3, 3).astype(np.float32) / 5,
        "head": random.randn(2, 4).astype(np.float32),
        "bias": np.array([0.5, -0.5], np.float32),
    }
    make = onnx.helper.make_node
    nodes = [
        make("Conv", ["input", "w"], ["a"], kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        make(operator, ["a"], ["b"]),
        make("GlobalAveragePool", ["b"], ["c"]),
        make("Flatten", ["c"], ["d"]),
        make("Gemm", ["d", "head", "bias"], ["logits"], transB=1),
    ]
    info, kind = onnx.helper.make_tensor_value_info, onnx.TensorProto.FLOAT
    inputs = [info("input", kind, [1, 3, 8, 8])]
    if weights_are_inputs:
        inputs += [info(name, kind, array.shape) for name, array in weights.items()]
    tensors = [onnx.numpy_helper.from_array(array, name) for name, array in weights.items()]
    outputs = [info("logits", kind, [1, 2])]
    graph = onnx.helper.make_graph(nodes, "net", inputs, outputs, tensors)
    opset = [onnx.helper.make_opsetid("", 9)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opset, ir_version=4), str(path))
    return str(path), weights


@pytest.mark.parametrize("weights_are_inputs", [True, False])
def test_an_onnx_network_gives_the_numbers_of_its_formula(mx, tmp_path, weights_are_inputs):
    path, weights = classifier(tmp_path / "net.onnx", weights_are_inputs)
    network = onnx_files.read_network(path, MEAN, STD)
    images = np.random.RandomState(1).randint(0, 256, (1, 3, 8, 8)).astype(np.uint8)
    ours = probabilities(mx, network, images)

    x = (images - np.reshape(MEAN, (1, 3, 1, 1))) / np.reshape(STD, (1, 3, 1, 1))
    x = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    windows = np.lib.stride_tricks.sliding_window_view(x[0], (3, 3), axis=(1, 2))
    features = np.maximum(np.einsum("ihwkl,oikl->ohw", windows, weights["w"]), 0).mean((1, 2))
    exponentials = np.exp(weights["head"] @ features + weights["bias"])
    np.testing.assert_allclose(ours[0], exponentials / exponentials.sum(), rtol=1e-4)


def test_the_head_of_an_onnx_network_can_be_found_and_swapped(tmp_path):
    path, _ = classifier(tmp_path / "net.onnx", False)
    network = onnx_files.read_network(path, MEAN, STD)
    assert edits.find_head(network.graph)[0] == network.head == "fc1"
    assert network.params["fc1_weight"].shape == (2, 4)
    _, kept, _ = edits.swap_head(network.graph, network.params, 5)
    assert set(network.params) - set(kept) == {"fc1_weight", "fc1_bias"}


def test_an_operator_without_a_counterpart_is_named(tmp_path):
    path, _ = classifier(tmp_path / "net.onnx", False, operator="Hardmax")
    with pytest.raises(
        UserError, match=r"net\.onnx: the operator Hardmax .* cannot be imported; export it with"
    ):
        onnx_files.read_network(path, MEAN, STD)


def test_a_damaged_onnx_file_is_named(tmp_path):
    (tmp_path / "net.onnx").write_bytes(b"\x08\x07 nothing")
    with pytest.raises(UserError, match=r"net\.onnx: "):
        onnx_files.read_network(str(tmp_path / "net.onnx"), MEAN, STD)
