"""The shapes of a network's parameters and layers, found without computing anything."""

import math

from common.base.files import UserError
from common.engines.torch import layers, operators
from common.engines.torch.runtime import torch

# What the operators raise where images are too small for them, or shapes do not fit.
_MISFITS = (RuntimeError, ValueError, IndexError, KeyError, TypeError, ZeroDivisionError)


def infer_shapes(graph, image_shape, batch_size=1):
    """Return `{name: shape}` of every parameter and statistic for images `(3, H, W)`.

    Raises:
        UserError: the network cannot take images of this shape, or has other inputs than images.
    """
    flag = f"--image-shape {','.join(map(str, image_shape))}"
    return _infer(operators.plan(graph), (batch_size, *image_shape), flag)[0]


def layer_shapes(graph, image_shape):
    """Return `{layer: shape of its (first) output}` for one image `(3, H, W)`.

    The softmax at the end, which gives the shape that it is given, is left out.

    Raises:
        UserError: as `infer_shapes`.
    """
    plan = operators.plan(graph)
    _, entries = _infer(plan, (1, *image_shape), f"--image-size {image_shape[1]}")
    return {step.name: entries[step.node, 0] for step in plan.steps}


def _infer(plan, data_shape, flag):
    try:
        return shapes_of(plan, data_shape)
    except ValueError as error:
        raise UserError(f"{flag}: {error}") from None


def shapes_of(plan, data_shape):
    """Return `{name: shape}` of a plan's parameters and statistics, and `{entry: shape}` of all.

    Raises:
        ValueError: it does not take such images; says why.
    """
    shapes = {**plan.shapes, "data": tuple(data_shape)}
    values = {
        (node, 0): _tensor(shapes[name]) for node, name in plan.variables.items() if name in shapes
    }
    for step in plan.steps:
        for name, entry, shape in _shapes_of_variables(step, plan, values):
            shapes[name] = shape
            values[entry] = _tensor(shape)
        try:
            _run(step, values)
        except _MISFITS as error:
            reason = f"layer {step.name}: {str(error).strip()}".split("\n")[0][:200]
            raise ValueError(f"this network cannot take such images ({reason})") from None
    del shapes["data"]
    return shapes, {entry: tuple(tensor.shape) for entry, tensor in values.items()}


def _run(step, values):
    """Compute a step on tensors without numbers; the shapes of frequent layers need no computing.

    PyTorch finds the shapes of BatchNorm in Python, which takes 1 s for a ResNet-152. For those of
    a convolution, a product or a sum it first imports its compiler, which takes 1 s, too.
    """
    first = values[step.inputs[0]]
    if step.op in _SAME and any(values[entry].shape != first.shape for entry in step.inputs):
        raise ValueError(f"adds {' and '.join(str(tuple(values[e].shape)) for e in step.inputs)}")
    if step.op in _KEEPING:
        values[step.node, 0] = first
    elif step.op in _OUTPUTS:
        expected = _RULES[step.op](step.attributes, first.shape)
        for position, entry in enumerate(step.inputs[1:], start=1):
            if tuple(values[entry].shape) != expected[position]:
                found = tuple(values[entry].shape)
                raise ValueError(f"takes parameters of {expected[position]}, not {found}")
        values[step.node, 0] = _tensor(_OUTPUTS[step.op](step.attributes, first.shape))
    else:
        values.update(operators.outputs_of(step, values))


def _tensor(shape):
    return torch.empty(shape, device="meta")


def _shapes_of_variables(step, plan, values):
    """Yield (name, entry, shape) of the inputs that are not known yet."""
    known = [values[entry] for entry in step.inputs if entry in values]
    for position, entry in enumerate(step.inputs):
        if entry in values:
            continue
        if not known or not (step.op in _RULES or step.op in _SAME):
            raise ValueError("the images do not determine all shapes of this network's parameters")
        if step.op in _SAME:
            shape = known[0].shape
        else:
            shape = _RULES[step.op](step.attributes, known[0].shape)[position]
        yield plan.variables[entry[0]], entry, tuple(shape)


# --- What the operators' parameters look like: the shapes of inputs by their positions ------------


def _of_convolution(attrs, x):
    filters, groups = attrs.integer("num_filter"), attrs.integer("num_group", 1)
    weight = (filters, x[1] // groups, *attrs.integers("kernel"))
    return {1: weight, 2: (filters,)}


def _of_deconvolution(attrs, x):
    filters, groups = attrs.integer("num_filter"), attrs.integer("num_group", 1)
    weight = (x[1], filters // groups, *attrs.integers("kernel"))
    return {1: weight, 2: (filters,)}


def _of_fully_connected(attrs, x):
    size = attrs.integer("num_hidden")
    inputs = math.prod(x[1:]) if attrs.flag("flatten", True) else x[-1]
    return {1: (size, inputs), 2: (size,)}


def _of_upsampling(attrs, x):
    scale = attrs.integer("scale")
    side = 2 * scale - scale % 2
    return {1: (x[1], 1, side, side)}


def _along(default):
    """A layer whose parameters are as long as one axis of its input."""
    return lambda attrs, x: dict.fromkeys(range(1, 5), (x[attrs.integer("axis", default)],))


def _of_group_norm(attrs, x):
    return dict.fromkeys((1, 2), (attrs.integer("num_groups", 1),))


# --- What layers with parameters give -----------------------------------------------------------


def _from_convolution(attrs, x):
    kernel, stride, dilation, padding = layers.windows(attrs)
    if len(x) != 2 + len(kernel):
        raise ValueError(f"a kernel of {len(kernel)} dimensions for {tuple(x)}")
    sides = [
        (side + 2 * pad - step * (size - 1) - 1) // jump + 1
        for side, size, jump, step, pad in zip(x[2:], kernel, stride, dilation, padding)
    ]
    if min(sides) < 1:
        raise ValueError(f"a kernel of {kernel} does not fit into {tuple(x[2:])}")
    return (x[0], attrs.integer("num_filter"), *sides)


def _from_fully_connected(attrs, x):
    rows = x[:1] if attrs.flag("flatten", True) else x[:-1]
    return (*rows, attrs.integer("num_hidden"))


_OUTPUTS = {
    "Convolution": _from_convolution,
    "Convolution_v1": _from_convolution,
    "FullyConnected": _from_fully_connected,
}
_BY_CHANNEL = _along(1)
_RULES = {
    "BatchNorm": _BY_CHANNEL,
    "BatchNorm_v1": _BY_CHANNEL,
    "Convolution": _of_convolution,
    "Convolution_v1": _of_convolution,
    "Deconvolution": _of_deconvolution,
    "FullyConnected": _of_fully_connected,
    "GroupNorm": _of_group_norm,
    "InstanceNorm": _BY_CHANNEL,
    "LayerNorm": _along(-1),
    "LeakyReLU": _BY_CHANNEL,
    "UpSampling": _of_upsampling,
    "_contrib_BatchNormWithReLU": _BY_CHANNEL,
    "_contrib_SyncBatchNorm": _BY_CHANNEL,
}
# Operators that give all their inputs one shape.
_SAME = ("elemwise_add", "elemwise_sub", "elemwise_mul", "elemwise_div", "add_n", "_grad_add")
# Operators whose output is of the shape of their first input.
_KEEPING = {
    *_SAME,
    *(op for op in _RULES if "BatchNorm" in op),
    *("Activation", "Cast", "Dropout", "LeakyReLU", "clip", "hard_sigmoid", "relu", "sigmoid"),
}
