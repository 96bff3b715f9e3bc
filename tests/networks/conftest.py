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
