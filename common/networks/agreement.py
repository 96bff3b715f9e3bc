"""Check that a network's arrays are those that its graph needs."""

from common.base.files import UserError


def require_agreement(
    graph, shapes, infer_shapes, name, image_sizes=(224, 299, 320), image_shape=None
):
    """Raise `UserError` unless `shapes` are those of the graph's parameters.

    Args:
        graph: a network with the input `data`, (N, 3, H, W).
        shapes: {name: shape} of all parameters and statistics.
        infer_shapes: an engine's (`common.engines`).
        name: the file of the parameters, which the error begins with.
        image_sizes: sides that the network may have been made for; one must fit.
        image_shape: the (3, H, W) of the images that it shall take, which may fit as well.
    """
    tried = [(3, size, size) for size in image_sizes]
    for shape in tried if image_shape is None else [*tried, image_shape]:
        try:
            expected = infer_shapes(graph, shape)
        except UserError as error:
            mismatch = str(error)
            continue
        mismatch = _first_mismatch(expected, shapes)
        if mismatch is None:
            return
    raise UserError(
        f"{name}: does not fit its symbol ({mismatch}); take both files from the same source, or"
        " name the size of its images"
    )


def _first_mismatch(expected, shapes):
    for key, shape in expected.items():
        if key not in shapes:
            return f"{key} is missing"
        if tuple(shapes[key]) != tuple(shape):
            return f"{key} is of shape {tuple(shapes[key])}, not {tuple(shape)}"
    return None
