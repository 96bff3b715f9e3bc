"""What the tests of networks share: MXNet, where it is there."""

import argparse
import importlib.util

import pytest

from common.networks import symbol_file


@pytest.fixture(scope="session")
def mx():
    """MXNet, or the test is skipped: networks need none, but have to be its equals."""
    if importlib.util.find_spec("mxnet") is None:
        pytest.skip("no MXNet")
    from common.find_mxnet import mx

    return mx


@pytest.fixture(scope="session")
def version(mx):
    """The version of the MXNet that is here, as its files have it: 10901."""
    major, minor, patch = map(int, mx.__version__.split(".")[:3])
    return major * 10000 + minor * 100 + patch


@pytest.fixture
def peer(mx):
    """The functions that work on MXNet's symbols."""
    from common import data, export, network

    class Peer:
        swap_head, take_raw_images = network.swap_head, network.take_raw_images
        smooth_labels, scale_loss, freeze = (
            network.smooth_labels,
            network.scale_loss,
            network.freeze,
        )
        set_learning_rate_factors = network.set_learning_rate_factors
        without_label = export.without_label
        find_head, fixed_gammas = network.find_head, network.fixed_gammas

        @staticmethod
        def build_resnet(*args, **kwargs):
            with mx.name.NameManager():
                return network.build_resnet(*args, **kwargs)

        @staticmethod
        def normalize_input(symbol, mean, std):
            texts = [",".join(map(str, values)) for values in (mean, std)]
            with mx.name.NameManager():
                return data.normalize_input(
                    symbol, argparse.Namespace(rgb_mean=texts[0], rgb_std=texts[1])
                )

    return Peer


@pytest.fixture
def text(version):
    """The file's text of a graph."""
    return lambda graph: symbol_file.to_json(graph, version)
