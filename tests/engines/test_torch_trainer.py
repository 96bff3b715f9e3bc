"""The trainer of the PyTorch engine, compared with MXNet's: updates, checkpoints, drawn numbers."""

import os

import numpy as np
import pytest

from common.base.files import UserError
from common.engines.torch.devices import parse_devices
from common.engines.torch.optimizers import optimizers
from common.engines.torch.runtime import torch
from common.engines.torch.workers import Workers
from common.networks import checkpoint, edits
from common.networks.resnet import build_resnet
from tests.engines.small_trainers import (
    CLASSES,
    CPU,
    RATE,
    assert_close,
    batch,
    make,
    make_mxnets,
    plain_network,
    smooth_network,
    train,
    with_weights,
)
from tests.random_networks import for_raw_images

# sgld draws noise, and MXNet has no adamw.
COMPARED = [name for name in optimizers() if name not in ("sgld", "adamw")]


def tiny_network():
    graph = edits.take_raw_images(build_resnet(10, CLASSES, width=8))
    return for_raw_images(with_weights(graph))


def assert_equal(got, expected):
    assert got.keys() == expected.keys()
    for name, array in expected.items():
        np.testing.assert_array_equal(got[name], array, err_msg=name)


def settings_of(optimizer):
    momentum = {"momentum": 0.9} if "momentum" in optimizers()[optimizer] else {}
    return {"optimizer": optimizer, "optimizer_settings": {"wd": 1e-3, **momentum}}


@pytest.mark.parametrize("optimizer", COMPARED)
def test_ten_updates_are_mxnets(optimizer):
    network, settings = smooth_network(), settings_of(optimizer)
    ours, theirs = make(network, **settings), make_mxnets(network, **settings)
    for number in range(10):
        got = ours.step(batch(number), RATE)()
        np.testing.assert_allclose(got, theirs.step(batch(number), RATE)(), atol=1e-3)
    got, expected = ours.state(), theirs.state()
    assert_close(got.params, expected.params, network.params)
    assert_close(got.stats, expected.stats, network.stats)
    assert _arrays(got.optimizer).keys() == _arrays(expected.optimizer).keys()


def _arrays(optimizer):
    return {key: array for key, array in optimizer.items() if key.startswith("state:")}


def test_gradients_and_statistics_of_a_resnet_are_mxnets():
    network = tiny_network()
    plain = {"optimizer_settings": {"wd": 0.0, "momentum": 0.0}}
    ours, theirs = make(network, **plain), make_mxnets(network, **plain)
    for trainer in (ours, theirs):
        train(trainer, [0], rate=1.0)
    got, expected = ours.state(), theirs.state()
    for name, array in expected.params.items():
        gradient = network.params[name] - array
        np.testing.assert_allclose(
            network.params[name] - got.params[name], gradient, atol=1e-5, err_msg=name
        )
    assert_close(got.stats, expected.stats, network.stats)
    np.testing.assert_allclose(ours.evaluate(batch(9)), theirs.evaluate(batch(9)), atol=1e-3)


@pytest.mark.parametrize("optimizer", COMPARED)
def test_each_engine_goes_on_from_the_others_checkpoint(tmp_path, optimizer):
    prefix = str(tmp_path / "net")
    network, settings = smooth_network(), settings_of(optimizer)
    whole = make_mxnets(network, **settings)
    train(whole, range(6))
    for first, second in ((make, make_mxnets), (make_mxnets, make)):
        begun = first(network, **settings)
        train(begun, range(3))
        state = begun.state()
        trained = network.with_arrays(state.params, state.stats)
        checkpoint.save(prefix, 1, trained, state.optimizer)
        resumed = second(checkpoint.load(prefix, 1), **settings, updates_done=3)
        resumed.restore_optimizer(checkpoint.load_states(prefix, 1))
        train(resumed, range(3, 6))
        assert_close(resumed.state().params, whole.state().params, network.params)


@pytest.mark.parametrize("optimizer", ["sgd", "nag", "adam", "lamb", "adagrad", "signum"])
@pytest.mark.parametrize(
    ("second", "dtypes"),
    [
        (make, ("float16", "float32")),
        (make, ("float32", "float16")),
        (make_mxnets, ("float16", "float32")),  # its own float16 is for GPUs
    ],
)
def test_a_run_goes_on_in_another_precision(second, dtypes, optimizer):
    """float16 keeps the weights with the state. The numbers are those of float32 all the same."""
    network, settings = plain_network(), settings_of(optimizer)
    flags = {"float16": {"loss_scale": 128.0, "dtype": "float16"}, "float32": {}}
    whole, begun = (make(network, **settings, **flags[dtype]) for dtype in ("float32", dtypes[0]))
    train(whole, range(6))
    train(begun, range(3))
    state = begun.state()
    trained = network.with_arrays(state.params, state.stats)
    resumed = second(trained, **settings, **flags[dtypes[1]], updates_done=3)
    resumed.restore_optimizer(state.optimizer)
    train(resumed, range(3, 6))
    assert_close(resumed.state().params, whole.state().params, network.params, share=0.05)


def test_a_recording_that_has_no_memory_leaves_no_gradients():
    """It fails in the backward pass, and the update is made again without it."""
    network, ends = plain_network(), []
    for fails in (False, True):
        trainer = make(network)
        replica = trainer._replica
        hook = replica._module.params["conv0_weight"].register_hook(_has_no_memory)
        if fails:
            with pytest.raises(RuntimeError, match="out of memory"):
                trainer.step(batch(0), RATE)
        hook.remove()
        train(trainer, range(2))
        ends.append(trainer.state().params)
    assert_equal(ends[1], ends[0])


def _has_no_memory(_gradient):
    raise RuntimeError("CUDA out of memory")


@pytest.mark.parametrize("make_one", [make, make_mxnets])
def test_without_a_state_adam_begins_anew(make_one):
    """Its first moments are corrected for the zeros that they begin with."""
    settings, ends = settings_of("adam"), []
    for updates_done in (0, 1000):
        trainer = make_one(plain_network(), **settings, updates_done=updates_done)
        train(trainer, range(3))
        ends.append(trainer.state().params)
    assert_equal(ends[1], ends[0])


@pytest.mark.parametrize("devices", [1, 3])
def test_mxnet_validates_what_it_saves(devices):
    """Each device has moved BatchNorm's statistics by other images; the mean of them is saved."""
    network = smooth_network()
    trainer = make_mxnets(network, devices, batch_size=9)
    images = [batch(number, size=9) for number in range(4)]
    for each in images[:3]:
        trainer.step(each, RATE)()
    state = trainer.state()
    saved = make_mxnets(network.with_arrays(state.params, state.stats), batch_size=9)
    np.testing.assert_allclose(trainer.evaluate(images[3]), saved.evaluate(images[3]), rtol=1e-5)


def test_the_servers_of_mxnet_start_without_a_state(caplog, monkeypatch):
    trainer = make_mxnets(plain_network())
    train(trainer, range(2))
    state = trainer.state().optimizer
    monkeypatch.setattr(trainer._module, "_updater", None)  # as where they update
    trainer.restore_optimizer(state)
    assert "the servers of dist_async start without the optimizer's state" in caplog.text


# Without our correction of lars, MXNet's own one reaches some of the weights.
@pytest.mark.parametrize(
    ("optimizer", "corrects"),
    [
        *((name, True) for name in ("sgd", "nag", "lars", "signum")),
        *((name, False) for name in ("sgd", "nag", "signum")),
    ],
)
def test_the_velocity_follows_the_rate_as_with_mxnet(optimizer, corrects):
    network = smooth_network()
    settings = {**settings_of(optimizer), "correct_momentum": corrects}
    ours, theirs = make(network, **settings), make_mxnets(network, **settings)
    for trainer in (ours, theirs):
        train(trainer, range(3))
        train(trainer, range(3, 6), rate=RATE / 10)
    assert_close(ours.state().params, theirs.state().params, network.params)


def test_the_average_is_mxnets():
    network = smooth_network()
    ours, theirs = make(network, average_decay=0.5), make_mxnets(network, average_decay=0.5)
    for trainer in (ours, theirs):
        train(trainer, range(3))
    assert_close(ours.state().average, theirs.state().average, network.params)
    with pytest.raises(UserError, match="has no average of bn_data_gamma"):
        ours.restore_average({})


def test_frozen_parameters_stay_and_fixed_gammas_are_1():
    network = tiny_network()
    network.params["bn_data_gamma"][:] = 3
    graph, frozen = edits.freeze(network.graph, "conv0|bn0|stage1")
    trainer = make(network.with_graph(graph), frozen=frozen)
    train(trainer, range(2))
    state = trainer.state()
    moved = {n for n, array in state.params.items() if (array != network.params[n]).any()}
    assert moved == set(network.params) - set(frozen)
    assert (state.params["bn_data_gamma"] == 1).all()
    for name, array in state.stats.items():  # of frozen layers, too
        assert (array != network.stats[name]).any() == (
            name.rsplit("_", 2)[0] + "_gamma" not in frozen
        )
    assert not [key for key in state.optimizer if key.split(":")[1].split("/")[0] in frozen]


NARROW = """
import numpy as np
from common.engines.torch import operators
from common.engines.torch.runtime import torch
from common.networks import Network
from common.networks.graph import Builder

net = Builder()
shape = {"kernel": (1, 1), "stride": (2, 2), "num_filter": 16, "no_bias": True}
graph = net.graph(net.add("Convolution", "conv0", net.variable("data"), **shape))
weights = {"conv0_weight": np.ones((16, 8, 1, 1), np.float32)}
for _ in range(4):
    module = operators.build(Network(graph, weights, {}), channels_last=True)
    module(torch.ones(16, 8, 96, 96)).sum().backward()
print(module.params["conv0_weight"].grad.unique().tolist())
"""


def test_a_narrow_convolution_writes_only_into_its_own_memory(python):
    """With glibc's checks; otherwise the process died later, and elsewhere."""
    checks = {"LD_PRELOAD": "libc_malloc_debug.so.0", "GLIBC_TUNABLES": "glibc.malloc.check=3"}
    assert python(NARROW, env={**os.environ, **checks}).stdout == f"[{16 * 48 * 48}.0]\n"


def test_the_head_is_drawn_by_the_seed():
    network = plain_network()
    del network.params["fc1_weight"], network.params["fc1_bias"]
    one, same, other = (make(network, seed=seed).state().params for seed in (1, 1, 2))
    assert_equal(one, same)
    assert (one["fc1_weight"] != other["fc1_weight"]).any()
    assert one["fc1_weight"].std() == pytest.approx(np.sqrt(2 / 512), rel=0.1)
    assert not one["fc1_bias"].any()


def test_dropout_is_drawn_by_seed_and_epoch():
    def drop(seed, epoch):
        trainer = make(plain_network(dropout=0.5), seed=seed)
        trainer.begin_epoch(epoch)
        return train(trainer, [0])[0]

    np.testing.assert_array_equal(drop(1, 2), drop(1, 2))
    assert (drop(1, 2) != drop(1, 3)).any()
    assert (drop(1, 2) != drop(2, 2)).any()
    trainer = make(plain_network(dropout=0.5))
    np.testing.assert_array_equal(trainer.evaluate(batch(0)), trainer.evaluate(batch(0)))


@pytest.mark.parametrize("clip_norm", [0.01, 1000.0])
def test_the_norm_of_all_gradients_is_clipped_as_pytorch_does(clip_norm):
    network = smooth_network()
    plain = {"optimizer_settings": {"wd": 0.0, "momentum": 0.0}}
    whole, clipped = make(network, **plain), make(network, clip_norm=clip_norm, **plain)
    steps = []
    for trainer in (whole, clipped):
        trainer.step(batch(0), 1.0)
        state = trainer.state().params
        steps.append([torch.from_numpy(network.params[name] - state[name]) for name in state])
    parameters = [torch.nn.Parameter(torch.zeros_like(step)) for step in steps[0]]
    for parameter, step in zip(parameters, steps[0]):
        parameter.grad = step
    torch.nn.utils.clip_grad_norm_(parameters, clip_norm)
    for parameter, step in zip(parameters, steps[1]):
        torch.testing.assert_close(step, parameter.grad, rtol=1e-3, atol=1e-6)


def test_both_engines_clip_alike():
    network, settings = smooth_network(), {"clip_norm": 0.05, "loss_scale": 128.0}
    ours, theirs = make(network, **settings), make_mxnets(network, 1, **settings)
    for trainer in (ours, theirs):
        train(trainer, range(3))
    assert_close(ours.state().params, theirs.state().params, network.params)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_is_what_the_network_computes_in_and_weights_stay_in_float32(dtype):
    single, half = make(plain_network()), make(plain_network(), dtype=dtype, loss_scale=128.0)
    for expected, got in zip(train(single, range(3)), train(half, range(3))):
        assert (got != expected).any()
        np.testing.assert_allclose(got, expected, atol=0.02)
    state = half.state()
    assert {array.dtype for array in state.params.values()} == {np.dtype(np.float32)}
    # In float16 MXNet's optimizers keep float32 weights, and find them in this state.
    if dtype == "float16":
        assert_equal(
            {"w": state.optimizer["state:fc1_weight/1"]}, {"w": state.params["fc1_weight"]}
        )


@pytest.mark.parametrize("average_decay", [0.0, 0.9])
def test_sizes_are_mxnets(average_decay):
    network, settings = tiny_network(), {"average_decay": average_decay}
    ours, theirs = make(network, **settings), make_mxnets(network, **settings)
    assert ours.num_parameters == theirs.num_parameters
    assert ours.checkpoint_bytes() == theirs.checkpoint_bytes()


def test_what_this_engine_lacks_is_refused():
    with pytest.raises(UserError, match=r"--kv-store dist_sync: is started by cluster.sh"):
        Workers("dist_sync", CPU)
    with pytest.raises(UserError, match=r"--kv-store dist_async: .* take dist_sync"):
        Workers("dist_async", CPU)
    with pytest.raises(UserError, match=r"--gpus: names 2 .*, and 1 process"):
        Workers("device", parse_devices("cpu:0,cpu:1"))
    with pytest.raises(UserError, match="--kv-store nccl: is for GPUs"):
        Workers("nccl", CPU)
    with pytest.raises(UserError, match="--gc-type 2bit: "):
        make(plain_network(), compression={"type": "2bit", "threshold": 0.5})
    workers = Workers("local", CPU)
    assert (workers.rank, workers.size, workers.is_async, workers.agree(7)) == (0, 1, False, 7)
    assert workers.sum([1, 2]).tolist() == [1, 2]
