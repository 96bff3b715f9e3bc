"""A network in 8-bit integers: calibrated here; `int8` and `int8_layers` build it."""

import dataclasses
import math

from common.base.files import UserError
from common.engines.torch import timm_networks, timm_prediction
from common.engines.torch.int8 import HIGHEST, LOWEST
from common.engines.torch.predictor import load
from common.engines.torch.runtime import torch
from common.networks.graph import edit
from common.networks.timm_network import TimmNetwork

_BATCH_SIZE = 16


def quantize(network, images):
    """Return the network with the ranges of its layers over the calibration `images`.

    Its float32 arrays are the same: weights become integers when a `Predictor` is built, as the
    processor decides how many bits they may have. The ranges are, of a graph, those of what every
    layer gives, in the attributes `__lowest__` and `__highest__` of its node; of a network of timm,
    those of what the layers are given that will compute in integers (`TimmNetwork.ranges`).

    Args:
        images: (N, 3, H, W) uint8.

    Raises:
        UserError: a layer gives NaN or infinite numbers.
    """
    size, ranges = min(_BATCH_SIZE, len(images)), {}
    of_timm = isinstance(network, TimmNetwork)
    observed = _observed_layers if of_timm else _observed_graph
    module = observed(network, (size, *images.shape[1:]), ranges).eval()
    with torch.inference_mode():
        for start in range(0, len(images), size):
            module(torch.from_numpy(images[start : start + size]))
    if of_timm:
        return dataclasses.replace(network, ranges=ranges)
    bounds = {
        name: {LOWEST: str(lowest), HIGHEST: str(highest)}
        for name, (lowest, highest) in ranges.items()
    }
    return network.with_graph(edit(network.graph, bounds))


def _observed_layers(network, data_shape, ranges):
    """Return the module of a `TimmNetwork`, which notes the ranges of what its layers are given."""
    module = timm_networks.build(network, data_shape[1:])
    for name, layer in timm_prediction.layers_for_int8(module.model, network).items():
        layer.register_forward_pre_hook(lambda _, inputs, name=name: _note(*inputs, name, ranges))
    return module


def _observed_graph(network, data_shape, ranges):
    """Return the module of a graph, which notes the ranges of what its layers give."""
    module, _ = load(network, "cpu", data_shape)
    for step in module.plan.steps:
        step.compute = _observed(step, ranges)
    return module


def _observed(step, ranges):
    compute = step.compute

    def observed(*inputs):
        result = compute(*inputs)
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            _note(tensor, step.name, ranges)
        return result

    return observed


def _note(tensor, name, ranges):
    """Widen `{layer: [lowest, highest]}` by a tensor of a layer."""
    found = [bound.item() for bound in torch.aminmax(tensor.float())]
    if not all(map(math.isfinite, found)):
        raise UserError(
            f"--dtype int8: the layer {name} gives NaN or infinite numbers: the"
            " network's training has diverged; choose an earlier epoch"
        )
    before = ranges.get(name, found)
    ranges[name] = [min(before[0], found[0]), max(before[1], found[1])]
