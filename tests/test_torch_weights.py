"""Where in a checkpoint the weights are, and their names without prefixes."""

import logging

import numpy as np
import pytest

from common.base.files import UserError
from common.networks.torch_files import read_state_dict
from tests.torch_writer import Tensor, save_zip

NETWORK = ("conv1.weight", "bn1.weight", "layer1.0.conv1.weight")


def tensors(names, value=0, prefix=""):
    array = np.full(2, value, np.float32)
    return {prefix + name: Tensor(array, f"{value}{prefix}{name}") for name in names}


def read(tmp_path, content):
    return read_state_dict(save_zip(tmp_path / "a.pth", content))


@pytest.mark.parametrize(
    "keys",
    [(), ("state_dict",), ("model",), ("model_state_dict",), ("ema", "net"), ("a", "b", "state")],
)
def test_the_weights_are_the_dict_with_the_most_tensors(tmp_path, keys):
    content = tensors(NETWORK)
    for key in reversed(keys):
        content = {"step": 1, key: content, "best_acc1": tensors(["x"])["x"]}
    assert tuple(read(tmp_path, content)) == NETWORK


@pytest.mark.parametrize("key", ["ema", "state_dict_ema", "model_ema", "ema_state_dict"])
def test_averaged_weights_come_first(tmp_path, key):
    content = {"state_dict": tensors(NETWORK, 1), key: tensors(NETWORK, 2)}
    assert read(tmp_path, content)["bn1.weight"].tolist() == [2, 2]


def test_averages_without_the_running_statistics_are_not_the_network(tmp_path):
    content = {"model": tensors((*NETWORK, "bn1.running_mean"), 1), "ema": tensors(NETWORK, 2)}
    assert read(tmp_path, content)["bn1.weight"].tolist() == [1, 1]


@pytest.mark.parametrize(
    "prefix",
    ["module.", "_orig_mod.module.", "model.", "module.model.backbone.", "net._orig_mod.encoder."],
)
def test_prefixes_that_all_names_share_are_stripped(tmp_path, prefix):
    assert tuple(read(tmp_path, tensors(NETWORK, prefix=prefix))) == NETWORK


def test_what_only_counts_is_dropped(tmp_path):
    averaged = {**tensors(["n_averaged"]), **tensors(NETWORK, prefix="module.")}
    assert tuple(read(tmp_path, averaged)) == NETWORK


def test_of_moco_the_query_encoder_is_taken_without_its_projection(tmp_path, caplog):
    encoder = (*NETWORK, "fc.0.weight", "fc.2.weight")
    content = {
        **tensors(encoder, 1, "module.encoder_q."),
        **tensors(encoder, 2, "module.encoder_k."),
        **tensors(["module.queue", "module.queue_ptr"]),
    }
    with caplog.at_level(logging.INFO):
        state = read(tmp_path, {"arch": "resnet50", "state_dict": content})
    assert tuple(state) == NETWORK and state["bn1.weight"].tolist() == [1, 1]
    assert "not part of the network and left out: encoder_k, queue, queue_ptr, fc" in caplog.text


def test_a_backbone_beside_a_head_is_taken_and_a_projection_left_out(tmp_path):
    inside = tensors((*NETWORK, "fc.1.weight"), prefix="backbone.")
    assert tuple(read(tmp_path, {**inside, **tensors(["head.mlp.weight"])})) == NETWORK


def test_names_that_are_no_wrapper_stay(tmp_path):
    vit = ("conv_proj.weight", "encoder.layers.0.weight", "heads.head.weight")
    assert tuple(read(tmp_path, tensors(vit))) == vit


def test_a_file_without_weights_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"a\.pth: holds no state dict; save"):
        read(tmp_path, {"epoch": 3, "losses": [1.0, 0.5]})
