"""New layers begin as MXNet's Module draws them."""

import numpy as np
import pytest

from common.engines.torch.initial_weights import draw
from common.engines.torch.runtime import torch
from common.engines.torch.shapes import infer_shapes
from common.networks import edits, symbol_file
from common.networks.graph import Builder
from common.networks.resnet import build_resnet


def drawn(graph, seed=0):
    generator = torch.Generator().manual_seed(seed)
    attributes = {node["name"]: node.get("attrs", {}) for node in graph["nodes"]}
    return {
        name: draw(name, shape, attributes[name], generator).numpy()
        for name, shape in infer_shapes(graph, (3, 32, 32)).items()
    }


def drawn_by_mxnet(mx, graph):
    """`{name: numpy array}` as MXNet's trainer begins."""
    module = mx.mod.Module(mx.sym.load_json(symbol_file.to_json(graph)))
    module.bind([("data", (1, 3, 32, 32))], [("softmax_label", (1,))])
    mx.random.seed(0)
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    params, stats = module.get_params()
    return {name: array.asnumpy() for name, array in {**params, **stats}.items()}


def with_prelu():
    builder = Builder()
    body = builder.add(
        "Convolution", "conv0", builder.variable("data"), kernel=(3, 3), num_filter=64
    )
    body = builder.add("Flatten", "flat", builder.add("LeakyReLU", "relu", body, act_type="prelu"))
    return builder.graph(edits.classify(builder, body, 5, "fc1"))


@pytest.mark.parametrize(
    "graph", [build_resnet(10, 5, width=32), with_prelu()], ids=["bn", "prelu"]
)
def test_weights_are_as_large_as_mxnets_and_the_rest_is_equal(graph, mx):
    expected, got = drawn_by_mxnet(mx, graph), drawn(graph)
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        assert got[name].dtype == np.float32
        assert got[name].shape == array.shape
        if name.endswith("_weight"):
            assert got[name].std() == pytest.approx(array.std(), rel=0.15), name
        else:
            np.testing.assert_array_equal(got[name], array, err_msg=name)


def test_the_seed_decides():
    one, same, other = (drawn(with_prelu(), seed)["conv0_weight"] for seed in (1, 1, 2))
    np.testing.assert_array_equal(one, same)
    assert (one != other).any()


@pytest.mark.parametrize(
    ("text", "value"),
    [("zeros", 0.0), ("ones", 1.0), ('["one", {}]', 1.0), ('["constant", {"value": 0.25}]', 0.25)],
)
def test_a_constant_is_named_as_by_module_or_as_by_gluon(text, value):
    generator = torch.Generator().manual_seed(0)
    assert draw("conv0_weight", (2, 3), {"__init__": text}, generator).tolist() == [[value] * 3] * 2
