"""What new layers begin with: MXNet's initializers, drawn by a seeded generator."""

import json
import math

from common.engines.torch.runtime import torch

_BY_ENDING = {
    "bias": 0.0,
    "beta": 0.0,
    "gamma": 1.0,
    "mean": 0.0,
    "var": 1.0,
}
_BY_NAME = {"zero": 0.0, "zeros": 0.0, "one": 1.0, "ones": 1.0}


def draw(name, shape, attributes, generator):
    """Return a float32 tensor of a new parameter or statistic.

    Weights are Xavier's: normal numbers with the variance 2 / (inputs of one output), that is He's
    for ReLU (He et al. 2015, arXiv:1502.01852).

    Args:
        attributes: of the variable in the graph; `__init__` may hold the constant of MXNet.
        generator: a `torch.Generator` on the CPU.
    """
    value = _constant(attributes.get("__init__"))
    if value is None:
        value = next((v for ending, v in _BY_ENDING.items() if name.endswith(ending)), None)
    if value is not None:
        return torch.full(shape, value)
    fan_in = math.prod(shape[1:])
    return torch.randn(shape, generator=generator) * math.sqrt(2 / fan_in)


def _constant(text):
    """Return the number of `'["constant", {"value": 0.25}]'`; None of what draws at random.

    Gluon writes the name alone: `zeros`.
    """
    if not text:
        return None
    kind, settings = json.loads(text) if text.startswith("[") else (text, {})
    return settings.get("value") if kind.lower() == "constant" else _BY_NAME.get(kind.lower())
