"""A fine-tuned network as ONNX, from MXNet's symbol and arrays."""

from common.network import read_graph
from common.networks import Network, export


def export_onnx(path, symbol, arg_params, aux_params, image_shape):
    """Write a network to `path`, as `common.networks.export.export_onnx`."""
    params, stats = (
        {name: array.asnumpy() for name, array in arrays.items()}
        for arrays in (arg_params, aux_params)
    )
    export.export_onnx(path, Network(read_graph(symbol), params, stats), image_shape)
