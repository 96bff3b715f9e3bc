"""MXNet's optimizers and AdamW by name: their state, and the rate and decay of each weight.

The state is named and means what MXNet's does, so that either engine goes on from the other's
`.states` file: `state:NAME/0` is the first array that is kept for the weight NAME,
`number:m_schedule` a number that an optimizer counts with.
"""

import inspect

import numpy as np

from common.engines.optimizer_state import find_state
from common.engines.torch import update_rules as rules
from common.engines.torch.runtime import torch

_RULES = {
    "adadelta": rules.AdaDelta,
    "adagrad": rules.AdaGrad,
    "adam": rules.Adam,
    "adamax": rules.Adamax,
    "adamw": rules.AdamW,
    "ccsgd": rules.PlainSGD,
    "dcasgd": rules.DCASGD,
    "ftml": rules.FTML,
    "ftrl": rules.Ftrl,
    "lamb": rules.LAMB,
    "lars": rules.LARS,
    "lbsgd": rules.SGD,  # its own warm-up is off by default
    "nadam": rules.Nadam,
    "nag": rules.NAG,
    "rmsprop": rules.RMSProp,
    "sgd": rules.SGD,
    "sgld": rules.SGLD,
    "signum": rules.Signum,
}


def optimizers():
    """Return `{name: {setting beside rate and weight decay: why it cannot be set, or ""}}`."""
    return {
        name: {"momentum": ""} if "momentum" in inspect.signature(rule).parameters else {}
        for name, rule in _RULES.items()
    }


class Optimizer:
    """An optimizer of named weights, which it changes in place."""

    def __init__(self, name, weights, settings, attributes, updates_done=0, keeps_weights=False):
        """Begin without a past.

        Args:
            name: one of `optimizers()`.
            weights: `{name: tensor}` of what is trained, in the order of the graph.
            settings: of the rule, and `wd` and `clip_gradient`.
            attributes: `{name: {"__lr_mult__": "10", "__wd_mult__": "0"}}` as the graph has them.
            updates_done: updates that were made before.
            keeps_weights: whether the state includes the weights, as MXNet's does in float16.
        """
        settings = dict(settings)
        self._decay, self._clip = settings.pop("wd", 0.0), settings.pop("clip_gradient", None)
        self._rule = _RULES[name](**settings)
        self._count, self._updates_done = 0, updates_done  # without a state it is a new beginning
        self._names, self._weights = list(weights), list(weights.values())
        self._slots = self._start()
        self._kept, self._keeps_weights = [*self._slots], keeps_weights
        self._weights_last = isinstance(self._rule, rules.SGD)
        if keeps_weights:
            self._kept.insert(len(self._slots) * self._weights_last, self._weights)
        self._groups = {}
        for position, weight in enumerate(self._names):
            key = self._factors(weight, attributes.get(weight, {}), position)
            self._groups.setdefault(key, []).append(position)

    def _start(self):
        """Return the arrays that are kept: for each slot a list of one for each weight."""
        if isinstance(self._rule, rules.DCASGD):
            return [[weight.clone() for weight in self._weights]]
        return [list(map(torch.zeros_like, self._weights)) for _ in range(self._rule.slots)]

    def _factors(self, name, attributes, position):
        """Return what weights have in common that are updated together."""
        is_lars = isinstance(self._rule, rules.LARS)
        # The recipes for AdamW decay no scale of a normalisation.
        spares_gammas = isinstance(self._rule, (rules.LARS, rules.AdamW))
        decays = name.endswith("_weight") or (name.endswith("_gamma") and not spares_gammas)
        rate = float(attributes.get("__lr_mult__", 1.0))
        decay = float(attributes.get("__wd_mult__", decays)) * self._decay
        is_norm = name.endswith(".weight") and self._weights[position].ndim == 1  # of timm
        is_scaled = is_lars and not is_norm and not name.endswith(("gamma", "beta", "bias"))
        one_by_one = position if isinstance(self._rule, rules.Nadam) else None
        return rate, decay, is_scaled, one_by_one

    @torch.no_grad()
    def update(self, gradients, rate, velocity_factor=1.0):
        """Update all weights.

        Args:
            gradients: one for each weight; they are overwritten.
            rate: the learning rate.
            velocity_factor: factor of velocities that hold the rate (`common.engines.momentum`).
        """
        self._count += 1
        if velocity_factor != 1 and isinstance(self._rule, rules.SGD) and self._slots:
            torch._foreach_mul_(self._slots[0], velocity_factor)
        for (factor, decay, is_scaled, _), positions in self._groups.items():
            step = rules.Step(rate * factor, decay, self._count, self._clip, is_scaled)
            lists = [self._weights, gradients, *self._slots]
            self._rule(step, *([arrays[i] for i in positions] for arrays in lists))

    @property
    def num_slots(self):
        """How many arrays are kept for a weight, without the weight itself."""
        return len(self._slots)

    def num_bytes(self):
        """Return the size of the state."""
        return sum(array.nbytes for slot in self._kept for array in slot)

    def state(self):
        """Return a copy of what is kept, `{name: numpy array}`."""
        arrays = {
            f"state:{name}/{number}": to_numpy(array)
            for number, slot in enumerate(self._kept)
            for name, array in zip(self._names, slot)
        }
        if isinstance(self._rule, rules.Nadam):
            arrays["number:m_schedule"] = np.array([self._rule.m_schedule])
        return arrays

    @torch.no_grad()
    def restore(self, saved):
        """Go on from what `state()` returned, or MXNet's trainer.

        Raises:
            UserError: it is of another optimizer or another network.
        """
        for position, name in enumerate(self._names):
            slots = [slot[position] for slot in self._slots]
            shapes = [slot.shape for slot in slots]
            arrays, weights = find_state(saved, name, shapes, self._weights_last)
            for slot, array in zip(slots, arrays):
                slot.copy_(torch.tensor(array))
            if self._keeps_weights and weights is not None:
                self._weights[position].copy_(torch.tensor(weights))
        self._count = self._updates_done
        if "number:m_schedule" in saved and isinstance(self._rule, rules.Nadam):
            self._rule.m_schedule = float(saved["number:m_schedule"][0])


def to_numpy(tensor):
    """Return a copy of a tensor as a numpy array."""
    return np.array(tensor.detach().cpu().numpy(), order="C")
