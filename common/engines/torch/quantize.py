"""A network in 8-bit integers: calibrated here, built by `common.engines.torch.int8`."""

import math

from common.base.files import UserError
from common.engines.torch.int8 import HIGHEST, LOWEST
from common.engines.torch.predictor import load
from common.engines.torch.runtime import torch
from common.networks.graph import edit

_BATCH_SIZE = 16


def quantize(network, images):
    """Return the network with the range of every layer's output over the calibration `images`.

    Its graph and float32 arrays are the same; the ranges are attributes of the nodes, `__lowest__`
    and `__highest__`. Weights become integers when a `Predictor` is built: how many bits they may
    have depends on the processor.

    Args:
        images: (N, 3, H, W) uint8.

    Raises:
        UserError: a layer gives NaN or infinite numbers.
    """
    size = min(_BATCH_SIZE, len(images))
    module, _ = load(network, "cpu", (size, *images.shape[1:]))
    module.eval()
    ranges = {}
    for step in module.plan.steps:
        step.compute = _observe(step, ranges)
    with torch.inference_mode():
        for start in range(0, len(images), size):
            module(torch.from_numpy(images[start : start + size]))
    bounds = {
        name: {LOWEST: str(lowest), HIGHEST: str(highest)}
        for name, (lowest, highest) in ranges.items()
    }
    return network.with_graph(edit(network.graph, bounds))


def _observe(step, ranges):
    """Return what a step computes with, which then notes `{layer: (lowest, highest)}`."""
    compute = step.compute

    def observed(*inputs):
        result = compute(*inputs)
        for tensor in result if isinstance(result, (tuple, list)) else [result]:
            found = [bound.item() for bound in torch.aminmax(tensor.float())]
            if not all(map(math.isfinite, found)):
                raise UserError(
                    f"--dtype int8: the layer {step.name} gives NaN or infinite numbers: the"
                    " network's training has diverged; choose an earlier epoch"
                )
            before = ranges.get(step.name, found)
            ranges[step.name] = min(before[0], found[0]), max(before[1], found[1])
        return result

    return observed
