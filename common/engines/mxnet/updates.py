"""The updates of a network's weights: MXNet's optimizer, its learning rate and its state."""

import logging
import os

import numpy as np

from common.base.files import UserError
from common.engines import momentum
from common.engines.mxnet.runtime import mx
from common.engines.optimizer_state import find_state

# Optimizers that draw noise for every update, or count the updates of all devices together.
_DRIFTING = ("sgld", "nadam")


class Updates:
    """The optimizer of a bound Module.

    Updates are made on the devices, where their state can be read and saved; the KVStore sums the
    gradients. Only the servers of dist_async make them by themselves, and keep the state.
    """

    def __init__(self, module, devices, options, workers, frozen):
        """Make the optimizer of `options`; `frozen` parameters have no updates.

        Raises:
            UserError: the optimizer would let the copies of the weights drift apart.
        """
        _check_copies(options.optimizer, devices, workers)
        self._module, self._num_devices, self._frozen = module, len(devices), frozen
        self._on_servers, self._updates_done = workers.is_async, options.updates_done
        self._nesterov = options.optimizer == "nag"
        # MXNet's kernel of NAG adds the decay to the velocity after it has written the weight. A
        # weight that oneDNN has laid out for a validation, and gives up in its own time, it writes
        # elsewhere, and so reads the old one: two runs would differ.
        self._waits = (
            self._nesterov
            and options.optimizer_settings.get("wd")
            and devices[0].device_type == "cpu"
        )
        self._rate = options.schedule.rate(options.updates_done)  # of the last update
        # Of a velocity that follows the rate; 0 where there is none, or it stays as it is.
        self._momentum = _corrected_momentum(options, workers)
        settings = _settings(options, workers)
        if self._momentum and options.optimizer == "lars":
            settings["momentum_correction"] = False  # its own reaches four parameters of one device
        os.environ["MXNET_UPDATE_ON_KVSTORE"] = str(int(self._on_servers))
        module.init_optimizer(
            kvstore=workers.kv_store, optimizer=options.optimizer, optimizer_params=settings
        )
        self._initial_numbers = self._numbers()

    def make(self, learning_rate):
        """Update the weights; where the rate changes with that, the velocity follows it.

        The servers of dist_async have a schedule of their own.
        """
        optimizer = self._module._optimizer
        if not self._on_servers:
            optimizer.lr = learning_rate
        if self._momentum:
            ratio = momentum.rate_ratio(self._rate, learning_rate)
            if not self._nesterov:
                optimizer.momentum = self._momentum * ratio  # costs nothing
            elif ratio != 1:  # the momentum of NAG also looks ahead
                for state in self._states().values():
                    velocity = _flatten(state)[0]
                    velocity *= ratio
        if self._waits:
            mx.nd.waitall()
        self._module.update()
        if self._momentum:
            optimizer.momentum = self._momentum
        self._rate = learning_rate

    def state(self):
        """Return the optimizer's state as `TrainerState.optimizer`; empty where servers keep it."""
        arrays = {}
        for key, state in self._states().items():
            name, device = self._parameter_of(key)
            if device == 0:  # the others hold the same numbers
                for slot, array in enumerate(_flatten(state)):
                    arrays[f"state:{name}/{slot}"] = array.asnumpy()
        for name, value in self._numbers().items():
            if value != self._initial_numbers.get(name):
                arrays[f"number:{name}"] = np.array([value])
        return arrays

    def num_slots(self):
        """Return how many arrays are kept for a weight in float32."""
        return len(_flatten(self._module._optimizer.create_state(0, mx.nd.zeros((1,)))))

    def num_bytes(self):
        """Return the size of the optimizer's state in a checkpoint."""
        group, total = self._module._exec_group, 0
        for name, arrays in zip(group.param_names, group.param_arrays):
            if name not in self._frozen:
                one = mx.nd.zeros((1,), dtype=arrays[0].dtype)
                states = _flatten(self._module._optimizer.create_state_multi_precision(0, one))
                total += arrays[0].size * sum(map(num_bytes, states))
        return total

    def restore(self, saved):
        """Go on from what `state()` returned.

        Raises:
            UserError: it is of another optimizer or another network.
        """
        if self._module._updater is None:
            logging.warning("the servers of dist_async start without the optimizer's state")
            return
        optimizer, group = self._module._optimizer, self._module._exec_group
        states = self._states()
        # Where a class says itself what float16 keeps, the weights stand last.
        first = mx.optimizer.Optimizer.create_state_multi_precision
        weights_last = type(optimizer).create_state_multi_precision is not first
        for key in range(len(group.param_names) * self._num_devices):
            name, device = self._parameter_of(key)
            if name in self._frozen:
                continue
            weight = group.param_arrays[key // self._num_devices][device]
            state = optimizer.create_state_multi_precision(key, weight)
            slots, own = list(_flatten(state)), None
            if weight.dtype == np.float16:
                own = slots.pop(-1 if weights_last else 0)
            shapes = [slot.shape for slot in slots]
            arrays, weights = find_state(saved, name, shapes, weights_last)
            for slot, array in zip(slots, arrays):
                slot[:] = array
            if own is not None and weights is not None:
                own[:] = weights
            states[key] = state
            self._module._updater.states_synced[key] = True
        optimizer.begin_num_update = optimizer.num_update = self._updates_done
        for key, array in saved.items():
            kind, _, name = key.partition(":")
            if kind == "number":
                setattr(optimizer, name, float(array[0]))

    def _states(self):
        updater = self._module._updater
        return {} if updater is None else updater.states

    def _parameter_of(self, key):
        """Return the parameter and the number of the device that an updater's key stands for."""
        position, device = divmod(key, self._num_devices)
        return self._module._exec_group.param_names[position], device

    def _numbers(self):
        """Return what the optimizer counts with beside the updates, which follow from the epoch."""
        return {
            name: value
            for name, value in vars(self._module._optimizer).items()
            if isinstance(value, float) and name != "lr"
        }


def _check_copies(optimizer, devices, workers):
    copies = 1 if workers.is_async else len(devices) * workers.size
    if optimizer in _DRIFTING and copies > 1:
        raise UserError(
            f"--optimizer {optimizer}: updates each device's copy of the weights in another way;"
            " train on one device, or take another optimizer"
        )


def _corrected_momentum(options, workers):
    if not (options.correct_momentum and momentum.holds_rate(options.optimizer, mx.__version__)):
        return 0.0
    corrected = options.optimizer_settings.get("momentum", 0.0)
    if corrected and workers.is_async:
        logging.warning(
            "--momentum-correction 1: the servers of --kv-store dist_async update by MXNet's rule,"
            " as with 0"
        )
        return 0.0
    return corrected


def _settings(options, workers):
    """Return the keyword arguments with which MXNet makes the optimizer."""
    # In dist_async every worker's gradients are an update of their own.
    together = 1 if workers.is_async else workers.size
    settings = {
        **options.optimizer_settings,
        "learning_rate": options.schedule.base_rate,
        # Without a state, which `restore` brings, it begins anew; servers follow the schedule.
        "begin_num_update": options.updates_done if workers.is_async else 0,
        "multi_precision": options.dtype == "float16",
        "rescale_grad": 1.0 / (options.batch_size * together * options.loss_scale),
    }
    if workers.is_async:
        settings["lr_scheduler"] = _scheduler_of(options.schedule)
    return settings


def _scheduler_of(schedule):
    """Return MXNet's scheduler of a `Schedule`: servers get it as a pickle, and have MXNet only."""
    warmup = {
        "base_lr": schedule.base_rate,
        "warmup_steps": schedule.warmup_updates,
        "warmup_begin_lr": 0.0,
    }
    if schedule.kind == "cosine":
        return mx.lr_scheduler.CosineScheduler(schedule.num_updates, **warmup)
    steps = schedule.step_updates or [2**62]  # MXNet's asserts that there is one
    return mx.lr_scheduler.MultiFactorScheduler(list(steps), factor=schedule.factor, **warmup)


def num_bytes(array):
    """Return the size of an NDArray."""
    return array.size * np.dtype(array.dtype).itemsize


def _flatten(state):
    """Return the arrays of an optimizer's state, which is None, an array, or a tuple of such."""
    if state is None:
        return []
    if isinstance(state, (tuple, list)):
        return [array for part in state for array in _flatten(part)]
    return [state]
