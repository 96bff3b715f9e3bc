"""One batch forward, backward and into the weights, on one device and on several."""

import argparse

import numpy as np
import pytest

from common import checkpoint, network, schedule
from common.files import UserError
from common.find_mxnet import mx
from common.trainer import Trainer

SHAPE = (8, 3, 64, 64)


def batch(number):
    random = np.random.RandomState(number)
    images = mx.nd.array(random.randint(0, 256, SHAPE), dtype="uint8")
    return mx.io.DataBatch([images], [mx.nd.array(random.randint(0, 5, SHAPE[0]))], pad=0)


def tiny_network():
    return network.take_raw_images(network.build_resnet(10, 5, width=8))


def plain_network():
    """Without BatchNorm, whose statistics are those of each device's part of the batch."""
    body = mx.sym.Convolution(
        mx.sym.Variable("data") / 255, kernel=(3, 3), stride=(4, 4), num_filter=8, name="conv0"
    )
    body = mx.sym.Activation(body, act_type="relu")
    logits = mx.sym.FullyConnected(mx.sym.Flatten(body), num_hidden=5, name="fc1")
    return network.take_raw_images(mx.sym.SoftmaxOutput(logits, name="softmax"))


def make_trainer(symbol, flags=(), contexts=None, params=({}, {}), states=None, epochs_done=0):
    """A trainer whose epochs have two batches."""
    parser = argparse.ArgumentParser()
    schedule.add_schedule_args(parser)
    args = parser.parse_args(["--mom", "0.9", "--wd", "0.0001", "--lr", "0.05", *flags])
    mx.random.seed(5)
    trainer = Trainer(symbol, contexts or [mx.cpu()], SHAPE)
    trainer.initialise(*params)
    settings = schedule.optimizer_settings(args, 2, epochs_done, "float32")
    trainer.start_optimizer("device", args.optimizer, settings, states)
    return trainer


def as_numpy(params):
    return {name: array.asnumpy() for part in params for name, array in part.items()}


def test_statistics_are_read_after_the_last_batch_has_written_them():
    """The moving mean by hand, of a BatchNorm behind which much is left to compute."""
    body = mx.sym.BatchNorm(mx.sym.Variable("data"), momentum=0.9, name="bn")
    for layer in range(6):
        body = mx.sym.Convolution(body, kernel=(3, 3), pad=(1, 1), num_filter=32, name=f"c{layer}")
    logits = mx.sym.FullyConnected(mx.sym.Flatten(body), num_hidden=5)
    trainer = make_trainer(network.take_raw_images(mx.sym.SoftmaxOutput(logits, name="softmax")))
    by_hand = np.zeros(3)
    for number in range(4):
        trainer.train(batch(number))
        mean = batch(number).data[0].asnumpy().astype(np.float64).mean(axis=(0, 2, 3))
        by_hand = 0.9 * by_hand + 0.1 * mean
        read = as_numpy(trainer.params())["bn_moving_mean"]
        np.testing.assert_allclose(read, by_hand, rtol=1e-4)


def test_a_validation_between_batches_changes_nothing_and_sees_all_of_them():
    trainer, undisturbed = make_trainer(tiny_network()), make_trainer(tiny_network())
    for number in range(4):
        trainer.train(batch(number))
        undisturbed.train(batch(number))
        trainer.predict(batch(99))
    mx.nd.waitall()
    np.testing.assert_array_equal(trainer.predict(batch(99)), undisturbed.predict(batch(99)))


@pytest.mark.parametrize("optimizer", schedule.optimizers())
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(tmp_path, optimizer):
    prefix = str(tmp_path / "net")
    flags = ("--optimizer", optimizer, "--lr", "0.01", "--num-epochs", "2", "--lr-step-epochs", "1")
    if optimizer == "dcasgd":
        flags += ("--mom", "0")
    whole = make_trainer(tiny_network(), flags)
    for number in range(4):
        if number == 2:
            checkpoint.save(prefix, 1, whole.symbol, *whole.params(), states=whole.states())
            mx.random.seed(6)  # sgld draws noise
        whole.train(batch(number))
    symbol, *params = checkpoint.load(prefix, 1)
    states = checkpoint.load_states(prefix, 1)
    resumed = make_trainer(symbol, flags, params=params, states=states, epochs_done=1)
    mx.random.seed(6)
    for number in (2, 3):
        resumed.train(batch(number))
    expected, got = as_numpy(whole.params()), as_numpy(resumed.params())
    assert resumed.learning_rate == whole.learning_rate
    for name in expected:
        np.testing.assert_array_equal(got[name], expected[name], err_msg=name)


def test_two_devices_make_the_update_of_one():
    one = make_trainer(plain_network())
    two = make_trainer(plain_network(), contexts=[mx.cpu(0), mx.cpu(1)])
    for number in range(3):
        one.train(batch(number))
        probabilities = two.train(batch(number))
    assert probabilities.shape == (8, 5)
    expected, got = as_numpy(one.params()), as_numpy(two.params())
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], rtol=1e-4, atol=1e-6, err_msg=name)
    assert set(two.states()) == set(one.states()) == {f"state:{name}/0" for name in expected}


@pytest.mark.parametrize("optimizer", ["nadam", "sgld"])
def test_an_optimizer_whose_copies_would_drift_apart_is_refused_on_two_devices(optimizer):
    with pytest.raises(UserError, match=f"--optimizer {optimizer}: .* train on one device"):
        make_trainer(plain_network(), ("--optimizer", optimizer), [mx.cpu(0), mx.cpu(1)])


def test_states_of_another_optimizer_are_refused(tmp_path):
    trainer = make_trainer(plain_network())
    trainer.train(batch(0))
    with pytest.raises(UserError, match="use the --optimizer, --mom and --freeze"):
        make_trainer(plain_network(), ("--optimizer", "adam"), states=trainer.states())


def test_the_loss_scale_leaves_the_update_as_it_is():
    parser = argparse.ArgumentParser()
    schedule.add_schedule_args(parser)
    args = parser.parse_args(["--lr", "0.05"])
    ends = []
    for loss_scale in (1.0, 128.0):
        mx.random.seed(5)
        trainer = Trainer(plain_network(), [mx.cpu()], SHAPE, loss_scale=loss_scale)
        trainer.initialise({}, {})
        settings = schedule.optimizer_settings(args, 2, 0, "float32")
        trainer.start_optimizer("device", "sgd", settings)
        trainer.train(batch(0))
        ends.append(as_numpy(trainer.params()))
    for name in ends[0]:
        np.testing.assert_allclose(ends[1][name], ends[0][name], rtol=1e-5, err_msg=name)


def test_the_head_may_learn_faster_and_frozen_layers_stay():
    parser = argparse.ArgumentParser()
    schedule.add_schedule_args(parser)
    settings = schedule.optimizer_settings(parser.parse_args([]), 2, 0, "float32")
    moved = {}
    for factor in (1.0, 10.0):
        mx.random.seed(5)
        symbol, frozen = network.freeze(plain_network(), "conv0_weight")
        factors = {"fc1_weight": factor}
        trainer = Trainer(symbol, [mx.cpu()], SHAPE, frozen=frozen, learning_rate_factors=factors)
        trainer.initialise({}, {})
        trainer.start_optimizer("device", "sgd", dict(settings))
        before = {name: array.asnumpy() for name, array in trainer.params()[0].items()}
        trainer.train(batch(0))
        after = as_numpy(trainer.params())
        moved[factor] = {name: after[name] - before[name] for name in before}
    assert not moved[1.0]["conv0_weight"].any()
    assert moved[1.0]["conv0_bias"].any()
    ratio = np.abs(moved[10.0]["fc1_weight"]).sum() / np.abs(moved[1.0]["fc1_weight"]).sum()
    assert ratio == pytest.approx(10, rel=0.01)
