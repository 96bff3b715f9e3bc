"""The shapes of a network's parameters: images that a network cannot take are one line."""

import pytest

from common import engines
from common.base.files import UserError
from common.networks.graph import Builder
from common.networks.resnet import build_resnet

# What the engines say of a window that is larger than the image.
REASONS = {
    "mxnet": r"kernel size \(7\) exceeds input",
    "torch": r"layer pool: a window of \(7, 7\) does not fit into \(5, 5\)",
}


@pytest.fixture
def infer_shapes(engine):
    return engines.load(engine).infer_shapes


def test_shapes_are_those_of_all_parameters_and_statistics(infer_shapes):
    shapes = infer_shapes(build_resnet(10, 3, width=8), (3, 64, 64))
    assert shapes["fc1_weight"] == (3, 64)
    assert shapes["bn0_moving_mean"] == (8,)
    assert not {"data", "softmax_label"} & shapes.keys()


def test_images_that_a_network_cannot_take_are_one_line(infer_shapes, engine, capfd):
    net = Builder()
    pooled = net.add("Pooling", "pool", net.variable("data"), kernel=(7, 7), pool_type="avg")
    graph = net.graph(net.add("FullyConnected", "fc1", pooled, num_hidden=2))
    with pytest.raises(UserError, match=f"--image-shape 3,5,5: .*{REASONS[engine]}"):
        infer_shapes(graph, (3, 5, 5))
    assert capfd.readouterr().out == ""


@pytest.mark.filterwarnings("ignore:Cannot decide shape")
def test_a_network_with_another_input_than_images_is_refused(infer_shapes):
    net = Builder()
    graph = net.graph(net.add("broadcast_add", "sum", net.variable("data"), net.variable("age")))
    with pytest.raises(UserError, match="do not determine all shapes"):
        infer_shapes(graph, (3, 8, 8))
