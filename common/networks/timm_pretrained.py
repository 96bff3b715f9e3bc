"""Pretrained networks of timm: from the Hugging Face hub, from files, from runs."""

import logging
import os
import re

import numpy as np

from common.base import fetch
from common.base.files import MODEL_DIR, ROOT, UserError
from common.networks import checkpoint, timm_files, torch_files
from common.networks.timm_network import TimmNetwork

HUB = "timm:"  # what the names of networks on the hub begin with
FILES = ("config.json", "model.safetensors")  # of a network on the hub

log = logging.getLogger(__name__)


def is_meant(name, architecture=None):
    """Return whether `--pretrained-model` and `--architecture` name a network of timm."""
    return architecture is not None or name.startswith(HUB) or find_prefix(name) is not None


def load_pretrained(name, find_config, architecture=None, epoch=None, model_dir=MODEL_DIR):
    """Return a pretrained `TimmNetwork`, with its own head.

    Args:
        name: `timm:NAME.TAG`, a network on the hub (`timm:USER/NAME`: of another user than timm);
            a PyTorch checkpoint; or the prefix of a training run.
        find_config: an engine's `timm_config`, for what a name leaves out.
        architecture: timm's NAME or NAME.TAG of a PyTorch checkpoint, also as `timm:NAME`.
        epoch: which of several checkpoints of a prefix; None takes the only one.
        model_dir: where networks of the hub may have been put by hand.

    Raises:
        UserError: there is no such network, or it could not be fetched; the message says what to
            place where by hand.
    """
    if name.startswith(HUB):
        network = _load_from_hub(name[len(HUB) :], find_config, model_dir)
    elif architecture is not None:
        network = _load_file(name, find_config(architecture.rpartition(HUB)[2]))
    else:
        prefix = find_prefix(name)
        network = checkpoint.load(prefix, _only_epoch(prefix) if epoch is None else epoch)
    for key, array in {**network.params, **network.stats}.items():
        if not np.isfinite(array).all():
            raise UserError(f"{name}: damaged: {key} holds NaN or infinite values; fetch it again")
    return network


def fetch_network(name, find_config=None, model_dir=MODEL_DIR):
    """Return the names of the configuration and the weights of a network on the hub, on this disk.

    They are those in `model_dir`/NAME.TAG, or else huggingface_hub's, which downloads what it does
    not have yet.

    Raises:
        UserError: they could not be fetched; the message says what to place where by hand.
    """
    if not re.fullmatch(r"(\w[\w.-]*/)?\w[\w.-]*", name):
        raise UserError(f"{HUB}{name}: not a name such as {HUB}convnext_tiny.in12k")
    if "/" not in name and "." not in name and find_config is not None:
        name = f"{name}.{find_config(name)['pretrained_cfg']['tag']}"
    folder = os.path.join(model_dir, name.rpartition("/")[2])
    placed = [os.path.join(folder, file_name) for file_name in FILES]
    if any(map(os.path.lexists, placed)):
        return placed
    return _download(name if "/" in name else f"timm/{name}", folder)


def _load_from_hub(name, find_config, model_dir):
    return timm_files.read_files(*fetch_network(name, find_config, model_dir))


def _download(repository, folder):
    endpoint = os.environ.get("HF_ENDPOINT", "https://huggingface.co")
    addresses = [f"{endpoint}/{repository}/resolve/main/{file_name}" for file_name in FILES]
    by_hand = f"fetch {' and '.join(addresses)}, put both into {folder}, and run this again"
    try:
        from huggingface_hub import hf_hub_download
        from huggingface_hub.utils import logging as hub_logging
    except ImportError:
        raise UserError(
            f"{repository}: the package huggingface_hub fetches it: pip install huggingface_hub;"
            f" or {by_hand}"
        ) from None
    hub_logging.set_verbosity_error()  # it reports each of its attempts
    log.info("fetching %s from the Hugging Face hub, or its copy on this disk", repository)
    try:
        paths = [hf_hub_download(repository, file_name) for file_name in FILES]
    except Exception as error:  # of the hub, of the connection, of its libraries for both
        if isinstance(error, OSError) and error.filename:
            raise  # the disk
        reason = " ".join(str(error.__cause__ or error).split())[:200]
        raise UserError(f"{repository}: could not be fetched ({reason}); {by_hand}") from None
    for path in paths:
        _verify(path)
    return paths


def _verify(path):
    """Raise `UserError` if a file of huggingface_hub's cache is not what the hub announced.

    The cache names large files by their sha256.
    """
    blob = os.path.realpath(path)
    digest = os.path.basename(blob)
    if re.fullmatch("[0-9a-f]{64}", digest) and fetch.sha256_of(blob) != digest:
        raise UserError(f"{blob}: is damaged: its sha256 is not its name; remove it")


def _load_file(path, config):
    """Return the network of a PyTorch checkpoint; its head says how many classes it has."""
    network = TimmNetwork.from_config(config, torch_files.read_state_dict(path))
    head = network.params.get(network.head_params()[0])
    offset = network.pretrained_cfg.get("label_offset") or 0
    count = 0 if head is None else len(head) - offset
    network.num_classes = network.pretrained_cfg["num_classes"] = count
    network.source = path
    return network


def find_prefix(name, *folders):
    """Return the prefix of a training run of a network of timm; None if there is none.

    It is looked for in this folder, the project's, and `folders`.
    """
    prefixes = (os.path.join(folder, name) for folder in ("", ROOT, *folders))
    return next(filter(_is_run, prefixes), None)


def _is_run(prefix):
    """Return whether there are files of such a run; one that has lost its `-timm.json` is one."""
    if os.path.lexists(timm_files.config_path(prefix)):
        return True
    is_of_mxnet = os.path.lexists(checkpoint.symbol_path(prefix))
    return not is_of_mxnet and bool(checkpoint.find_epochs(prefix, "safetensors"))


def _only_epoch(prefix):
    epochs = checkpoint.find_epochs(prefix, "safetensors")
    if len(epochs) != 1:
        there = ", ".join(map(str, epochs)) or "none"
        raise UserError(f"{prefix}: choose the epoch with --pretrained-epoch; there are: {there}")
    return epochs[0]
