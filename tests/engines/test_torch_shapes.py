"""The shapes of PyTorch's layers: those of what they compute, found without its compiler."""

import pytest

from common.base.files import UserError
from common.engines.torch import operators, shapes
from common.engines.torch.runtime import torch
from common.networks.graph import Builder

WINDOWS = {"kernel": (3, 2), "stride": (2, 1), "pad": (1, 0)}


def graph_of(op, attrs, before=None):
    net = Builder()
    entry = net.variable("data")
    if before:
        entry = net.add(before, "before", entry)
    return net.graph(net.add(op, "layer", entry, **attrs))


@pytest.mark.parametrize(
    ("op", "attrs"),
    [
        ("Convolution", {**WINDOWS, "dilate": (2, 1), "num_filter": 4}),
        ("Convolution", {"kernel": (1, 1), "num_filter": 4, "no_bias": True}),
        ("FullyConnected", {"num_hidden": 4}),
        ("FullyConnected", {"num_hidden": 4, "flatten": False}),
        ("Pooling", {**WINDOWS, "pool_type": "max"}),
        ("Pooling", {**WINDOWS, "pool_type": "max", "pooling_convention": "full"}),
        ("Pooling", {**WINDOWS, "pool_type": "avg", "pooling_convention": "full"}),
        ("Pooling", {**WINDOWS, "pool_type": "sum", "pooling_convention": "same", "pad": (0, 0)}),
    ],
)
@pytest.mark.parametrize("side", [8, 11])
def test_the_shape_of_a_layer_is_that_of_what_it_computes(op, attrs, side):
    plan = operators.plan(graph_of(op, attrs))
    _, entries = shapes.shapes_of(plan, (2, 3, side, side + 1))
    (step,) = plan.steps
    inputs = [torch.zeros(entries[entry]) for entry in step.inputs]
    assert entries[step.node, 0] == tuple(step.compute(*inputs).shape)


@pytest.mark.parametrize(
    ("op", "attrs", "before", "words"),
    [
        ("Convolution", {"kernel": (9, 9), "num_filter": 4}, None, "does not fit into"),
        ("Convolution", {"kernel": (1, 1), "num_filter": 4}, "Flatten", "of 2 dimensions for"),
        ("Pooling", {"kernel": (9, 9)}, None, "does not fit into"),
    ],
)
def test_a_layer_that_does_not_fit_is_named(op, attrs, before, words):
    with pytest.raises(UserError, match=f"layer layer: .*{words}"):
        shapes.infer_shapes(graph_of(op, attrs, before), (3, 8, 8))


def test_a_parameter_of_another_shape_is_named():
    net = Builder()
    weight = net.variable("layer_weight", shape=(4, 9))
    graph = net.graph(
        net.add("FullyConnected", "layer", net.variable("data"), weight, num_hidden=4)
    )
    with pytest.raises(UserError, match=r"takes parameters of \(4, 192\), not \(4, 9\)"):
        shapes.infer_shapes(graph, (3, 8, 8))


def test_a_step_and_a_prediction_import_no_compiler(python):
    """torch._dynamo and sympy, which it imports, take longer than the rest of a start."""
    done = python(
        """
        import sys
        from benchmarks import predict_rate, rates, train_rate
        from common import engines

        sys.argv[1:] = ["--network=resnet-18", "--image-size=64", "--num-classes=3"]
        args = rates.make_parser("x", batch_size=2).parse_args()
        args.records, args.views, args.networks = None, 1, 1
        torch = engines.load("torch")
        for make in (train_rate.make_train, predict_rate.make_predict):
            make(args, torch, torch.parse_devices("cpu"))(1)
        print([name for name in ("torch._dynamo", "sympy", "matplotlib") if name in sys.modules])
        """
    )
    assert done.stdout == "[]\n", done.stderr
