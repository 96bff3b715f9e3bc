"""Arithmetic in 8-bit integers on CPUs: how they stand for numbers, and oneDNN's products of them.

Inputs and outputs are uint8: a number is `(integer - zero) * scale`. Weights are int8, with a scale
for each filter. The operators are those that Inductor uses.
"""

import dataclasses
import functools

from common.engines.torch.runtime import torch

_SMALLEST = 1e-12  # no scale is 0


@dataclasses.dataclass(frozen=True)
class Format:
    """How the integers of a tensor are to be read."""

    scale: float
    zero: int

    @classmethod
    def of_range(cls, lowest, highest):
        """Return the format of numbers between two others; it always holds 0, for the padding."""
        lowest, highest = min(lowest, 0.0), max(highest, 0.0)
        scale = max((highest - lowest) / 255, _SMALLEST)
        return cls(scale, round(-lowest / scale))

    def quantize(self, x):
        """Return the nearest integers of float32 numbers, as uint8."""
        return x.mul(1 / self.scale).round_().add_(self.zero).clamp_(0, 255).to(torch.uint8)

    def dequantize(self, x):
        """Return float32 numbers."""
        return x.to(torch.float32).sub_(self.zero).mul_(self.scale)


PIXELS = Format(1.0, 0)


def as_integers(weight):
    """Return int8 of float32 weights, (filters, …), and the scale of each filter."""
    limit = 2 ** (weight_bits() - 1) - 1
    scales = weight.flatten(1).abs().amax(1).div(limit).clamp_(min=_SMALLEST)
    return weight.div(scales.reshape(-1, *[1] * (weight.ndim - 1))).round_().to(torch.int8), scales


def pack(weight, scales, source, window, shape):
    """Return a convolution's int8 weights as oneDNN wants them, their scales, and their zeros.

    Args:
        weight, scales: of `as_integers`.
        source: the `Format` of the inputs.
        window: the stride, padding, dilation and number of groups.
        shape: of the inputs.
    """
    packed = torch.ops.onednn.qconv_prepack(
        weight, scales, source.scale, source.zero, *window, list(shape)
    )
    return packed, scales, torch.zeros(len(scales), dtype=torch.int32)


def convolve(x, other, weight, bias, window, formats, activation):
    """Call oneDNN; `other`, where there is one, is overwritten with the sum.

    The formats are those of `x`, of the result (None: float32) and of `other`.
    """
    source, target, other_format = formats
    output = _of_output(target)
    inputs = x, source.scale, source.zero, *weight
    name, numbers = activation
    if other is None:
        return torch.ops.onednn.qconv2d_pointwise(
            *(*inputs, bias, *window, *output, name, numbers, "")
        )
    return torch.ops.onednn.qconv2d_pointwise(
        *(*inputs, other, bias, *window, *output),
        *(other_format.scale, other_format.zero, "sum", 1.0, name, numbers, ""),
    )


def pack_matrix(weight, scales):
    """Return a linear layer's int8 weights as oneDNN wants them, their scales, and their zeros."""
    packed = torch.ops.onednn.qlinear_prepack(weight, None)
    return packed, scales, torch.zeros(len(scales), dtype=torch.int32)


def multiply(x, weight, bias, formats, activation):
    """Return the products of `x`, (…, inputs) uint8, and a matrix, behind an activation.

    The formats are those of `x` and of the result (None: float32).
    """
    source, target = formats
    name, numbers, algorithm = activation
    return torch.ops.onednn.qlinear_pointwise(
        *(x, source.scale, source.zero, *weight, bias, *_of_output(target)),
        *(name, numbers, algorithm),
    )


def _of_output(target):
    """Return the scale, zero and type of outputs."""
    if target is None:
        return 1.0, 0, torch.float32
    return target.scale, target.zero, torch.uint8


@functools.lru_cache(maxsize=None)
def weight_bits():
    """Return how many bits of a weight this processor multiplies exactly: 8, or 7.

    Without VNNI, oneDNN adds two products in 16 bits, which only 7 bits of the weights cannot
    overflow (oneDNN, "Nuances of int8 computations"). It is asked for the largest sum, and so
    answers for the instructions that it has chosen.

    Raises:
        AttributeError, RuntimeError: this PyTorch has no such convolution.
    """
    x = torch.full((1, 64, 4, 4), 255, dtype=torch.uint8)
    x = x.contiguous(memory_format=torch.channels_last)
    weight, scales = torch.full((16, 64, 1, 1), 127, dtype=torch.int8), torch.ones(16)
    window = (1, 1), (0, 0), (1, 1), 1
    packed = pack(weight, scales, PIXELS, window, x.shape)
    other = torch.zeros(1, 16, 4, 4).contiguous(memory_format=torch.channels_last)
    formats = PIXELS, None, PIXELS
    y = convolve(x, other, packed, None, window, formats, ("none", []))
    return 8 if bool((y == 255 * 127 * 64).all()) else 7
