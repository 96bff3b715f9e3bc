"""What the tests of networks share: MXNet's version and its functions on symbols."""

import pytest

from common.networks import symbol_file


@pytest.fixture(scope="session")
def version(mx):
    """The version of the MXNet that is installed, as its files have it: 10901."""
    major, minor, patch = map(int, mx.__version__.split(".")[:3])
    return major * 10000 + minor * 100 + patch


@pytest.fixture(scope="session")
def peer(mx):
    """The functions that work on MXNet's symbols."""
    from tests.networks import mxnet_peer

    return mxnet_peer


@pytest.fixture(scope="session")
def torch_peer(mx):
    """The functions that make MXNet's symbols of PyTorch's networks."""
    from tests.networks import mxnet_torch_peer

    return mxnet_torch_peer


@pytest.fixture
def text(version):
    """The file's text of a graph."""
    return lambda graph: symbol_file.to_json(graph, version)
