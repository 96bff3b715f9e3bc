"""Trainers of either engine, for networks that train in a moment, and batches for them."""

import numpy as np

from common import engines
from common.base.help import Parser
from common.data.loader import Batch
from common.engines import TrainerOptions
from common.networks import Network, edits
from common.networks.graph import Builder
from common.networks.resnet import build_resnet
from common.training import schedule

SHAPE = (8, 3, 64, 64)
TWO_CPUS = "cpu:0,cpu:1"


def batch(number):
    random = np.random.RandomState(number)
    images = random.randint(0, 256, SHAPE).astype(np.uint8)
    labels = random.randint(0, 5, SHAPE[0]).astype(np.float32)
    return Batch(images, labels, np.arange(SHAPE[0]), pad=0, missing=[])


def tiny_network():
    return edits.take_raw_images(build_resnet(10, 5, width=8))


def plain_network():
    """Without BatchNorm, whose statistics are those of each device's part of the batch."""
    net = Builder()
    body = net.add("_div_scalar", None, net.variable("data"), scalar=255)
    body = net.add("Convolution", "conv0", body, kernel=(3, 3), stride=(4, 4), num_filter=8)
    body = net.add("Flatten", None, net.add("Activation", None, body, act_type="relu"))
    return edits.take_raw_images(net.graph(edits.classify(net, body, 5, "fc1")))


class ScheduledTrainer:
    """An engine's trainer that gives itself the rate of each update, as fine-tune.py does."""

    def __init__(self, trainer, network, options):
        self._trainer = trainer
        self.network, self.schedule, self.updates = network, options.schedule, options.updates_done

    def __getattr__(self, name):
        return getattr(self._trainer, name)

    def train(self, batch):
        """Make one update; return what waits for the probabilities."""
        self.updates += 1
        self.learning_rate = self.schedule.rate(self.updates)
        return self.step(batch, self.learning_rate)

    def trained(self):
        """The `Network` with the weights of now."""
        state = self.state()
        return self.network.with_arrays(state.params, state.stats)


def make_trainer(
    engine,
    graph,
    flags=(),
    on="cpu",
    arrays=({}, {}),
    states=None,
    epochs_done=0,
    workers=None,
    **options,
):
    """A trainer whose epochs have two batches, with the factor that fine-tune.py gives its head."""
    engine, parser = engines.load(engine), Parser()
    schedule.add_schedule_args(parser)
    args = parser.parse_args(["--mom", "0.9", "--wd", "0.0001", "--lr", "0.05", *flags])
    settings = {"wd": args.wd}
    if "momentum" in engine.optimizers()[args.optimizer]:
        settings["momentum"] = args.mom
    chosen = {
        "batch_size": SHAPE[0],
        "image_shape": SHAPE[1:],
        "schedule": schedule.of_flags(args, 2),
        "updates_done": 2 * epochs_done,
        "optimizer": args.optimizer,
        "optimizer_settings": settings,
        "correct_momentum": bool(args.momentum_correction),
        "learning_rate_factors": {"fc1_weight": 1.0},
        "loss_scale": 128.0 if options.get("dtype") == "float16" else 1.0,
        "seed": 5,
    }
    network, devices = Network(graph, *arrays, head="fc1"), engine.parse_devices(on)
    options = TrainerOptions(**{**chosen, **options})
    workers = workers or engine.Workers("device", devices)
    trainer = engine.Trainer(network, devices, options, workers)
    trainer = ScheduledTrainer(trainer, network, options)
    if states:
        trainer.restore_optimizer(states)
    return trainer


def all_arrays(trainer):
    state = trainer.state()
    return {**state.params, **state.stats}


def without_products():
    """A classifier of the mean colour; MXNet multiplies no float16 matrices on a CPU."""
    net = Builder()
    images = net.add("_div_scalar", None, net.variable("data"), scalar=255)
    colors = net.add("expand_dims", None, net.add("mean", None, images, axis=(2, 3)), axis=1)
    weight = net.add("expand_dims", None, net.variable("fc1_weight", shape=(5, 3)), axis=0)
    logits = net.add("sum", None, net.add("broadcast_mul", None, colors, weight), axis=2)
    return edits.take_raw_images(net.graph(net.add("SoftmaxOutput", "softmax", logits)))
