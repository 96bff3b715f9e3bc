"""The losses of the PyTorch engine, compared with MXNet's and with PyTorch's own."""

import numpy as np
import pytest

from common.engines.torch.loss import loss_gradient
from common.engines.torch.runtime import torch
from common.networks import edits
from common.networks.graph import edit
from tests.engines.small_trainers import (
    CLASSES,
    RATE,
    assert_close,
    batch,
    make,
    make_mxnets,
    plain_network,
    smooth_network,
    train,
)


@pytest.mark.parametrize("scale", [1.0, 128.0])
@pytest.mark.parametrize("alpha", [0.0, 0.1])
def test_the_loss_is_mxnets(alpha, scale):
    network = plain_network()
    network = network.with_graph(edits.smooth_labels(network.graph, alpha))
    ours, theirs = (maker(network, loss_scale=scale) for maker in (make, make_mxnets))
    for trainer in (ours, theirs):
        train(trainer, range(2))
    assert_close(ours.state().params, theirs.state().params, network.params)


def soft_batch(number, size=8):
    """The labels are shares of two or three classes."""
    made, random = batch(number, size), np.random.RandomState(number + 100)
    made.soft_labels = random.dirichlet([0.3] * CLASSES, size).astype(np.float32)
    return made


def test_the_loss_of_soft_labels_is_mxnets():
    network, settings = smooth_network(), {"soft_classes": CLASSES}
    network = network.with_graph(edits.smooth_labels(network.graph, 0.1))  # counts in no soft label
    ours, theirs = make(network, **settings), make_mxnets(network, 1, **settings)
    for number in range(3):
        got, expected = (t.step(soft_batch(number), RATE)() for t in (ours, theirs))
        np.testing.assert_allclose(got, expected, atol=1e-4)
        got, expected = (trainer.evaluate(batch(9)) for trainer in (ours, theirs))
        np.testing.assert_allclose(got, expected, atol=1e-4)
    assert_close(ours.state().params, theirs.state().params, network.params)


def test_the_gradient_of_soft_labels_is_that_of_pytorchs_cross_entropy():
    logits = torch.randn(6, CLASSES, requires_grad=True)
    labels = torch.from_numpy(soft_batch(0, 6).soft_labels)
    torch.nn.functional.cross_entropy(logits, labels, reduction="sum").backward()
    got = loss_gradient(torch.softmax(logits.detach(), 1), labels, smooth_alpha=0.1)
    torch.testing.assert_close(got, logits.grad)


ADJUSTMENT = np.log(np.array([0.6, 0.2, 0.1, 0.07, 0.03], np.float32))


@pytest.mark.parametrize("soft", [False, True])
def test_the_adjusted_loss_is_pytorchs_cross_entropy_of_adjusted_logits(soft):
    logits = torch.randn(6, CLASSES, requires_grad=True)
    labels, adjustment = soft_batch(0, 6).soft_labels, torch.from_numpy(ADJUSTMENT)
    labels = torch.from_numpy(labels if soft else batch(0, 6).labels.astype(int))
    loss = torch.nn.functional.cross_entropy(logits + adjustment, labels, reduction="sum")
    loss.backward()
    probabilities = torch.softmax(logits.detach(), 1)
    got = loss_gradient(probabilities, labels, logit_adjustment=adjustment)
    torch.testing.assert_close(got, logits.grad)


def test_a_probability_of_0_has_an_adjusted_gradient():
    probabilities = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]])
    adjustment = 10 * torch.from_numpy(ADJUSTMENT)
    got = loss_gradient(probabilities, torch.tensor([1]), logit_adjustment=adjustment)
    torch.testing.assert_close(got, torch.tensor([[1.0, -1, 0, 0, 0]]))


@pytest.mark.parametrize("scale", [1.0, 128.0])
def test_both_engines_adjust_alike_and_report_what_they_would_predict(scale):
    network = smooth_network()
    network = network.with_graph(edits.smooth_labels(network.graph, 0.1))
    settings = {"logit_adjustment": ADJUSTMENT, "loss_scale": scale}
    ours, theirs = make(network, **settings), make_mxnets(network, 1, **settings)
    plain = make(network)
    first = plain.step(batch(0), RATE)()
    for number in range(3):
        got, expected = (t.step(batch(number), RATE)() for t in (ours, theirs))
        np.testing.assert_allclose(got, expected, atol=1e-4)
        if number == 0:
            np.testing.assert_array_equal(got, first)
    np.testing.assert_allclose(ours.evaluate(batch(9)), theirs.evaluate(batch(9)), atol=1e-4)
    got, expected = ours.state(), theirs.state()
    assert_close(got.params, expected.params, network.params)
    assert_close(got.stats, expected.stats, network.stats)
    train(plain, range(1, 3))
    with pytest.raises(AssertionError):
        assert_close(got.params, plain.state().params, network.params)


@pytest.mark.parametrize("normalization", ["batch", "valid"])
def test_a_mean_loss_is_mxnets(normalization):
    network = plain_network()
    loss = {"normalization": normalization, "grad_scale": "4.0"}
    network = network.with_graph(edit(network.graph, {"softmax": loss}))
    ours, theirs = make(network), make_mxnets(network)
    for trainer in (ours, theirs):
        train(trainer, range(2))
    assert_close(ours.state().params, theirs.state().params, network.params)
