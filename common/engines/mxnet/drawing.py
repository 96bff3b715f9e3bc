"""A network's layers as a table and as a drawing, by MXNet's `mx.viz`."""

from common.base.files import UserError
from common.engines.mxnet.precision import to_symbol
from common.engines.mxnet.runtime import mx


def print_summary(graph, image_shape):
    """Print the layers of a network, their outputs' shapes and their parameters.

    Raises:
        UserError: the network cannot take images of this shape, `(3, H, W)`.
    """
    try:
        mx.viz.print_summary(to_symbol(graph), {"data": (1, *image_shape)})
    except mx.base.MXNetError:
        raise UserError(
            f"--image-size {image_shape[1]}: this network cannot take such images"
        ) from None


def draw(graph, image_shape):
    """Return a drawing of the network in the language of Graphviz."""
    return mx.viz.plot_network(to_symbol(graph), shape={"data": (1, *image_shape)}).source
