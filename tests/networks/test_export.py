"""What is exported gives in ONNX Runtime what MXNet gives."""

import numpy as np
import pytest

from common.base.files import UserError
from common.networks import Network, export, onnx_files
from common.networks.edits import without_label
from common.networks.graph import Builder
from common.networks.resnet import build_resnet
from tests.networks.onnx_graphs import probabilities, raw_images

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")


def network(mx, *layers, size=8):
    """A network of (operator, attributes), one after the other, with weights of its own.

    In place of attributes, a function adds what it likes to the builder and the entry so far.
    """
    net = Builder()
    entry = net.add("Cast", "cast", net.variable("data"), dtype="float32")
    entry = net.add("_mul_scalar", "scaled", entry, scalar=1 / 64)
    entry = net.add("_minus_scalar", "centred", entry, scalar=2)
    for op, attrs in layers:
        if callable(attrs):
            entry = attrs(net, entry)
        else:
            entry = net.add(op, net.unique("layer"), entry, **attrs)
    entry = net.add("FullyConnected", "fc1", entry, num_hidden=4)
    graph = net.graph(net.add("SoftmaxOutput", "softmax", entry))
    return with_weights(mx, graph, size)


def with_weights(mx, graph, size):
    from common.networks import symbol_file

    symbol = mx.sym.load_json(symbol_file.to_json(graph))
    random = np.random.RandomState(0)
    shapes, _, states = symbol.infer_shape(data=(1, 3, size, size))
    params = {
        name: (random.randn(*shape) / 2).astype(np.float32)
        for name, shape in zip(symbol.list_arguments(), shapes)
        if name not in ("data", "softmax_label")
    }
    stats = {
        name: random.uniform(0.5, 1.5, shape).astype(np.float32)
        for name, shape in zip(symbol.list_auxiliary_states(), states)
    }
    return Network(graph, params, stats)


def compare(mx, path, exported, size=8):
    export.export_onnx(path, exported, (3, size, size))
    images = raw_images(3, size)
    session = runtime.InferenceSession(path)
    (ours,) = session.run(None, {"data": images})
    assert ours.std() > 0.01
    np.testing.assert_allclose(ours, probabilities(mx, exported, images), atol=1e-4)
    return session


def twice(op, **attrs):
    """Two tensors of different numbers into an operator."""
    return op, lambda net, x: net.add(op, "both", x, net.add("_copy", "copy", x), **attrs)


def excited(op):
    """An operator on images and on what is pooled from them."""

    def add(net, x):
        pooled = net.add("Pooling", "pooled", x, global_pool=True, pool_type="avg", kernel=(1, 1))
        return net.add(op, "excited", x, net.add("exp", "positive", pooled))

    return op, add


def halves(net, x):
    parts = net.add("SliceChannel", "parts", x, num_outputs=3, axis=1, squeeze_axis=True)
    first, last = (net.add("expand_dims", None, net.output(parts, i), axis=1) for i in (0, 2))
    return net.add("Concat", "joined", last, first, dim=1)


POSITIVE = [("abs", {}), ("_plus_scalar", {"scalar": 0.5})]
POOL = {"kernel": (3, 3), "stride": (2, 2)}
LAYERS = {
    "convolution": [("Convolution", {"num_filter": 4, "kernel": (3, 3), "pad": (1, 0)})],
    "grouped": [("Convolution", {"num_filter": 6, "kernel": (3, 3), "num_group": 3,
                                 "dilate": (2, 2), "stride": (2, 1), "no_bias": True})],
    "fully connected": [("FullyConnected", {"num_hidden": 5})],
    "of the last axis": [("FullyConnected", {"num_hidden": 5, "flatten": False})],
    "without bias": [("FullyConnected", {"num_hidden": 5, "flatten": False, "no_bias": True})],
    "batch norm": [("BatchNorm", {"fix_gamma": False, "eps": 1e-2})],
    "fixed gamma": [("BatchNorm", {})],
    "joint batch norm": [("_contrib_SyncBatchNorm", {"fix_gamma": False, "key": "layer"})],
    "global statistics": [("BatchNorm", {"use_global_stats": True, "fix_gamma": False})],
    "layer norm": [("LayerNorm", {"axis": -1})],
    "layer norm of channels": [("LayerNorm", {"axis": 1, "eps": 1e-3})],
    "lrn": [("LRN", {"nsize": 3, "alpha": 0.5, "knorm": 1.5})],
    "max pool": [("Pooling", {**POOL, "pool_type": "max", "pad": (1, 1)})],
    "full max pool": [("Pooling", {**POOL, "pool_type": "max", "pooling_convention": "full"})],
    "full and padded": [("Pooling", {**POOL, "pooling_convention": "full", "pad": (1, 1)})],
    "average pool": [("Pooling", {**POOL, "pool_type": "avg", "pad": (1, 1)})],
    "not counted": [("Pooling", {**POOL, "pool_type": "avg", "pad": (1, 1),
                                 "count_include_pad": False})],
    "full average": [("Pooling", {**POOL, "pool_type": "avg", "pooling_convention": "full"})],
    "full, padded average": [("Pooling", {**POOL, "pool_type": "avg", "pad": (1, 1),
                                          "pooling_convention": "full"})],
    "full, exact average": [("Pooling", {"kernel": (3, 3), "stride": (1, 1), "pool_type": "avg",
                                         "pad": (1, 1), "pooling_convention": "full"})],
    "global average": [("Pooling", {"global_pool": True, "pool_type": "avg", "kernel": (1, 1)})],
    "global maximum": [("Pooling", {"global_pool": True, "pool_type": "max", "kernel": (1, 1)})],
    "adaptive": [("_contrib_AdaptiveAvgPooling2D", {"output_size": (2, 4)})],
    "adaptive to one": [("_contrib_AdaptiveAvgPooling2D", {})],
    **{kind: [("Activation", {"act_type": kind})]
       for kind in ("relu", "sigmoid", "tanh", "softrelu", "softsign")},
    **{f"leaky {kind}": [("LeakyReLU", {"act_type": kind})]
       for kind in ("leaky", "elu", "prelu", "selu", "gelu", "rrelu")},
    **{op: [(op, {})] for op in ("relu", "sigmoid", "tanh", "softsign", "exp", "erf", "negative",
                                 "square", "abs", "BlockGrad", "_copy", "Flatten", "Dropout")},
    **{op: [*POSITIVE, (op, {})] for op in ("log", "sqrt", "reciprocal")},
    "clip": [("clip", {"a_min": -0.5, "a_max": 1})],
    "hard sigmoid": [("hard_sigmoid", {"alpha": 0.3, "beta": 0.4})],
    "softmax": [("softmax", {"axis": 1, "temperature": 2.0}), ("_mul_scalar", {"scalar": 9})],
    "log softmax": [("log_softmax", {})],
    "softmax of channels": [("SoftmaxActivation", {"mode": "channel"})],
    "softmax of rows": [("Flatten", {}), ("SoftmaxActivation", {}),
                        ("_mul_scalar", {"scalar": 99})],
    **{op: [*POSITIVE, (op, {"scalar": 1.5})]
       for op in ("_plus_scalar", "_minus_scalar", "_mul_scalar", "_div_scalar", "_power_scalar",
                  "_rminus_scalar", "_rdiv_scalar", "_rpower_scalar", "_maximum_scalar",
                  "_minimum_scalar")},
    **{op: [*POSITIVE, twice(op)]
       for op in ("elemwise_add", "elemwise_sub", "elemwise_mul", "elemwise_div", "_Plus", "_power",
                  "_maximum", "_minimum", "add_n")},
    **{op: [*POSITIVE, excited(op)]
       for op in ("broadcast_add", "broadcast_sub", "broadcast_mul", "broadcast_div",
                  "broadcast_power", "broadcast_maximum", "broadcast_minimum")},
    "concat and split": [("", halves)],
    "reshape": [("transpose", {"axes": (0, 2, 1, 3)}), ("Reshape", {"shape": (0, -1)})],
    "reshape by codes": [("Reshape", {"shape": (0, 0, -4, 2, -1, -2)}),
                         ("Reshape", {"shape": (0, -3, -2)}),
                         ("SwapAxis", {"dim1": 1, "dim2": 3})],
    "transpose": [("transpose", {"axes": (0, 3, 1, 2)})],
    "squeeze": [("max", {"axis": (2, 3), "keepdims": True}), ("squeeze", {"axis": (2, 3)})],
    "slice axis": [("slice_axis", {"axis": 2, "begin": -5, "end": "None"})],
    "slice": [("slice", {"begin": "(None, 1, 0)", "end": "(None, 3, 7)", "step": "(None, 1, 2)"})],
    "mean": [("mean", {"axis": (2, 3)})],
    "mean of the others": [("mean", {"axis": (0, 1), "exclude": True, "keepdims": True})],
    "sum": [("sum", {"axis": 3})],
    "minimum": [("min", {"axis": -1})],
    **{f"pad {mode}": [("Pad", {"mode": mode, "pad_width": (0, 0, 0, 0, 1, 2, 3, 0),
                                "constant_value": 2})] for mode in ("constant", "edge", "reflect")},
}  # fmt: skip


@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_gives_the_same_numbers(case, tmp_path, mx):
    compare(mx, str(tmp_path / "net.onnx"), network(mx, *LAYERS[case]))


def test_a_zoo_network_gives_the_same_numbers_and_names(tmp_path, mx):
    resnet = with_weights(mx, build_resnet(10, 7, width=8), 32)
    session = compare(mx, str(tmp_path / "net.onnx"), resnet, size=32)
    ((given, wanted),) = zip(session.get_inputs(), session.get_outputs())
    assert (given.name, given.shape, given.type) == ("data", ["N", 3, 32, 32], "tensor(float)")
    assert (wanted.name, wanted.shape) == ("probabilities", ["N", 7])
    model = onnx.load(tmp_path / "net.onnx")
    assert (model.opset_import[0].version, model.ir_version) == (13, 8)


def test_what_is_exported_can_be_imported(tmp_path, mx):
    resnet = with_weights(mx, build_resnet(10, 7, width=8), 32)
    path = str(tmp_path / "net.onnx")
    export.export_onnx(path, resnet, (3, 32, 32))
    again = onnx_files.read_network(path, (0, 0, 0), (1, 1, 1))
    images = raw_images(2, 32)
    theirs = probabilities(mx, resnet, images)
    np.testing.assert_allclose(probabilities(mx, again, images), theirs, atol=1e-4)


def test_an_export_that_is_read_back_is_not_normalised_twice(tmp_path, mx):
    exported, images = network(mx, *LAYERS["convolution"]), raw_images()
    path = str(tmp_path / "net.onnx")
    export.export_onnx(path, exported, (3, 8, 8))
    again = onnx_files.read_network(path)
    theirs = probabilities(mx, exported, images)
    np.testing.assert_allclose(probabilities(mx, again, images), theirs, atol=1e-5)


@pytest.mark.parametrize(
    "layers, said",
    [
        ([("sin", {})], r"net\.onnx: this network has a layer that ONNX lacks: sin layer0$"),
        ([("Pooling", {"kernel": (2, 2), "pool_type": "lp", "p_value": 2})], "with pool_type lp"),
        ([("max", {"axis": "None"}), ("Reshape", {"shape": (1, -1)})], "max layer0 with no axis"),
    ],
)  # fmt: skip
def test_a_layer_that_onnx_lacks_is_named(layers, said, tmp_path, mx):
    path = tmp_path / "net.onnx"
    with pytest.raises(UserError, match=said):
        export.export_onnx(str(path), network(mx, *layers), (3, 8, 8))
    assert not path.exists()


def test_the_training_head_is_gone():
    graph = without_label(build_resnet(10, 7, width=8))
    assert [node["name"] for node in graph["nodes"]][-1] == "probabilities"
