"""ONNX's activations and arithmetic, element by element, as MXNet's."""

import numpy as np

from common.networks.onnx_graph import LARGEST, UnsupportedError


def _same(net, node):
    return net.entry(node)


def _cast(net, node):
    if node.attrs["to"] not in (1, 10, 11, 16):  # float32, float16, float64, bfloat16
        raise UnsupportedError(node, "to other types than real numbers")
    return net.entry(node)


def _unary(op, hint=None, **attrs):
    return lambda net, node: net.add(op, hint or op, net.entry(node), **attrs)


def _slope(kind, default):
    """A LeakyReLU of MXNet, whose slope is ONNX's alpha."""

    def convert(net, node):
        slope = node.attrs.get("alpha", default)
        return net.add("LeakyReLU", kind, net.entry(node), act_type=kind, slope=slope)

    return convert


def _prelu(net, node):
    slope, (_, channels, *rest) = net.constant(node, 1), net.shape(node)
    if slope.size != 1 and slope.shape[-1 - len(rest) :] != (channels, *[1] * len(rest)):
        raise UnsupportedError(node, f"with slopes of shape {slope.shape}")
    params = {"gamma": np.broadcast_to(slope.reshape(-1), channels)}
    name = net.name("prelu", node.inputs[1])
    return net.layer("LeakyReLU", name, net.entry(node), params, act_type="prelu")


def _clip(net, node):
    low, high = (
        float(node.attrs.get(key, net.constant(node, index, default)))
        for key, index, default in (("min", 1, -LARGEST), ("max", 2, LARGEST))
    )
    low, high = max(low, -LARGEST), min(high, LARGEST)  # MXNet reads no "inf"
    if low == 0 and high == LARGEST:
        return net.add("Activation", "relu", net.entry(node), act_type="relu")
    return net.add("clip", "clip", net.entry(node), a_min=low, a_max=high)


def _gate(net, entry, alpha, beta):
    return net.add("hard_sigmoid", "hardsigmoid", entry, alpha=alpha, beta=beta)


def _hard_sigmoid(net, node):
    return _gate(net, net.entry(node), node.attrs.get("alpha", 0.2), node.attrs.get("beta", 0.5))


def _hard_swish(net, node):
    entry = net.entry(node)
    return net.add("elemwise_mul", "hardswish", entry, _gate(net, entry, 1 / 6, 0.5))


def _swish(net, node):
    entry = net.entry(node)
    alpha = node.attrs.get("alpha", 1.0)
    scaled = entry if alpha == 1 else net.add("_mul_scalar", "mul", entry, scalar=alpha)
    gate = net.add("Activation", "sigmoid", scaled, act_type="sigmoid")
    return net.add("elemwise_mul", "swish", entry, gate)


def _mish(net, node):
    entry = net.entry(node)
    gate = net.add("Activation", "softplus", entry, act_type="softrelu")
    gate = net.add("Activation", "tanh", gate, act_type="tanh")
    return net.add("elemwise_mul", "mish", entry, gate)


def _gelu(net, node):
    if node.attrs.get("approximate", "none") != "none":
        raise UnsupportedError(node, "in its approximation by tanh")
    return net.add("LeakyReLU", "gelu", net.entry(node), act_type="gelu")


def _softmax(op):
    def convert(net, node):
        shape, is_old = net.shape(node), net.graph.opset < 13
        axis = node.attrs.get("axis", 1 if is_old else -1) % len(shape)
        if is_old and any(size != 1 for size in shape[axis + 1 :]):
            raise UnsupportedError(node, "over several axes")
        return net.add(op, op, net.entry(node), axis=axis)

    return convert


def _binary(op, scalar, reverse):
    """A sum, difference, product, ...: of two tensors, or of one and a constant on either side.

    Args:
        op: `add` of elemwise_add and broadcast_add.
        scalar, reverse: MXNet's operators for `x + constant` and `constant + x`.
    """

    def convert(net, node):
        if len(node.inputs) != 2:
            raise UnsupportedError(node, f"of {len(node.inputs)} tensors")
        constants = [net.graph.constants.get(name) for name in node.inputs]
        shapes = [net.shape(node, index) for index in (0, 1)]
        rank = max(map(len, shapes))
        for index, (constant, name) in enumerate(zip(constants, (reverse, scalar))):
            if constant is not None and constant.size == 1 and len(shapes[1 - index]) == rank:
                value = float(constant.reshape(()))
                return net.add(name, op, net.entry(node, 1 - index), scalar=value)
        entries = [
            net.entry(node, index)
            if constant is None
            else net.fixed(f"{op}_constant", _with_rank(node, constant, rank))
            for index, constant in enumerate(constants)
        ]
        if len({len(s) for s, c in zip(shapes, constants) if c is None} | {rank}) > 1:
            raise UnsupportedError(node, f"of shapes {shapes[0]} and {shapes[1]}")
        # There is one image here, and what is of one pixel may be of more: a 1 proves nothing.
        of_images = all(constant is None for constant in constants)
        alike = of_images and shapes[0] == shapes[1] and 1 not in shapes[0][1:]
        prefix = "elemwise" if alike and op in _ELEMENTWISE else "broadcast"
        return net.add(f"{prefix}_{op}", op, *entries)

    return convert


_ELEMENTWISE = ("add", "sub", "mul", "div")


def _with_rank(node, constant, rank):
    array = constant.reshape((1,) * (rank - constant.ndim) + constant.shape)
    if rank > 1 and array.shape[0] != 1:
        raise UnsupportedError(node, f"with a constant of shape {constant.shape}")
    return array


def _sum(net, node):
    shapes = {net.shape(node, index) for index in range(len(node.inputs))}
    if len(shapes) > 1:
        raise UnsupportedError(node, "of different shapes")
    entry = net.entry(node)
    for index in range(1, len(node.inputs)):
        entry = net.add("elemwise_add", "add", entry, net.entry(node, index))
    return entry


OPERATORS = {
    "Abs": _unary("abs"),
    "Add": _binary("add", "_plus_scalar", "_plus_scalar"),
    "Cast": _cast,
    "Clip": _clip,
    "Div": _binary("div", "_div_scalar", "_rdiv_scalar"),
    "Dropout": _same,
    "Elu": _slope("elu", 1.0),
    "Erf": _unary("erf"),
    "Exp": _unary("exp"),
    "Gelu": _gelu,
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _hard_swish,
    "Identity": _same,
    "LeakyRelu": _slope("leaky", 0.01),
    "Log": _unary("log"),
    "LogSoftmax": _softmax("log_softmax"),
    "Max": _binary("maximum", "_maximum_scalar", "_maximum_scalar"),
    "Min": _binary("minimum", "_minimum_scalar", "_minimum_scalar"),
    "Mish": _mish,
    "Mul": _binary("mul", "_mul_scalar", "_mul_scalar"),
    "Neg": _unary("negative"),
    "PRelu": _prelu,
    "Pow": _binary("power", "_power_scalar", "_rpower_scalar"),
    "Reciprocal": _unary("reciprocal"),
    "Relu": _unary("Activation", "relu", act_type="relu"),
    "Sigmoid": _unary("Activation", "sigmoid", act_type="sigmoid"),
    "Softmax": _softmax("softmax"),
    "Softplus": _unary("Activation", "softplus", act_type="softrelu"),
    "Softsign": _unary("Activation", "softsign", act_type="softsign"),
    "Sqrt": _unary("sqrt"),
    "Sub": _binary("sub", "_minus_scalar", "_rminus_scalar"),
    "Sum": _sum,
    "Swish": _swish,
    "Tanh": _unary("Activation", "tanh", act_type="tanh"),
}
