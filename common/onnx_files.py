"""ONNX files as MXNet's symbols, fed raw images."""

import os
import re

from common.find_mxnet import mx
from common.networks import onnx_files, symbol_file

# A protocol buffer: the version of ONNX, then the next field of a model.
_START = re.compile(rb"\x08[\x01-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]")


def is_onnx(path):
    """Whether there is a file that begins as ONNX does."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as stream:
        start = stream.read(9)
    return _START.match(start) is not None and start[8:] != b"{"  # as safetensors


def read_network(path, mean, std):
    """Return (symbol, arg_params, aux_params) of an image classifier in ONNX.

    As `common.networks.onnx_files.read_network`, as a symbol.
    """
    network = onnx_files.read_network(path, mean, std)
    symbol = mx.sym.load_json(symbol_file.to_json(network.graph))
    return symbol, network.params, network.stats
