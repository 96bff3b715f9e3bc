"""ONNX files as MXNet's symbols, fed raw images."""

from common.find_mxnet import mx
from common.networks import onnx_files, symbol_file


def read_network(path, mean, std):
    """Return (symbol, arg_params, aux_params) of an image classifier in ONNX.

    As `common.networks.onnx_files.read_network`, as a symbol.
    """
    network = onnx_files.read_network(path, mean, std)
    symbol = mx.sym.load_json(symbol_file.to_json(network.graph))
    return symbol, network.params, network.stats
