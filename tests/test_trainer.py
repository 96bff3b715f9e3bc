"""One batch forward, backward and into the weights, on one device and on several."""

import os

import numpy as np
import pytest

from common import engines
from common.base.files import UserError
from common.base.help import Parser
from common.data.loader import Batch
from common.engines import TrainerOptions
from common.networks import Network, checkpoint, edits
from common.networks.graph import Builder
from common.networks.resnet import build_resnet
from common.training import schedule
from tests.conftest import only, require_precision

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


def test_a_soft_label_of_one_class_is_that_class(engine):
    plain, soft = (
        make_trainer(engine, tiny_network()),
        make_trainer(engine, tiny_network(), soft_classes=5),
    )
    for number in range(3):
        numbered, shared = batch(number), batch(number)
        shared.soft_labels = np.eye(5, dtype=np.float32)[shared.labels.astype(int)]
        np.testing.assert_array_equal(plain.train(numbered)(), soft.train(shared)())
        np.testing.assert_array_equal(plain.evaluate(batch(9)), soft.evaluate(batch(9)))
    for name, array in all_arrays(plain).items():
        np.testing.assert_array_equal(array, all_arrays(soft)[name])


def test_the_mixture_of_two_labels_pulls_to_both(engine):
    """The gradient of a mixture is the mixture of the gradients: seen after one update."""
    moved = []
    for share in (1.0, 0.25, 0.0):
        trainer = make_trainer(engine, plain_network(), ("--wd", "0"), soft_classes=5)
        start, shared = trainer.state().params["fc1_weight"], batch(0)
        mixed = np.eye(5, dtype=np.float32)[shared.labels.astype(int)]
        shared.soft_labels = share * mixed + (1 - share) * mixed[::-1]
        trainer.train(shared)
        moved.append(trainer.state().params["fc1_weight"] - start)
    np.testing.assert_allclose(moved[1], 0.25 * moved[0] + 0.75 * moved[2], atol=1e-6)


@pytest.mark.parametrize("soft", [{}, {"soft_classes": 5}], ids=["labels", "soft labels"])
def test_adjusted_logits_change_the_loss_and_no_prediction(engine, soft):
    """By hand: the gradient of the bias is the sum of (adjusted probabilities - truth)."""
    flags, adjustment = ("--mom", "0", "--wd", "0"), np.log([0.5, 0.2, 0.2, 0.06, 0.04])
    settings = {"logit_adjustment": adjustment.astype(np.float32), **soft}
    plain = make_trainer(engine, plain_network(), flags)
    adjusted = make_trainer(engine, plain_network(), flags, **settings)
    one_hot = np.eye(5, dtype=np.float32)[batch(0).labels.astype(int)]
    shown = batch(0)
    shown.soft_labels = one_hot if soft else None
    seen, expected = (trainer.evaluate(batch(9)) for trainer in (adjusted, plain))
    np.testing.assert_allclose(seen, expected, rtol=1e-5)
    start = adjusted.state().params["fc1_bias"]
    probabilities = adjusted.step(shown, 1.0)()
    np.testing.assert_allclose(probabilities, plain.step(batch(0), 1.0)(), rtol=1e-5)
    weighted = probabilities * np.exp(adjustment)
    gradient = (weighted / weighted.sum(axis=1, keepdims=True) - one_hot).mean(axis=0)
    end = adjusted.state()
    np.testing.assert_allclose(start - end.params["fc1_bias"], gradient, atol=1e-6)
    assert end.params.keys() == plain.state().params.keys()


def all_arrays(trainer):
    state = trainer.state()
    return {**state.params, **state.stats}


def test_statistics_are_read_after_the_last_batch_has_written_them(engine):
    """The moving mean by hand, of a BatchNorm behind which much is left to compute."""
    net = Builder()
    body = net.add("BatchNorm", "bn", net.variable("data"), momentum=0.9)
    for layer in range(6):
        body = net.add("Convolution", f"c{layer}", body, kernel=(3, 3), pad=(1, 1), num_filter=32)
    graph = net.graph(edits.classify(net, net.add("Flatten", None, body), 5, "fc1"))
    trainer = make_trainer(engine, edits.take_raw_images(graph))
    by_hand = np.zeros(3)
    for number in range(4):
        trainer.train(batch(number))
        mean = batch(number).images.astype(np.float64).mean(axis=(0, 2, 3))
        by_hand = 0.9 * by_hand + 0.1 * mean
        read = trainer.state().stats["bn_moving_mean"]
        np.testing.assert_allclose(read, by_hand, rtol=1e-4)


def test_a_validation_between_batches_sees_all_of_them_and_changes_nothing(engine):
    watched, patient = make_trainer(engine, tiny_network()), make_trainer(engine, tiny_network())
    for number in range(4):
        watched.train(batch(number))
        seen = watched.evaluate(batch(99))  # at once, while the batch is still computed
        patient.train(batch(number))
        patient.synchronize()
        np.testing.assert_array_equal(seen, patient.evaluate(batch(99)))


def optimizers():
    """Mark a test that takes an engine and one of its optimizers: it runs with every pair."""
    pairs = [
        (name, each) for name in engines.installed() for each in engines.load(name).optimizers()
    ]
    return pytest.mark.parametrize(("engine", "optimizer"), pairs, indirect=["engine"])


@optimizers()
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, engine, optimizer):
    prefix = str(tmp_path / "net")
    flags = ("--optimizer", optimizer, "--lr", "0.01", "--num-epochs", "2", "--lr-step-epochs", "1")
    if optimizer == "dcasgd":
        flags += ("--mom", "0")
    average = {"average_decay": 0.9}
    whole = make_trainer(engine, tiny_network(), flags, **average)
    for number in range(4):
        if number == 2:
            state = whole.state()
            checkpoint.save(prefix, 1, whole.trained(), state.optimizer)
            whole.begin_epoch(1)  # sgld draws noise
        whole.train(batch(number))
    saved = checkpoint.load(prefix, 1)
    states = checkpoint.load_states(prefix, 1)
    arrays = saved.params, saved.stats
    resumed = make_trainer(
        engine, saved.graph, flags, arrays=arrays, states=states, epochs_done=1, **average
    )
    resumed.restore_average(state.average)
    resumed.begin_epoch(1)
    for number in (2, 3):
        resumed.train(batch(number))
    expected, got = all_arrays(whole), all_arrays(resumed)
    assert resumed.learning_rate == whole.learning_rate
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)
    expected, got = whole.state().average, resumed.state().average
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


@only("mxnet")  # whose trainer has several devices; PyTorch's has one in each process
def test_two_devices_make_the_update_of_one(engine):
    one = make_trainer(engine, plain_network())
    two = make_trainer(engine, plain_network(), on=TWO_CPUS)
    for number in range(3):
        one.train(batch(number))
        probabilities = two.train(batch(number))()
    assert probabilities.shape == (8, 5)
    expected, got = all_arrays(one), all_arrays(two)
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    states = [set(trainer.state().optimizer) for trainer in (one, two)]
    assert states[0] == states[1] == {f"state:{name}/0" for name in expected}


@only("mxnet")
@pytest.mark.parametrize("optimizer", ["nadam", "sgld"])
def test_an_optimizer_whose_copies_would_drift_apart_is_refused_on_two_devices(engine, optimizer):
    with pytest.raises(UserError, match=f"--optimizer {optimizer}: .* train on one device"):
        make_trainer(engine, plain_network(), ("--optimizer", optimizer), TWO_CPUS)


@pytest.mark.parametrize("flags", [(), ("--mom", "0"), ("--optimizer", "adam")])
def test_a_checkpoint_is_as_large_as_foretold(engine, tmp_path, flags):
    graph = edits.take_raw_images(build_resnet(10, 500, width=16))
    trainer = make_trainer(engine, graph, flags, average_decay=0.9)
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


def test_states_of_another_optimizer_are_refused(engine, tmp_path):
    trainer = make_trainer(engine, plain_network())
    trainer.train(batch(0))
    with pytest.raises(UserError, match="use the --optimizer, --mom and --freeze"):
        make_trainer(
            engine, plain_network(), ("--optimizer", "adam"), states=trainer.state().optimizer
        )


def without_products():
    """A classifier of the mean colour; MXNet multiplies no float16 matrices on a CPU."""
    net = Builder()
    images = net.add("_div_scalar", None, net.variable("data"), scalar=255)
    colors = net.add("expand_dims", None, net.add("mean", None, images, axis=(2, 3)), axis=1)
    weight = net.add("expand_dims", None, net.variable("fc1_weight", shape=(5, 3)), axis=0)
    logits = net.add("sum", None, net.add("broadcast_mul", None, colors, weight), axis=2)
    return edits.take_raw_images(net.graph(net.add("SoftmaxOutput", "softmax", logits)))


@only("mxnet")
def test_float16_takes_small_steps_by_its_masters_and_goes_on_with_them(engine):
    """MXNet's weights are float16, and each step is less than that can tell from none at all."""
    flags = ("--lr", "0.0005", "--lr-step-epochs", "", "--mom", "0", "--wd", "0")
    start = np.random.RandomState(0).randint(-2, 3, (5, 3)).astype(np.float32)
    begin = {"fc1_weight": start}, {}
    single = make_trainer(engine, without_products(), flags, arrays=begin)
    half = make_trainer(engine, without_products(), flags, arrays=begin, dtype="float16")
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
        *(engine, without_products(), flags, "cpu", (state.params, {}), state.optimizer, 1),
        dtype="float16",
    )
    for trainer in (half, resumed):
        trainer.train(batch(1))
    ends = [trainer.state().optimizer["state:fc1_weight/0"] for trainer in (half, resumed)]
    np.testing.assert_array_equal(*ends)


@only("mxnet")
def test_float16_takes_soft_labels_adjusted_logits_and_clipped_sums(engine):
    start = np.random.RandomState(0).randint(-2, 3, (5, 3)).astype(np.float32)
    settings = {
        "arrays": ({"fc1_weight": start}, {}),
        "logit_adjustment": np.log(np.array([0.5, 0.2, 0.2, 0.06, 0.04], np.float32)),
        "soft_classes": 5,
        "clip_norm": 0.1,
    }
    single = make_trainer(engine, without_products(), **settings)
    half = make_trainer(engine, without_products(), dtype="float16", **settings)
    for number in range(4):
        shown = batch(number)
        shown.soft_labels = np.random.RandomState(number).dirichlet(np.ones(5), SHAPE[0])
        rate = 0.05 if number % 2 else None
        expected, got = (trainer.step(shown, rate)() for trainer in (single, half))
        np.testing.assert_allclose(got, expected, atol=2e-3)
    ends = [trainer.state().params["fc1_weight"] - start for trainer in (single, half)]
    assert np.abs(ends[0]).max() > 0.002
    np.testing.assert_allclose(ends[1], ends[0], atol=1e-3)


def test_bfloat16_is_what_the_network_computes_in(engine):
    require_precision(engine, "bfloat16")
    single = make_trainer(engine, tiny_network())
    half = make_trainer(engine, tiny_network(), dtype="bfloat16")
    for number in range(2):
        expected = single.train(batch(number))()
        probabilities = half.train(batch(number))()
        assert (probabilities != expected).any()
        np.testing.assert_allclose(probabilities, expected, atol=0.05)
    assert {array.dtype for array in all_arrays(half).values()} == {np.dtype(np.float32)}


def test_the_loss_scale_leaves_the_update_as_it_is(engine):
    ends = []
    for loss_scale in (1.0, 128.0):
        trainer = make_trainer(engine, plain_network(), ("--mom", "0"), loss_scale=loss_scale)
        trainer.train(batch(0))
        ends.append(all_arrays(trainer))
    for name in ends[0]:
        np.testing.assert_allclose(ends[1][name], ends[0][name], rtol=1e-5, err_msg=name)


def part_of(whole, first, last):
    return Batch(whole.images[first:last], whole.labels[first:last], whole.keys[first:last], 0, [])


def require_devices(engine, on):
    """Skip where several devices are processes of their own, which have tests of their own."""
    if engine == "torch" and on != "cpu":
        pytest.skip("PyTorch trains with a process for each device")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
@pytest.mark.parametrize("on", ["cpu", TWO_CPUS])
def test_batches_of_one_update_count_as_the_joint_batch(engine, optimizer, on):
    require_devices(engine, on)
    joint, parts = (
        make_trainer(
            *(engine, plain_network(), ("--optimizer", optimizer), on),
            batch_size=size,
            average_decay=0.9,
        )
        for size in (8, 4)
    )
    for number in range(3):
        joint.step(batch(number), 0.05)
        parts.step(part_of(batch(number), 0, 4), None)
        parts.step(part_of(batch(number), 4, 8), 0.05)
    expected, got = joint.state(), parts.state()
    for kind in ("params", "optimizer", "average"):
        for name, array in getattr(expected, kind).items():
            there = getattr(got, kind)[name]
            np.testing.assert_allclose(there, array, rtol=1e-4, atol=1e-6, err_msg=name)


def test_a_batch_that_comes_twice_counts_as_once(engine):
    """With BatchNorm; the statistics alone see it twice."""
    once, twice = make_trainer(engine, tiny_network()), make_trainer(engine, tiny_network())
    for number in range(3):
        once.step(batch(number), 0.05)
        twice.step(batch(number), None)
        twice.step(batch(number), 0.05)
    for name, array in once.state().params.items():
        np.testing.assert_allclose(twice.state().params[name], array, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("on", ["cpu", TWO_CPUS])
@pytest.mark.parametrize("loss_scale", [1.0, 128.0])
def test_the_norm_of_all_gradients_together_is_clipped(engine, on, loss_scale):
    """Seen in one update of plain SGD, whose step is the gradient."""
    require_devices(engine, on)
    steps = {}
    for clip_norm in (0.0, 0.01, 1000.0):
        trainer = make_trainer(
            *(engine, plain_network(), ("--mom", "0", "--wd", "0"), on),
            loss_scale=loss_scale,
            clip_norm=clip_norm,
        )
        start = trainer.state().params
        trainer.step(batch(0), 1.0)
        end = trainer.state().params
        steps[clip_norm] = np.concatenate([(start[name] - end[name]).ravel() for name in start])
    norm = np.linalg.norm(steps[0.0])
    assert norm > 0.05
    np.testing.assert_allclose(steps[0.01], steps[0.0] * 0.01 / norm, atol=1e-6)
    np.testing.assert_array_equal(steps[1000.0], steps[0.0])


@only("mxnet")
def test_clipping_on_several_machines_is_refused(engine):
    loaded = engines.load(engine)
    workers = loaded.Workers("device", loaded.parse_devices("cpu"))
    workers.is_distributed = True
    with pytest.raises(UserError, match="is for one machine"):
        make_trainer(engine, plain_network(), workers=workers, clip_norm=1.0)


def test_the_head_may_learn_faster_and_frozen_layers_stay(engine):
    moved = {}
    for factor in (1.0, 10.0):
        graph, frozen = edits.freeze(plain_network(), "conv0_weight")
        factors = {"fc1_weight": factor}
        flags = ("--mom", "0", "--wd", "0")
        trainer = make_trainer(engine, graph, flags, frozen=frozen, learning_rate_factors=factors)
        before = trainer.state().params
        trainer.train(batch(0))
        after = trainer.state().params
        moved[factor] = {name: after[name] - before[name] for name in before}
    assert not moved[1.0]["conv0_weight"].any()
    assert moved[1.0]["conv0_bias"].any()
    ratio = np.abs(moved[10.0]["fc1_weight"]).sum() / np.abs(moved[1.0]["fc1_weight"]).sum()
    assert ratio == pytest.approx(10, rel=0.01)


def test_a_state_is_a_copy_that_later_batches_do_not_change(engine):
    trainer = make_trainer(engine, plain_network(), average_decay=0.5)
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


def test_a_trainer_leaves_the_arrays_alone_that_it_begins_with(engine):
    begin = make_trainer(engine, plain_network()).state().params
    copies = {name: array.copy() for name, array in begin.items()}
    trainer = make_trainer(engine, plain_network(), arrays=(begin, {}))
    trainer.train(batch(0))()
    trainer.synchronize()
    for name, array in begin.items():
        np.testing.assert_array_equal(array, copies[name], err_msg=name)
