"""ONNX's operators mean the same in our networks: ONNX Runtime gives the expected probabilities."""

import numpy as np
import pytest

from common.base.files import UserError
from common.networks import export, onnx_files
from tests.networks.onnx_graphs import (
    MEAN,
    STD,
    compare,
    constants,
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
    "plus a map": (one("Add", "x c"), {"c": (1, 3, 8, 8)}),
    "map minus": (one("Sub", "c x"), {"c": (3, 8, 8)}),
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
