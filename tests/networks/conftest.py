"""What the tests of networks share: MXNet, where it is there."""

import importlib.util

import pytest


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
