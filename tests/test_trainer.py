"""One batch forward, backward and into the weights, on one device and on several."""

import argparse
import os

import numpy as np
import pytest

from common import checkpoint, devices, network, schedule
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


def make_trainer(
    symbol,
    flags=(),
    contexts=None,
    params=({}, {}),
    states=None,
    epochs_done=0,
    dtype="float32",
):
    """A trainer whose epochs have two batches, with the factor that fine-tune.py gives its head."""
    parser = argparse.ArgumentParser()
    schedule.add_schedule_args(parser)
    args = parser.parse_args(["--mom", "0.9", "--wd", "0.0001", "--lr", "0.05", *flags])
    mx.random.seed(5)
    scale = 128.0 if dtype == "float16" else 1.0
    trainer = Trainer(symbol, contexts or [mx.cpu()], SHAPE, dtype, (), scale, {"fc1_weight": 1.0})
    trainer.initialise(*params)
    settings = schedule.optimizer_settings(args, 2, epochs_done, dtype)
    correct = bool(args.momentum_correction)
    trainer.start_optimizer("device", args.optimizer, settings, states, correct)
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


def test_a_validation_between_batches_sees_all_of_them_and_changes_nothing():
    watched, patient = make_trainer(tiny_network()), make_trainer(tiny_network())
    for number in range(4):
        watched.train(batch(number))
        seen = watched.predict(batch(99))  # at once, while the batch is still computed
        patient.train(batch(number))
        mx.nd.waitall()
        np.testing.assert_array_equal(seen, patient.predict(batch(99)))


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


@pytest.mark.parametrize("flags", [(), ("--mom", "0"), ("--optimizer", "adam")])
def test_a_checkpoint_is_as_large_as_foretold(tmp_path, flags):
    trainer = make_trainer(network.take_raw_images(network.build_resnet(10, 500, width=16)), flags)
    trainer.train(batch(0))
    prefix = str(tmp_path / "net")
    checkpoint.save(prefix, 1, trainer.symbol, *trainer.params(), trainer.states())
    paths = checkpoint.params_path(prefix, 1), checkpoint.states_path(prefix, 1)
    sizes = [os.path.getsize(path) if os.path.exists(path) else 0 for path in paths]
    for size, foretold in zip(sizes, trainer.checkpoint_bytes()):
        assert foretold <= size <= 1.05 * foretold


def test_states_of_another_optimizer_are_refused(tmp_path):
    trainer = make_trainer(plain_network())
    trainer.train(batch(0))
    with pytest.raises(UserError, match="use the --optimizer, --mom and --freeze"):
        make_trainer(plain_network(), ("--optimizer", "adam"), states=trainer.states())


def without_products():
    """A classifier of the mean colour; MXNet multiplies no float16 matrices on a CPU."""
    colors = mx.sym.mean(mx.sym.Variable("data") / 255, axis=(2, 3))
    weight = mx.sym.Variable("fc1_weight", shape=(5, 3))
    logits = mx.sym.broadcast_mul(mx.sym.expand_dims(colors, 1), mx.sym.expand_dims(weight, 0))
    return network.take_raw_images(mx.sym.SoftmaxOutput(mx.sym.sum(logits, axis=2), name="softmax"))


def test_float16_takes_small_steps_by_its_masters_and_goes_on_with_them():
    """Each step is less than float16 can tell from none at all."""
    flags = ("--lr", "0.0005", "--lr-step-epochs", "", "--mom", "0", "--wd", "0")
    begin = {"fc1_weight": mx.nd.array(np.random.RandomState(0).randint(-2, 3, (5, 3)))}, {}
    single = make_trainer(without_products(), flags, params=begin)
    half = make_trainer(without_products(), flags, params=begin, dtype="float16")
    for _ in range(50):
        single.train(batch(0))
        assert half.train(batch(0)).dtype == np.float32
    masters = half.states()
    assert half.params()[0]["fc1_weight"].dtype == np.float16
    expected = single.params()[0]["fc1_weight"].asnumpy()
    start = begin[0]["fc1_weight"].asnumpy()
    got = masters["state:fc1_weight/0"].asnumpy()
    assert got.dtype == np.float32
    np.testing.assert_allclose(got - start, expected - start, rtol=0.02, atol=1e-5)
    states = {name: array.copy() for name, array in masters.items()}
    resumed = make_trainer(without_products(), flags, None, half.params(), states, 1, "float16")
    for trainer in (half, resumed):
        trainer.train(batch(1))
    ends = [trainer.states()["state:fc1_weight/0"].asnumpy() for trainer in (half, resumed)]
    np.testing.assert_array_equal(*ends)


@pytest.mark.skipif(not devices.supports_bfloat16()[0], reason="no bfloat16 here")
def test_bfloat16_is_what_the_network_computes_in():
    single = make_trainer(tiny_network())
    half = make_trainer(tiny_network(), dtype="bfloat16")
    for number in range(2):
        expected = single.train(batch(number)).asnumpy()
        probabilities = half.train(batch(number)).asnumpy()
        assert (probabilities != expected).any()
        np.testing.assert_allclose(probabilities, expected, atol=0.05)
    assert {array.dtype for part in half.params() for array in part.values()} == {np.float32}


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
