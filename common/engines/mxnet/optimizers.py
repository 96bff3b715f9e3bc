"""MXNet's optimizers, and which settings they have."""

import inspect

from common.engines.mxnet.runtime import mx

_FOR_EMBEDDINGS_AND_TESTS = {"groupadagrad", "test"}
# Settings that fail inside MXNet, 1.5.0 and 1.9.1.
_PROBLEMS = {"dcasgd": "MXNet's dcasgd works without momentum only: --mom 0"}


def optimizers():
    """Return `{name: {setting: why it cannot be set, or ""}}`; all have a rate and weight decay."""
    settings = {
        name: {"momentum"} & set(inspect.signature(kind.__init__).parameters)
        for name, kind in sorted(mx.optimizer.Optimizer.opt_registry.items())
        if name not in _FOR_EMBEDDINGS_AND_TESTS
    }
    return {
        name: {setting: _PROBLEMS.get(name, "") for setting in found}
        for name, found in settings.items()
    }
