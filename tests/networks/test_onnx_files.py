"""ONNX's operators mean the same in our networks: ONNX Runtime gives the expected probabilities."""

import os
import subprocess

import numpy as np
import pytest

from common.base.files import UserError
from common.networks import export, onnx_files, symbol_file

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")

TORCH_PYTHON = os.environ.get("TORCH_PYTHON")
EXPORTS = os.path.join(os.path.dirname(__file__), "torch_exports.py")

MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
RANDOM = np.random.RandomState(0)


def weights(*shape):
    return (RANDOM.randn(*shape) / 3).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


def write(path, nodes, opset=13, count="N", size=8, features=None, **constants):
    """Write a network of (operator, inputs, outputs, attributes), from `x` to `features`.

    A classifier of four classes follows, as PyTorch writes one; `features` is the number of its
    inputs, where ONNX cannot infer it.
    """
    make, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    kind, value = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    made = [make(op, i.split(), o.split(), **attrs) for op, i, o, attrs in nodes]

    def model(count, made, output, arrays):
        tensors = [tensor(np.asarray(array), name) for name, array in arrays.items()]
        images = value("x", kind, [count, 3, size, size])
        graph = onnx.helper.make_graph(made, "net", [images], [output], tensors)
        opsets = [onnx.helper.make_opsetid("", opset)]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)

    alone = model(1, made, value("features", kind, None), constants)
    inferred = onnx.shape_inference.infer_shapes(alone, data_prop=True).graph.output[0]
    shape = [dim.dim_value for dim in inferred.type.tensor_type.shape.dim]
    made += [
        make("Flatten", ["features"], ["flat"]),
        make("Gemm", ["flat", "head.weight", "head.bias"], ["logits"], transB=1),
    ]
    head = {"head.weight": weights(4, features or int(np.prod(shape))), "head.bias": weights(4)}
    onnx.save(model(count, made, value("logits", kind, [count, 4]), {**constants, **head}), path)
    return str(path)


def raw_images(count=2, size=8):
    return np.random.RandomState(1).randint(0, 256, (count, 3, size, size)).astype(np.float32)


def expected(path, images):
    """The probabilities of ONNX Runtime, which is fed what the original wants."""
    mean, std = (np.reshape(x, (1, 3, 1, 1)) for x in (MEAN, STD))
    session = runtime.InferenceSession(path)
    (image,) = session.get_inputs()
    (logits,) = session.run(None, {image.name: ((images - mean) / std).astype(np.float32)})
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def probabilities(mx, network, images):
    """The probabilities of MXNet."""
    symbol = mx.sym.load_json(symbol_file.to_json(network.graph))
    shapes = {"data": images.shape, "softmax_label": images.shape[:1]}
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
    arrays = [{k: mx.nd.array(v) for k, v in p.items()} for p in (network.params, network.stats)]
    executor.copy_params_from(*arrays)
    return executor.forward(is_train=False, data=mx.nd.array(images))[0].asnumpy()


def compare(mx, path, images=None):
    images = raw_images() if images is None else images
    network = onnx_files.read_network(path, MEAN, STD)
    ours, theirs = probabilities(mx, network, images), expected(path, images)
    assert theirs.std() > 0.01
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    return network


def one(op, inputs="x", **attrs):
    """A network of one operator."""
    return [(op, inputs, "features", attrs)]


UPPER = {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "strides": [2, 2]}
TWO = np.float32(2)
LOWER = {**UPPER, "auto_pad": "SAME_LOWER"}
POOL = {"kernel_shape": [3, 3], "strides": [2, 2]}
CASES = {
    "conv": (one("Conv", "x w b", pads=[1] * 4, strides=[2, 2]), {"w": (5, 3, 3, 3), "b": (5,)}),
    "conv grouped": (one("Conv", "x w", group=3, dilations=[2, 2]), {"w": (6, 1, 3, 3)}),
    "conv uneven": (one("Conv", "x w", pads=[0, 1, 2, 1]), {"w": (4, 3, 2, 3)}),
    "conv same upper": (one("Conv", "x w", **UPPER), {"w": (4, 3, 3, 3)}),
    "conv same lower": (one("Conv", "x w", **LOWER), {"w": (4, 3, 3, 3)}),
    "conv of a row": ([("ReduceMean", "x", "y", {"axes": [2], "keepdims": 0}),
                       *one("Conv", "y w", pads=[1, 1])], {"w": (4, 3, 3)}),
    "batch norm": (one("BatchNormalization", "x s b m v", epsilon=1e-3), "statistics"),
    "lrn": (one("LRN", size=3, alpha=0.3, beta=0.6, bias=1.5), {}),
    "max pool": (one("MaxPool", **POOL, pads=[1] * 4), {}),
    "max pool ceil": (one("MaxPool", **POOL, ceil_mode=1), {}),
    "max pool ceil pad": (one("MaxPool", **POOL, pads=[1] * 4, ceil_mode=1), {}),
    "max pool uneven": (one("MaxPool", **POOL, pads=[0, 0, 1, 1]), {}),
    "average pool": (one("AveragePool", **POOL, pads=[1] * 4), {}),
    "average pool counted": (one("AveragePool", **POOL, pads=[1] * 4, count_include_pad=1), {}),
    "average pool ceil": (one("AveragePool", **POOL, ceil_mode=1), {}),
    "average pool of all": (one("AveragePool", kernel_shape=[8, 8]), {}),
    "global average": (one("GlobalAveragePool"), {}),
    "global maximum": (one("GlobalMaxPool"), {}),
    "mean over images": (one("ReduceMean", axes=[-1, -2], keepdims=0), {}),
    "mean over channels": (one("ReduceMean", axes=[1]), {}),
    "maximum": (one("ReduceMax", axes=[2, 3]), {}),
    "sum": (one("ReduceSum", "x axes"), {"axes": ints(3)}),
    "relu": (one("Relu"), {}),
    "clip": (one("Clip", "x low high"), {"low": np.float32(0), "high": np.float32(0.5)}),
    "leaky": (one("LeakyRelu", alpha=0.3), {}),
    "elu": (one("Elu", alpha=0.7), {}),
    "prelu": (one("PRelu", "x slope"), {"slope": (3, 1, 1)}),
    "sigmoid": (one("Sigmoid"), {}),
    "tanh": (one("Tanh"), {}),
    "softplus": (one("Softplus"), {}),
    "softsign": (one("Softsign"), {}),
    "erf": (one("Erf"), {}),
    "hard sigmoid": (one("HardSigmoid", alpha=0.3, beta=0.4), {}),
    "softmax inside": (one("Softmax", axis=1), {}),
    "log softmax inside": (one("LogSoftmax", axis=-1), {}),
    "exponent": ([("Exp", "x", "y", {}), ("Neg", "y", "z", {}), ("Abs", "z", "w", {}),
                  ("Sqrt", "w", "v", {}), ("Log", "v", "u", {}), ("Exp", "u", "t", {}),
                  ("Reciprocal", "t", "features", {})], {}),
    "add number": (one("Add", "x c"), {"c": np.float32(0.5)}),
    "number minus": (one("Sub", "c x"), {"c": np.float32(0.5)}),
    "minus channels": (one("Sub", "x c"), {"c": (3, 1, 1)}),
    "channels minus": (one("Sub", "c x"), {"c": (1, 3, 1, 1)}),
    "times": (one("Mul", "c x"), {"c": (3, 1, 1)}),
    "divided": (one("Div", "x c"), {"c": np.float32([[[2]], [[3]], [[4]]])}),
    "number divided": ([("Exp", "x", "y", {}), *one("Div", "c y")], {"c": np.float32(2)}),
    "power": (one("Pow", "x c"), {"c": np.float32(2)}),
    "maximum of two": ([("Relu", "x", "y", {}), ("Neg", "x", "z", {}), *one("Max", "y z")], {}),
    "minimum of a number": (one("Min", "x c"), {"c": np.float32(0.1)}),
    "sum of three": ([("Relu", "x", "y", {}), *one("Sum", "x y x")], {}),
    "squared": (one("Mul", "x x"), {}),
    "pad": (one("Pad", "x pads value"), {"pads": ints(0, 0, 1, 2, 0, 0, 3, 0), "value": TWO}),
    "pad reflected": (one("Pad", "x pads", mode="reflect"), {"pads": ints(0, 0, 1, 1, 0, 0, 1, 1)}),
    "pad by nothing": (one("Pad", "x pads"), {"pads": ints(*[0] * 8)}),
    "concat": ([("Relu", "x", "y", {}), *one("Concat", "x y", axis=-3)], {}),
    "split": ([("Split", "x", "a b c", {"axis": 1}), *one("Concat", "c b a", axis=1)], {}),
    "split unevenly": ([("Split", "x sizes", "a b", {"axis": 2}), *one("Concat", "b a", axis=2)],
                       {"sizes": ints(3, 5)}),
    "slice": (one("Slice", "x begin end axes step"),
              {"begin": ints(1, 0, -6), "end": ints(3, 2**62, -1), "axes": ints(1, 2, 3),
               "step": ints(1, 2, 1)}),
    "expand": ([("GlobalAveragePool", "x", "y", {}), ("Expand", "y to", "z", {}),
                *one("Mul", "x z")], {"to": ints(1, 3, 8, 8)}),
    "prelu of one slope": (one("PRelu", "x slope"), {"slope": (1,)}),
    "gather": ([("Gather", "x one", "y", {"axis": 1}), *one("Unsqueeze", "y axes")],
               {"one": np.int64(1), "axes": ints(1)}),
    "squeeze": ([("GlobalMaxPool", "x", "y", {}), *one("Squeeze", "y axes")],
                {"axes": ints(2, -1)}),
    "transposes": ([("Transpose", "x", "y", {"perm": [0, 2, 3, 1]}),
                    ("Mul", "y c", "z", {}), *one("Transpose", "z", perm=[0, 3, 1, 2])],
                   {"c": (3,)}),
    "matmul": ([("GlobalAveragePool", "x", "y", {}), ("Flatten", "y", "z", {}),
                ("MatMul", "z w", "p", {}), *one("Add", "p b")], {"w": (3, 5), "b": (5,)}),
    "matmul of channels last": ([("Transpose", "x", "y", {"perm": [0, 2, 3, 1]}),
                                 *one("MatMul", "y w")], {"w": (3, 5)}),
    "gemm": ([("GlobalAveragePool", "x", "y", {}), ("Flatten", "y", "z", {}),
              *one("Gemm", "z w b", alpha=2.0, beta=0.5)], {"w": (3, 5), "b": (1, 5)}),
    "reshape": ([("Transpose", "x", "y", {"perm": [0, 2, 1, 3]}), *one("Reshape", "y to")],
                {"to": ints(0, -1)}),
    "cast, identity, dropout": ([("Cast", "x", "y", {"to": 1}), ("Identity", "y", "z", {}),
                                 *one("Dropout", "z")], {}),
}  # fmt: skip


def constants(case):
    if case == "statistics":
        return {"s": weights(3), "b": weights(3), "m": weights(3), "v": weights(3) ** 2 + 0.5}
    return {k: weights(*v) if isinstance(v, tuple) else v for k, v in (case or {}).items()}


@pytest.mark.parametrize("case", CASES)
def test_an_operator_gives_the_numbers_of_onnx_runtime(case, tmp_path, mx):
    nodes, arrays = CASES[case]
    compare(mx, write(tmp_path / "net.onnx", nodes, **constants(arrays)))


@pytest.mark.parametrize("case", CASES)
def test_what_is_imported_and_exported_again_gives_the_same_numbers(case, tmp_path):
    nodes, arrays = CASES[case]
    path, again = write(tmp_path / "net.onnx", nodes, **constants(arrays)), tmp_path / "again.onnx"
    export.export_onnx(str(again), onnx_files.read_network(path, MEAN, STD), (3, 8, 8))
    (ours,) = runtime.InferenceSession(str(again)).run(None, {"data": raw_images()})
    np.testing.assert_allclose(ours, expected(path, raw_images()), atol=1e-4)


NEWER = {
    "mean whose axes are an input": (18, one("ReduceMean", "x axes"), {"axes": ints(2, 3)}),
    "split by number": (18, [("Split", "x", "a b c", {"axis": 1, "num_outputs": 3}),
                             *one("Concat", "c b a", axis=1)], {}),
    "pad of two axes": (18, one("Pad", "x pads value axes"),
                        {"pads": ints(1, 2, 3, 0), "value": np.float32(0), "axes": ints(2, 3)}),
    "mish": (18, one("Mish"), {}),
    "hard swish": (14, one("HardSwish"), {}),
    "layer norm": (17, one("LayerNormalization", "x s b", axis=-1, epsilon=1e-6),
                   {"s": (8,), "b": (8,)}),
    "gelu": (20, one("Gelu"), {}),
}  # fmt: skip
OLDER = {
    "clip by attributes": (one("Clip", min=0.0, max=0.5), {}),
    "slice by attributes": (one("Slice", starts=[1], ends=[3], axes=[1]), {}),
    "pad by attributes": (one("Pad", pads=[0, 0, 1, 1, 0, 0, 2, 0], value=1.0), {}),
    "average pool rounded up": (one("AveragePool", **POOL, pads=[0, 0, 1, 1]), {}),
    "squeeze by attributes": ([("GlobalAveragePool", "x", "y", {}),
                               *one("Squeeze", "y", axes=[2, 3])], {}),
    "split by attributes": ([("Split", "x", "a b", {"axis": 1, "split": [1, 2]}),
                             *one("Concat", "b a", axis=1)], {}),
    "hard swish of parts": ([("HardSigmoid", "x", "g", {"alpha": 1 / 6}), *one("Mul", "x g")], {}),
    "softmax of rows": ([("GlobalAveragePool", "x", "y", {}), *one("Softmax", "y", axis=1)], {}),
}  # fmt: skip


@pytest.mark.parametrize("case", NEWER)
def test_so_do_the_operators_of_newer_opsets(case, tmp_path, mx):
    opset, nodes, arrays = NEWER[case]
    if opset > onnx.defs.onnx_opset_version():
        pytest.skip("this onnx is older")
    compare(mx, write(tmp_path / "net.onnx", nodes, opset, **constants(arrays)))


@pytest.mark.parametrize("case", OLDER)
def test_so_do_the_operators_of_opset_9(case, tmp_path, mx):
    nodes, arrays = OLDER[case]
    compare(mx, write(tmp_path / "net.onnx", nodes, 9, **constants(arrays)))


def test_a_missing_bound_of_a_clip_is_none(tmp_path, mx):
    path = write(tmp_path / "net.onnx", one("Clip", "x high high"), high=np.float32(0.1))
    model = onnx.load(path)
    model.graph.node[0].input[1] = ""
    onnx.save(model, path)
    compare(mx, path)


# --- As exporters write them ---------------------------------------------------------------------

SHUFFLE = [
    ("Conv", "x w", "c", {"pads": [1] * 4}),
    ("Shape", "c", "s", {}),
    ("Gather", "s zero", "n", {"axis": 0}),
    ("Gather", "s two_", "h", {"axis": 0}),
    ("Unsqueeze", "n first", "n1", {}),
    ("Unsqueeze", "h first", "h1", {}),
    ("Concat", "n1 groups h1 h1", "split", {"axis": 0}),
    ("Reshape", "c split", "r", {}),
    ("Transpose", "r", "t", {"perm": [0, 2, 1, 3, 4]}),
    ("Concat", "n1 six h1 h1", "merged", {"axis": 0}),
    ("Reshape", "t merged", "features", {}),
]


def test_a_shuffle_of_channels_holds_for_images_of_another_size(tmp_path, mx):
    arrays = {"w": weights(6, 3, 3, 3), "zero": np.int64(0), "two_": np.int64(2)}
    arrays.update(first=ints(0), groups=ints(2, 3), six=ints(6))
    nodes = [*SHUFFLE[:-1], ("Reshape", "t merged", "m", {}), *one("GlobalAveragePool", "m")]
    path = write(tmp_path / "net.onnx", nodes, features=6, **arrays)
    compare(mx, path)
    network = onnx_files.read_network(path, MEAN, STD)
    assert probabilities(mx, network, raw_images(size=12)).shape == (2, 4)


def test_squeeze_and_excitation(tmp_path, mx):
    nodes = [
        ("ReduceMean", "x axes", "m", {"keepdims": 1}),
        ("Conv", "m w1 b1", "r", {}),
        ("Relu", "r", "a", {}),
        ("Conv", "a w2 b2", "e", {}),
        ("Sigmoid", "e", "g", {}),
        *one("Mul", "g x"),
    ]
    arrays = {"w1": weights(2, 3, 1, 1), "b1": weights(2), "w2": weights(3, 2, 1, 1)}
    compare(mx, write(tmp_path / "net.onnx", nodes, 18, **arrays, b2=weights(3), axes=ints(2, 3)))


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


def test_a_softmax_at_the_end_is_not_taken_twice(tmp_path, mx):
    path = write(tmp_path / "net.onnx", one("Relu"))
    model = onnx.load(path)
    model.graph.node.append(onnx.helper.make_node("LogSoftmax", ["logits"], ["log"], axis=1))
    model.graph.output[0].name = "log"
    onnx.save(model, path)
    network = compare(mx, path)
    assert "log_softmax" not in {node["op"] for node in network.graph["nodes"]}


# --- What cannot be imported ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "nodes, arrays, said",
    [
        (one("Hardmax"), {}, r"operator Hardmax \(has no counterpart here\) cannot be imported;"),
        (one("MaxPool", kernel_shape=[2, 2], strides=[2, 2], pads=[1] * 4, ceil_mode=1), {},
         "MaxPool .ceil_mode with kernel"),
        (one("Slice", "x a b c"), {"a": ints(0), "b": ints(1), "c": ints(0)}, "Slice .along"),
        (one("Conv", "x x"), {}, "Conv .its input 1 is computed from the images"),
        (one("ReduceMean"), {}, "ReduceMean .over all axes"),
        (one("Max", "x x x"), {}, "Max .of 3 tensors"),
        (one("PRelu", "x slope"), {"slope": (8,)}, "PRelu .with slopes of shape"),
        ([("GlobalAveragePool", "x", "y", {}), *one("Expand", "y to")], {"to": ints(1, 3, 8, 8)},
         "Expand .to .8, 3, 8, 8., read by Flatten"),
    ],
)  # fmt: skip
def test_an_operator_that_cannot_be_expressed_is_named(nodes, arrays, said, tmp_path):
    count = 3 if "Slice" in said else 8  # as many images as channels, for the convolution
    path = write(tmp_path / "net.onnx", nodes, count=count, **constants(arrays))
    with pytest.raises(UserError, match=said) as error:
        onnx_files.read_network(path, MEAN, STD)
    assert "dynamo=False, opset_version=13" in str(error.value)
    assert "\n" not in str(error.value)


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
