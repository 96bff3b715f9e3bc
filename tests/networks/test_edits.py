"""Every edit of a graph gives the bytes that the same edit gives with MXNet's symbols."""

import json

import numpy as np
import pytest

from common.base.files import UserError
from common.networks import edits, symbol_file
from common.networks.graph import Builder, arguments
from common.networks.resnet import build_resnet

NOTHING, ONE = (0.0, 0.0, 0.0), (1.0, 1.0, 1.0)  # as the flags give them
MEAN, STD = (120.5, 0.0, 100.0), (60.0, 1.0, 2.5)


def check_training_run(graph, symbol, peer, text, mean=MEAN):
    """Do what a training run does, and more, to both, and compare after every step."""
    steps = [
        lambda side, net: side.take_raw_images(net),
        lambda side, net: side.swap_head(net, {}, 4, None, 0.1)[0],
        lambda side, net: side.normalize_input(net, mean, ONE),
        lambda side, net: side.take_raw_images(net),
        lambda side, net: side.smooth_labels(net, 0.1),
        lambda side, net: side.freeze(net, ".*bn0|stage1|block1")[0],
        lambda side, net: side.set_learning_rate_factors(net, {}),
        lambda side, net: side.set_learning_rate_factors(net, {"fc1_weight": 10}),
        lambda side, net: side.scale_loss(net, 128),
        lambda side, net: side.normalize_input(net, (1.0, 2.0, 3.0), ONE),
        lambda side, net: side.without_label(net),
    ]
    assert text(graph) == symbol.tojson()
    for step in steps:
        graph, symbol = step(edits, graph), step(peer, symbol)
        assert text(graph) == symbol.tojson()


def read(mx, graph, text):
    """Return a graph as both see it once it has been in a file."""
    return mx.sym.load_json(text(graph)), symbol_file.parse(text(graph), "net")


@pytest.mark.parametrize("from_file", [False, True])
def test_every_edit_is_the_same_byte_for_byte(mx, peer, text, from_file):
    from common.engines.mxnet.precision import convert

    graph = build_resnet(18, 9, width=8)
    symbol = peer.build_resnet(18, 9, width=8)
    if from_file:
        symbol, graph = read(mx, graph, text)
    for name, arguments_ in (
        ("take_raw_images", ()),
        ("smooth_labels", (0.1,)),
        ("scale_loss", (128,)),
        ("set_learning_rate_factors", ({"fc1_weight": 10.0, "fc1_bias": 2, "nothing": 1},)),
        ("normalize_input", (MEAN, STD)),
        ("normalize_input", (NOTHING, ONE)),
        ("without_label", ()),
    ):
        ours = getattr(edits, name)(graph, *arguments_)
        assert text(ours) == getattr(peer, name)(symbol, *arguments_).tojson(), name
    assert text(convert(graph, "float16", (3, 64, 64))) == peer.to_float16(symbol).tojson()
    for pattern in ("conv0|bn|stage1", "bn_data_gamma", ".*_weight"):
        ours, names = edits.freeze(graph, pattern)
        theirs, their_names = peer.freeze(symbol, pattern)
        assert (text(ours), names) == (theirs.tojson(), their_names)
    for layer, dropout in ((None, 0.0), (None, 0.25), ("pool1", 0.5), ("relu1", 0.0)):
        ours, kept, head = edits.swap_head(graph, {"fc1_bias": 1, "bn1_beta": 2}, 3, layer, dropout)
        theirs, *rest = peer.swap_head(symbol, {"fc1_bias": 1, "bn1_beta": 2}, 3, layer, dropout)
        assert (text(ours), [kept, head]) == (theirs.tojson(), rest)
    assert edits.find_head(graph) == peer.find_head(symbol) == ("fc1", "flatten0_output")
    assert edits.fixed_gammas(graph) == peer.fixed_gammas(symbol) == {"bn_data_gamma"}


@pytest.mark.parametrize("from_file", [False, True])
@pytest.mark.parametrize("mean", [NOTHING, MEAN])
def test_the_edits_of_a_training_run_in_their_order_are_the_same(mx, peer, text, from_file, mean):
    graph, symbol = build_resnet(10, 9, width=8), peer.build_resnet(10, 9, width=8)
    if from_file:
        symbol, graph = read(mx, graph, text)
    check_training_run(graph, symbol, peer, text, mean)


def test_an_edit_leaves_the_graph_that_it_is_given_as_it_is():
    graph = build_resnet(10, 9, width=8)
    before = json.dumps(graph)
    edits.take_raw_images(graph)
    edits.swap_head(graph, {}, 3, dropout=0.5)
    edits.smooth_labels(graph, 0.1)
    edits.freeze(graph, "bn")
    edits.normalize_input(graph, MEAN, STD)
    edits.without_label(graph)
    assert json.dumps(graph) == before


def test_a_network_that_takes_raw_images_stays_as_it_is():
    graph = edits.take_raw_images(build_resnet(10, 4, width=8))
    assert edits.take_raw_images(graph) is graph
    assert edits.normalize_input(graph, NOTHING, ONE) is graph


def layers(*names, op="FullyConnected"):
    """A chain of layers."""
    net = Builder()
    body = net.variable("data")
    for name in names:
        body = net.add(op, name, body, num_hidden=4)
    return net.graph(body)


def test_a_network_without_fully_connected_layer_says_what_to_do():
    with pytest.raises(UserError, match="--layer-before-fullc NAME, one of: conv8, conv9"):
        edits.swap_head(layers("conv8", "conv9", op="Convolution"), {}, num_classes=3)


def test_a_wrong_layer_gets_the_last_layers_to_choose_from():
    graph = build_resnet(18, 7)
    with pytest.raises(UserError, match=r"flaten0: .* bn1, relu1, pool1, flatten0, fc1, softmax"):
        edits.swap_head(graph, {}, 3, layer_before_fullc="flaten0")
    assert edits.swap_head(graph, {}, 3, layer_before_fullc="pool1")[2] == "fc1"


def test_an_inner_layer_of_the_heads_name_keeps_its_weights():
    swapped, kept, head = edits.swap_head(
        layers("fc1", "fc2"), {"fc1_weight": 1, "fc2_weight": 2}, 3
    )
    assert (head, kept) == ("new_fc1", {"fc1_weight": 1})
    assert "new_fc1_bias" in arguments(swapped)


def test_a_network_without_images_is_refused():
    net = Builder()
    with pytest.raises(UserError, match="no input named data"):
        edits.take_raw_images(net.graph(net.variable("words")))


def test_a_pattern_that_freezes_nothing_or_all_is_refused():
    graph = build_resnet(10, 4, width=8)
    for pattern, reason in (
        ("stage9", "matches no parameter"),
        ("stage[", "not a regular expression"),
        ("", "matches all parameters"),
    ):
        with pytest.raises(UserError, match=reason):
            edits.freeze(graph, pattern)


def test_the_head_is_found_and_swapped():
    graph = build_resnet(10, 7, width=8)
    weights = {name: np.zeros(1) for name in arguments(graph) if name != "data"}
    swapped, kept, head = edits.swap_head(graph, weights, num_classes=3)
    assert edits.find_head(graph) == ("fc1", "flatten0_output")
    assert head == "fc1"
    assert attributes_of(swapped)["fc1"] == {"num_hidden": "3"}
    assert set(weights) - set(kept) == {"fc1_weight", "fc1_bias", "softmax_label"}


def attributes_of(graph):
    """{name of a node: its attributes}."""
    return {node["name"]: node.get("attrs", {}) for node in graph["nodes"]}


def test_dropout_is_put_before_the_head_alone():
    graph, _, _ = edits.swap_head(build_resnet(10, 7, width=8), {}, 3, dropout=0.25)
    (dropout,) = [node for node in graph["nodes"] if node["op"] == "Dropout"]
    assert float(dropout["attrs"]["p"]) == 0.25
    assert edits.find_head(graph) == ("fc1", f"{dropout['name']}_output")


def test_frozen_layers_do_not_drift():
    frozen, names = edits.freeze(build_resnet(10, 4, width=8), "conv0|bn|stage1")
    assert "stage1_unit1_conv1_weight" in names
    assert "stage2_unit1_conv1_weight" not in names
    assert attributes_of(frozen)["stage1_unit1_bn1"]["use_global_stats"] == "True"
    assert "use_global_stats" not in attributes_of(frozen)["stage2_unit1_bn1"]


def test_a_frozen_batch_norm_of_gluon_does_not_drift_either(mx):
    block = mx.gluon.model_zoo.vision.get_model("resnet18_v1")
    text = block(mx.sym.Variable("data")).tojson()  # batchnorm0_fwd has a batchnorm0_gamma
    frozen, _ = edits.freeze(symbol_file.parse(text, "resnet18"), ".*batchnorm0_")
    kept = [node for node in frozen["nodes"] if node["name"].endswith("batchnorm0_fwd")]
    assert kept and all(node["attrs"]["use_global_stats"] == "True" for node in kept)


def test_a_second_run_does_not_drop_what_the_first_one_dropped():
    graph, _, _ = edits.swap_head(build_resnet(10, 3, width=8), {}, 4, dropout=0.7)
    for dropout, count in ((0.5, 1), (0.0, 0)):
        again, _, _ = edits.swap_head(graph, {}, 5, dropout=dropout)
        dropouts = [node for node in again["nodes"] if node["op"] == "Dropout"]
        assert len(dropouts) == count
        assert not count or float(dropouts[0]["attrs"]["p"]) == dropout


def test_every_kind_of_batch_norm_is_frozen():
    builder = Builder()
    x = builder.add("_contrib_SyncBatchNorm", "bn0", builder.variable("data"), key="bn0")
    graph = builder.graph(edits.classify(builder, builder.add("Flatten", "flat", x), 3, "fc1"))
    assert edits.fixed_gammas(graph) == {"bn0_gamma"}
    frozen, _ = edits.freeze(graph, "bn0")
    (norm,) = (node for node in frozen["nodes"] if node["name"] == "bn0")
    assert norm["attrs"]["use_global_stats"] == "True"
