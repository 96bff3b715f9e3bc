"""Networks of known kinds give the same probabilities with PyTorch as with MXNet."""

import numpy as np
import pytest

from common.engines import torch as torch_engine
from common.engines.torch.runtime import torch
from common.networks import edits, onnx_files, symbol_file, torch_networks
from common.networks.resnet import build_resnet
from tests import torch_reference
from tests.engines.small_networks import (
    BODIES,
    CLASSES,
    assert_engines_agree,
    batches_of,
    gluon_graph,
    inception_bn,
    of_images,
    predict,
    reused,
    with_random_weights,
)
from tests.networks import torch_exports

GLUON = {
    "alexnet": 96,
    "densenet121": 224,
    "inception_v3": 299,
    "mobilenet0_25": 64,
    "mobilenet_v2_0_25": 64,
    "resnet18_v1": 64,
    "resnet18_v2": 64,
    "resnet50_v1": 64,
    "resnet50_v2": 64,
    "squeezenet1_0": 224,
    "squeezenet1_1": 224,
    "vgg11": 64,
    "vgg11_bn": 64,
}


@pytest.mark.parametrize("name", GLUON)
def test_a_network_of_gluon_gives_the_same_probabilities(name):
    graph = gluon_graph(name)
    assert_engines_agree(with_random_weights(graph, GLUON[name]), GLUON[name], size=2)


@pytest.mark.parametrize("num_layers", [18, 50])
def test_the_zoos_resnets_give_the_same_probabilities(num_layers):
    graph = edits.take_raw_images(build_resnet(num_layers, CLASSES, width=16))
    assert_engines_agree(with_random_weights(graph, 64), 64)


@pytest.mark.parametrize("body", BODIES)
def test_a_small_network_of_a_known_kind_gives_the_same_probabilities(body, monkeypatch):
    if body is reused:  # MXNet's own fusion overwrites what is read again
        monkeypatch.setenv("MXNET_SUBGRAPH_BACKEND", "NONE")
    assert_engines_agree(with_random_weights(of_images(body), 33), 33)


@pytest.mark.parametrize("year", ["2016", "2017", "1.5.0"])
def test_a_network_of_another_year_gives_the_same_probabilities(year):
    from tests.faults.test_old_files import old_symbol

    text = old_symbol(symbol_file.to_json(of_images(inception_bn)), year)
    graph = symbol_file.parse(text, "old")
    assert_engines_agree(with_random_weights(graph, 33), 33)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "efficientnet_lite0"])
def test_an_import_of_pytorch_gives_the_same_probabilities(name):
    torch.manual_seed(0)
    reference = torch_reference.ARCHITECTURES[name]()
    torch_reference.randomise(reference)
    state = {key: tensor.numpy() for key, tensor in reference.state_dict().items()}
    network = torch_networks.build(state, name if "lite0" in name else None)
    assert_engines_agree(network, 64)


@pytest.mark.parametrize("kind", torch_exports.KINDS)
def test_an_import_of_onnx_gives_the_probabilities_of_onnx_runtime(kind, tmp_path, monkeypatch):
    """MXNet 1.9.1 is no peer here: the ShuffleNet ends it with a floating point exception."""
    peer = pytest.importorskip("tests.networks.onnx_graphs")
    path = str(tmp_path / "net.onnx")
    monkeypatch.setattr("sys.argv", ["torch_exports.py", kind, "13", path])
    torch_exports.main()
    (batch,) = batches_of(33, size=1)
    network = onnx_files.read_network(path, peer.MEAN, peer.STD)
    (ours,) = predict(torch_engine, [network], 33, size=1)
    np.testing.assert_allclose(ours, peer.expected(path, batch.images), rtol=1e-4)
