"""A network's two files: what is damaged is named before MXNet sees it."""

import json
import struct

import numpy as np
import pytest

from common import network, params_file
from common.files import UserError
from common.find_mxnet import mx

ARRAYS = {
    "arg:weight": mx.nd.array(np.arange(12).reshape(3, 4)),
    "arg:small": mx.nd.array([1, 2, 3], dtype="uint8"),
    "aux:half": mx.nd.ones((2, 2, 2), dtype="float16"),
}


@pytest.fixture
def params(tmp_path):
    mx.nd.save(str(tmp_path / "net.params"), ARRAYS)
    return tmp_path / "net.params"


@pytest.fixture
def symbol_file(tmp_path):
    network.build_resnet(10, 5, width=4).save(str(tmp_path / "net-symbol.json"))
    return tmp_path / "net-symbol.json"


def test_names_shapes_and_types_are_read_without_the_numbers(params):
    assert params_file.verify(str(params)) == {
        "arg:weight": ((3, 4), "float32"),
        "arg:small": ((3,), "uint8"),
        "aux:half": ((2, 2, 2), "float16"),
    }


def test_the_zoos_formats_of_2016_and_2017_are_read(tmp_path):
    context_and_type, data = struct.pack("<iii", 1, 0, 0), np.arange(6, dtype="<f4").tobytes()
    with_32_bits = struct.pack("<III", 2, 2, 3)
    with_64_bits = struct.pack("<Iiqq", 0xF993FAC8, 2, 2, 3)
    for start in (with_32_bits, with_64_bits):
        name = struct.pack("<QQ", 1, 5) + b"arg:w"
        content = struct.pack("<QQQ", 0x112, 0, 1) + start + context_and_type + data + name
        (tmp_path / "old.params").write_bytes(content)
        assert params_file.verify(str(tmp_path / "old.params")) == {"arg:w": ((2, 3), "float32")}
        old = mx.nd.load(str(tmp_path / "old.params"))
        assert old["arg:w"].shape == (2, 3)


def test_a_file_cut_off_anywhere_is_refused(params, tmp_path):
    whole = params.read_bytes()
    for length in range(len(whole)):
        (tmp_path / "cut.params").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.params: "):
            params_file.verify(str(tmp_path / "cut.params"))


def test_a_flipped_byte_in_a_header_is_refused(params, tmp_path):
    whole = params.read_bytes()
    for position in range(24 + 4 + 4 + 4 + 16 + 4):  # the list's header and the first array's
        flipped = bytearray(whole)
        flipped[position] ^= 0xFF
        (tmp_path / "flipped.params").write_bytes(flipped)
        with pytest.raises(UserError, match=r"flipped\.params: .* again"):
            params_file.verify(str(tmp_path / "flipped.params"))


def test_a_sealed_file_is_read_by_mxnet_and_refused_with_any_flipped_bit(params):
    params_file.seal(str(params))
    loaded = mx.nd.load(str(params))
    np.testing.assert_array_equal(loaded["arg:weight"].asnumpy(), ARRAYS["arg:weight"].asnumpy())
    whole = params.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        params.write_bytes(flipped)
        with pytest.raises(UserError, match=r"net\.params: is (damaged|cut off|no)|does not begin"):
            params_file.verify(str(params))


def test_something_behind_the_end_is_refused(params):
    params.write_bytes(params.read_bytes() + b"x")
    with pytest.raises(UserError, match="something follows its end"):
        params_file.verify(str(params))


def test_a_web_page_is_called_one(params, symbol_file):
    params.write_text("<html>404</html>")
    with pytest.raises(UserError, match="web page"):
        params_file.verify(str(params))
    symbol_file.write_text("<html>404</html>")
    with pytest.raises(UserError, match="web page"):
        params_file.load_symbol(str(symbol_file))


def test_a_symbol_is_read(symbol_file):
    symbol = params_file.load_symbol(str(symbol_file))
    assert symbol.list_outputs() == ["softmax_output"]


def test_a_symbol_of_2016_is_read(tmp_path):
    """Attributes were called param, inputs were pairs, and running statistics were left out."""
    symbol = network.build_resnet(10, 5, width=4)
    nodes = json.loads(symbol.tojson())["nodes"]
    kept = [n for n, node in enumerate(nodes) if not node["name"].endswith(("_mean", "_var"))]
    old = [
        {
            "op": nodes[n]["op"],
            "param": nodes[n].get("attrs", {}),
            "name": nodes[n]["name"],
            "inputs": [[kept.index(s[0]), s[1]] for s in nodes[n]["inputs"] if s[0] in kept],
            "backward_source_id": -1,
        }
        for n in kept
    ]
    arguments = [n for n, node in enumerate(old) if node["op"] == "null"]
    graph = {"nodes": old, "arg_nodes": arguments, "heads": [[len(old) - 1, 0]]}
    (tmp_path / "old-symbol.json").write_text(json.dumps(graph))
    read = params_file.load_symbol(str(tmp_path / "old-symbol.json"))
    assert network.infer_shapes(read, (3, 64, 64)) == network.infer_shapes(symbol, (3, 64, 64))
    assert network.fixed_gammas(read) == {"bn_data_gamma"}


@pytest.mark.parametrize("operator", ["Custom", "_Native", "_NDArray", "_cvimread", "NoSuchOp"])
def test_operators_that_run_code_or_that_nobody_knows_are_refused(symbol_file, operator):
    graph = json.loads(symbol_file.read_text())
    graph["nodes"][-1]["op"] = operator
    symbol_file.write_text(json.dumps(graph))
    with pytest.raises(UserError, match=f"net-symbol.json: is no network .*is a {operator}"):
        params_file.load_symbol(str(symbol_file))


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: graph.pop("nodes"),
        lambda graph: graph["nodes"].append("node"),
        lambda graph: graph["nodes"][-1].update(inputs=[[10**6, 0, 0]]),
        lambda graph: graph["nodes"][5].update(inputs=[[5, 0, 0]]),
        lambda graph: graph.update(heads=[[-1, 0, 0]]),
        lambda graph: graph["nodes"][-1].update(op=None),
        lambda graph: graph["nodes"][3].update(attrs={"eps": "many"}, op="BatchNorm"),
    ],
)
def test_a_graph_that_is_none_is_refused(symbol_file, change):
    graph = json.loads(symbol_file.read_text())
    change(graph)
    symbol_file.write_text(json.dumps(graph))
    with pytest.raises(UserError, match=r"net-symbol\.json: "):
        params_file.load_symbol(str(symbol_file))


def test_a_symbol_cut_off_is_refused(symbol_file):
    symbol_file.write_text(symbol_file.read_text()[:-100])
    with pytest.raises(UserError, match="is no network"):
        params_file.load_symbol(str(symbol_file))


def test_parameters_of_another_network_are_named():
    def shapes(depth, num_classes):
        symbol = network.build_resnet(depth, num_classes, width=4)
        return symbol, network.infer_shapes(symbol, (3, 64, 64))

    symbol, right = shapes(10, 5)
    params_file.require_agreement(symbol, right)
    with pytest.raises(UserError, match=r"a\.params: .*stage1_unit2_bn1_gamma is missing"):
        params_file.require_agreement(shapes(18, 5)[0], right, name="a.params")
    with pytest.raises(UserError, match=r"fc1_weight is of shape \(5, 32\), not \(7, 32\)"):
        params_file.require_agreement(shapes(10, 7)[0], right)
