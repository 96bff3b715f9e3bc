"""Whose state a `.states` file holds: optimizers of another family mean something else by it."""

import numpy as np

from common.base.files import UserError
from common.engines.optimizer_state import SLOTS

_KIND = "optimizer:"
# Optimizers whose states mean the same as those of another one.
_FAMILIES = {"adamw": "adam", "nag": "sgd", "lars": "sgd", "lbsgd": "sgd", "ccsgd": "sgd"}


def with_name(state, optimizer):
    """Return what a `.states` file holds of a `TrainerState`, `{name: array}`.

    It is the optimizer's state, its name, and what the arrays are; an empty one stays empty.
    """
    if not state.optimizer:
        return {}
    name, slots = np.zeros(1, np.float32), np.full(1, state.slots, np.float32)
    return {**state.optimizer, _KIND + optimizer: name, SLOTS: slots}


def require_same(states, optimizer, path):
    """Raise `UserError` where the state in a file is of another family; older files name none."""
    for name in (key[len(_KIND) :] for key in states if key.startswith(_KIND)):
        if _FAMILIES.get(name, name) != _FAMILIES.get(optimizer, optimizer):
            raise UserError(
                f"{path}: is the state of --optimizer {name}; go on with that, or remove the file"
                " to go on without it"
            )
