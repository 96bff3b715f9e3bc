"""Gradients of several batches and devices: summed, clipped, scaled, left out."""

import numpy as np
import pytest

from common import engines
from common.base.files import UserError
from common.data.loader import Batch
from common.networks import edits
from tests.conftest import only
from tests.small_trainers import (
    TWO_CPUS,
    all_arrays,
    batch,
    make_trainer,
    plain_network,
    tiny_network,
)


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
def test_joint_statistics_are_left_to_the_other_engine(engine):
    with pytest.raises(UserError, match=r"--sync-batch-norm: .* use --engine torch"):
        make_trainer(engine, plain_network(), sync_batch_norm=True)


@only("mxnet")
@pytest.mark.parametrize("optimizer", ["nadam", "sgld"])
def test_an_optimizer_whose_copies_would_drift_apart_is_refused_on_two_devices(engine, optimizer):
    with pytest.raises(UserError, match=f"--optimizer {optimizer}: .* train on one device"):
        make_trainer(engine, plain_network(), ("--optimizer", optimizer), TWO_CPUS)


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
