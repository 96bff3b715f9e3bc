"""The trainers of both engines: what they read, keep and resume."""

import os

import numpy as np
import pytest

from common import engines
from common.base.files import UserError
from common.networks import checkpoint, edits
from common.networks.graph import Builder
from common.networks.resnet import build_resnet
from common.training import state_owner
from tests.small_trainers import (
    all_arrays,
    batch,
    make_trainer,
    plain_network,
    tiny_network,
    without_products,
)


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
def test_the_updates_after_a_validation_are_those_without_one(engine, optimizer):
    """oneDNN lays out MXNet's weights anew for a validation, and back again while it trains."""
    flags = ("--optimizer", optimizer, "--wd", "0.01", "--lr", "0.01")
    if optimizer == "dcasgd":
        flags += ("--mom", "0")
    expected = None
    for is_validated in (False, True, True, True):
        trainer = make_trainer(engine, tiny_network(), flags)
        if is_validated:
            trainer.evaluate(batch(99))
        for number in range(4):
            trainer.train(batch(number))
        found = all_arrays(trainer)
        expected = expected or found
        for name in expected:
            np.testing.assert_array_equal(found[name], expected[name], err_msg=name)


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


def saved_states(trainer, prefix):
    """What a checkpoint of a trainer holds of its optimizer."""
    checkpoint.save(prefix, 1, trainer.trained(), state_owner.with_name(trainer.state(), "sgd"))
    return checkpoint.load_states(prefix, 1)


@pytest.mark.parametrize("dtype", ["float16", "float32"])
def test_the_weights_that_float16_keeps_are_no_velocity(engine, tmp_path, dtype):
    trainer = make_trainer(engine, without_products(), ("--mom", "0"), dtype="float16")
    trainer.train(batch(0))
    states = saved_states(trainer, str(tmp_path / "net"))
    with pytest.raises(UserError, match=r"nothing for fc1_weight .*use the --optimizer, --mom"):
        make_trainer(engine, without_products(), states=states, dtype=dtype)
    make_trainer(engine, without_products(), ("--mom", "0"), states=states, dtype=dtype)


def test_a_velocity_does_not_become_the_weights_of_float16(engine, tmp_path):
    trainer = make_trainer(engine, without_products(), ("--mom", "0.9"))
    trainer.train(batch(0))
    states = saved_states(trainer, str(tmp_path / "net"))
    begin = trainer.state().params, {}
    flags = ("--mom", "0", "--lr", "1e-6")
    resumed = make_trainer(engine, without_products(), flags, arrays=begin, dtype="float16")
    resumed.restore_optimizer(states)
    resumed.train(batch(1))
    expected, got = begin[0]["fc1_weight"], resumed.state().params["fc1_weight"]
    np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


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
