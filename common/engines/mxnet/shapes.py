"""The shapes of a network's parameters, as MXNet infers them."""

import contextlib
import io

from common.base.files import UserError
from common.engines.mxnet.precision import to_symbol
from common.engines.mxnet.runtime import mx, reason_of


def infer_shapes(graph, image_shape, batch_size=1):
    """Return `{name: shape}` of every parameter and statistic for images `(3, H, W)`.

    Raises:
        UserError: the network cannot take images of this shape, or has other inputs than images.
    """
    symbol = to_symbol(graph)
    flag = f"--image-shape {','.join(map(str, image_shape))}"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # MXNet prints what it then raises
            shapes, _, aux_shapes = symbol.infer_shape(data=(batch_size, *image_shape))
    except mx.base.MXNetError as error:
        raise UserError(
            f"{flag}: this network cannot take such images ({reason_of(error)})"
        ) from None
    if shapes is None:
        raise UserError(
            f"{flag}: the images do not determine all shapes of this network's parameters"
        )
    names = dict(zip(symbol.list_arguments(), shapes))
    names.update(zip(symbol.list_auxiliary_states(), aux_shapes))
    return {name: s for name, s in names.items() if name != "data" and not name.endswith("label")}
