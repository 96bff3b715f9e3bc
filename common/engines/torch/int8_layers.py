"""Linear layers and convolutions of timm's networks that compute in 8-bit integers, on CPUs.

A layer makes what it is given uint8, and gives float32: between layers timm's own code computes.
"""

from common.engines.torch.int8_arithmetic import (
    Format,
    as_integers,
    convolve,
    multiply,
    pack,
    pack_matrix,
)
from common.engines.torch.linear import activation_of
from common.engines.torch.runtime import torch


class _Int8Layer(torch.nn.Module):
    """A layer in the place of another one, whose settings it has.

    Attributes:
        source: the `Format` of what it is given.
        weight: empty: networks ask for its device and its type.
    """

    def __init__(self, layer, lowest, highest):
        """`lowest` and `highest` are the range of what it is given."""
        super().__init__()
        for name in layer.__constants__:
            setattr(self, name, getattr(layer, name))
        self.source = Format.of_range(lowest, highest)
        self.weight = torch.empty(0)
        self.bias = None if layer.bias is None else layer.bias.detach()


class Int8Linear(_Int8Layer):
    """Computes what a `torch.nn.Linear` does, and the GELU behind it.

    What it is given may be uint8 already, in the format of its source.

    Args:
        gelu: its form, as in `linear.JoinedLinear`.
        target: the `Format` of what it gives; None for float32.
    """

    def __init__(self, linear, lowest, highest, gelu=None, target=None):
        super().__init__(linear, lowest, highest)
        self._target, self._activation = target, activation_of(gelu)
        self._packed = pack_matrix(*as_integers(linear.weight.detach()))

    def forward(self, x):
        """Return (…, out_features) of (…, in_features)."""
        if x.dtype is not torch.uint8:
            x = self.source.quantize(x)
        return multiply(x, self._packed, self.bias, (self.source, self._target), self._activation)


class Int8Conv2d(_Int8Layer):
    """Computes what a `torch.nn.Conv2d` does."""

    def __init__(self, conv, lowest, highest):
        super().__init__(conv, lowest, highest)
        self._window = conv.stride, conv.padding, conv.dilation, conv.groups
        self._integers = as_integers(conv.weight.detach())
        self._packed = None  # as oneDNN wants the weights for the size of the first images

    def forward(self, x):
        """Return (N, out_channels, H', W') float32 of (N, in_channels, H, W)."""
        x = self.source.quantize(x).contiguous(memory_format=torch.channels_last)
        if self._packed is None:
            self._packed = pack(*self._integers, self.source, self._window, x.shape)
            self._integers = None
        formats = self.source, None, None
        return convolve(x, None, self._packed, self.bias, self._window, formats, ("none", []))


def find(model):
    """Return `{name: layer}` of the layers of a module that can compute in integers.

    Depthwise convolutions are left out: float32 is as fast, with what must be made uint8.
    """
    return {name: layer for name, layer in model.named_modules() if _kind_of(layer)}


def _kind_of(layer):
    if type(layer) is torch.nn.Linear:
        return Int8Linear
    if type(layer) is not torch.nn.Conv2d or isinstance(layer.padding, str):
        return None
    is_depthwise = layer.groups == layer.in_channels > 1
    return None if is_depthwise or layer.padding_mode != "zeros" else Int8Conv2d


def make(layer, lowest, highest):
    """Return what computes a layer of `find` in integers; it is given numbers of that range."""
    return _kind_of(layer)(layer, lowest, highest)
