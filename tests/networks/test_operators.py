"""The operators that a symbol may hold: all that image networks need, and none that does harm."""

import ctypes
import inspect
import json

import pytest

from common.base.files import UserError
from common.networks import operators, symbol_file
from common.networks.graph import arguments, outputs
from common.networks.resnet import build_resnet


def gluon_zoo(mx):
    """The functions that make the networks of Gluon's model zoo."""
    zoo = mx.gluon.model_zoo.vision
    makers = {name: make for name, make in vars(zoo).items() if inspect.isfunction(make)}
    return {name: make for name, make in makers.items() if not name.startswith("get_")}


def test_every_network_of_gluons_zoo_passes(mx):
    makers = gluon_zoo(mx)
    assert len(makers) == 34
    for make in makers.values():
        symbol = make()(mx.sym.Variable("data"))
        graph = symbol_file.parse(symbol.tojson(), "net")
        assert arguments(graph) == symbol.list_arguments()


def test_what_newer_networks_are_made_of_passes(mx):
    """Squeeze-and-excitation, hard swish, split attention, bilinear pooling."""
    data = mx.sym.Variable("data")
    body = mx.sym.Convolution(data, kernel=(3, 3), num_filter=8, num_group=1)
    body = body * mx.sym.clip(body + 3, 0, 6) / 6
    pooled = mx.sym.contrib.AdaptiveAvgPooling2D(body, output_size=1)
    gate = mx.sym.FullyConnected(mx.sym.flatten(pooled), num_hidden=8)
    gate = mx.sym.sigmoid(mx.sym.LeakyReLU(gate, act_type="gelu"))
    body = mx.sym.broadcast_mul(body, mx.sym.expand_dims(mx.sym.expand_dims(gate, 2), 3))
    halves = mx.sym.split(body, num_outputs=2, axis=1)
    weights = mx.sym.softmax(mx.sym.stack(*halves, axis=1), axis=1)
    maps = mx.sym.reshape(mx.sym.sum(weights, axis=1), shape=(0, 0, -1))
    product = mx.sym.batch_dot(maps, maps, transpose_b=True)
    roots = mx.sym.sign(product) * mx.sym.sqrt(mx.sym.abs(product))
    logits = mx.sym.FullyConnected(mx.sym.L2Normalization(roots), num_hidden=5)
    symbol = mx.sym.SoftmaxOutput(logits, name="softmax")
    assert outputs(symbol_file.parse(symbol.tojson(), "net")) == ["softmax_output"]


@pytest.mark.parametrize(
    "names",
    [
        ("Softmax", "_Plus", "_MulScalar"),
        ("SoftmaxOutput", "_Mul", "_PlusScalar"),
        ("SoftmaxOutput", "elemwise_add", "_RMinusScalar"),
        ("SoftmaxOutput", "ElementWiseSum", "_DivScalar"),
    ],
)
def test_the_names_of_mxnets_first_years_pass(names):
    output, two_operands, scalar = names
    attributes = {"num_args": "2"} if two_operands == "ElementWiseSum" else {}
    nodes = [
        {"op": "null", "name": "data", "inputs": []},
        {"op": scalar, "name": "scaled", "param": {"scalar": "2"}, "inputs": [[0, 0]]},
        {"op": two_operands, "name": "sum", "param": attributes, "inputs": [[0, 0], [1, 0]]},
        {"op": "null", "name": "softmax_label", "inputs": []},
        {"op": output, "name": "softmax", "param": {}, "inputs": [[2, 0], [3, 0]]},
    ]
    text = json.dumps({"nodes": nodes, "arg_nodes": [0, 3], "heads": [[4, 0]]})
    assert arguments(symbol_file.parse(text, "old")) == ["data", "softmax_label"]


def test_a_network_in_mixed_precision_passes(mx, peer):
    if mx.__version__ < "1.6":
        pytest.skip("this MXNet has no mixed precision")
    from mxnet.contrib import amp

    symbol = amp.convert_symbol(peer.build_resnet(10, 5, width=4), target_dtype="float16")
    text = symbol.tojson(remove_amp_cast=False)
    assert '"op": "amp_cast"' in text
    assert outputs(symbol_file.parse(text, "net")) == symbol.list_outputs()


@pytest.mark.parametrize("name", ["RNN", "sgd_update", "_foreach", "_contrib_box_nms", "\x1b[31m"])
def test_what_image_networks_do_not_need_is_refused_and_named(tmp_path, name):
    graph = build_resnet(10, 5, width=4)
    graph["nodes"][-1]["op"] = name
    (tmp_path / "net-symbol.json").write_text(json.dumps(graph))
    with pytest.raises(UserError) as caught:
        symbol_file.read(str(tmp_path / "net-symbol.json"))
    shown = name.replace("\x1b", "\\x1b")
    assert f"is a {shown}, which is not among the operators of image networks" in str(caught.value)


def known_operators(mx):
    count, names = ctypes.c_uint(), ctypes.POINTER(ctypes.c_char_p)()
    mx.base.check_call(mx.base._LIB.MXListAllOpNames(ctypes.byref(count), ctypes.byref(names)))
    return {names[i].decode() for i in range(count.value)}


def test_every_name_of_the_list_is_an_operator_of_mxnet(mx):
    """But those that older versions, and those without oneDNN, do not have yet."""
    unknown = operators.OF_IMAGE_NETWORKS - known_operators(mx)
    newer = {"GroupNorm", "_contrib_BatchNormWithReLU", "_contrib_ModulatedDeformableConvolution"}
    newer |= {"_zeros_without_dtype", "_contrib_arange_like"}
    newer |= {name for name in operators.OF_IMAGE_NETWORKS if "quantized" in name}
    newer |= {name for name in operators.OF_IMAGE_NETWORKS if "mkldnn" in name or "selfatt" in name}
    assert unknown <= newer


def test_no_name_of_the_list_runs_code_or_reads_files():
    harmful = ("custom", "native", "ndarray", "cachedop", "cvim", "imdecode", "subgraph", "foreach")
    for name in operators.OF_IMAGE_NETWORKS:
        assert not any(part in name.lower() for part in harmful), name
