"""A network on its devices: one batch forward, backward and into the weights.

MXNet's BatchNorm writes its moving mean and variance in the backward pass, and MXNet's own engine
does not know of that write (1.5.0 and 1.9.1): a validation or a checkpoint right after training
batches may read them too early, and its result is silently wrong. `Trainer` waits for the queue
before each such read; training goes through it alone.

What MXNet's Module keeps to itself (`_exec_group`, `_optimizer`, `_updater`) is read here and in
`updates.py` alone: `mx.mod.Module` splits the batch over devices, and has no public way to the
arrays.
"""

import numpy as np

from common.base.files import UserError
from common.engines import TrainerState
from common.engines.mxnet import precision
from common.engines.mxnet.gradients import Gradients
from common.engines.mxnet.memory import as_ndarray
from common.engines.mxnet.moving_average import MovingAverage
from common.engines.mxnet.runtime import mx
from common.engines.mxnet.updates import Updates, num_bytes
from common.networks import edits


class Trainer:
    """A Module bound for training, with its optimizer."""

    def __init__(self, network, devices, options, workers):
        """Bind the network, and make the optimizer.

        Args:
            network: in float32, as it is saved; parameters that it lacks (a new head's) are drawn
                at random.
            devices: `mx.Context`s, which each batch is split over.
            options: `common.engines.TrainerOptions`.
            workers: `common.engines.mxnet.workers.Workers`.

        Raises:
            UserError: the optimizer would let the copies of the weights drift apart, or gradients
                are to be clipped that other workers have, too.
        """
        if options.clip_norm and workers.is_distributed:
            raise UserError(
                f"--clip-norm {options.clip_norm}: is for one machine; with the KVStores of several"
                " no worker sees the sum of the gradients before its update"
            )
        if options.sync_batch_norm:
            raise UserError("--sync-batch-norm: --engine mxnet has none; use --engine torch")
        self._options, self._workers = options, workers
        self._queued = False
        frozen = {*options.frozen, *edits.fixed_gammas(network.graph)}
        # Every random number that MXNet draws depends on the seed and the epoch: a resumed run
        # draws what an uninterrupted one would.
        self._seed(0, worker=0)
        self._module = _bind(network, devices, options, frozen)
        scale = 1 / (options.batch_size * options.loss_scale)
        self._gradients = Gradients(self._module, scale, options.clip_norm)
        self._updates = Updates(self._module, devices, options, workers, frozen)
        if workers.is_distributed:  # all workers start from the weights of the first
            group = self._module._exec_group
            for name, arrays in zip(group.param_names, group.param_arrays):
                workers.kv_store.pull(name, out=arrays)
        self._adjustment = []
        if options.logit_adjustment is not None:
            rows = np.tile(options.logit_adjustment, (options.batch_size, 1))
            self._adjustment.append(mx.nd.array(rows))
        self._average = None
        if options.average_decay:
            self._average = MovingAverage(options.average_decay, self._weights())

    def _seed(self, epoch, worker):
        """Seed what MXNet draws (new weights, dropout) for one epoch of one worker."""
        mx.random.seed((self._options.seed * 1_000_003 + epoch * 1_009 + worker) % 2**31)

    def begin_epoch(self, epoch):
        """Seed what is random in this epoch."""
        self._seed(epoch, self._workers.rank)

    def step(self, batch, learning_rate):
        """Make one update with a batch; return at once, while the devices compute.

        Args:
            learning_rate: None: no update yet; the batch counts in the next one.

        Returns:
            a function that waits for the probabilities, `(N, num_classes)`, and returns them.
        """
        labels = [mx.nd.array(batch.targets), *self._adjustment]
        self._module.forward_backward(_as_data_batch(batch, labels))
        self._queued = True
        if learning_rate is None:
            self._gradients.keep()
        else:
            self._update(learning_rate)
        # A copy: the next batch overwrites the outputs.
        return self._module.get_outputs()[-1].copyto(mx.cpu()).asnumpy

    def _update(self, learning_rate):
        self._gradients.complete()
        self._updates.make(learning_rate)
        if self._average is not None:
            self._average.update(self._weights())

    def evaluate(self, batch):
        """Return the probabilities `(N, num_classes)` of a batch, as a numpy array."""
        self.synchronize()
        self._module.forward(_as_data_batch(batch), is_train=False)
        return self._module.get_outputs()[-1].asnumpy()

    def synchronize(self):
        """Wait until all that was queued has been computed (see the top of this file)."""
        if self._queued:
            mx.nd.waitall()
            self._queued = False

    def state(self):
        """Return a copy of the present state, a `TrainerState`."""
        self.synchronize()
        group, average = self._module._exec_group, None
        stats = zip(group.aux_names, group.aux_arrays)
        stats = {name: _mean(copies) for name, copies in stats}  # each device has seen other images
        for name, copies in zip(group.aux_names, group.aux_arrays):
            if len(copies) > 1:  # what is saved is what is validated
                for copy in copies:
                    copy[:] = stats[name]
        params = {name: array.asnumpy() for name, array in self._weights().items()}
        if self._average is not None:
            average = {name: array.asnumpy() for name, array in self._average.weights.items()}
        return TrainerState(
            params, stats, self._updates.state(), average, self._updates.num_slots()
        )

    def restore_optimizer(self, saved):
        """Go on from what `state()` returned of the optimizer.

        Raises:
            UserError: it is of another optimizer or another network.
        """
        self._updates.restore(saved)

    def restore_average(self, saved):
        """Go on from what `state()` returned of the average.

        Raises:
            UserError: it is of another network.
        """
        self._average.restore(saved)

    @property
    def num_parameters(self):
        """The number of weights, frozen ones included."""
        return sum(array.size for array in self._weights().values())

    def checkpoint_bytes(self):
        """Return the sizes of a checkpoint's parameters, optimizer state and moving average."""
        group = self._module._exec_group
        arrays = [*group.param_arrays, *group.aux_arrays]
        averages = () if self._average is None else self._average.weights.values()
        return (
            sum(num_bytes(copies[0]) for copies in arrays),
            self._updates.num_bytes(),
            sum(map(num_bytes, averages)),
        )

    def _weights(self):
        """Return `{name: NDArray}` of the first device's weights, which all share; not copied."""
        group = self._module._exec_group
        return {name: arrays[0] for name, arrays in zip(group.param_names, group.param_arrays)}


def _bind(network, devices, options, frozen):
    """Return the Module of a network, with its weights on the devices."""
    size = options.batch_size
    # A label of the shape of the output is taken as probabilities, without `smooth_alpha`.
    labels = [("softmax_label", (size, options.soft_classes) if options.soft_classes else (size,))]
    if options.logit_adjustment is not None:
        labels.append((precision.ADJUSTMENT, (size, len(options.logit_adjustment))))
    module = mx.mod.Module(
        precision.training_symbol(network.graph, options),
        context=devices,
        label_names=[name for name, _ in labels],
        fixed_param_names=sorted(frozen),
        compression_params=options.compression,
    )
    module.bind(
        [mx.io.DataDesc("data", (size, *options.image_shape), dtype=np.uint8)],
        [mx.io.DataDesc(name, shape) for name, shape in labels],
    )
    module.init_params(
        mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2),
        arg_params=_as_ndarrays(network.params),
        aux_params=_as_ndarrays(network.stats),
        allow_missing=True,
        allow_extra=True,
    )
    return module


def _as_data_batch(batch, labels=None):
    return mx.io.DataBatch(data=[as_ndarray(batch.images)], label=labels, pad=batch.pad)


def _as_ndarrays(arrays):
    return {name: mx.nd.array(array, dtype=array.dtype) for name, array in arrays.items()}


def _mean(copies):
    """Return the mean of NDArrays of several devices as a numpy array."""
    arrays = [copy.asnumpy() for copy in copies]
    return arrays[0] if len(arrays) == 1 else sum(arrays) / len(arrays)
