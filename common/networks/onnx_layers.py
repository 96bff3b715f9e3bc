"""ONNX's layers as MXNet's: those with weights, and those with windows."""

import numpy as np

from common.networks.onnx_graph import LARGEST, UnsupportedError


def _sizes(node, name, default, rank=2):
    """Return an attribute of a height and a width, or of `rank` numbers."""
    values = node.attrs.get(name, [default] * rank)
    if len(values) != rank:
        raise UnsupportedError(node, f"{name} {tuple(values)}")
    return tuple(values)


def _pads(net, node, kernel, strides, dilations):
    """Return the padding (above, left) and (below, right)."""
    auto = node.attrs.get("auto_pad", "NOTSET")
    if auto == "NOTSET":
        pads = _sizes(node, "pads", 0, 2 * len(kernel))
        return pads[: len(kernel)], pads[len(kernel) :]
    if auto == "VALID":
        return ((0,) * len(kernel),) * 2
    less, more = [], []
    for size, side, stride, step in zip(net.shape(node)[2:], kernel, strides, dilations):
        total = max((-(-size // stride) - 1) * stride + (side - 1) * step + 1 - size, 0)
        less.append(total // 2)
        more.append(total - total // 2)
    first, last = (more, less) if auto == "SAME_LOWER" else (less, more)
    return tuple(first), tuple(last)


def _pad_unevenly(net, node, first, last, value=0.0):
    """Return (entry, padding that is left to the operator itself)."""
    entry = net.entry(node)
    if first == last:
        return entry, first
    if len(first) != 2:
        raise UnsupportedError(node, f"with uneven pads {first + last}")
    return _pad_images(net, entry, first, last, value), (0, 0)


def _pad_images(net, entry, first, last, value, mode="constant"):
    width = (0, 0, 0, 0, first[0], last[0], first[1], last[1])
    return net.add("Pad", "pad", entry, mode=mode, constant_value=value, pad_width=width)


def _conv(net, node):
    weight = net.constant(node, 1)
    kernel = weight.shape[2:]
    strides, dilations = (_sizes(node, key, 1, len(kernel)) for key in ("strides", "dilations"))
    first, last = _pads(net, node, kernel, strides, dilations)
    entry, pad = _pad_unevenly(net, node, first, last)
    bias = net.constant(node, 2)
    return net.layer(
        "Convolution",
        net.name("conv", node.inputs[1]),
        entry,
        {"weight": weight, "bias": bias},
        num_filter=weight.shape[0],
        kernel=kernel,
        stride=strides,
        pad=pad,
        dilate=dilations,
        num_group=node.attrs.get("group", 1),
        no_bias=bias is None,
    )


def _fully_connected(net, node, weight, bias):
    return net.layer(
        "FullyConnected",
        net.product_name(node),
        net.entry(node),
        {"weight": weight, "bias": bias},
        num_hidden=weight.shape[0],
        no_bias=bias is None,
        flatten=len(net.shape(node)) == 2,
    )


def _gemm(net, node):
    if node.attrs.get("transA"):
        raise UnsupportedError(node, "transA")
    weight, bias = net.constant(node, 1), net.constant(node, 2)
    weight = (weight if node.attrs.get("transB") else weight.T) * node.attrs.get("alpha", 1.0)
    if bias is None:
        return net.take_bias(node, len(weight), lambda b: _fully_connected(net, node, weight, b))
    bias = np.broadcast_to(bias.reshape(-1) * node.attrs.get("beta", 1.0), len(weight))
    return _fully_connected(net, node, weight, bias)


def _matmul(net, node):
    weight = net.constant(node, 1)
    if weight.ndim != 2:
        raise UnsupportedError(node, f"with a weight of shape {weight.shape}")
    size = weight.shape[1]
    return net.take_bias(node, size, lambda bias: _fully_connected(net, node, weight.T, bias))


def _batch_norm(net, node):
    endings = ("gamma", "beta", "moving_mean", "moving_var")
    return net.layer(
        "BatchNorm",
        net.name("bn", node.inputs[1]),
        net.entry(node),
        {ending: net.constant(node, i) for i, ending in enumerate(endings, start=1)},
        eps=node.attrs.get("epsilon", 1e-5),
        momentum=0.9,
        fix_gamma=False,
    )


def _layer_norm(net, node):
    axis = net.axes(node, node.attrs.get("axis", -1))
    if axis != [len(net.shape(node)) - 1]:
        raise UnsupportedError(node, "over several axes")
    gamma = net.constant(node, 1)
    params = {"gamma": gamma, "beta": net.constant(node, 2, np.zeros_like(gamma))}
    eps, name = node.attrs.get("epsilon", 1e-5), net.name("ln", node.inputs[1])
    return net.layer("LayerNorm", name, net.entry(node), params, axis=-1, eps=eps)


def _local_response_norm(net, node):
    return net.add(
        "LRN",
        "lrn",
        net.entry(node),
        nsize=node.attrs["size"],
        alpha=node.attrs.get("alpha", 1e-4),
        beta=node.attrs.get("beta", 0.75),
        knorm=node.attrs.get("bias", 1.0),
    )


def _pool(kind):
    def convert(net, node):
        kernel, strides = _sizes(node, "kernel_shape", 1), _sizes(node, "strides", 1)
        first, last = _pads(net, node, kernel, strides, (1, 1))
        if kind == "avg" and kernel == net.shape(node)[2:] and not any(first + last):
            return _pool_globally(net, net.entry(node), kind)  # of images of any size
        if _sizes(node, "dilations", 1) != (1, 1):
            raise UnsupportedError(node, "with dilations")
        counts_pads = bool(node.attrs.get("count_include_pad", 0))
        ceil = bool(node.attrs.get("ceil_mode", 0))
        if first != last and not counts_pads and _is_rounded_up(net, node, kernel, strides, first):
            ceil, last = True, first
        if kind == "avg" and first != last and not counts_pads:
            raise UnsupportedError(node, f"with uneven pads {first + last} that are not counted")
        # Here a window would lie wholly in the padding: PyTorch leaves it out, MXNet does not.
        if ceil and any(k < p + s for k, p, s in zip(kernel, first, strides)):
            raise UnsupportedError(node, f"ceil_mode with kernel {kernel}, strides {strides}")
        lowest = -LARGEST if kind == "max" else 0.0
        entry, pad = _pad_unevenly(net, node, first, last, lowest)
        return net.add(
            "Pooling",
            "pool",
            entry,
            kernel=kernel,
            stride=strides,
            pad=pad,
            pool_type=kind,
            pooling_convention="full" if ceil else "valid",
            count_include_pad=counts_pads if kind == "avg" else None,
        )

    return convert


def _is_rounded_up(net, node, kernel, strides, pad):
    """Return whether padding behind makes room for the last windows: ceil_mode in opset 9."""
    (name, *_), sizes = node.outputs, net.shape(node)[2:]
    rounded = [
        1 - (side - size - 2 * before) // step
        for size, side, step, before in zip(sizes, kernel, strides, pad)
    ]
    return net.graph.shapes.get(name, ())[2:] == tuple(rounded)


def _pool_globally(net, entry, kind):
    return net.add("Pooling", "pool", entry, global_pool=True, pool_type=kind, kernel=(1, 1))


def _global_pool(kind):
    return lambda net, node: _pool_globally(net, net.entry(node), kind)


def _reduce(op, pool=None):
    """A mean, maximum or sum; over height and width of images it is a pooling layer."""

    def convert(net, node):
        axes = node.attrs.get("axes", net.constant(node, 1))
        if axes is None or not np.size(axes):
            raise UnsupportedError(node, "over all axes")
        axes, keep = net.axes(node, axes), bool(node.attrs.get("keepdims", 1))
        if pool and axes == [2, 3] and len(net.shape(node)) == 4:
            entry = _pool_globally(net, net.entry(node), pool)
            return entry if keep else net.add("Flatten", "flatten", entry)
        return net.add(op, op, net.entry(node), axis=tuple(axes), keepdims=keep)

    return convert


def _pad(net, node):
    pads = node.attrs.get("pads", net.constant(node, 1))
    value = node.attrs.get("value", net.constant(node, 2, np.zeros(())))
    rank = len(net.shape(node))
    axes = [int(axis) % rank for axis in np.ravel(net.constant(node, 3, np.arange(rank)))]
    first, last = [0] * rank, [0] * rank
    for i, axis in enumerate(axes):
        first[axis], last[axis] = int(pads[i]), int(pads[i + len(axes)])
    if not any(first + last):
        return net.entry(node)
    mode = node.attrs.get("mode", "constant")
    if rank != 4 or any(first[:2] + last[:2]) or min(first + last) < 0 or mode == "wrap":
        raise UnsupportedError(node, f"{mode}, by {tuple(first + last)}")
    return _pad_images(net, net.entry(node), first[2:], last[2:], float(np.ravel(value)[0]), mode)


OPERATORS = {
    "AveragePool": _pool("avg"),
    "BatchNormalization": _batch_norm,
    "Conv": _conv,
    "Gemm": _gemm,
    "GlobalAveragePool": _global_pool("avg"),
    "GlobalMaxPool": _global_pool("max"),
    "LRN": _local_response_norm,
    "LayerNormalization": _layer_norm,
    "MatMul": _matmul,
    "MaxPool": _pool("max"),
    "Pad": _pad,
    "ReduceMax": _reduce("max", pool="max"),
    "ReduceMean": _reduce("mean", pool="avg"),
    "ReduceSum": _reduce("sum"),
}
