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


class Int8Linear(torch.nn.Module):
    """Computes what a `torch.nn.Linear` does, and the GELU behind it.

    Args:
        lowest, highest: the range of what it is given.
        gelu: its form, as in `linear.JoinedLinear`.
        target: the `Format` of what it gives; None for float32.

    Attributes:
        source: the `Format` of what it is given; uint8 is taken to be in it.
    """

    def __init__(self, linear, lowest, highest, gelu=None, target=None):
        super().__init__()
        self.in_features, self.out_features = linear.in_features, linear.out_features
        self.source = Format.of_range(lowest, highest)
        self._target, self._activation = target, activation_of(gelu)
        self._weight = pack_matrix(*as_integers(linear.weight.detach()))
        self._bias = None if linear.bias is None else linear.bias.detach()

    def forward(self, x):
        """Return (…, out_features) of (…, in_features)."""
        if x.dtype is not torch.uint8:
            x = self.source.quantize(x)
        formats = self.source, self._target
        return multiply(x, self._weight, self._bias, formats, self._activation)


class Int8Conv2d(torch.nn.Module):
    """Computes what a `torch.nn.Conv2d` does, with what it is given between two numbers."""

    def __init__(self, conv, lowest, highest):
        super().__init__()
        self._source = Format.of_range(lowest, highest)
        self._window = conv.stride, conv.padding, conv.dilation, conv.groups
        self._integers = as_integers(conv.weight.detach())
        self._bias = None if conv.bias is None else conv.bias.detach()
        self._weight = None  # as oneDNN wants it for the size of the first images

    def forward(self, x):
        """Return (N, out_channels, H', W') float32 of (N, in_channels, H, W)."""
        x = self._source.quantize(x).contiguous(memory_format=torch.channels_last)
        if self._weight is None:
            self._weight = pack(*self._integers, self._source, self._window, x.shape)
            self._integers = None
        formats = self._source, None, None
        return convolve(x, None, self._weight, self._bias, self._window, formats, ("none", []))


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
