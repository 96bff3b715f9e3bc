"""ONNX files: networks, weights in a second file, damage; what PyTorch exports."""

import os
import subprocess

import numpy as np
import pytest

from common.base.files import UserError
from common.networks import edits, onnx_files
from tests.networks.onnx_graphs import (
    MEAN,
    STD,
    compare,
    expected,
    ints,
    one,
    onnx,
    probabilities,
    raw_images,
    runtime,
    weights,
    write,
)

TORCH_PYTHON = os.environ.get("TORCH_PYTHON")
EXPORTS = os.path.join(os.path.dirname(__file__), "torch_exports.py")


def test_a_network_of_one_image_takes_any_number(tmp_path, mx):
    nodes = [("GlobalAveragePool", "x", "y", {}), *one("Reshape", "y to")]
    path = write(tmp_path / "net.onnx", nodes, count=1, to=ints(1, 3))
    network, images = onnx_files.read_network(path, MEAN, STD), raw_images()
    theirs = [expected(path, images[i : i + 1])[0] for i in range(2)]
    np.testing.assert_allclose(probabilities(mx, network, images), theirs, atol=1e-4)


def test_images_may_be_wanted_with_their_channels_last(tmp_path, mx):
    nodes = [
        ("Transpose", "x", "y", {"perm": [0, 3, 1, 2]}),
        ("Conv", "y w", "c", {}),
        *one("GlobalMaxPool", "c"),
    ]
    path = write(tmp_path / "net.onnx", nodes, features=5, w=weights(5, 3, 3, 3))
    model = onnx.load(path)
    dims = model.graph.input[0].type.tensor_type.shape.dim
    for dim, size in zip(dims[1:], (8, 8, 3)):
        dim.dim_value = size
    onnx.save(model, path)
    network = onnx_files.read_network(path, MEAN, STD)
    mean, std = np.array(MEAN, np.float32), np.array(STD, np.float32)
    images = (raw_images().transpose(0, 2, 3, 1) - mean) / std
    (logits,) = runtime.InferenceSession(path).run(None, {"x": images})
    exponentials = np.exp(logits)
    theirs = exponentials / exponentials.sum(1, keepdims=True)
    np.testing.assert_allclose(probabilities(mx, network, raw_images()), theirs, atol=1e-4)


def test_weights_may_be_shared_transposed_and_of_half_precision(tmp_path, mx):
    nodes = [
        ("Identity", "w16", "shared", {}),
        ("Cast", "shared", "w32", {"to": 1}),
        ("Transpose", "w32", "w", {"perm": [1, 0, 2, 3]}),
        *one("Conv", "x w"),
    ]
    path = write(tmp_path / "net.onnx", nodes, w16=weights(3, 5, 3, 3).astype(np.float16))
    network = compare(mx, path)
    assert network.params["conv0_weight"].dtype == np.float32


def with_second_file(folder):
    path = write(folder / "net.onnx", one("Conv", "x w"), 18, w=weights(4, 3, 3, 3))
    model = onnx.load(path)
    onnx.save(model, path, save_as_external_data=True, location="net.onnx.data", size_threshold=0)
    return path, folder / "net.onnx.data"


def test_weights_in_a_second_file_are_read(tmp_path, mx):
    compare(mx, with_second_file(tmp_path)[0])


def test_a_second_file_that_is_missing_or_cut_off_is_named(tmp_path):
    path, second = with_second_file(tmp_path)
    second.write_bytes(second.read_bytes()[:-4])
    with pytest.raises(UserError, match=r"net\.onnx\.data: is cut off: .* copy or export it again"):
        onnx_files.read_network(path, MEAN, STD)
    second.unlink()
    with pytest.raises(UserError, match=r"net\.onnx\.data: not found; it holds the weights of"):
        onnx_files.read_network(path, MEAN, STD)


def test_a_second_file_elsewhere_is_not_opened(tmp_path):
    path, _ = with_second_file(tmp_path)
    model = onnx.load(path, load_external_data=False)
    for entry in model.graph.initializer[0].external_data:
        if entry.key == "location":
            entry.value = "../net.onnx.data"
    onnx.save(model, path)
    with pytest.raises(UserError, match=r"its weights are outside its folder, in \.\./net"):
        onnx_files.read_network(path, MEAN, STD)


def test_layers_have_the_names_of_their_weights_and_the_same_in_every_call(tmp_path):
    nodes = [
        ("Conv", "x layer1.0.conv.weight", "a", {}),
        ("Conv", "a onnx::Conv_17", "b", {}),
        *one("Relu", "b"),
    ]
    arrays = {"layer1.0.conv.weight": weights(4, 3, 1, 1), "onnx::Conv_17": weights(5, 4, 1, 1)}
    path = write(tmp_path / "net.onnx", nodes, **arrays)
    network, again = (onnx_files.read_network(path, MEAN, STD) for _ in range(2))
    assert network.graph == again.graph
    names = [node["name"] for node in network.graph["nodes"] if node["op"] != "null"]
    expected = "data_float32 bn_data layer1_0_conv conv0 relu0 flatten0 fc1 softmax"
    assert names == expected.split()
    assert network.head == "fc1"


def test_constants_are_no_weights_to_be_drawn_anew(tmp_path):
    path = write(tmp_path / "net.onnx", one("Mul", "x c"), c=np.float32([[[2]], [[3]], [[4]]]))
    network = onnx_files.read_network(path, MEAN, STD)
    params, _ = edits.keep_normalisation(network.graph, network.params, network.stats)
    assert sorted(params) == ["bn_data_beta", "bn_data_gamma", "mul_constant0"]


def test_a_softmax_at_the_end_is_not_taken_twice(tmp_path, mx):
    path = write(tmp_path / "net.onnx", one("Relu"))
    model = onnx.load(path)
    model.graph.node.append(onnx.helper.make_node("LogSoftmax", ["logits"], ["log"], axis=1))
    model.graph.output[0].name = "log"
    onnx.save(model, path)
    network = compare(mx, path)
    assert "log_softmax" not in {node["op"] for node in network.graph["nodes"]}


@pytest.mark.parametrize(
    "opset, channels, said",
    [
        (6, 3, "is of opset 6; export it with opset 9 or newer"),
        (13, 1, r"takes images of shape \(1, 1, 8, 8\); photographs have 3 channels"),
    ],
)
def test_what_is_no_classifier_of_photographs_is_named(opset, channels, said, tmp_path):
    path = write(tmp_path / "net.onnx", one("Relu"), opset)
    model = onnx.load(path)
    model.graph.input[0].type.tensor_type.shape.dim[1].dim_value = channels
    onnx.save(model, path)
    with pytest.raises(UserError, match=said):
        onnx_files.read_network(path, MEAN, STD)


def test_a_weight_that_is_not_a_number_is_named(tmp_path):
    path = write(tmp_path / "net.onnx", one("Conv", "x w"), w=weights(4, 3, 3, 3) * np.nan)
    with pytest.raises(UserError, match="damaged: conv0_weight holds NaN or infinite values"):
        onnx_files.read_network(path, MEAN, STD)


def test_a_constant_of_a_terabyte_is_not_made(tmp_path):
    nodes = [
        ("ConstantOfShape", "sizes", "c", {}),
        ("ReduceMean", "c", "m", {}),
        *one("Add", "x m"),
    ]
    path = write(tmp_path / "net.onnx", nodes, sizes=ints(2**20, 2**20))
    with pytest.raises(UserError, match=r"the operator ConstantOfShape \(has no counterpart"):
        onnx_files.read_network(path, MEAN, STD)


def test_a_file_that_is_damaged_anywhere_ends_in_one_line(tmp_path):
    path = tmp_path / "net.onnx"
    write(path, one("Conv", "x w b"), w=weights(4, 3, 3, 3), b=weights(4))
    whole = path.read_bytes()
    for length in range(0, len(whole) - 40, 97):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"net\.onnx: ") as error:
            onnx_files.read_network(str(path), MEAN, STD)
        assert "\n" not in str(error.value)


def test_a_network_of_several_labels_is_no_classifier(tmp_path):
    path = write(tmp_path / "net.onnx", one("Relu"))
    model = onnx.load(path)
    model.graph.node.append(onnx.helper.make_node("Sigmoid", ["logits"], ["scores"]))
    model.graph.output[0].name = "scores"
    onnx.save(model, path)
    with pytest.raises(UserError, match="ends in Sigmoid: it gives an image several classes"):
        onnx_files.read_network(path, MEAN, STD)


# --- PyTorch's exporters -------------------------------------------------------------------------


@pytest.mark.skipif(not TORCH_PYTHON, reason="no torch (set TORCH_PYTHON)")
@pytest.mark.parametrize("opset", [9, 13, 17, 18, 20])
@pytest.mark.parametrize(
    "kind", ["resnet", "mobilenet", "efficientnet", "inception", "densenet", "shufflenet"]
)
def test_what_pytorch_exports_gives_its_numbers(kind, opset, tmp_path, mx):
    path = str(tmp_path / "net.onnx")
    command = [TORCH_PYTHON, EXPORTS, kind, str(opset), path]
    subprocess.run(command, check=True, capture_output=True)
    compare(mx, path, raw_images(1, size=33))
