"""One batch forward, backward and into the weights, on one device and on several."""

import os

import numpy as np
import pytest

from common.base.files import UserError
from common.base.help import Parser
from common.data.loader import Batch
from common.engines import TrainerOptions
from common.engines.mxnet import devices
from common.engines.mxnet.optimizers import optimizers
from common.engines.mxnet.precision import to_graph
from common.engines.mxnet.runtime import mx
from common.engines.mxnet.trainer import Trainer
from common.engines.mxnet.workers import Workers
from common.networks import Network, checkpoint, edits
from common.networks.graph import Builder
from common.networks.resnet import build_resnet
from common.training import schedule

SHAPE = (8, 3, 64, 64)


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


class ScheduledTrainer(Trainer):
    """A trainer that gives itself the rate of each update, as fine-tune.py does."""

    def __init__(self, network, devices, options, workers):
        super().__init__(network, devices, options, workers)
        self.network, self.schedule, self.updates = network, options.schedule, options.updates_done

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
    graph,
    flags=(),
    contexts=None,
    arrays=({}, {}),
    states=None,
    epochs_done=0,
    workers=None,
    **options,
):
    """A trainer whose epochs have two batches, with the factor that fine-tune.py gives its head."""
    parser = Parser()
    schedule.add_schedule_args(parser)
    args = parser.parse_args(["--mom", "0.9", "--wd", "0.0001", "--lr", "0.05", *flags])
    settings = {"wd": args.wd}
    if "momentum" in optimizers()[args.optimizer]:
        settings["momentum"] = args.mom
    chosen = {
        "schedule": schedule.of_flags(args, 2),
        "updates_done": 2 * epochs_done,
        "optimizer": args.optimizer,
        "optimizer_settings": settings,
        "correct_momentum": bool(args.momentum_correction),
        "learning_rate_factors": {"fc1_weight": 1.0},
        "loss_scale": 128.0 if options.get("dtype") == "float16" else 1.0,
        "seed": 5,
    }
    contexts = contexts or [mx.cpu()]
    trainer = ScheduledTrainer(
        Network(graph, *arrays, head="fc1"),
        contexts,
        TrainerOptions(SHAPE[0], SHAPE[1:], **{**chosen, **options}),
        workers or Workers("device", contexts),
    )
    if states:
        trainer.restore_optimizer(states)
    return trainer


def all_arrays(trainer):
    state = trainer.state()
    return {**state.params, **state.stats}


def test_statistics_are_read_after_the_last_batch_has_written_them():
    """The moving mean by hand, of a BatchNorm behind which much is left to compute."""
    body = mx.sym.BatchNorm(mx.sym.Variable("data"), momentum=0.9, name="bn")
    for layer in range(6):
        body = mx.sym.Convolution(body, kernel=(3, 3), pad=(1, 1), num_filter=32, name=f"c{layer}")
    logits = mx.sym.FullyConnected(mx.sym.Flatten(body), num_hidden=5)
    symbol = mx.sym.SoftmaxOutput(logits, name="softmax")
    trainer = make_trainer(edits.take_raw_images(to_graph(symbol)))
    by_hand = np.zeros(3)
    for number in range(4):
        trainer.train(batch(number))
        mean = batch(number).images.astype(np.float64).mean(axis=(0, 2, 3))
        by_hand = 0.9 * by_hand + 0.1 * mean
        read = trainer.state().stats["bn_moving_mean"]
        np.testing.assert_allclose(read, by_hand, rtol=1e-4)


def test_a_validation_between_batches_sees_all_of_them_and_changes_nothing():
    watched, patient = make_trainer(tiny_network()), make_trainer(tiny_network())
    for number in range(4):
        watched.train(batch(number))
        seen = watched.evaluate(batch(99))  # at once, while the batch is still computed
        patient.train(batch(number))
        mx.nd.waitall()
        np.testing.assert_array_equal(seen, patient.evaluate(batch(99)))


@pytest.mark.parametrize("optimizer", optimizers())
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, optimizer):
    prefix = str(tmp_path / "net")
    flags = ("--optimizer", optimizer, "--lr", "0.01", "--num-epochs", "2", "--lr-step-epochs", "1")
    if optimizer == "dcasgd":
        flags += ("--mom", "0")
    whole = make_trainer(tiny_network(), flags)
    for number in range(4):
        if number == 2:
            checkpoint.save(prefix, 1, whole.trained(), whole.state().optimizer)
            whole.begin_epoch(1)  # sgld draws noise
        whole.train(batch(number))
    saved = checkpoint.load(prefix, 1)
    states = checkpoint.load_states(prefix, 1)
    arrays = saved.params, saved.stats
    resumed = make_trainer(saved.graph, flags, arrays=arrays, states=states, epochs_done=1)
    resumed.begin_epoch(1)
    for number in (2, 3):
        resumed.train(batch(number))
    expected, got = all_arrays(whole), all_arrays(resumed)
    assert resumed.learning_rate == whole.learning_rate
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def test_two_devices_make_the_update_of_one():
    one = make_trainer(plain_network())
    two = make_trainer(plain_network(), contexts=[mx.cpu(0), mx.cpu(1)])
    for number in range(3):
        one.train(batch(number))
        probabilities = two.train(batch(number))()
    assert probabilities.shape == (8, 5)
    expected, got = all_arrays(one), all_arrays(two)
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    states = [set(trainer.state().optimizer) for trainer in (one, two)]
    assert states[0] == states[1] == {f"state:{name}/0" for name in expected}


def test_joint_statistics_are_left_to_the_other_engine():
    with pytest.raises(UserError, match=r"--sync-batch-norm: .* use --engine torch"):
        make_trainer(plain_network(), sync_batch_norm=True)


@pytest.mark.parametrize("optimizer", ["nadam", "sgld"])
def test_an_optimizer_whose_copies_would_drift_apart_is_refused_on_two_devices(optimizer):
    with pytest.raises(UserError, match=f"--optimizer {optimizer}: .* train on one device"):
        make_trainer(plain_network(), ("--optimizer", optimizer), [mx.cpu(0), mx.cpu(1)])


@pytest.mark.parametrize("flags", [(), ("--mom", "0"), ("--optimizer", "adam")])
def test_a_checkpoint_is_as_large_as_foretold(tmp_path, flags):
    graph = edits.take_raw_images(build_resnet(10, 500, width=16))
    trainer = make_trainer(graph, flags, average_decay=0.9)
    trainer.train(batch(0))
    prefix, state = str(tmp_path / "net"), trainer.state()
    checkpoint.save(prefix, 1, trainer.trained(), state.optimizer)
    checkpoint.save(f"{prefix}-ema", 1, trainer.network.with_arrays(state.average, {}))
    paths = [
        checkpoint.params_path(prefix, 1),
        checkpoint.states_path(prefix, 1),
        checkpoint.params_path(f"{prefix}-ema", 1),
    ]
    sizes = [os.path.getsize(path) if os.path.exists(path) else 0 for path in paths]
    assert len(trainer.checkpoint_bytes()) == len(paths)
    for size, foretold in zip(sizes, trainer.checkpoint_bytes()):
        assert foretold <= size <= 1.05 * foretold


def test_states_of_another_optimizer_are_refused(tmp_path):
    trainer = make_trainer(plain_network())
    trainer.train(batch(0))
    with pytest.raises(UserError, match="use the --optimizer, --mom and --freeze"):
        make_trainer(plain_network(), ("--optimizer", "adam"), states=trainer.state().optimizer)


def without_products():
    """A classifier of the mean colour; MXNet multiplies no float16 matrices on a CPU."""
    colors = mx.sym.mean(mx.sym.Variable("data") / 255, axis=(2, 3))
    weight = mx.sym.Variable("fc1_weight", shape=(5, 3))
    logits = mx.sym.broadcast_mul(mx.sym.expand_dims(colors, 1), mx.sym.expand_dims(weight, 0))
    symbol = mx.sym.SoftmaxOutput(mx.sym.sum(logits, axis=2), name="softmax")
    return edits.take_raw_images(to_graph(symbol))


def test_float16_takes_small_steps_by_its_masters_and_goes_on_with_them():
    """Each step is less than float16 can tell from none at all."""
    flags = ("--lr", "0.0005", "--lr-step-epochs", "", "--mom", "0", "--wd", "0")
    start = np.random.RandomState(0).randint(-2, 3, (5, 3)).astype(np.float32)
    begin = {"fc1_weight": start}, {}
    single = make_trainer(without_products(), flags, arrays=begin)
    half = make_trainer(without_products(), flags, arrays=begin, dtype="float16")
    for _ in range(50):
        single.train(batch(0))
        assert half.train(batch(0))().dtype == np.float32
    state = half.state()
    assert state.params["fc1_weight"].dtype == np.float16
    expected = single.state().params["fc1_weight"]
    got = state.optimizer["state:fc1_weight/0"]
    assert got.dtype == np.float32
    np.testing.assert_allclose(got - start, expected - start, rtol=0.02, atol=1e-5)
    resumed = make_trainer(
        *(without_products(), flags, None, (state.params, {}), state.optimizer, 1), dtype="float16"
    )
    for trainer in (half, resumed):
        trainer.train(batch(1))
    ends = [trainer.state().optimizer["state:fc1_weight/0"] for trainer in (half, resumed)]
    np.testing.assert_array_equal(*ends)


@pytest.mark.skipif(not devices.supports_bfloat16()[0], reason="no bfloat16 here")
def test_bfloat16_is_what_the_network_computes_in():
    single = make_trainer(tiny_network())
    half = make_trainer(tiny_network(), dtype="bfloat16")
    for number in range(2):
        expected = single.train(batch(number))()
        probabilities = half.train(batch(number))()
        assert (probabilities != expected).any()
        np.testing.assert_allclose(probabilities, expected, atol=0.05)
    assert {array.dtype for array in all_arrays(half).values()} == {np.dtype(np.float32)}


def test_the_loss_scale_leaves_the_update_as_it_is():
    ends = []
    for loss_scale in (1.0, 128.0):
        trainer = make_trainer(plain_network(), ("--mom", "0"), loss_scale=loss_scale)
        trainer.train(batch(0))
        ends.append(all_arrays(trainer))
    for name in ends[0]:
        np.testing.assert_allclose(ends[1][name], ends[0][name], rtol=1e-5, err_msg=name)


def test_the_head_may_learn_faster_and_frozen_layers_stay():
    moved = {}
    for factor in (1.0, 10.0):
        graph, frozen = edits.freeze(plain_network(), "conv0_weight")
        factors = {"fc1_weight": factor}
        flags = ("--mom", "0", "--wd", "0")
        trainer = make_trainer(graph, flags, frozen=frozen, learning_rate_factors=factors)
        before = trainer.state().params
        trainer.train(batch(0))
        after = trainer.state().params
        moved[factor] = {name: after[name] - before[name] for name in before}
    assert not moved[1.0]["conv0_weight"].any()
    assert moved[1.0]["conv0_bias"].any()
    ratio = np.abs(moved[10.0]["fc1_weight"]).sum() / np.abs(moved[1.0]["fc1_weight"]).sum()
    assert ratio == pytest.approx(10, rel=0.01)


def test_a_state_is_a_copy_that_later_batches_do_not_change():
    trainer = make_trainer(plain_network(), average_decay=0.5)
    trainer.train(batch(0))
    state = trainer.state()
    parts = [state.params, state.optimizer, state.average]
    before = [{name: array.copy() for name, array in part.items()} for part in parts]
    trainer.train(batch(1))
    trainer.synchronize()
    later = trainer.state()
    for part, copies, now in zip(parts, before, [later.params, later.optimizer, later.average]):
        for name in part:
            np.testing.assert_array_equal(part[name], copies[name], err_msg=name)
            assert (part[name] != now[name]).any(), name


def test_a_trainer_leaves_the_arrays_alone_that_it_begins_with():
    begin = make_trainer(plain_network()).state().params
    copies = {name: array.copy() for name, array in begin.items()}
    make_trainer(plain_network(), arrays=(begin, {})).train(batch(0))()
    mx.nd.waitall()
    for name, array in begin.items():
        np.testing.assert_array_equal(array, copies[name], err_msg=name)
