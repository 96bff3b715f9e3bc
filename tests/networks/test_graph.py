"""Graphs that are built, asked and cut as MXNet does it."""

import json

import pytest

from common.networks import signatures, symbol_file
from common.networks.graph import (
    Builder,
    arguments,
    auxiliary_states,
    internals,
    output_of,
    outputs,
    replace_variable,
    subgraph,
)
from common.networks.resnet import build_resnet

# Operator, number of inputs, attributes: what the networks of this field are made of.
OPERATORS = [
    ("Activation", 1, {"act_type": "relu"}),
    ("BatchNorm", 1, {}),
    ("BatchNorm", 1, {"fix_gamma": False, "eps": 2e-5, "momentum": 0.9, "use_global_stats": True}),
    ("BatchNorm", 1, {"output_mean_var": True}),
    ("BlockGrad", 1, {}),
    ("Cast", 1, {"dtype": "float32"}),
    ("BilinearSampler", 2, {}),
    ("Concat", 2, {"dim": 1}),
    ("Convolution", 1, {"kernel": (3, 3), "num_filter": 4, "stride": (2, 2), "pad": (1, 1)}),
    ("Convolution", 1, {"kernel": (3, 3), "num_filter": 4, "no_bias": True, "num_group": 2}),
    ("Convolution", 2, {"kernel": (3, 3), "num_filter": 4}),
    ("Deconvolution", 1, {"kernel": (3, 3), "num_filter": 4}),
    ("Deconvolution", 1, {"kernel": (3, 3), "num_filter": 4, "no_bias": False}),
    ("Dropout", 1, {"p": 0.5}),
    ("Embedding", 1, {"input_dim": 3, "output_dim": 4}),
    ("Flatten", 1, {}),
    ("FullyConnected", 1, {"num_hidden": 3}),
    ("FullyConnected", 1, {"num_hidden": 3, "no_bias": True}),
    ("GridGenerator", 1, {"transform_type": "affine", "target_shape": (3, 3)}),
    ("GroupNorm", 1, {"num_groups": 2}),
    ("InstanceNorm", 1, {}),
    ("L2Normalization", 1, {"mode": "channel"}),
    ("LRN", 1, {"nsize": 5}),
    ("LayerNorm", 1, {}),
    ("LayerNorm", 1, {"output_mean_var": True}),
    ("LeakyReLU", 1, {}),
    ("LeakyReLU", 1, {"act_type": "elu", "slope": 0.1}),
    ("LeakyReLU", 1, {"act_type": "prelu"}),
    ("LinearRegressionOutput", 1, {}),
    ("Pad", 1, {"mode": "edge", "pad_width": (0, 0, 0, 0, 1, 1, 1, 1)}),
    ("Pooling", 1, {"kernel": (3, 3), "pool_type": "max"}),
    ("Pooling", 1, {"kernel": (3, 3), "pool_type": "avg", "count_include_pad": False}),
    ("Pooling", 1, {"kernel": (3, 3), "pooling_convention": "full"}),
    ("Pooling", 1, {"global_pool": True, "pool_type": "max"}),
    ("Pooling", 1, {"global_pool": True, "kernel": (7, 7)}),
    ("Reshape", 1, {"shape": (0, -1)}),
    ("SliceChannel", 1, {"num_outputs": 3, "axis": 1}),
    ("SliceChannel", 1, {"num_outputs": 1}),
    ("SVMOutput", 1, {}),
    ("SoftmaxActivation", 1, {}),
    ("SoftmaxOutput", 1, {"grad_scale": 2.0, "smooth_alpha": 0.1}),
    ("SoftmaxOutput", 2, {}),
    ("SwapAxis", 1, {"dim1": 1, "dim2": 2}),
    ("UpSampling", 1, {"scale": 2, "sample_type": "nearest"}),
    ("add_n", 3, {}),
    ("broadcast_add", 2, {}),
    ("broadcast_mul", 2, {}),
    ("clip", 1, {"a_min": 0, "a_max": 6}),
    ("dot", 2, {}),
    ("elemwise_add", 2, {}),
    ("exp", 1, {}),
    ("log_softmax", 1, {}),
    ("mean", 1, {"axis": (2, 3), "keepdims": True}),
    ("moments", 1, {"axes": (1,)}),
    ("sigmoid", 1, {}),
    ("slice_axis", 1, {"axis": 1, "begin": 0, "end": 2}),
    ("softmax", 1, {"axis": 1}),
    ("sqrt", 1, {}),
    ("stack", 2, {}),
    ("sum", 1, {"axis": 1}),
    ("tanh", 1, {}),
    ("topk", 1, {"ret_typ": "both"}),
    ("topk", 1, {"ret_typ": "value"}),
    ("topk", 1, {}),
    ("transpose", 1, {"axes": (0, 2, 3, 1)}),
    ("where", 3, {}),
]


def check_same(graph, symbol, version):
    """A graph and a symbol have to be the same, asked in any way."""
    assert symbol_file.to_json(graph, version) == symbol.tojson()
    assert arguments(graph) == symbol.list_arguments()
    assert auxiliary_states(graph) == symbol.list_auxiliary_states()
    assert outputs(graph) == symbol.list_outputs()
    assert list(internals(graph)) == symbol.get_internals().list_outputs()


@pytest.mark.parametrize(("op", "num_inputs", "attrs"), OPERATORS)
def test_an_operator_is_mxnets_byte_for_byte(mx, version, op, num_inputs, attrs):
    if not hasattr(mx.sym, op):
        pytest.skip("this MXNet has no such operator")
    net = Builder()
    inputs = [net.variable(f"x{i}") for i in range(num_inputs)]
    first = net.add(op, "name", *inputs, **attrs)
    theirs = getattr(mx.sym, op)(
        *(mx.sym.Variable(f"x{i}") for i in range(num_inputs)), name="name", **attrs
    )
    heads = [net.output(first, i) for i in range(len(theirs.list_outputs()))]
    check_same(net.graph(*heads), theirs, version)


def test_variables_and_inputs_by_name_are_mxnets(mx, version):
    net, sym = Builder(), mx.sym
    gamma = net.variable("g", lr_mult=0, wd_mult=2.5, __shape__=(3,))
    ours = net.add("BatchNorm", None, net.variable("data"), moving_mean=gamma, eps=0.1)
    ours = net.graph(net.add("Flatten", None, ours, attr=None))
    gamma = sym.Variable("g", lr_mult=0, wd_mult=2.5, shape=(3,))
    with mx.name.NameManager():
        theirs = sym.Flatten(sym.BatchNorm(sym.Variable("data"), moving_mean=gamma, eps=0.1))
    check_same(ours, theirs, version)
    with pytest.raises(ValueError, match="BatchNorm has no inputs weight"):
        net.add("BatchNorm", "b", net.variable("data"), weight=net.variable("w"))


def test_statistics_that_two_layers_share_are_counted(mx, version):
    net, sym = Builder(), mx.sym
    data, mean = net.variable("data"), net.variable("mean")
    first = net.add("BatchNorm", "a", data, moving_mean=mean)
    ours = net.graph(net.add("BatchNorm", "b", first, moving_mean=mean))
    mean = sym.Variable("mean")
    first = sym.BatchNorm(sym.Variable("data"), moving_mean=mean, name="a")
    theirs = sym.BatchNorm(first, moving_mean=mean, name="b")
    check_same(ours, theirs, version)
    assert [entry[2] for entry in ours["nodes"][-1]["inputs"]] == [0, 0, 0, 2, 1]


def test_only_what_the_heads_need_is_there_depth_first(mx, version):
    net, sym = Builder(), mx.sym
    a, b = net.variable("a"), net.variable("b")
    net.add("FullyConnected", "unused", a, num_hidden=2)
    parts = net.add("SliceChannel", "parts", b, num_outputs=2)
    joined = net.add("elemwise_add", "joined", net.output(parts, 1), a)
    ours = net.graph(joined, net.output(parts, 0), a)
    a, b = sym.Variable("a"), sym.Variable("b")
    parts = sym.SliceChannel(b, num_outputs=2, name="parts")
    joined = sym.elemwise_add(parts[1], a, name="joined")
    check_same(ours, sym.Group([joined, parts[0], a]), version)
    assert [node["name"] for node in ours["nodes"]] == ["b", "parts", "a", "joined"]


def test_a_graph_is_cut_at_any_output_as_mxnet_cuts_it(mx, version):
    graph = build_resnet(10, 3, width=4)
    symbol = mx.sym.load_json(symbol_file.to_json(graph, version))
    fresh = symbol_file.parse(symbol_file.to_json(graph, version), "net")
    for name in symbol.get_internals().list_outputs():
        check_same(subgraph(fresh, name), symbol.get_internals()[name], version)


@pytest.mark.parametrize("name", ["data", "bn0_moving_mean", "fc1_weight", "softmax_label"])
def test_a_variable_is_replaced_as_mxnet_replaces_it(mx, peer, version, name):
    symbol = peer.build_resnet(10, 3, width=4)
    graph = build_resnet(10, 3, width=4)
    for net, theirs in (
        ("variable", mx.sym.Variable("x")),
        ("sum", mx.sym.sum(mx.sym.Variable("x"), name="s")),
    ):
        if name == "bn0_moving_mean" and net == "sum":
            continue  # MXNet refuses: it could not be written
        builder = Builder()
        entry = builder.variable("x")
        ours = builder.graph(entry if net == "variable" else builder.add("sum", "s", entry))
        check_same(replace_variable(graph, name, ours), symbol(**{name: theirs}), version)


def test_a_head_that_is_a_variable_is_replaced(mx, version):
    net, other = Builder(), Builder()
    graph = replace_variable(
        net.graph(net.variable("a")), "a", other.graph(other.add("exp", "e", other.variable("a")))
    )
    check_same(graph, mx.sym.exp(mx.sym.Variable("a"), name="e"), version)


def test_the_output_of_a_layer_is_found_by_its_name():
    net = Builder()
    net_graph = net.graph(net.add("SliceChannel", "parts", net.variable("data"), num_outputs=2))
    assert [output_of(net_graph, n) for n in ("data", "parts", "part")] == [
        "data",
        "parts_output0",
        None,
    ]


def test_a_graph_is_plain_data():
    graph = build_resnet(10, 3, width=4)
    assert json.loads(json.dumps(graph)) == graph
    assert sorted(graph) == ["arg_nodes", "attrs", "heads", "node_row_ptr", "nodes"]


def test_other_names_of_an_operator_are_those_that_mxnet_knows(mx):
    import ctypes

    from mxnet.base import _LIB, OpHandle

    def first_name(alias):
        handle, name, text = OpHandle(), ctypes.c_char_p(), ctypes.c_char_p()
        count, texts = ctypes.c_uint(), ctypes.POINTER(ctypes.c_char_p)()
        assert _LIB.NNGetOpHandle(alias.encode(), ctypes.byref(handle)) == 0
        by = [ctypes.byref(x) for x in (name, text, count, texts, texts, texts, text, text)]
        assert _LIB.MXSymbolGetAtomicSymbolInfo(handle, *by) == 0
        return name.value.decode()

    assert {alias: first_name(alias) for alias in signatures.ALIASES} == signatures.ALIASES
