"""Checkpoints of timm's networks, which timm and other tools read too.

    PREFIX-timm.json             the architecture and its settings: the `config.json` of timm
    PREFIX-0007.safetensors      the weights after 7 epochs, by the names of timm's state dict

BatchNorm's counters of batches are left out: nothing reads them, and PyTorch fills them in.
"""

import json

import numpy as np

from common.base.files import UserError, atomic_open, require_file
from common.networks import torch_files
from common.networks.timm_network import TimmNetwork


def config_path(prefix):
    """Return the name of the architecture's file."""
    return f"{prefix}-timm.json"


def weights_path(prefix, epoch):
    """Return the name of the weights after `epoch` epochs: `PREFIX-0007.safetensors`."""
    return f"{prefix}-{epoch:04d}.safetensors"


def write(prefix, epoch, network):
    """Write a `TimmNetwork`; its weights appear last."""
    with atomic_open(config_path(prefix)) as stream:
        json.dump(network.config(), stream, indent=1)
    write_safetensors(weights_path(prefix, epoch), {**network.params, **network.stats})


def read(prefix, epoch, fix):
    """Return the `TimmNetwork` of a checkpoint.

    Raises:
        UserError: a file is missing (`fix` says what to do then) or damaged.
    """
    return read_files(config_path(prefix), weights_path(prefix, epoch), fix)


def read_files(config, weights, fix="take both files from the same source"):
    """Return the `TimmNetwork` of a `config.json` and a safetensors file, as `read` does."""
    require_file(config, fix)
    require_file(weights, fix)
    try:
        with open(config, encoding="utf-8") as stream:
            return TimmNetwork.from_config(json.load(stream), torch_files.read_tensors(weights))
    except (ValueError, LookupError, TypeError, AttributeError) as error:
        raise UserError(
            f"{config}: is not the configuration of a network of timm ({type(error).__name__}:"
            f" {str(error)[:100]}); take both files from the same source"
        ) from None


def write_safetensors(path, arrays):
    """Write `{name: array}` as safetensors: the length of a JSON header, the header, the numbers.

    Arrays of numbers with a fraction are written as float32.
    """
    header, begin = {"__metadata__": {"format": "pt"}}, 0
    for name, array in arrays.items():
        end = begin + array.size * 4
        header[name] = {"dtype": "F32", "shape": [*array.shape], "data_offsets": [begin, end]}
        begin = end
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)  # the numbers begin at a multiple of 8
    with atomic_open(path, "wb") as stream:
        stream.write(len(text).to_bytes(8, "little") + text)
        for array in arrays.values():
            stream.write(np.ascontiguousarray(array, "<f4").data)
