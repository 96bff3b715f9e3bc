"""ONNX image classifiers as networks that are fed raw images."""

import logging

import numpy as np

from common.base.files import UserError
from common.networks import Network
from common.networks.graph import Builder
from common.networks.onnx_graph import UnsupportedError, read_graph
from common.networks.onnx_importer import Importer
from common.networks.torch_networks import IMAGENET_MEAN, IMAGENET_STD, normalised_data

log = logging.getLogger(__name__)

ADVICE = (
    "export it with torch.onnx.export(..., dynamo=False, opset_version=13),"
    " or import its PyTorch checkpoint"
)


def read_network(path, mean=None, std=None):
    """Return the `Network` of an image classifier in ONNX.

    The result is fed raw RGB, `data` (N, 3, H, W), 0 to 255, and ends in `fc1` and `softmax`.
    Weights may be in a second file beside it.

    Args:
        mean, std: what the original subtracts and divides by, on the scale of 0 to 255; None takes
            ImageNet's, but nothing for an export of this project, which does so itself.

    Raises:
        UserError: the onnx package is missing, a file is missing or damaged, or there is an
            operator that cannot be expressed.
    """
    try:
        onnx_graph = read_graph(path)
        _end_at_logits(path, onnx_graph)
        builder, image = Builder(), _image(path, onnx_graph, mean, std)
        importer = Importer(onnx_graph, builder, builder.copy_of(image.graph))
        importer.lay_out_images()
        logits = importer.run()
    except UnsupportedError as error:
        raise UserError(f"{path}: {error} cannot be imported; {ADVICE}") from None
    except UserError:
        raise
    except Exception as error:  # onnx raises protobuf's errors, its checker's and numpy's
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(
            f"{path}: is damaged, or not ONNX ({_first_line(error)}); {ADVICE}"
        ) from error
    shape = onnx_graph.shapes.get(onnx_graph.output, ())
    if len(shape) != 2:
        logits = _as_one_row(path, builder, logits, shape)
    graph = builder.graph(builder.add("SoftmaxOutput", "softmax", logits))
    for name, array in {**importer.params, **importer.stats}.items():
        if not np.isfinite(array).all():
            raise UserError(
                f"{path}: damaged: {name} holds NaN or infinite values; export it again"
            )
    params, stats = {**image.params, **importer.params}, {**image.stats, **importer.stats}
    return Network(graph, params, stats, head="fc1" if "fc1_weight" in params else None)


def _image(path, onnx_graph, mean, std):
    """Return the `Network` of what the file's first layer is given."""
    if onnx_graph.takes_raw_images and mean is None and std is None:
        net = Builder()
        data = net.add("Cast", "data_float32", net.variable("data"), dtype="float32")
        return Network(net.graph(data), {}, {})
    mean = IMAGENET_MEAN if mean is None else mean
    std = IMAGENET_STD if std is None else std
    numbers = (",".join(f"{x:g}" for x in values) for values in (mean, std))
    log.info("%s: normalises with mean %s, std %s (modelzoo import: --mean, --std)", path, *numbers)
    return normalised_data(mean, std)


def _end_at_logits(path, onnx_graph):
    """Remove the softmax at the end of a network; MXNet's replaces it."""
    nodes = {name: node for node in onnx_graph.nodes for name in node.outputs}
    while onnx_graph.output in nodes:
        last = nodes[onnx_graph.output]
        if last.op == "Sigmoid":
            raise UserError(f"{path}: ends in Sigmoid: it gives an image several classes, not one")
        if last.op not in ("Softmax", "LogSoftmax", "Identity"):
            break
        onnx_graph.nodes.remove(last)
        onnx_graph.output = last.inputs[0]


def _as_one_row(path, builder, logits, shape):
    """Return logits (N, classes, 1, 1) as (N, classes)."""
    if len(shape) < 2 or any(size != 1 for size in shape[2:]):
        raise UserError(f"{path}: gives outputs of shape {shape}; a classifier gives (N, classes)")
    return builder.add("Flatten", None, logits)


def _first_line(error):
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__
