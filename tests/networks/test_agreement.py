"""Parameters of another network are named, whatever size of images it is for."""

import pytest

from common import engines
from common.base.files import UserError
from common.networks.agreement import require_agreement
from common.networks.graph import Builder
from common.networks.resnet import build_resnet


@pytest.fixture
def infer_shapes(engine):
    return engines.load(engine).infer_shapes


def test_parameters_of_another_network_are_named(infer_shapes):
    graph = build_resnet(10, 5, width=4)
    right = infer_shapes(graph, (3, 64, 64))
    require_agreement(graph, right, infer_shapes, "a.params")
    with pytest.raises(UserError, match=r"a\.params: .*stage1_unit2_bn1_gamma is missing"):
        require_agreement(build_resnet(18, 5, width=4), right, infer_shapes, "a.params")
    with pytest.raises(UserError, match=r"fc1_weight is of shape \(5, 32\), not \(7, 32\)"):
        require_agreement(build_resnet(10, 7, width=4), right, infer_shapes, "a.params")


def test_one_of_the_usual_sizes_has_to_fit(infer_shapes):
    net = Builder()
    body = net.add("FullyConnected", "fc1", net.variable("data"), num_hidden=2)
    shapes = {"fc1_weight": (2, 3 * 299 * 299), "fc1_bias": (2,)}
    require_agreement(net.graph(body), shapes, infer_shapes, "a.params")
    with pytest.raises(UserError, match=r"a\.params: .*fc1_weight is of shape"):
        require_agreement(net.graph(body), shapes, infer_shapes, "a.params", image_sizes=(64,))


def test_a_network_that_takes_no_images_is_named(infer_shapes):
    net = Builder()
    pooled = net.add("Pooling", "pool", net.variable("data"), kernel=(400, 400))
    with pytest.raises(UserError, match=r"a\.params: .*cannot take such images"):
        require_agreement(net.graph(pooled), {}, infer_shapes, "a.params")
