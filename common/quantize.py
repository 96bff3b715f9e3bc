"""A network in 8-bit integers, through MXNet's own quantization (oneDNN, on CPUs)."""

import logging
import os

import numpy as np

from common import checkpoint, devices
from common.files import UserError
from common.find_mxnet import mx
from common.image_set import Selection
from common.loader import Batch
from common.network import read_nodes, take_raw_images
from common.predict import Predictor, load_views

CALIBRATION_IMAGES = 64


def quantized_prefix(prefix, epoch):
    """Return the prefix of the quantized network that is kept beside a checkpoint."""
    return f"{checkpoint.params_path(prefix, epoch)[: -len('.params')]}-int8"


def load_quantized(prefix, epoch, contexts, make_images):
    """Return the quantized (symbol, arg_params, aux_params) of a checkpoint; make it where needed.

    It is made where there is none, or one that is older than the checkpoint; `make_images` is
    called only then, and returns the calibration images, (N, 3, H, W) uint8.

    Raises:
        UserError: the `contexts` are GPUs, or this processor or MXNet cannot compute in int8.
    """
    able, reason = devices.supports_int8()
    if contexts[0].device_type == "gpu":
        raise UserError("--dtype int8: is for CPUs; on a GPU take float16")
    if not able:
        raise UserError(f"--dtype int8: {reason}; use --dtype float32")
    kept = quantized_prefix(prefix, epoch)
    made_from = checkpoint.params_path(prefix, epoch)
    made = checkpoint.params_path(kept, 0)
    if not os.path.exists(made) or os.path.getmtime(made) < os.path.getmtime(made_from):
        symbol, arg_params, aux_params = checkpoint.load(prefix, epoch)
        reference = (take_raw_images(symbol), arg_params, aux_params)
        images = make_images()
        network = quantize(*reference, images)
        logging.info(
            "%s: quantized; its first choice is that of float32 on %d of %d calibration images",
            made,
            agreement(reference, network, images),
            len(images),
        )
        checkpoint.save(kept, 0, *network)
    return checkpoint.load(kept, 0)


def spread_images(source, args):
    """Return calibration images from all over a source, (N, 3, H, W) uint8, one view each.

    `args` are the flags of `common.predict.add_view_args`.
    """
    count = min(CALIBRATION_IMAGES, len(source))
    chosen = np.linspace(0, len(source) - 1, count).astype(int)
    (batch,) = load_views(Selection(source, chosen), args, crops=1, batch_size=count)
    return np.delete(batch.images, batch.missing, axis=0)


def quantize(symbol, arg_params, aux_params, images):
    """Quantize a network that takes uint8 images; its head (the last FullyConnected) stays float32.

    The ranges of the layers' outputs are those over the calibration `images` ("naive": MXNet's
    other way, by entropy, takes minutes).
    """
    from mxnet.contrib.quantization import quantize_model

    fused = symbol.get_backend_symbol("MKLDNN_QUANTIZE")
    # Fusing renames the head; the same layer is the last FullyConnected of the fused network.
    heads = [
        [node["name"] for node in read_nodes(network) if node["op"] == operator][-1:]
        for network, operator in (
            (symbol, "FullyConnected"),
            (fused, "_sg_mkldnn_fully_connected"),
        )
    ]
    kept_float = [*heads[0], *heads[1], *_padded_layers(fused, images.shape[1:])]
    batch_size = min(16, len(images))
    calibration = mx.io.NDArrayIter(
        mx.nd.array(images, dtype="uint8"), mx.nd.zeros(len(images)), batch_size
    )
    quantized, arg_params, aux_params = quantize_model(
        fused,
        arg_params,
        aux_params,
        ctx=mx.cpu(),
        excluded_sym_names=kept_float,
        calib_mode="naive",
        calib_data=calibration,
        num_calib_examples=len(images),
        quantized_dtype="auto",
    )
    return quantized.get_backend_symbol("MKLDNN_QUANTIZE"), arg_params, aux_params


def _padded_layers(symbol, image_shape):
    """Return the layers that read or write channels in other numbers than multiples of 16.

    oneDNN pads those to 16, and MXNet 1.9.1 computes int8 from what happens to lie in the padding:
    measured, the same image gave other probabilities at every call for 4, 8, 12, 20 and 24
    channels, and the same ones for 16, 32 and 64. The three planes of the image are not padded.
    """
    internals = symbol.get_internals()
    _, shapes, _ = internals.infer_shape(data=(1, *image_shape))
    channels = dict(zip(internals.list_outputs(), (shape[1:2] for shape in shapes)))
    nodes = read_nodes(symbol)

    def is_padded(node):
        (count,) = channels.get(f"{node['name']}_output") or (16,)
        return node["op"] != "null" and count % 16 and count != 3

    return [
        node["name"]
        for node in nodes
        if is_padded(node) or any(is_padded(nodes[source]) for source, *_ in node["inputs"])
    ]


def agreement(network, other, images):
    """Return on how many of the `images` two networks have the same first choice."""
    choices = []
    for each in (network, other):
        predictor = Predictor([each], [1], [mx.cpu()], len(images), images.shape[1:])
        batch = Batch(images, None, None, pad=0, missing=[])
        ((_, probabilities),) = predictor.predict([batch])
        choices.append(probabilities.argmax(axis=1))
    return int((choices[0] == choices[1]).sum())
