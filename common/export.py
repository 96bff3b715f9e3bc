"""A fine-tuned network as ONNX, from MXNet's symbol and arrays."""

from common.find_mxnet import mx
from common.network import read_graph, read_nodes
from common.networks import Network, export


def export_onnx(path, symbol, arg_params, aux_params, image_shape):
    """Write a network to `path`, as `common.networks.export.export_onnx`."""
    params, stats = (
        {name: array.asnumpy() for name, array in arrays.items()}
        for arrays in (arg_params, aux_params)
    )
    export.export_onnx(path, Network(read_graph(symbol), params, stats), image_shape)


def without_label(symbol):
    """Return the network that ends in a plain softmax instead of SoftmaxOutput and its label."""
    nodes = read_nodes(symbol)
    head = next(node for node in nodes if node["op"] == "SoftmaxOutput")
    logits = nodes[head["inputs"][0][0]]["name"]
    internals = symbol.get_internals()
    return mx.sym.softmax(internals[f"{logits}_output"], axis=1, name="probabilities")
