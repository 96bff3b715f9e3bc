"""Checkpoints of timm's networks: written, read, and refused where they are damaged."""

import json
import re

import numpy as np
import pytest

from common.base.files import UserError
from common.networks import Network, checkpoint, timm_files
from common.networks.timm_network import TimmNetwork
from tests.conftest import limit_file_size

CONFIG = {
    "architecture": "tiny",
    "num_classes": 2,
    "model_args": {"img_size": [32, 32]},
    "pretrained_cfg": {
        "classifier": "head.fc",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.5, 0.5, 0.5],
        "num_classes": 1000,
        "fixed_input_size": True,
        "hf_hub_id": "timm/tiny",
        "label_names": ["of", "others"],
    },
}
ARRAYS = {
    "stem.weight": np.arange(24, dtype=np.float32).reshape(2, 3, 2, 2),
    "norm.running_mean": np.ones(3, np.float32),
    "head.fc.weight": np.full((2, 5), 0.1, np.float32),
    "head.fc.bias": np.zeros(2, np.float32),
    "scale": np.float32(3).reshape(()),
}


def tiny_network():
    return TimmNetwork.from_config(CONFIG, ARRAYS)


@pytest.fixture
def saved(tmp_path):
    """The prefix of a checkpoint of two epochs, with states."""
    prefix = str(tmp_path / "net")
    for epoch in (1, 2):
        checkpoint.save(prefix, epoch, tiny_network(), {"state:stem.weight/0": np.ones(3, "f")})
    return prefix


def test_a_checkpoint_is_what_was_saved(saved):
    network = checkpoint.load(saved, 2)
    assert network.config() == tiny_network().config()
    assert list(network.stats) == ["norm.running_mean"]
    for name, array in {**network.params, **network.stats}.items():
        np.testing.assert_array_equal(array, ARRAYS[name])
    assert list(checkpoint.load_states(saved, 2)) == ["state:stem.weight/0"]
    assert checkpoint.find_epochs(saved) == [1, 2]
    assert checkpoint.newest_whole(saved) == (2, [])


def test_the_library_of_safetensors_reads_what_is_written(saved):
    numpy_files = pytest.importorskip("safetensors.numpy")
    arrays = numpy_files.load_file(timm_files.weights_path(saved, 1))
    assert arrays.keys() == ARRAYS.keys()
    for name, array in arrays.items():
        np.testing.assert_array_equal(array, ARRAYS[name])
    with open(timm_files.weights_path(saved, 1), "rb") as stream:
        assert (8 + int.from_bytes(stream.read(8), "little")) % 8 == 0


def test_the_configuration_is_that_of_the_hub(saved):
    with open(timm_files.config_path(saved), encoding="utf-8") as stream:
        config = json.load(stream)
    assert config["architecture"] == "tiny"
    assert config["num_classes"] == config["pretrained_cfg"]["num_classes"] == 2
    assert config["num_features"] == 5
    assert "hf_hub_id" not in config["pretrained_cfg"]  # where other weights are


def test_a_trained_network_forgets_the_classes_of_the_pretrained_one():
    network = tiny_network().with_new_head(7).for_images((3, 48, 64))
    assert network.arguments == {"img_size": [48, 64]}
    assert network.has_new_head
    trained = network.with_arrays({}, {})
    assert not trained.has_new_head
    assert trained.pretrained_cfg["num_classes"] == 7
    assert trained.pretrained_cfg["input_size"] == [3, 48, 64]
    assert "label_names" not in trained.pretrained_cfg
    assert tiny_network().pretrained_cfg["label_names"]  # the first one is as it was


def test_a_damaged_checkpoint_is_passed_over(saved):
    with open(timm_files.weights_path(saved, 2), "r+b") as stream:
        stream.truncate(100)
    epoch, complaints = checkpoint.newest_whole(saved)
    assert epoch == 1
    assert "net-0002.safetensors: is cut off or damaged" in complaints[0]


def test_nan_is_named(saved):
    arrays = {**ARRAYS, "scale": np.float32("nan").reshape(())}
    timm_files.write_safetensors(timm_files.weights_path(saved, 2), arrays)
    with pytest.raises(UserError, match=r"net-0002\.safetensors: scale holds NaN"):
        checkpoint.load(saved, 2)


@pytest.mark.parametrize("text", ["{", "[]", "{}", '{"architecture": "a", "pretrained_cfg": 3}'])
def test_a_damaged_configuration_is_one_line(saved, text):
    with open(timm_files.config_path(saved), "w", encoding="utf-8") as stream:
        stream.write(text)
    with pytest.raises(UserError, match=r"net-timm\.json: is not the configuration of a network"):
        checkpoint.load(saved, 1)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": "hf-hub:somebody/network"},
        {"architecture": "local-dir:/tmp"},
        {"architecture": 3},
        {"model_args": {"checkpoint_path": "other.pth"}},
    ],
)
def test_a_configuration_that_would_load_something_else_is_refused(saved, changes):
    with open(timm_files.config_path(saved), "w", encoding="utf-8") as stream:
        json.dump({**CONFIG, **changes}, stream)
    with pytest.raises(UserError, match=r"net-timm\.json: is not the configuration of a network"):
        checkpoint.load(saved, 1)


def test_an_epoch_that_is_not_there_names_those_that_are(saved):
    with pytest.raises(UserError, match=r"net-0007\.safetensors: not found; .*there: 1, 2"):
        checkpoint.load(saved, 7)


def test_pruning_removes_weights_and_states(saved, tmp_path):
    checkpoint.prune(saved, keep=1, newest=2)
    names = {path.name for path in tmp_path.iterdir()}
    assert names == {"net-timm.json", "net-0002.safetensors", "net-0002.states"}


def test_two_kinds_of_networks_do_not_share_a_prefix(saved, tmp_path):
    checkpoint.require_one_kind(saved, tiny_network())
    with pytest.raises(UserError, match=r"net-0001\.safetensors: is of a network of another kind"):
        checkpoint.require_one_kind(saved, Network({}, {}, {}))
    (tmp_path / "mx-0003.params").write_bytes(b"")
    with pytest.raises(UserError, match=r"mx-0003\.params: is of a network of another kind"):
        checkpoint.require_one_kind(str(tmp_path / "mx"), tiny_network())


def test_a_full_disk_leaves_the_older_checkpoint(saved, python):
    done = python(
        f"""
        import numpy as np
        from common.networks import checkpoint
        network = checkpoint.load({saved!r}, 2)
        network.params["more"] = np.zeros(9000, np.float32)
        checkpoint.save({saved!r}, 3, network)
        """,
        preexec_fn=limit_file_size,
    )
    assert done.returncode != 0
    assert checkpoint.newest_whole(saved) == (2, [])


def test_frozen_parameters_are_named_by_a_pattern():
    network, names = tiny_network().freeze("stem|scale")
    assert network.params.keys() == tiny_network().params.keys()
    assert names == ["stem.weight", "scale"]
    for pattern, reason in (("(", "not a regular"), ("none", "matches no"), ("", "matches all")):
        with pytest.raises(UserError, match=re.escape(f"--freeze {pattern}: {reason}")):
            tiny_network().freeze(pattern)
