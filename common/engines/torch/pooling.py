"""Pooling as MXNet means it: where its windows lie, and what an average divides by."""

import math

from common.engines.torch.runtime import torch

F = torch.nn.functional
_MAX = {1: F.max_pool1d, 2: F.max_pool2d, 3: F.max_pool3d}
_AVERAGE = {1: F.avg_pool1d, 2: F.avg_pool2d, 3: F.avg_pool3d}


def adaptive_pooling(attrs):
    """Return the function of `_contrib_AdaptiveAvgPooling2D`."""
    size = attrs.integers("output_size", (1,))
    return lambda x: F.adaptive_avg_pool2d(x, size * 2 if len(size) == 1 else size)


def pooling(attrs):
    """Return the function of `Pooling`."""
    kind = attrs.require("pool_type", "max", "avg", "sum", "lp", default="max")
    attrs.require("layout", None, "NCW", "NCHW", "NCDHW")
    power = attrs.integer("p_value", 2)
    if attrs.flag("global_pool"):
        return lambda x: _global_pool(x, kind, power)
    convention = attrs.require("pooling_convention", "valid", "full", "same", default="valid")
    kernel = attrs.integers("kernel")
    stride = attrs.integers("stride") or (1,) * len(kernel)
    pad = attrs.integers("pad") or (0,) * len(kernel)
    counts_pads = attrs.flag("count_include_pad", True)

    def compute(x):
        after = [_pad_after(*size, convention) for size in zip(x.shape[2:], kernel, stride, pad)]
        if x.is_meta:  # PyTorch imports its compiler for the shape of a maximum
            return x.new_empty((*x.shape[:2], *_windows(x.shape[2:], kernel, stride, pad, after)))
        return _pool(x, kind, power, kernel, stride, pad, after, counts_pads)

    return compute


def _windows(sides, kernel, stride, pad, after):
    """Return how many windows there are along each axis.

    Raises:
        ValueError: the image is smaller than a window.
    """
    padded = [side + before + behind for side, before, behind in zip(sides, pad, after)]
    counts = [(side - size) // step + 1 for side, size, step in zip(padded, kernel, stride)]
    if min(counts) < 1:
        raise ValueError(f"a window of {kernel} does not fit into {tuple(sides)}")
    return counts


def _pad_after(size, kernel, stride, pad, convention):
    """Return the padding behind an axis: `full` rounds the number of windows up."""
    if convention == "valid":
        return pad
    if convention == "same":  # as many windows as steps of the stride
        return max((math.ceil(size / stride) - 1) * stride + kernel - size - pad, 0)
    windows = math.ceil((size + 2 * pad - kernel) / stride) + 1
    return max((windows - 1) * stride + kernel - size - pad, pad)


def _global_pool(x, kind, power):
    axes = tuple(range(2, x.ndim))
    if x.is_meta:  # PyTorch imports 300 modules for the shape of a mean
        return x[(..., *(slice(1) for _ in axes))]
    if kind == "avg":
        return x.mean(axes, keepdim=True)
    if kind == "max":
        flat = x.flatten(2).max(2)[0]
        return flat.reshape(*flat.shape, *(1 for _ in axes))
    if kind == "sum":
        return x.sum(axes, keepdim=True)
    return x.abs().pow(power).sum(axes, keepdim=True).pow(1 / power)


def _pool(x, kind, power, kernel, stride, pad, after, counts_pads):
    rank = len(kernel)
    if kind == "max":
        pool_max = _MAX[rank] if x.is_floating_point() else _max_of_integers
        if tuple(after) == pad and all(2 * p <= k for p, k in zip(pad, kernel)):
            return pool_max(x, kernel, stride, pad)
        lowest = torch.finfo(x.dtype).min if x.is_floating_point() else 0
        return pool_max(_padded(x, pad, after, lowest), kernel, stride)
    if kind == "avg":
        if tuple(after) == pad and all(2 * p <= k for p, k in zip(pad, kernel)):
            return _AVERAGE[rank](x, kernel, stride, pad, False, counts_pads)
        counted = torch.ones((1, 1, *x.shape[2:]), dtype=x.dtype, device=x.device)
        counted = _padded(counted, pad, pad, 1.0 if counts_pads else 0.0)
        counted = _padded(counted, [0] * rank, [a - p for a, p in zip(after, pad)], 0.0)
        summed = _AVERAGE[rank](_padded(x, pad, after, 0.0), kernel, stride)
        # A window that holds nothing gives 0.
        share = _AVERAGE[rank](counted, kernel, stride).clamp(min=1 / math.prod(kernel))
        return summed / share
    area = math.prod(kernel)
    padded = _padded(x, pad, after, 0.0)
    if kind == "sum":
        return _AVERAGE[rank](padded, kernel, stride) * area
    return (_AVERAGE[rank](padded.abs().pow(power), kernel, stride) * area).pow(1 / power)


def _max_of_integers(x, kernel, stride, pad=(0, 0)):
    """Pool uint8 images; PyTorch's other function takes none that lie in memory by pixels."""
    return torch.ops.quantized.max_pool2d(x, kernel, stride, pad, (1, 1), False)


def _padded(x, before, after, value):
    widths = [width for pair in reversed([*zip(before, after)]) for width in pair]
    return F.pad(x, widths, value=value) if any(widths) else x
