"""The shapes of a network's parameters and layers, as MXNet infers them."""

import contextlib
import io

from common.base.files import UserError
from common.engines.mxnet.precision import to_symbol
from common.engines.mxnet.runtime import mx, reason_of
from common.networks.graph import output_of


def infer_shapes(graph, image_shape, batch_size=1):
    """Return `{name: shape}` of every parameter and statistic for images `(3, H, W)`.

    Raises:
        UserError: the network cannot take images of this shape, or has other inputs than images.
    """
    symbol = to_symbol(graph)
    flag = f"--image-shape {','.join(map(str, image_shape))}"
    shapes, _, aux_shapes = _infer(symbol, (batch_size, *image_shape), flag)
    names = dict(zip(symbol.list_arguments(), shapes))
    names.update(zip(symbol.list_auxiliary_states(), aux_shapes))
    return {name: s for name, s in names.items() if name != "data" and not name.endswith("label")}


def layer_shapes(graph, image_shape):
    """Return `{layer: shape of its (first) output}` for one image `(3, H, W)`.

    Raises:
        UserError: as `infer_shapes`.
    """
    internals = to_symbol(graph).get_internals()
    _, shapes, _ = _infer(internals, (1, *image_shape), f"--image-size {image_shape[1]}")
    outputs = dict(zip(internals.list_outputs(), shapes))
    names = [node["name"] for node in graph["nodes"]]
    return {name: outputs[output_of(graph, name)] for name in names}


def _infer(symbol, data_shape, flag):
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # MXNet prints what it then raises
            inferred = symbol.infer_shape(data=data_shape)
    except mx.base.MXNetError as error:
        raise UserError(
            f"{flag}: this network cannot take such images ({reason_of(error)})"
        ) from None
    if inferred[0] is None:
        raise UserError(
            f"{flag}: the images do not determine all shapes of this network's parameters"
        )
    return inferred
