"""The zoo's ResNets: their names, and how many parameters they have."""

import numpy as np
import pytest

from common.base.files import UserError
from common.networks.graph import arguments, internals, outputs
from common.networks.resnet import RESNET_UNITS, build_resnet


@pytest.mark.parametrize(
    ("num_layers", "parameters"), [(18, 11.7e6), (34, 21.8e6), (50, 25.5e6), (152, 60.2e6)]
)
def test_zoo_resnets_have_the_published_number_of_parameters(mx, num_layers, parameters):
    from common.engines.mxnet.shapes import infer_shapes

    shapes = infer_shapes(build_resnet(num_layers, 1000), (3, 224, 224))
    learnt = [shape for name, shape in shapes.items() if "moving" not in name]
    assert sum(map(np.prod, learnt)) == pytest.approx(parameters, rel=0.005)


def test_a_resnet_has_the_names_that_zoo_checkpoints_use():
    graph = build_resnet(152, 11221)
    parameters, layers = arguments(graph), internals(graph)
    for name in ("bn_data_gamma", "conv0_weight", "stage1_unit1_sc_weight", "fc1_bias"):
        assert name in parameters
    for name in ("stage3_unit36_conv3", "stage4_unit3_bn3", "bn1", "relu1", "pool1", "flatten0"):
        assert f"{name}_output" in layers
    assert outputs(graph) == ["softmax_output"]


@pytest.mark.parametrize("num_layers", RESNET_UNITS)
def test_resnets_are_mxnets_byte_for_byte(peer, text, num_layers):
    assert text(build_resnet(num_layers, 7)) == peer.build_resnet(num_layers, 7).tojson()


def test_an_unknown_depth_is_refused():
    with pytest.raises(UserError, match="a ResNet has 10, 18, 34, 50, 101, 152 layers, not 20"):
        build_resnet(20, 3)
