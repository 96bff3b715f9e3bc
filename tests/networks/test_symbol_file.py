"""A network's definition: the same bytes as MXNet's, of any year; damage is named."""

import contextlib
import functools
import json
import operator as operators
import os
import zlib
from random import Random

import numpy as np
import pytest

from common.base.files import UserError
from common.networks import edits, symbol_file
from common.networks.graph import Builder, arguments, auxiliary_states, internals, outputs
from common.networks.resnet import build_resnet
from tests.conftest import ROOT
from tests.random_networks import with_random_weights

OLD = os.path.join(ROOT, "tests", "faults", "old")


@pytest.fixture
def path(tmp_path):
    """The file of a small ResNet."""
    symbol_file.write(str(tmp_path / "net-symbol.json"), build_resnet(10, 5, width=4))
    return tmp_path / "net-symbol.json"


def variable(name, **attrs):
    return {"op": "null", "name": name, "attrs": attrs, "inputs": []}


def graph_of(*nodes, version=None, heads=None):
    graph = {
        "nodes": list(nodes),
        "arg_nodes": [i for i, node in enumerate(nodes) if node["op"] == "null"],
        "heads": heads or [[len(nodes) - 1, 0]],
    }
    if version:
        graph["attrs"] = {"mxnet_version": ["int", version]}
    return graph


def operator(op, *inputs, attrs=None, key="attrs", **others):
    entries = [[i, 0] for i in inputs]
    return {"op": op, "name": op.lower(), key: attrs or {}, "inputs": entries, **others}


# --- Reading and writing -------------------------------------------------------------------------


def test_what_is_written_is_read(path):
    graph = build_resnet(10, 5, width=4)
    read = symbol_file.read(str(path))
    assert symbol_file.to_json(read) == symbol_file.to_json(graph)
    assert b'"crc32"' in path.read_bytes()
    assert arguments(read) == arguments(graph)
    assert symbol_file.to_json(read, 10500).endswith('{"mxnet_version": ["int", 10500]}\n}')


def test_the_file_is_mxnets_with_a_checksum(peer, version, tmp_path):
    symbol_file.write(str(tmp_path / "ours.json"), build_resnet(18, 5), version)
    theirs = peer.build_resnet(18, 5).tojson()
    sealed = theirs.replace(
        '"attrs": {"mxnet_version"',
        f'"attrs": {{"crc32": ["str", "{zlib.crc32(theirs.encode()):08x}"], "mxnet_version"',
    )
    assert (tmp_path / "ours.json").read_text() == sealed
    read = symbol_file.read(str(tmp_path / "ours.json"))
    assert symbol_file.seal(symbol_file.to_json(read, version)) == sealed


def zoo():
    """The networks that Gluon has, and one more."""
    names = "resnet18_v1 resnet18_v2 mobilenet0.25 mobilenetv2_0.25 squeezenet1.0 vgg11_bn alexnet"
    return [*names.split(), "densenet121", "inceptionv3"]


@pytest.mark.parametrize("name", zoo())
def test_gluons_networks_are_read_written_and_edited_as_mxnet_does(mx, peer, version, name):
    block = mx.gluon.model_zoo.vision.get_model(name, prefix="net_")
    text = block(mx.sym.Variable("data")).tojson()
    symbol, graph = mx.sym.load_json(text), symbol_file.parse(text, name)
    assert symbol_file.to_json(graph, version) == symbol.tojson() == text
    assert arguments(graph) == symbol.list_arguments()
    assert auxiliary_states(graph) == symbol.list_auxiliary_states()
    assert list(internals(graph)) == symbol.get_internals().list_outputs()
    if "FullyConnected" in text:
        assert edits.find_head(graph) == peer.find_head(symbol)
        symbol, kept, head = peer.swap_head(symbol, {}, 3)
        graph, *rest = edits.swap_head(graph, {}, 3)
        assert rest == [kept, head]
    symbol, graph = peer.take_raw_images(symbol), edits.take_raw_images(graph)
    assert symbol_file.to_json(graph, version) == symbol.tojson()
    assert edits.fixed_gammas(graph) == peer.fixed_gammas(symbol)


@pytest.mark.parametrize("year", ["2016", "2017", "1.5.0"])
@pytest.mark.parametrize("num_layers", [10, 50])
def test_a_network_of_another_year_is_what_mxnet_makes_of_it(mx, version, year, num_layers):
    from tests.faults.test_old_files import old_symbol

    text = old_symbol(symbol_file.to_json(build_resnet(num_layers, 5)), year)
    symbol, graph = mx.sym.load_json(text), symbol_file.parse(text, "old")
    assert symbol_file.to_json(graph, version) == symbol.tojson()
    ours, theirs = (
        edits.take_raw_images(graph),
        mx.sym.Cast(mx.sym.Variable("data"), dtype="float32", name="data_cast"),
    )
    assert symbol_file.to_json(ours, version) == symbol(data=theirs).tojson()


@pytest.mark.parametrize("writer", ["mxnet-1.5.0", "mxnet-1.9.1"])
def test_a_file_that_mxnet_wrote_is_read(writer):
    name = os.path.join(OLD, f"{writer}-symbol.json")
    graph = symbol_file.read(name)
    assert auxiliary_states(graph) == ["bn0_moving_mean", "bn0_moving_var"]
    with open(name, encoding="utf-8") as stream:
        text = stream.read()
    assert symbol_file.to_json(graph, 10901 if writer.endswith("9.1") else 10500) == text


HIDDEN = {"lr_mult": "3", "lr_mult_x": "2", "x_lr_mult": "4", "a_b": "5"}


@pytest.mark.parametrize(
    "nodes",
    [
        [variable("data", **HIDDEN), operator("exp", 0)],
        [
            variable("data"),
            variable("w"),
            operator(
                "FullyConnected",
                0,
                1,
                attrs={"num_hidden": "3", "no_bias": "1", "weight_lr_mult": "2", "ctx_group": "q"},
                key="attr",
            ),
        ],
        [
            variable("data"),
            operator("BatchNorm", 0, attrs={"eps": "0.1"}, param={"eps": "1", "momentum": "0.8"}),
        ],
        [variable("data"), operator("BatchNorm_v1", 0)],
        [variable("data"), operator("LeakyReLU", 0, attrs={"act_type": "prelu"})],
        [
            variable("data"),
            operator("Convolution", 0, attrs={"kernel": "(3,3)", "num_filter": "3"}),
        ],
        [variable("data"), operator("Softmax", 0)],
        [variable("data"), operator("argmax", 0, attrs={"axis": "-1"})],
        [
            variable("data"),
            {**operator("FullyConnected", 0, attrs={"num_hidden": "3"}), "name": ""},
        ],
        [variable("data"), operator("_Plus", 0, 0, key="attr", control_deps=[0])],
        [
            variable('"quoted"\\ and\tof\ntwo lines é'),
            operator("cast", 0, attrs={"dtype": "uint8"}),
        ],
        [variable("data"), variable("unused"), operator("flatten", 0), operator("_copy", 2)],
        [variable("data"), operator("Concat", *[0] * 12, attrs={"num_args": "12"})],
    ],
)
def test_an_old_graph_is_brought_up_to_date_as_mxnet_does(mx, version, nodes):
    for written_by in (None, 800, 903, 904, 905, 10400):
        text = json.dumps(graph_of(*nodes, version=written_by), ensure_ascii=False)
        try:
            ours = symbol_file.parse(text, "old")
        except UserError as error:  # what MXNet reads, and then stumbles over
            assert "inputs and needs" in str(error) and written_by >= 903
            continue
        assert symbol_file.to_json(ours, version) == mx.sym.load_json(text).tojson()


def test_casts_of_mxnets_amp_are_left_out_where_mxnet_leaves_them_out(mx, version):
    net = Builder()
    cast = net.add("amp_cast", "a", net.variable("data"), dtype="float16")
    cast = net.add("amp_cast", "b", cast, dtype="float32")
    both = net.add("amp_multicast", "m", cast, net.add("exp", "e", cast), num_outputs=2)
    graph = net.graph(net.add("elemwise_add", "sum", both, net.output(both, 1)))
    text = symbol_file.to_json(graph, version)
    assert mx.sym.load_json(json.dumps(graph)).tojson() == text
    text = symbol_file.to_json(graph)
    assert [node["name"] for node in json.loads(text)["nodes"]] == ["data", "e", "sum"]


def test_a_network_in_int8_is_the_same_byte_for_byte(mx, version):
    if version < 10900:
        pytest.skip("this MXNet does not fuse layers")
    from common.engines.mxnet.precision import to_symbol
    from common.engines.mxnet.quantize import quantize

    graph = edits.take_raw_images(build_resnet(10, 5, width=16))
    network = with_random_weights(graph, 32, 1)
    images = np.random.RandomState(0).randint(0, 256, (2, 3, 32, 32)).astype(np.uint8)
    graph = quantize(network, images).graph
    symbol = to_symbol(graph)
    assert '"op": "_sg_mkldnn_conv"' in symbol.tojson()
    assert symbol_file.to_json(graph) == symbol.tojson()
    assert list(internals(graph)) == symbol.get_internals().list_outputs()


def test_statistics_that_were_no_part_of_a_graph_in_2016_are_added():
    old = graph_of(variable("data"), operator("BatchNorm", 0, attrs={"eps": "0.1"}, key="param"))
    graph = symbol_file.parse(json.dumps(old), "old")
    assert arguments(graph) == ["data", "batchnorm_gamma", "batchnorm_beta"]
    assert auxiliary_states(graph) == ["batchnorm_moving_mean", "batchnorm_moving_var"]
    assert graph["nodes"][-1]["attrs"] == {"eps": "0.1"}


# --- Damage --------------------------------------------------------------------------------------


@pytest.mark.parametrize("op", ["Custom", "_Native", "_NDArray", "_cvimread", "NoSuchOp"])
def test_operators_that_image_networks_do_not_need_are_refused(path, op):
    path.write_text(json.dumps(graph_of(variable("data"), operator(op, 0))))
    message = rf"net-symbol\.json: is not a network \(node 1 is a {op}, which is not among"
    with pytest.raises(UserError, match=message):
        symbol_file.read(str(path))
    inner = {"nodes": [operator(op)], "heads": [[0, 0]]}
    outer = operator("_sg_mkldnn_conv", 0, subgraphs=[inner])
    path.write_text(json.dumps(graph_of(variable("data"), outer)))
    with pytest.raises(UserError, match=f"node 0 is a {op}, which is not among"):
        symbol_file.read(str(path))


@pytest.mark.parametrize("count", ["many", "0", "-1", "1000000000000"])
def test_a_number_of_outputs_that_is_none_is_refused(path, count):
    split = operator("SliceChannel", 0, attrs={"num_outputs": count})
    path.write_text(json.dumps(graph_of(variable("data"), split)))
    with pytest.raises(UserError, match="is not a network"):
        symbol_file.read(str(path))


@pytest.mark.parametrize(
    "change",
    [
        lambda graph: graph.pop("nodes"),
        lambda graph: graph["nodes"].append("node"),
        lambda graph: graph["nodes"][-1].update(inputs=[[10**6, 0, 0]]),
        lambda graph: graph["nodes"][-1].update(inputs=[[0, 64, 0]]),
        lambda graph: graph["nodes"][-1].update(inputs=[[0, 0, 0, 0]]),
        lambda graph: graph["nodes"][-1].update(inputs="none"),
        lambda graph: graph["nodes"][5].update(inputs=[[5, 0, 0]]),
        lambda graph: graph["nodes"][5].update(inputs=[[4, 0, -1]]),
        lambda graph: graph["nodes"][5].update(inputs=[[0, 0, 0]]),
        lambda graph: graph["nodes"][5]["inputs"].__setitem__(3, [6, 0, 0]),
        lambda graph: graph["nodes"][5].update(subgraphs={}),
        lambda graph: graph["nodes"][5].update(subgraphs=[{}]),
        lambda graph: graph["nodes"][5].update(control_deps=[99]),
        lambda graph: graph["nodes"][5].update(control_deps=3),
        lambda graph: graph["nodes"][5].update(attrs=["eps"]),
        lambda graph: graph["nodes"][5].update(attrs={"eps": 1}),
        lambda graph: graph["nodes"][5].update(name="a\x01"),
        lambda graph: graph["nodes"][5].update(name="\ud800"),
        lambda graph: graph["nodes"][0].update(inputs=[[0, 0, 0]]),
        lambda graph: graph.update(heads=[[-1, 0, 0]]),
        lambda graph: graph.update(heads=[]),
        lambda graph: graph.update(attrs=3),
        lambda graph: graph.update(attrs={"mxnet_version": "1.9"}),
        lambda graph: graph["nodes"][-1].update(op=None),
    ],
)
def test_a_graph_that_is_none_is_refused(path, change):
    graph = json.loads(path.read_text())
    del graph["attrs"]["crc32"]
    change(graph)
    path.write_text(json.dumps(graph))
    with pytest.raises(UserError, match=r"net-symbol\.json: is not a network \(.*fetch or make"):
        symbol_file.read(str(path))


def places(value, place=()):
    """Yield where a value of JSON holds others, as keys and indices."""
    if not isinstance(value, (dict, list)):
        return
    for key in value if isinstance(value, dict) else range(len(value)):
        yield (*place, key)
        yield from places(value[key], (*place, key))


def test_whatever_is_changed_in_a_file_it_is_read_or_refused():
    text = symbol_file.to_json(build_resnet(10, 3, width=4))
    random = Random(0)
    where = [place for place in places(json.loads(text)) if place[0] != "node_row_ptr"]
    values = [None, True, -1, 0, 1, 63, 10**20, 1.5, "", "x", "SliceChannel", [], {}, [[0, 9]]]
    for _ in range(300):
        graph = json.loads(text)
        *place, key = random.choice(where)
        owner = functools.reduce(operators.getitem, place, graph)
        owner[key] = random.choice(values)
        with contextlib.suppress(UserError):
            read = symbol_file.parse(json.dumps(graph), "net")
            outputs(read), internals(read)
            edits.without_label(edits.swap_head(edits.take_raw_images(read), {}, 3)[0])
            again = symbol_file.to_json(read)
            assert symbol_file.to_json(symbol_file.parse(again, "net")) == again


def test_a_changed_letter_is_found_by_the_checksum(path):
    path.write_text(path.read_text().replace("stage1_unit1", "stage1_unit2"))
    with pytest.raises(UserError, match=r"its content is not what was written \(CRC-32\)"):
        symbol_file.read(str(path))


def test_a_file_cut_off_anywhere_is_refused():
    net = Builder()
    text = symbol_file.seal(symbol_file.to_json(net.graph(net.add("exp", "e", net.variable("x")))))
    for length in range(len(text) - 1):
        with pytest.raises(UserError, match=r"cut\.json: is not a network"):
            symbol_file.parse(text[:length], "cut.json")


def test_what_is_no_json_is_called_by_its_name(path):
    path.write_text("<html>404</html>")
    with pytest.raises(UserError, match=r"net-symbol\.json: is a web page; fetch or make the file"):
        symbol_file.read(str(path))
    path.write_text("[" * 100_000)
    with pytest.raises(UserError, match=r"net-symbol\.json: is not a network"):
        symbol_file.read(str(path))
    os.remove(path)
    with pytest.raises(UserError, match="not found; name a network's definition"):
        symbol_file.read(str(path))
