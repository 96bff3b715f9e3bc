"""Convolutions of one pixel whose stride passes over others, kept away from a fault of oneDNN.

With fewer channels than a register holds, their weights' gradient writes behind its memory: oneDNN
of PyTorch 2.13 and 2.14, channels_last, AVX-512. To pick the pixels first gives the same numbers.
"""

from common.engines.torch.runtime import torch

_CHANNELS = 16  # of a register


def has_fault(channels, stride):
    """Return whether the gradient of such a convolution of unpadded images is faulty."""
    return channels < _CHANNELS and max(stride) > 1


def pick_pixels_first(model):
    """Have the faulty convolutions of a module pick their pixels first."""
    for layer in model.modules():
        if not isinstance(layer, torch.nn.Conv2d) or layer.kernel_size != (1, 1):
            continue
        if has_fault(layer.in_channels, layer.stride) and layer.padding in ((0, 0), "valid"):
            layer.register_forward_pre_hook(_Picking(layer.stride))
            layer.stride = (1, 1)


class _Picking:
    """Picks the pixels of every stride from the images that a layer is given."""

    def __init__(self, stride):
        self._down, self._across = stride

    def __call__(self, _layer, inputs):
        return (inputs[0][:, :, :: self._down, :: self._across],)
