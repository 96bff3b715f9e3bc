"""ONNX's operators that cut, join and reshape tensors, as MXNet's."""

import numpy as np

from common.networks.onnx_graph import UnsupportedError
from common.networks.reshaping import reshape_codes


def _concat(net, node):
    (axis,) = net.axes(node, node.attrs["axis"])
    entries = [net.entry(node, index) for index in range(len(node.inputs))]
    return net.add("Concat", "concat", *entries, dim=axis)


def _expand(net, node):
    """What only arithmetic with a tensor of the full size reads is expanded there."""
    (name,) = node.outputs
    full = net.graph.shapes.get(name)
    for reader in net.readers[name]:
        sizes = [net.graph.shapes.get(other) for other in reader.inputs if other != name]
        if reader.op not in ("Add", "Sub", "Mul", "Div") or sizes != [full]:
            raise UnsupportedError(node, f"to {full}, read by {reader.op}")
    net.graph.shapes[name] = net.shape(node)
    return net.entry(node)


def _split(net, node):
    (axis,) = net.axes(node, node.attrs.get("axis", 0))
    sizes = [net.graph.shapes[name][axis] for name in node.outputs]
    if len(set(sizes)) == 1:
        count = len(sizes)
        entry = net.add("SliceChannel", "split", net.entry(node), num_outputs=count, axis=axis)
        return [net.builder.output(entry, i) for i in range(count)]
    ends = np.cumsum(sizes).tolist()
    return [
        net.add("slice_axis", "slice", net.entry(node), axis=axis, begin=end - size, end=end)
        for size, end in zip(sizes, ends)
    ]


def _slice(net, node):
    shape = net.shape(node)
    starts, ends = (
        np.ravel(node.attrs.get(key, net.constant(node, index)))
        for index, key in ((1, "starts"), (2, "ends"))
    )
    axes = np.ravel(node.attrs.get("axes", net.constant(node, 3, np.arange(len(starts)))))
    steps = np.ravel(net.constant(node, 4, np.ones(len(starts), int)))
    entry = net.entry(node)
    for start, end, axis, step in zip(*(x.tolist() for x in (starts, ends, axes, steps))):
        axis %= len(shape)
        begin, stop, stride = slice(start, end, step).indices(shape[axis])
        if (begin, stop, stride) == (0, shape[axis], 1):
            continue
        if axis == 0 or stride < 0:
            raise UnsupportedError(node, f"along axis {axis} by {stride}")
        whole = (None,) * axis
        stop = None if stop == shape[axis] else stop
        box = {"begin": (*whole, begin), "end": (*whole, stop), "step": (*whole, stride)}
        entry = net.add("slice", "slice", entry, **box)
    return entry


def _gather(net, node):
    indices = net.constant(node, 1)
    (axis,) = net.axes(node, node.attrs.get("axis", 0))
    if indices.size != 1:
        raise UnsupportedError(node, "of several places")
    begin = int(indices.reshape(())) % net.shape(node)[axis]
    entry = net.add("slice_axis", "slice", net.entry(node), axis=axis, begin=begin, end=begin + 1)
    return entry if indices.ndim else net.add("squeeze", "squeeze", entry, axis=(axis,))


def _squeeze(net, node):
    shape = net.shape(node)
    ones = [axis for axis in range(1, len(shape)) if shape[axis] == 1]
    axes = net.axes(node, node.attrs.get("axes", net.constant(node, 1, ones)))
    return net.add("squeeze", "squeeze", net.entry(node), axis=tuple(axes))


def _unsqueeze(net, node):
    axes = np.ravel(node.attrs.get("axes", net.constant(node, 1))).tolist()
    rank, entry = len(net.shape(node)) + len(axes), net.entry(node)
    for axis in sorted(axis % rank for axis in axes):
        entry = net.add("expand_dims", "expand_dims", entry, axis=axis)
    return entry


def _reshape(net, node):
    old, new = net.shape(node), net.graph.shapes.get(node.outputs[0])
    codes = None if new is None else reshape_codes(old, new)
    if codes is None:
        raise UnsupportedError(node, f"of shape {old} to {new}, which mixes images")
    if codes == (0, -1):
        return net.add("Flatten", "flatten", net.entry(node))
    return net.add("Reshape", "reshape", net.entry(node), shape=codes)


def _transpose(net, node):
    rank = len(net.shape(node))
    axes = tuple(node.attrs.get("perm", range(rank)[::-1]))
    entry, before = net.transposed.get(net.entry(node), (net.entry(node), range(rank)))
    axes = tuple(before[axis] for axis in axes)
    if axes == tuple(range(rank)):
        return entry
    result = net.add("transpose", "transpose", entry, axes=axes)
    net.transposed[result] = entry, axes
    return result


OPERATORS = {
    "Concat": _concat,
    "Expand": _expand,
    "Flatten": _reshape,
    "Gather": _gather,
    "Reshape": _reshape,
    "Slice": _slice,
    "Split": _split,
    "Squeeze": _squeeze,
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
}
