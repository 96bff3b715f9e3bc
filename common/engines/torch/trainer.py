"""A network on its devices: one batch forward, backward and into the weights."""

from common.base.files import UserError
from common.engines import TrainerState, momentum
from common.engines.torch.gradients import Gradients
from common.engines.torch.modules import build_module
from common.engines.torch.moving_average import MovingAverage
from common.engines.torch.optimizers import Optimizer, to_numpy
from common.engines.torch.replica import Replica
from common.engines.torch.runtime import torch


class Trainer:
    """A network in training, with its optimizer.

    Weights are float32 whatever the network computes in.
    """

    def __init__(self, network, devices, options, workers):
        """Put the network on its devices, and make the optimizer.

        Args:
            network: in float32, as it is saved; parameters that it lacks (a new head's) are drawn
                at random.
            devices: `torch.device`s: each is that of a process.
            options: `common.engines.TrainerOptions`.
            workers: `common.engines.torch.workers.Workers`.

        Raises:
            UserError: this engine lacks a layer of the network, or what the options ask for.
        """
        if options.compression:
            kind = options.compression["type"]
            raise UserError(f"--gc-type {kind}: --engine torch sends whole gradients; leave it out")
        if workers.size > 1 and options.optimizer == "sgld":
            raise UserError("--optimizer sgld: each process draws other noise; use one device")
        self._options, self._workers = options, workers
        self._seed(0)
        module, attributes = build_module(network, workers.device, options)
        self._weights = module.params
        # Of the means of all processes' gradients, which are sums over images.
        scale = workers.size / (options.batch_size * workers.num_machines)
        loss_settings = {**module.loss_settings}
        # The loss is scaled, not the gradients: those are another pass over the memory. In float16
        # they would become 0.
        of_loss = options.loss_scale if options.dtype == "float16" else scale
        loss_settings["grad_scale"] *= of_loss
        if options.logit_adjustment is not None:
            adjustment = torch.tensor(options.logit_adjustment, dtype=torch.float32)
            loss_settings["logit_adjustment"] = adjustment.to(workers.device)
        self._replica = Replica(module, workers, loss_settings, options.sync_batch_norm)
        self._gradients = Gradients(scale / of_loss, options.clip_norm)
        self._rate = options.schedule.rate(options.updates_done)  # of the last update
        self._optimizer = Optimizer(
            options.optimizer,
            {name: weight for name, weight in self._weights.items() if weight.requires_grad},
            options.optimizer_settings,
            attributes,
            options.updates_done,
            keeps_weights=options.dtype == "float16",
        )
        self._average = None
        if options.average_decay:
            self._average = MovingAverage(options.average_decay, self._weights)

    def _seed(self, epoch):
        """Seed what is drawn in an epoch: a resumed run draws what an uninterrupted one would."""
        seed = self._options.seed * 1_000_003 + epoch * 1_009 + self._workers.rank
        torch.manual_seed(seed % 2**31)

    def begin_epoch(self, epoch):
        """Seed what is random in this epoch."""
        self._seed(epoch)

    def step(self, batch, learning_rate):
        """Make one update with a batch; return at once where a GPU computes.

        Args:
            learning_rate: None: no update yet; the batch counts in the next one.

        Returns:
            a function that waits for the probabilities, `(N, num_classes)`, and returns them.
        """
        probabilities, gradients = self._replica.forward_backward(batch)
        read = _start_reading(probabilities)
        if learning_rate is None:
            self._gradients.keep(gradients)
        else:
            self._update(self._gradients.complete(gradients), learning_rate)
        return read

    def _update(self, gradients, learning_rate):
        factor = 1.0
        if self._options.correct_momentum:
            factor = momentum.rate_ratio(self._rate, learning_rate)
        self._optimizer.update(gradients, learning_rate, factor)
        self._rate = learning_rate
        if self._average is not None:
            self._average.update(self._weights)

    def evaluate(self, batch):
        """Return the probabilities `(N, num_classes)` of a batch, as a numpy array."""
        return _start_reading(self._replica.forward(batch))()

    def synchronize(self):
        """Wait until everything queued is computed."""
        device = self._workers.device
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        elif device.type == "mps":
            torch.mps.synchronize()

    def state(self):
        """Return a copy of the present state, a `TrainerState`; call it in every worker."""
        average = self._average
        return TrainerState(
            _to_numpy(self._weights),
            _to_numpy(self._replica.statistics()),
            self._optimizer.state(),
            None if average is None else _to_numpy(average.weights),
            self._optimizer.num_slots,
        )

    @property
    def num_parameters(self):
        """The number of weights, frozen ones included."""
        return sum(array.numel() for array in self._weights.values())

    def checkpoint_bytes(self):
        """Return the sizes of a checkpoint's parameters, optimizer state and moving average."""
        arrays = [*self._weights.values(), *self._replica.statistics().values()]
        averages = () if self._average is None else self._average.weights.values()
        return (
            sum(array.nbytes for array in arrays),
            self._optimizer.num_bytes(),
            sum(array.nbytes for array in averages),
        )

    def restore_average(self, saved):
        """Go on from what `state()` returned of the average.

        Raises:
            UserError: it is of another network.
        """
        self._average.restore(saved)

    def restore_optimizer(self, saved):
        """Go on from what `state()` returned of the optimizer, or MXNet's.

        Raises:
            UserError: it is of another optimizer or another network.
        """
        self._optimizer.restore(saved)


def _start_reading(array):
    """Start to copy an array from its device.

    Returns:
        a function that waits for it, but not for what is computed later, and returns the array.
    """
    on_gpu = array.device.type == "cuda"
    copy = array.to("cpu", non_blocking=on_gpu)
    event = torch.cuda.current_stream(array.device).record_event() if on_gpu else None

    def read():
        if event is not None:
            event.synchronize()
        return copy.numpy()

    return read


def _to_numpy(arrays):
    return {name: to_numpy(array) for name, array in arrays.items()}
