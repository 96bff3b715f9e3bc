"""MXNet's operators that cut, join, reshape and reduce tensors as ONNX's, of opset 13."""

import numpy as np

from common.networks.reshaping import reshaped


def _axes(net, layer, values):
    rank = len(net.shape(layer.inputs[0]))
    return [int(value) % rank for value in np.ravel(values)]


def _indices(values):
    return np.array(values, np.int64)


def _flatten(net, layer):
    return net.add("Flatten", layer.name, layer.inputs[0], axis=1)


def _reshape(net, layer):
    codes = layer.get("shape") or ()
    if layer.flag("reverse") or not codes:
        raise layer.lacks("reverse" if codes else "target_shape")
    if min(codes) < -1:
        codes = reshaped(net.shape(layer.inputs[0]), codes)
    return net.add("Reshape", layer.name, layer.inputs[0], _indices(codes))


def _concat(net, layer):
    return net.add("Concat", layer.name, *layer.inputs, axis=layer.get("dim", 1))


def _split(net, layer):
    axis, outputs = layer.get("axis", 1), layer.outputs()
    parts = net.add("Split", layer.name, layer.inputs[0], axis=axis, outputs=outputs)
    if not layer.flag("squeeze_axis"):
        return parts
    return [net.add("Squeeze", f"{part}_squeezed", part, _indices([axis])) for part in parts]


def _slice(net, layer):
    begins, ends = (layer.get(key) for key in ("begin", "end"))
    steps = layer.get("step") or (1,) * len(begins)
    if any(step is not None and step < 0 for step in steps):
        raise layer.lacks(f"step {steps}")
    rows = [
        (axis, begin or 0, _LAST if end is None else end, step or 1)
        for axis, (begin, end, step) in enumerate(zip(begins, ends, steps))
    ]
    axes, begins, ends, steps = map(_indices, zip(*rows))
    return net.add("Slice", layer.name, layer.inputs[0], begins, ends, axes, steps)


def _slice_axis(net, layer):
    end = layer.get("end")
    box = (layer.get("begin", 0), _LAST if end is None else end, layer.get("axis"))
    return net.add("Slice", layer.name, layer.inputs[0], *(_indices([value]) for value in box))


_LAST = np.iinfo(np.int64).max


def _swap_axes(net, layer):
    order = list(range(len(net.shape(layer.inputs[0]))))
    a, b = layer.get("dim1", 0), layer.get("dim2", 0)
    order[a], order[b] = order[b], order[a]
    return net.add("Transpose", layer.name, layer.inputs[0], perm=order)


def _transpose(net, layer):
    return net.add("Transpose", layer.name, layer.inputs[0], perm=layer.get("axes") or None)


def _expand_dims(net, layer):
    return net.add("Unsqueeze", layer.name, layer.inputs[0], _indices([layer.get("axis")]))


def _squeeze(net, layer):
    if "axis" not in layer:
        raise layer.lacks("no axis")
    axes = _indices(np.ravel(layer.get("axis")))
    return net.add("Squeeze", layer.name, layer.inputs[0], axes)


def _pad(net, layer):
    width = layer.get("pad_width")
    value = np.float32(layer.get("constant_value", 0))
    pads = _indices([*width[::2], *width[1::2]])
    return net.add("Pad", layer.name, layer.inputs[0], pads, value, mode=layer.get("mode"))


def _reduce(op):
    def convert(net, layer):
        axis, rank = layer.get("axis"), len(net.shape(layer.inputs[0]))
        if axis in (None, ()):
            raise layer.lacks("no axis")
        axes = _axes(net, layer, axis)
        if layer.flag("exclude"):
            axes = [i for i in range(rank) if i not in axes]
        keep, data = int(layer.flag("keepdims")), layer.inputs[0]
        if op == "ReduceSum":  # of these the only one whose axes opset 13 takes as an input
            return net.add(op, layer.name, data, _indices(axes), keepdims=keep)
        return net.add(op, layer.name, data, axes=axes, keepdims=keep)

    return convert


OPERATORS = {
    "Concat": _concat,
    "Flatten": _flatten,
    "Pad": _pad,
    "Reshape": _reshape,
    "SliceChannel": _split,
    "SwapAxis": _swap_axes,
    "expand_dims": _expand_dims,
    "max": _reduce("ReduceMax"),
    "mean": _reduce("ReduceMean"),
    "min": _reduce("ReduceMin"),
    "slice": _slice,
    "slice_axis": _slice_axis,
    "squeeze": _squeeze,
    "sum": _reduce("ReduceSum"),
    "transpose": _transpose,
}
