"""What fine-tune.py wrote of a network of timm, in `python -m common.modelzoo`."""

import json
import os

import pytest

from common import engines
from common.base.files import UserError
from common.networks import checkpoint, timm_files
from common.tools import modelzoo
from tests.conftest import require_engine
from tests.networks.test_timm_files import tiny_network


@pytest.fixture
def run(tmp_path):
    """The prefix of two epochs of a network whose architecture timm does not have."""
    prefix = str(tmp_path / "run")
    for epoch in (1, 2):
        checkpoint.save(prefix, epoch, tiny_network().for_images((3, 48, 32)))
    return prefix


@pytest.fixture
def vit(tmp_path):
    """The prefix of a network that timm builds."""
    require_engine("torch")
    from tests.engines.timm_modules import SHAPE, network_of, timms_module

    prefix = str(tmp_path / "vit")
    network = network_of(timms_module("test_vit"), "test_vit")
    checkpoint.save(prefix, 3, network.for_images(SHAPE))
    return prefix


def change_config(prefix, **changes):
    path = timm_files.config_path(prefix)
    with open(path) as stream:
        config = json.load(stream)
    with open(path, "w") as stream:
        json.dump({**config, **changes}, stream)


def test_it_is_listed(run):
    folder = os.path.dirname(run)
    (line,) = (line for line in modelzoo.list_networks(folder) if line.startswith("run "))
    assert line.split() == ["run", "in", folder]


@pytest.mark.parametrize("epoch", [None, 1])
def test_its_description_needs_no_engine(run, capsys, monkeypatch, epoch):
    monkeypatch.setattr(engines, "load", None)
    modelzoo.describe("run", os.path.dirname(run), epoch)
    size = sum(array.size for array in tiny_network().params.values())
    said = capsys.readouterr().out
    assert said.startswith(f"{run}: timm's tiny, for --engine torch\n")
    for line in ("classes: 2", "images: 48x32 pixels", "epochs: 1, 2", f"{size:,} parameters"):
        assert f"\n{line}" in said


def test_what_cannot_be_described_is_one_line(run):
    with pytest.raises(UserError, match=r"run-0009\.safetensors: not found; .* there: 1, 2"):
        modelzoo.describe(run, epoch=9)
    with pytest.raises(UserError, match=r"--plot: .*run is a network of timm; leave it out"):
        modelzoo.describe(run, plot="network.pdf")
    change_config(run, pretrained_cfg={"num_classes": 2})
    with pytest.raises(UserError, match=r"run-timm\.json: has no input_size"):
        modelzoo.describe(run)


def test_its_files_are_verified_without_timm(run, monkeypatch):
    monkeypatch.setattr(engines, "installed", lambda: ["mxnet"])
    said = modelzoo.verify(run)
    assert said.startswith(f"{run}: epochs 1, 2 are complete and finite; install PyTorch and timm")
    path = timm_files.weights_path(run, 2)
    os.truncate(path, os.path.getsize(path) - 4)
    with pytest.raises(UserError, match=r"run-0002\.safetensors: is cut off"):
        modelzoo.verify(run)


@pytest.mark.parametrize("missing", ["run-timm.json", "run-0001.safetensors"])
def test_a_missing_file_is_named(tmp_path, missing):
    checkpoint.save(str(tmp_path / "run"), 1, tiny_network())
    (tmp_path / missing).unlink()
    for tool in (modelzoo.verify, modelzoo.describe):
        with pytest.raises(UserError) as caught:
            tool(str(tmp_path / "run"))
        assert missing.replace("0001", "0000") in str(caught.value)


def test_its_arrays_are_compared_with_timms_architecture(zoo, vit):
    said = zoo("verify", "--model-dir", os.path.dirname(vit))
    assert said == f"{vit}: epochs 3 are complete and fit timm's test_vit\n"
    change_config(vit, architecture="test_vit2")
    said = zoo("verify", vit, status=2)
    assert said.startswith(f"{vit}-0003.safetensors: timm's test_vit2 for images of 64x64: ")
    assert said.count("\n") == 1
