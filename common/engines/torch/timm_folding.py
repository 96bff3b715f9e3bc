"""Layers of timm's networks that only scale what the layer before them gives: folded into it.

For prediction alone: batch norms go into the filters of convolutions, layer scales into the rows of
linear layers.
"""

from collections import Counter

from common.engines.torch.runtime import torch


def fold(model, image):
    """Fold the batch norms and layer scales of timm's module into the layers that they alone read.

    Who reads what is seen while it predicts with `image`, (1, 3, H, W).
    """
    from timm.layers import BatchNormAct2d, Conv2dSame
    from timm.models.vision_transformer import LayerScale

    norms = _of_types(model, torch.nn.BatchNorm2d, BatchNormAct2d)
    norms = [norm for norm in norms if norm.track_running_stats]
    convolutions = _of_types(model, torch.nn.Conv2d, Conv2dSame)
    for conv, norm in _lone_pairs(model, image, convolutions, norms):
        conv.weight, conv.bias = torch.nn.utils.fuse_conv_bn_weights(
            *(conv.weight, conv.bias, norm.running_mean, norm.running_var),
            *(norm.eps, norm.weight, norm.bias),
        )
        _replace(model, norm, getattr(norm, "act", torch.nn.Identity()))
    linears, scales = _of_types(model, torch.nn.Linear), _of_types(model, LayerScale)
    for linear, scale in _lone_pairs(model, image, linears, scales):
        _scale_rows(linear, scale.gamma)
        _replace(model, scale, torch.nn.Identity())
    _fold_scales_of_blocks(model)


def _fold_scales_of_blocks(model):
    """Fold the layer scales that are parameters of ConvNeXt's blocks, and no layers."""
    from timm.models.convnext import ConvNeXtBlock

    for block in _of_types(model, ConvNeXtBlock):
        if block.gamma is not None:
            _scale_rows(block.mlp.fc2, block.gamma)
            block.gamma = None


def _scale_rows(layer, factors):
    """Multiply what a linear layer or a convolution gives, by a factor for each of its rows."""
    for name, array in list(layer.named_parameters(recurse=False)):
        by_row = factors.detach().reshape(-1, *[1] * (array.dim() - 1))
        setattr(layer, name, torch.nn.Parameter(array.detach() * by_row))


def _of_types(model, *types):
    return [layer for layer in model.modules() if type(layer) in types]


def _replace(model, layer, other):
    for parent in model.modules():
        for name, child in parent.named_children():
            if child is layer:
                setattr(parent, name, other)


# --- Who reads what -------------------------------------------------------------------------------


def _lone_pairs(model, image, makers, readers):
    """Return each of the layers `makers` that one of the layers `readers` alone reads, and that."""
    if not makers or not readers:
        return []
    made_by, pairs, calls = {}, [], Counter()

    # Operations are told apart by their gradients: one that works in place keeps its tensor.
    def after_maker(maker, _, output):
        calls[maker] += 1
        made_by[output.grad_fn] = maker

    def before_reader(reader, inputs):
        calls[reader] += 1
        if inputs[0].grad_fn in made_by:
            pairs.append((inputs[0].grad_fn, reader))

    hooks = [maker.register_forward_hook(after_maker) for maker in makers]
    hooks += [reader.register_forward_pre_hook(before_reader) for reader in readers]
    with torch.enable_grad():
        read = _count_readers(model(image))
    for hook in hooks:
        hook.remove()
    return [
        (made_by[operation], reader)
        for operation, reader in pairs
        if calls[made_by[operation]] == calls[reader] == read[operation] == 1
    ]


def _count_readers(result):
    """Return how many inputs of operations each operation's output is, before a result."""
    readers, waiting = Counter(), [result.grad_fn]
    while waiting:
        for before, _ in waiting.pop().next_functions:
            if before is not None:
                readers[before] += 1
                if readers[before] == 1:
                    waiting.append(before)
    return readers
