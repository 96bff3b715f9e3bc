"""The pretrained network that a name means: local files, the catalogue's, PyTorch's or ONNX."""

import difflib
import logging
import os
import re

import numpy as np

from common.base import fetch
from common.base.files import MODEL_DIR, ROOT, UserError
from common.networks import (
    Network,
    checkpoint,
    edits,
    onnx_files,
    torch_architectures,
    torch_files,
    torch_networks,
    zoo_mirrors,
)
from common.networks.agreement import require_agreement
from common.networks.catalogue import CATALOGUE
from common.networks.graph import replace_variable

# Of files that do not exist; files that exist are recognised by their content.
FILE_SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".ckpt", ".safetensors", ".onnx")
# A protocol buffer: the version of ONNX, then the next field of a model.
_ONNX_START = re.compile(rb"\x08[\x01-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]")

log = logging.getLogger(__name__)


def load_pretrained(
    name,
    infer_shapes,
    model_dir=MODEL_DIR,
    epoch=None,
    variant=None,
    epoch_flag="--pretrained-epoch",
    image_shape=None,
):
    """Return a pretrained `Network`.

    Whatever its source, it is fed raw RGB images: `data`, (N, 3, H, W), 0 to 255, uint8 or
    float32.

    Args:
        name: the prefix of local files (`model/resnet-152`), a name of the catalogue (fetched
            into `model_dir` if it is not there yet), a PyTorch checkpoint or an ONNX file.
        infer_shapes: an engine's, to compare the graph with the arrays.
        epoch: which of several `PREFIX-EPOCH.params`; None takes the only one.
        variant: of a PyTorch checkpoint, a key of `torch_networks.LITE0_VARIANTS`.
        epoch_flag: what the user types before an epoch.
        image_shape: the (3, H, W) of the images that it shall take.

    Raises:
        UserError: nothing is found under that name, or what is found is damaged; or it could not
            be fetched, and then the message says which files to place where by hand.
    """
    is_prefix = os.path.lexists(checkpoint.symbol_path(name))
    if name.endswith(FILE_SUFFIXES) or (os.path.isfile(name) and not is_prefix):
        return _read_file(name, infer_shapes, variant)
    if variant is not None:
        raise UserError(f"--variant {variant}: is for PyTorch files, and {name} is not one")
    prefix = _find_prefix(name, model_dir, infer_shapes)
    entry = CATALOGUE.get(os.path.basename(prefix))
    epoch = _only_epoch(prefix, epoch_flag) if epoch is None else epoch
    network = load_verified(prefix, infer_shapes, epoch, image_shape)
    if entry is not None and entry.mean is not None:
        return _subtract_mean(entry.mean, network)
    return network.with_graph(edits.take_raw_images(network.graph))


def load_verified(prefix, infer_shapes, epoch, image_shape=None):
    """Return the `Network` of local files, checked to belong together.

    Some weights depend on the size of the images: it is one of the usual ones, or `image_shape`.
    """
    network = checkpoint.load_as_it_is(prefix, epoch)
    path = checkpoint.params_path(prefix, epoch)
    shapes = network.shapes()
    require_agreement(network.graph, shapes, infer_shapes, path, image_shape=image_shape)
    return network


def import_network(
    path, name, infer_shapes, model_dir=MODEL_DIR, variant=None, mean=None, std=None
):
    """Write the network of a PyTorch checkpoint or ONNX file into `model_dir`; return its prefix.

    The symbol is written for MXNet 1.9.1, whatever the engine. MXNet 1.5.0 warns when it loads the
    file itself, and loads it right; this project converts it without a warning.

    Raises:
        UserError: the file is damaged, holds more than tensors, or another architecture; the name
            is that of a training run, whose checkpoints would lose their symbol.
    """
    network = _read_file(path, infer_shapes, variant, mean, std)
    if os.path.basename(name) != name or name in ("", ".", ".."):
        raise UserError(f"--name {name}: must be a name, without a folder; see --model-dir")
    prefix = os.path.join(model_dir, name)
    if any(checkpoint.find_epochs(prefix)) or os.path.lexists(checkpoint.config_path(prefix)):
        raise UserError(f"--name {name}: {prefix} is a training run; choose another name")
    os.makedirs(model_dir, exist_ok=True)
    checkpoint.save(prefix, 0, network)
    return prefix


def _read_file(path, infer_shapes, variant=None, mean=None, std=None):
    """Read a network of another tool; the content of the file says which, not its name."""
    if path.endswith(".onnx") or _is_onnx(path):
        return onnx_files.read_network(path, mean, std)
    if mean is not None or std is not None:
        raise UserError(f"--mean, --std: are for ONNX files, and {path} is none; leave them out")
    return _read_torch(path, infer_shapes, variant)


def _read_torch(path, infer_shapes, variant=None):
    stem = os.path.basename(path)
    if stem.startswith(torch_networks.ANTI_ALIASED):
        raise UserError(
            f"{path}: its name is that of an anti-aliased ResNet, which has the tensors of a plain"
            f" one; import it as ONNX: {torch_architectures.BY_ONNX}; or with PyTorch:"
            " --engine torch --architecture NAME, timm's name of the network"
        )
    if variant is None:  # timm's file names say which
        variant = next((v for v in torch_networks.LITE0_VARIANTS if stem.startswith(v)), None)
    _check_known_sha256(path)
    state = torch_files.read_state_dict(path)
    for name, array in state.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"{path}: damaged: {name} holds NaN or infinite values; download it again"
            )
    try:
        network = torch_networks.build(state, variant)
    except UserError as error:
        known = torch_architectures.describe(state, torch_networks.KNOWN_ARCHITECTURES)
        raise UserError(f"{path}: {known or error}") from None
    if network.head is None:
        log.info("%s: has no classifier: fine-tune it before you predict", path)
    require_agreement(network.graph, network.shapes(), infer_shapes, path)
    return network


def _check_known_sha256(path):
    """Raise `UserError` if a file has the name of a published one, but not its content."""
    for entry in CATALOGUE.values():
        for source in entry.sources:
            if source.sha256 and source.file_name == os.path.basename(path):
                digest = fetch.sha256_of(path)
                if not digest.startswith(source.sha256):
                    raise UserError(
                        f"{path}: is damaged, or another file of that name: its sha256 begins with"
                        f" {digest[:8]}, not {source.sha256}; download it again"
                    )


def _subtract_mean(mean, network):
    normalised = torch_networks.normalised_data(mean, (1, 1, 1))
    return Network(
        replace_variable(network.graph, "data", normalised.graph),
        {**network.params, **normalised.params},
        {**network.stats, **normalised.stats},
        network.head,
    )


def _find_prefix(name, model_dir, infer_shapes):
    """Return the prefix of the files that `name` means, fetched if only the catalogue has it."""
    for prefix in (name, os.path.join(ROOT, name), os.path.join(model_dir, name)):
        is_there = os.path.lexists(checkpoint.symbol_path(prefix))
        if is_there and (checkpoint.find_epochs(prefix, "params") or name not in CATALOGUE):
            return prefix
    if name in CATALOGUE:
        return fetch_network(CATALOGUE[name], infer_shapes, model_dir)
    close = difflib.get_close_matches(name, CATALOGUE, n=3, cutoff=0.5)
    hint = f" (close names: {', '.join(close)})" if close else ""
    raise UserError(
        f"{checkpoint.symbol_path(name)}: not found, and {name} is not a name of the catalogue"
        f"{hint}; see: python -m common.modelzoo list"
    )


def _only_epoch(prefix, flag):
    """Return the epoch of the weights of a prefix; `flag` chooses one where there are several."""
    epochs = checkpoint.find_epochs(prefix, "params")
    if not epochs:
        raise UserError(f"{checkpoint.params_path(prefix, 0)}: not found; it belongs to the symbol")
    if len(epochs) > 1:
        raise UserError(
            f"{prefix}: there are weights of the epochs {', '.join(map(str, epochs))};"
            f" choose one with {flag}"
        )
    return epochs[0]


def fetch_network(entry, infer_shapes, model_dir=MODEL_DIR):
    """Fetch a network of the catalogue into `model_dir` and check it; return its prefix.

    Raises:
        UserError: no mirror gave the files; the message says which files to place where by hand.
    """
    paths = zoo_mirrors.fetch_files(entry, model_dir, infer_shapes)
    if entry.is_torch:
        return import_network(paths[0], entry.name, infer_shapes, model_dir, entry.variant)
    return os.path.join(model_dir, entry.name)


def _is_onnx(path):
    """Return whether there is a file that begins as ONNX does."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as stream:
        start = stream.read(9)
    return _ONNX_START.match(start) is not None and start[8:] != b"{"  # as safetensors
