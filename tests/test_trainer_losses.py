"""The losses of both engines' trainers, and the precisions that they compute in."""

import numpy as np
import pytest

from tests.conftest import only, require_precision
from tests.small_trainers import (
    SHAPE,
    all_arrays,
    batch,
    make_trainer,
    plain_network,
    tiny_network,
    without_products,
)


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
