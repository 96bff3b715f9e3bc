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
            UserError: the optimizer would let the copies of the weights drift apart.
        """
        if options.sync_batch_norm:
            raise UserError("--sync-batch-norm: --engine mxnet has none; use --engine torch")
        self._options, self._workers = options, workers
        self._queued = False
        frozen = {*options.frozen, *edits.fixed_gammas(network.graph)}
        # Every random number that MXNet draws depends on the seed and the epoch: a resumed run
        # draws what an uninterrupted one would.
        self._seed(0, worker=0)
        self._module = _bind(network, devices, options, frozen)
        self._updates = Updates(self._module, devices, options, workers, frozen)
        if workers.is_distributed:  # all workers start from the weights of the first
            group = self._module._exec_group
            for name, arrays in zip(group.param_names, group.param_arrays):
                workers.kv_store.pull(name, out=arrays)
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

        Returns:
            a function that waits for the probabilities, `(N, num_classes)`, and returns them.
        """
        self._module.forward_backward(_as_data_batch(batch))
        self._updates.make(learning_rate)
        self._queued = True
        # A copy: the next batch overwrites the outputs.
        probabilities = self._module.get_outputs()[0].copyto(mx.cpu())
        if self._average is not None:
            self._average.update(self._weights())
        return probabilities.asnumpy

    def evaluate(self, batch):
        """Return the probabilities `(N, num_classes)` of a batch, as a numpy array."""
        self.synchronize()
        self._module.forward(_as_data_batch(batch), is_train=False)
        return self._module.get_outputs()[0].asnumpy()

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
        params = {name: array.asnumpy() for name, array in self._weights().items()}
        if self._average is not None:
            average = {name: array.asnumpy() for name, array in self._average.weights.items()}
        return TrainerState(params, stats, self._updates.state(), average)

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
    module = mx.mod.Module(
        precision.training_symbol(network.graph, options),
        context=devices,
        fixed_param_names=sorted(frozen),
        compression_params=options.compression,
    )
    size = options.batch_size
    module.bind(
        [mx.io.DataDesc("data", (size, *options.image_shape), dtype=np.uint8)],
        [mx.io.DataDesc("softmax_label", (size,))],
    )
    module.init_params(
        mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2),
        arg_params=_as_ndarrays(network.params),
        aux_params=_as_ndarrays(network.stats),
        allow_missing=True,
        allow_extra=True,
    )
    return module


def _as_data_batch(batch):
    return mx.io.DataBatch(
        data=[as_ndarray(batch.images)], label=[mx.nd.array(batch.labels)], pad=batch.pad
    )


def _as_ndarrays(arrays):
    return {name: mx.nd.array(array, dtype=array.dtype) for name, array in arrays.items()}


def _mean(copies):
    """Return the mean of NDArrays of several devices as a numpy array."""
    arrays = [copy.asnumpy() for copy in copies]
    return arrays[0] if len(arrays) == 1 else sum(arrays) / len(arrays)
