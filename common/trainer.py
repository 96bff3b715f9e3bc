"""A network on its devices: one batch forward, backward and into the weights.

MXNet's BatchNorm writes its moving mean and variance in the backward pass, and MXNet's engine does
not know of that write (1.5.0 and 1.9.1): whoever validates or saves while training batches are
still queued reads them too early, and nothing fails but the result. `Trainer` waits for the queue
before each such read; training goes through it alone.
"""

import os

import numpy as np

from common import momentum, network
from common.files import UserError
from common.find_mxnet import mx

# Optimizers that draw noise for every update, or count the updates of all devices together.
_DRIFTING = ("sgld", "nadam")


class Trainer:
    """A Module bound for training, with its optimizer.

    Args:
        symbol: the network in float32, as it is saved.
        contexts: the devices that each batch is split over.
        data_shape: `(N, 3, H, W)`; N is the batch of all devices together.
        dtype: what the network computes in: float32, float16 or bfloat16.
        frozen: names of parameters that stay as they are.
        loss_scale: what gradients are multiplied with on their way (float16 underflows).
        learning_rate_factors: `{parameter: factor of the learning rate}`.
        compression: `{"type": "2bit", "threshold": 0.5}` for the gradients between devices.
    """

    def __init__(
        self,
        symbol,
        contexts,
        data_shape,
        dtype="float32",
        frozen=(),
        loss_scale=1.0,
        learning_rate_factors=None,
        compression=None,
    ):
        self.symbol = symbol
        self.contexts = contexts
        self.batch_size = data_shape[0]
        self._loss_scale = loss_scale
        self._unsettled = False
        self._frozen = {*frozen, *network.fixed_gammas(symbol)}
        computed = network.convert_precision(symbol, dtype, data_shape[1:])
        computed = network.set_learning_rate_factors(computed, learning_rate_factors or {})
        if loss_scale != 1.0:
            computed = network.scale_loss(computed, loss_scale)
        self._module = mx.mod.Module(
            computed,
            context=contexts,
            fixed_param_names=sorted(self._frozen),
            compression_params=compression,
        )
        self._module.bind(
            data_shapes=[mx.io.DataDesc("data", data_shape, dtype=np.uint8)],
            label_shapes=[mx.io.DataDesc("softmax_label", (data_shape[0],))],
        )

    def initialise(self, arg_params, aux_params):
        """Set the weights; those that are not given (the new head) are drawn at random."""
        self._module.init_params(
            mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2),
            arg_params=arg_params,
            aux_params=aux_params,
            allow_missing=True,
            allow_extra=True,
        )

    def start_optimizer(self, kv_store, name, settings, states=None, correct_momentum=True):
        """Make the optimizer, and give it the state of a checkpoint.

        Args:
            kv_store: a KVStore or the name of one.
            settings: as `schedule.optimizer_settings` gives them.
            states: as `states()` gave them.
            correct_momentum: whether the velocity follows the rate (`momentum.py`); the servers of
                dist_async have MXNet's rule always.

        Raises:
            UserError: the states belong to another optimizer or another network, or the optimizer
                would let the copies of the weights drift apart.
        """
        kind = getattr(kv_store, "type", kv_store)
        # Updates are made on the devices, where their state can be read and saved; the KVStore
        # sums the gradients. Only asynchronous servers have to update by themselves.
        os.environ["MXNET_UPDATE_ON_KVSTORE"] = str(int(kind == "dist_async"))
        self._num_workers = getattr(kv_store, "num_workers", 1)
        # In dist_async every worker's gradients are an update of their own.
        workers = 1 if kind == "dist_async" else self._num_workers
        if name.lower() in _DRIFTING and kind != "dist_async" and len(self.contexts) * workers > 1:
            raise UserError(
                f"--optimizer {name}: updates each device's copy of the weights in another way;"
                " train on one device, or take another optimizer"
            )
        self._nesterov = name.lower() == "nag"
        self._momentum = 0.0  # of a velocity that follows the rate
        if correct_momentum and kind != "dist_async" and momentum.holds_rate(name, mx.__version__):
            self._momentum = settings.get("momentum", 0.0)
            if name.lower() == "lars":  # its own correction reaches four parameters of one device
                settings = {**settings, "momentum_correction": False}
        scale = 1.0 / (self.batch_size * workers * self._loss_scale)
        self._module.init_optimizer(
            kvstore=kv_store, optimizer=name, optimizer_params={**settings, "rescale_grad": scale}
        )
        if kind.startswith("dist"):  # all workers start from the weights of the first
            group = self._module._exec_group
            for name, arrays in zip(group.param_names, group.param_arrays):
                kv_store.pull(name, out=arrays)
        self._initial_numbers = self._optimizer_numbers()
        if states:
            self._restore(states)

    @property
    def learning_rate(self):
        """The rate of the last update; in dist_async where the workers were equally fast."""
        return self._module._optimizer.learning_rate

    def train(self, batch):
        """One update with a batch; returns at once, while the devices compute.

        Returns:
            the probabilities, `(N, num_classes)` NDArray on the CPU, to be read when wanted.
        """
        self._module.forward_backward(batch)
        self._update()
        if (
            self._module._update_on_kvstore
        ):  # the servers' optimizers count, and ours tells the rate
            self._module._optimizer.num_update += self._num_workers
        self._unsettled = True
        # A copy: the next batch overwrites the outputs.
        return self._module.get_outputs()[0].copyto(mx.cpu())

    def _update(self):
        """Update the weights; where the rate changes with that, the velocity follows it."""
        if not self._momentum:
            self._module.update()
            return
        optimizer = self._module._optimizer
        old_rate = optimizer.learning_rate
        optimizer.num_update += 1  # as MXNet does; its LBSGD asks for the rate before it counts
        ratio = momentum.rate_ratio(old_rate, optimizer.learning_rate)
        if not self._nesterov:
            optimizer.momentum = self._momentum * ratio  # costs nothing
        elif ratio != 1:  # the momentum of NAG also looks ahead
            for state in self._updater_states().values():
                velocity = _flatten(state)[0]
                velocity *= ratio
        self._module.update()
        optimizer.momentum = self._momentum

    def predict(self, batch):
        """Return the probabilities `(N, num_classes)` of a batch, as a numpy array."""
        self.settle()
        self._module.forward(batch, is_train=False)
        return self._module.get_outputs()[0].asnumpy()

    def settle(self):
        """Wait until all that was queued has been computed (the race that the top tells of)."""
        if self._unsettled:
            mx.nd.waitall()
            self._unsettled = False

    def params(self):
        """Return `(arg_params, aux_params)` as they are now, on the CPU."""
        self.settle()
        return self._module.get_params()

    def weights(self):
        """Return `{name: NDArray}` of the trainable weights on the first device, not copied."""
        group = self._module._exec_group
        return {name: arrays[0] for name, arrays in zip(group.param_names, group.param_arrays)}

    def states(self):
        """Return the optimizer's state as `{key: NDArray}`, ready to be saved.

        `state:NAME/0` is the first array that the optimizer keeps for parameter NAME, `number:NAME`
        a number that it counts with (Nadam's `m_schedule`). Empty where there is nothing to keep
        (SGD without momentum) and where servers keep it (dist_async).
        """
        self.settle()
        arrays = {}
        for key, state in self._updater_states().items():
            name, device = self._parameter_of(key)
            if device == 0:  # the others hold the same numbers
                for slot, array in enumerate(_flatten(state)):
                    arrays[f"state:{name}/{slot}"] = array
        for name, value in self._optimizer_numbers().items():
            if value != self._initial_numbers.get(name):
                arrays[f"number:{name}"] = mx.nd.array([value], dtype=np.float64)
        return arrays

    def checkpoint_bytes(self):
        """Return how large a checkpoint is: (bytes of the parameters, of the optimizer's state)."""
        group, optimizer = self._module._exec_group, self._module._optimizer
        num_params = num_states = 0
        for name, arrays in zip(group.param_names, group.param_arrays):
            num_params += _num_bytes(arrays[0])
            if name not in self._frozen:
                one = mx.nd.zeros((1,), dtype=arrays[0].dtype)
                state = _flatten(optimizer.create_state_multi_precision(0, one))
                num_states += arrays[0].size * sum(map(_num_bytes, state))
        return num_params + sum(_num_bytes(arrays[0]) for arrays in group.aux_arrays), num_states

    def _restore(self, saved):
        optimizer, group = self._module._optimizer, self._module._exec_group
        states = self._updater_states()
        for key in range(len(group.param_names) * len(self.contexts)):
            name, device = self._parameter_of(key)
            if name in self._frozen:
                continue
            weight = group.param_arrays[key // len(self.contexts)][device]
            state = optimizer.create_state_multi_precision(key, weight)
            for slot, array in enumerate(_flatten(state)):
                source = saved.get(f"state:{name}/{slot}")
                if source is None or source.shape != array.shape:
                    raise UserError(
                        f"the checkpoint's .states file has nothing for {name} of this optimizer;"
                        " use the --optimizer, --mom and --freeze that it was written with, or"
                        " remove the .states file to go on without it"
                    )
                source.copyto(array)
            states[key] = state
            self._module._updater.states_synced[key] = True
        for key, array in saved.items():
            kind, _, name = key.partition(":")
            if kind == "number":
                setattr(optimizer, name, float(array.asnumpy()[0]))

    def _updater_states(self):
        updater = self._module._updater
        return {} if updater is None else updater.states

    def _parameter_of(self, key):
        """The parameter and the number of the device that a key of the updater means."""
        position, device = divmod(key, len(self.contexts))
        return self._module._exec_group.param_names[position], device

    def _optimizer_numbers(self):
        """What the optimizer counts with by itself, beside the updates (which the epoch tells)."""
        return {
            name: value
            for name, value in vars(self._module._optimizer).items()
            if isinstance(value, float) and name != "lr"
        }


def _num_bytes(array):
    return array.size * np.dtype(array.dtype).itemsize


def _flatten(state):
    """The arrays of an optimizer's state, which is None, an array, or a tuple of such."""
    if state is None:
        return []
    if isinstance(state, (tuple, list)):
        return [array for part in state for array in _flatten(part)]
    return [state]
