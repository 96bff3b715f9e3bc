"""The velocity of the optimizers when the learning rate changes."""

import logging

import numpy as np
import pytest

from common import engines
from common.engines import momentum
from common.networks import checkpoint
from tests.conftest import only
from tests.small_trainers import (
    TWO_CPUS,
    all_arrays,
    batch,
    make_trainer,
    plain_network,
    tiny_network,
    without_products,
)

SCHEDULES = {  # of three epochs of two batches, so six updates
    "step": ("--lr-step-epochs", "1"),
    "two steps": ("--lr-step-epochs", "1,2"),
    "cosine": ("--lr-scheduler", "cosine"),
    "warm-up": ("--warmup-epochs", "2", "--lr-step-epochs", ""),
    "warm-up and cosine": ("--warmup-epochs", "1", "--lr-scheduler", "cosine"),
}


def version_of(engine):
    """The version of the MXNet whose rules an engine has."""
    return engines.load(engine).versions().get("mxnet", "1.9.1")


# Each engine with each optimizer whose velocity holds the rate.
CORRECTED = [
    (engine, optimizer)
    for engine in engines.installed()
    for optimizer in engines.load(engine).optimizers()
    if momentum.holds_rate(optimizer, version_of(engine))
]
each_corrected = pytest.mark.parametrize(("engine", "optimizer"), CORRECTED, indirect=["engine"])


def test_the_ratio_is_that_of_the_rates():
    assert momentum.rate_ratio(0.5, 0.25) == 0.5
    assert momentum.rate_ratio(0.5, 0.0) == 0  # the end of a cosine
    assert momentum.rate_ratio(0.0, 0.01) == 1  # the beginning of a warm-up: no velocity yet


@pytest.mark.parametrize(
    ("optimizer", "version", "holds"),
    [
        *(("SGD", "1.5.0", True), ("sgd", "1.9.1", True), ("lars", "1.9.1", True)),
        *(("nag", "1.5.1", False), ("nag", "1.6.0", True), ("nag", "2.0.0", True)),
        *(("signum", "1.9.1", False), ("adam", "1.9.1", False)),
    ],
)
def test_the_version_decides_whether_a_velocity_holds_the_rate(optimizer, version, holds):
    assert momentum.holds_rate(optimizer, version) == holds


@pytest.mark.parametrize("name", ["dcasgd", "lars", "lbsgd", "nag", "sgd", "signum"])
def test_what_is_said_of_an_optimizer_is_what_this_mxnet_does(name, mx):
    if name not in engines.load("mxnet").optimizers():
        pytest.skip("this MXNet has none")
    if name == "dcasgd":
        pytest.skip("works without momentum only")
    velocities = []
    for rate in (0.25, 0.5):
        optimizer = mx.optimizer.create(name, learning_rate=rate, momentum=0.5)
        updater = mx.optimizer.get_updater(optimizer)
        updater(0, mx.nd.ones(1), mx.nd.ones(1))
        velocities.append(updater.states[0].asscalar())
    assert (velocities[0] != velocities[1]) == momentum.holds_rate(name, mx.__version__)


def gradient(weight, number):
    """Of `without_products()`, a softmax of the mean colours, for one batch."""
    images, labels = batch(number).images, batch(number).labels
    colors = images.mean(axis=(2, 3), dtype=np.float64) / 255
    logits = np.exp(colors @ weight.T)
    errors = logits / logits.sum(axis=1, keepdims=True) - np.eye(5)[labels.astype(int)]
    return errors.T @ colors / len(images)


def by_hand(weight, rates, nesterov=False, rate_in_velocity=False):
    """The weight after an update at each rate, with momentum 0.9.

    A velocity without the rate in it needs no correction; `rate_in_velocity` is MXNet's rule.
    """
    velocity = 0
    for number, rate in enumerate(rates):
        step = gradient(weight, number)
        if rate_in_velocity:
            step, rate = rate * step, 1
        velocity = 0.9 * velocity + step
        weight = weight - rate * (step + 0.9 * velocity if nesterov else velocity)
    return weight


def train_colors(engine, *flags, **options):
    """Make six updates; return the weight before them, after them, and the rates."""
    flags = ("--num-epochs", "3", "--lr", "2", "--wd", "0", *flags)
    start = np.random.RandomState(0).uniform(-1, 1, (5, 3)).astype(np.float32)
    arrays = {"fc1_weight": start}, {}
    trainer = make_trainer(engine, without_products(), flags, arrays=arrays, **options)
    rates = []
    for number in range(6):
        trainer.train(batch(number))
        rates.append(trainer.learning_rate)
    return start.astype(np.float64), trainer.state().params["fc1_weight"], rates


@pytest.mark.parametrize("flags", SCHEDULES.values(), ids=SCHEDULES)
@pytest.mark.parametrize("optimizer", ["sgd", "nag", "lbsgd"])
def test_past_gradients_go_on_at_the_rate_of_today(engine, optimizer, flags):
    start, end, rates = train_colors(engine, "--optimizer", optimizer, *flags)
    assert len(set(rates)) > 1
    expected = by_hand(start, rates, nesterov=optimizer == "nag")
    np.testing.assert_allclose(end, expected, rtol=1e-4, atol=1e-6)
    other = by_hand(start, rates, nesterov=optimizer == "nag", rate_in_velocity=True)
    assert np.abs(other - expected).max() > 0.01


@pytest.mark.parametrize(
    ("engine", "optimizer"),
    [pair for pair in CORRECTED if pair[1] in ("sgd", "nag")],
    indirect=["engine"],
)
@pytest.mark.parametrize("flags", SCHEDULES.values(), ids=SCHEDULES)
def test_with_0_past_gradients_go_on_at_the_rate_of_mxnet(engine, optimizer, flags):
    start, end, rates = train_colors(
        engine, "--optimizer", optimizer, *flags, "--momentum-correction", "0"
    )
    expected = by_hand(start, rates, nesterov=optimizer == "nag", rate_in_velocity=True)
    np.testing.assert_allclose(end, expected, rtol=1e-4, atol=1e-6)


@only("mxnet")
@pytest.mark.parametrize("optimizer", ["sgd", "nag", "lbsgd"])
def test_float16_masters_follow_the_rate_as_well(engine, optimizer):
    flags = ("--optimizer", optimizer, *SCHEDULES["step"])
    start, end, rates = train_colors(engine, *flags, dtype="float16")
    assert end.dtype == np.float16
    expected = by_hand(start, rates, nesterov=optimizer == "nag")
    np.testing.assert_allclose(end, expected, atol=0.005)


@pytest.mark.parametrize(
    ("engine", "on", "optimizer"),
    [
        (engine, on, optimizer)
        for engine, optimizer in CORRECTED
        for on in ("cpu", TWO_CPUS)
        if engine == "mxnet" or on == "cpu"  # PyTorch has a process for each device
    ],
    indirect=["engine"],
)
def test_after_a_step_to_next_to_nothing_every_weight_on_every_device_stands_still(
    engine, on, optimizer
):
    """More parameters than MXNet updates in one call."""
    flags = ("--optimizer", optimizer, "--lr-step-epochs", "1", "--lr-factor", "1e-9")
    trainer = make_trainer(engine, tiny_network(), flags, on)
    for number in (0, 1):
        trainer.train(batch(number))
    moments = weights_on_devices(trainer)
    assert len(moments) == len(on.split(","))
    trainer.train(batch(2))
    for before, after in zip(moments, weights_on_devices(trainer)):
        for name in before:
            np.testing.assert_allclose(after[name], before[name], atol=1e-6, err_msg=name)


def weights_on_devices(trainer):
    """The weights on each device, `[{name: numpy array}]`."""
    trainer.synchronize()
    if not hasattr(trainer._trainer, "_module"):
        return [trainer.state().params]
    group = trainer._module._exec_group
    return [
        {name: array.asnumpy() for name, array in zip(group.param_names, arrays)}
        for arrays in zip(*group.param_arrays)
    ]


@pytest.mark.parametrize(
    ("engine", "optimizer"),
    [pair for pair in CORRECTED if pair[0] == "mxnet"],
    indirect=["engine"],
)
def test_two_devices_make_the_updates_of_one_over_a_step(engine, optimizer):
    flags = ("--optimizer", optimizer, *SCHEDULES["step"])
    one = make_trainer(engine, plain_network(), flags)
    two = make_trainer(engine, plain_network(), flags, TWO_CPUS)
    for number in range(4):
        one.train(batch(number))
        two.train(batch(number))
    expected, got = all_arrays(one), all_arrays(two)
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)


@pytest.mark.parametrize("epoch", [1, 2])
@pytest.mark.parametrize("flags", SCHEDULES.values(), ids=SCHEDULES)
@each_corrected
def test_a_run_resumed_near_a_change_of_the_rate_ends_with_the_same_weights(
    tmp_path, engine, optimizer, flags, epoch
):
    """With "step" and "two steps": resumed at a step, before one and after one."""
    flags = ("--optimizer", optimizer, "--lr", "0.01", "--num-epochs", "3", *flags)
    whole = make_trainer(engine, plain_network(), flags)
    for number in range(6):
        if number == 2 * epoch:
            states = whole.state().optimizer
            assert not [name for name in states if "momentum" in name]
            checkpoint.save(str(tmp_path / "net"), epoch, whole.trained(), states)
        whole.train(batch(number))
    saved = checkpoint.load(str(tmp_path / "net"), epoch)
    states = checkpoint.load_states(str(tmp_path / "net"), epoch)
    arrays = saved.params, saved.stats
    resumed = make_trainer(engine, saved.graph, flags, "cpu", arrays, states, epoch)
    for number in range(2 * epoch, 6):
        resumed.train(batch(number))
    expected, got = all_arrays(whole), all_arrays(resumed)
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def test_without_momentum_there_is_nothing_to_correct(engine):
    ends = [
        train_colors(engine, "--mom", "0", *SCHEDULES["step"], "--momentum-correction", choice)[1]
        for choice in "01"
    ]
    np.testing.assert_array_equal(*ends)


@only("mxnet")
@pytest.mark.parametrize(
    ("flags", "warned"),
    [
        (("--mom", "0.9"), True),
        (("--mom", "0.9", "--momentum-correction", "0"), False),
        (("--mom", "0.9", "--optimizer", "signum"), False),
        (("--mom", "0"), False),
    ],
)
def test_servers_that_update_by_themselves_keep_mxnets_rule_and_the_log_says_so(
    caplog, engine, flags, warned
):
    with caplog.at_level(logging.WARNING):
        make_trainer(engine, without_products(), flags, workers=server_in_this_process())
    lines = [line for line in caplog.messages if "dist_async update by MXNet's rule" in line]
    assert len(lines) == warned


@only("mxnet")
@pytest.mark.parametrize("flags", SCHEDULES.values(), ids=SCHEDULES)
def test_servers_that_update_by_themselves_follow_the_schedule(engine, flags):
    start, end, rates = train_colors(engine, *flags, workers=server_in_this_process())
    expected = by_hand(start, rates, rate_in_velocity=True)
    np.testing.assert_allclose(end, expected, rtol=1e-4, atol=1e-6)


def server_in_this_process():
    """Workers whose KVStore makes the updates by itself, as the servers of dist_async do."""
    from common.engines.mxnet.runtime import mx

    workers = engines.load("mxnet").Workers("local", [mx.cpu()])
    workers.is_async, workers.kv_store = True, mx.kvstore.create("local")
    return workers
