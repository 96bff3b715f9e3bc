"""A network in 8-bit integers, through MXNet's own quantization (oneDNN, on CPUs)."""

from common.engines.mxnet import fusion
from common.engines.mxnet.precision import to_graph, to_symbol
from common.engines.mxnet.runtime import mx
from common.networks import Network


def quantize(network, images):
    """Quantize a network that takes uint8 images; its head (the last FullyConnected) stays float32.

    The ranges of the layers' outputs are those over the calibration `images`, (N, 3, H, W) uint8
    ("naive": MXNet's other way, by entropy, takes minutes).
    """
    from mxnet.contrib.quantization import quantize_model

    symbol = to_symbol(fusion.without_wrong_int8_sums(network.graph))
    fused = symbol.get_backend_symbol("MKLDNN_QUANTIZE")
    nodes = to_graph(fused)["nodes"]
    # Fusing renames the head; the same layer is the last FullyConnected of the fused network.
    heads = [
        [node["name"] for node in found if node["op"] == operator][-1:]
        for found, operator in (
            (network.graph["nodes"], "FullyConnected"),
            (nodes, "_sg_mkldnn_fully_connected"),
        )
    ]
    lacking = [node["name"] for node in nodes if _is_lacking(node)]
    kept_float = [*heads[0], *heads[1], *_padded_layers(fused, nodes, images.shape[1:]), *lacking]
    calibration = mx.io.NDArrayIter(
        mx.nd.array(images, dtype="uint8"), mx.nd.zeros(len(images)), min(16, len(images))
    )
    symbol, params, stats = quantize_model(
        fused,
        {name: mx.nd.array(array) for name, array in network.params.items()},
        {name: mx.nd.array(array) for name, array in network.stats.items()},
        ctx=mx.cpu(),
        excluded_sym_names=kept_float,
        calib_mode="naive",
        calib_data=calibration,
        num_calib_examples=len(images),
        quantized_dtype="auto",
    )
    return Network(
        to_graph(symbol.get_backend_symbol("MKLDNN_QUANTIZE")),
        {name: array.asnumpy() for name, array in params.items()},
        {name: array.asnumpy() for name, array in stats.items()},
        network.head,
    )


def _is_lacking(node):
    """Return whether MXNet quantizes a node and then cannot compute it.

    It multiplies int8 by int8 alone, and behind a sigmoid one side is uint8; a pool over the whole
    image must have a kernel all the same.
    """
    if node["op"] == "Pooling":
        return "kernel" not in node.get("attrs", {})
    return node["op"] == "elemwise_mul"


def _padded_layers(symbol, nodes, image_shape):
    """Return the layers that read or write channels in other numbers than multiples of 16.

    oneDNN pads those to 16, and MXNet 1.9.1 computes int8 from what happens to lie in the padding:
    measured, the same image gave other probabilities at every call for 4, 8, 12, 20 and 24
    channels, and the same ones for 16, 32 and 64. The three planes of the image are not padded.
    """
    internals = symbol.get_internals()
    _, shapes, _ = internals.infer_shape(data=(1, *image_shape))
    channels = dict(zip(internals.list_outputs(), (shape[1:2] for shape in shapes)))

    def is_padded(node):
        (count,) = channels.get(f"{node['name']}_output") or (16,)
        return node["op"] != "null" and count % 16 and count != 3

    return [
        node["name"]
        for node in nodes
        if is_padded(node) or any(is_padded(nodes[source]) for source, *_ in node["inputs"])
    ]
