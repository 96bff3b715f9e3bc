"""The arithmetic of the PyTorch engine, compared with MXNet: outputs and gradients."""

import numpy as np
import pytest

from common.base.files import UserError
from common.engines.torch import shapes
from common.networks.graph import Builder
from tests.engines.operator_peer import compare, compute_with_mxnet, compute_with_torch, graph_of

ARITHMETIC = ("add", "sub", "mul", "div", "mod", "power", "maximum", "minimum", "hypot")
COMPARISONS = ("equal", "not_equal", "greater", "greater_equal", "lesser", "lesser_equal")


@pytest.mark.parametrize("op", [f"elemwise_{name}" for name in ARITHMETIC[:4]])
def test_element_wise_arithmetic(op):
    compare(graph_of(op, ["other"]), further=["other"], low=0.5)


@pytest.mark.parametrize("name", ARITHMETIC + COMPARISONS)
def test_arithmetic_of_two_inputs(name):
    graph = graph_of(f"broadcast_{name}", ["other"])
    compare(graph, further=["other"], low=0.5, training=name != "mod")
    if name not in ("add", "sub", "mul", "div"):
        compare(graph_of(f"_{name}", ["other"]), further=["other"], low=0.5, training=False)


SCALARS = ["plus", "minus", "rminus", "mul", "div", "rdiv", "mod", "rmod", "power", "rpower"]


@pytest.mark.parametrize("name", [*SCALARS, *ARITHMETIC[6:], *COMPARISONS])
def test_arithmetic_with_a_number(name):
    compare(graph_of(f"_{name}_scalar", scalar=0.75), low=0.5)


UNARY = """
    abs sign negative reciprocal ceil floor trunc fix square sqrt rsqrt cbrt exp expm1 log log10
    log1p log2 sin cos tan arctan sinh cosh tanh erf relu sigmoid softsign zeros_like ones_like
    _copy BlockGrad
"""


@pytest.mark.parametrize("op", UNARY.split())
def test_a_function_of_every_number(op):
    compare(graph_of(op), low=0.4)


@pytest.mark.parametrize("op", ["arcsin", "arccos"])
def test_inverse_functions(op):
    net = Builder()
    small = net.add("_div_scalar", "small", net.variable("data"), scalar=2.5)
    compare(net.graph(net.add(op, "layer", small)))


REDUCTIONS = [{}, {"axis": 1}, {"axis": (2, 3), "keepdims": True}, {"axis": -1}]


@pytest.mark.parametrize("op", ["sum", "mean", "max", "min", "prod"])
@pytest.mark.parametrize("attrs", [*REDUCTIONS, {"axis": 1, "exclude": True}], ids=str)
def test_a_reduction(op, attrs):
    compare(graph_of(op, **attrs), (2, 3, 4, 2))


@pytest.mark.parametrize("attrs", [{}, {"axis": 1}, {"axis": (2, 3)}, {"ord": 1, "axis": 1}])
def test_a_norm(attrs):
    compare(graph_of("norm", **attrs))


SHAPES = [
    ("Flatten", {}),
    ("Reshape", {"shape": (0, -1)}),
    ("Reshape", {"shape": (-2,)}),
    ("Reshape", {"shape": (0, -3, -2)}),
    ("Reshape", {"shape": (0, -4, 2, -1, -2)}),
    ("Reshape", {"shape": (0, 0, -1)}),
    ("Reshape", {"shape": (-1, 0), "reverse": True}),
    ("transpose", {}),
    ("transpose", {"axes": (0, 2, 3, 1)}),
    ("SwapAxis", {"dim1": 1, "dim2": 3}),
    ("expand_dims", {"axis": 1}),
    ("squeeze", {}),
    ("slice", {"begin": (0, 1, None), "end": (2, 5, None), "step": (1, 2, -1)}),
    ("slice_axis", {"axis": -1, "begin": 2, "end": "None"}),
    ("slice_axis", {"axis": 1, "begin": 0, "end": -1}),
    ("Pad", {"mode": "constant", "constant_value": 3, "pad_width": (0, 0, 0, 0, 1, 2, 3, 0)}),
    ("Pad", {"mode": "edge", "pad_width": (0, 0, 0, 0, 1, 2, 3, 0)}),
    ("Pad", {"mode": "reflect", "pad_width": (0, 0, 0, 0, 1, 2, 3, 0)}),
    ("tile", {"reps": (2, 1)}),
    ("reverse", {"axis": (1, 2)}),
    ("Cast", {"dtype": "float32"}),
]


@pytest.mark.parametrize("op, attrs", SHAPES, ids=str)
def test_an_operator_that_changes_shapes(op, attrs):
    compare(graph_of(op, **attrs))


def test_axes_of_one_number_are_squeezed_and_repeated():
    compare(graph_of("squeeze", axis=1), (2, 1, 3))
    compare(graph_of("broadcast_axis", axis=(1, 3), size=(4, 5)), (2, 1, 3, 1))
    compare(graph_of("broadcast_to", shape=(0, 4, 0, 5)), (2, 1, 3, 1))


@pytest.mark.parametrize("op", ["Concat", "add_n", "stack"])
def test_operators_of_any_number_of_inputs(op):
    compare(graph_of(op, ["second", "third"]), further=["second", "third"])


@pytest.mark.parametrize("op", ["broadcast_like", "reshape_like", "slice_like"])
def test_shapes_of_another_input(op):
    compare(graph_of(op, ["other"]), further=["other"])


@pytest.mark.parametrize("output", [0, 1, 2])
@pytest.mark.parametrize("squeeze", [False, True])
def test_each_part_of_a_split(output, squeeze):
    net = Builder()
    attrs = {"axis": 1, "squeeze_axis": squeeze, "num_outputs": 3}
    parts = net.add("SliceChannel", "parts", net.variable("data"), **attrs)
    compare(net.graph(net.add("_copy", "part", net.output(parts, output))), (2, 3, 4))


def test_products_of_matrices():
    for attrs in ({"transpose_b": True}, {"transpose_a": True}):
        compare(graph_of("batch_dot", ["other"], **attrs), (2, 3, 4), further=["other"])


def test_a_cast_to_bytes_wraps():
    net = Builder()
    byte = net.add("Cast", "byte", net.variable("data"), dtype="uint8")
    graph = net.graph(net.add("Cast", "number", byte, dtype="float32"))
    data = {"data": np.array([[-1.5, 3.7, 255, 256, 300.2]], np.float32)}
    theirs = compute_with_mxnet(graph, data, {}, None, False)[0]
    assert np.array_equal(compute_with_torch(graph, data, {}, None, False)[0], theirs)


def test_a_cast_to_float16_leaves_the_type_to_the_precision_of_the_run():
    net = Builder()
    half = net.add("Cast", "half", net.variable("data"), dtype="float16")
    graph = net.graph(net.add("Cast", "whole", half, dtype="float32"))
    data = {"data": np.random.default_rng(0).normal(size=(2, 50)).astype(np.float32)}
    ours = compute_with_torch(graph, data, {}, None, False)[0]
    assert np.array_equal(ours, data["data"])  # in float32, whose gradients it keeps
    theirs = compute_with_mxnet(graph, data, {}, None, False)[0]
    np.testing.assert_allclose(ours, theirs, rtol=1e-3)


def test_sums_of_other_shapes_are_refused():
    net = Builder()
    data = net.variable("data")
    pooled = net.add("Pooling", "pool", data, global_pool=True)
    graph = net.graph(net.add("elemwise_add", "sum", data, pooled))
    with pytest.raises(UserError, match="layer sum: adds"):
        shapes.infer_shapes(graph, (6, 2, 2))
