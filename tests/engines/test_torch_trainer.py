"""The trainer of the torch engine trains as MXNet's does, and goes on from its checkpoints."""

import os

import numpy as np
import pytest

from common.base.files import UserError
from common.data.loader import Batch
from common.engines import TrainerOptions
from common.engines.torch.devices import parse_devices
from common.engines.torch.initial_weights import draw
from common.engines.torch.loss import loss_gradient
from common.engines.torch.optimizers import optimizers
from common.engines.torch.runtime import torch
from common.engines.torch.shapes import infer_shapes
from common.engines.torch.trainer import Trainer
from common.engines.torch.workers import Workers
from common.networks import Network, checkpoint, edits
from common.networks.graph import Builder, auxiliary_states, edit
from common.networks.resnet import build_resnet
from common.training.schedule import Schedule
from tests.conftest import require_engine
from tests.random_networks import for_raw_images

SHAPE, CLASSES = (3, 32, 32), 5
CPU = parse_devices("cpu")
RATE = 0.01
# sgld draws noise, and MXNet has no adamw.
COMPARED = [name for name in optimizers() if name not in ("sgld", "adamw")]


def schedule(rate=RATE):
    return Schedule("step", rate, 0.1, (), 0, 100)


def batch(number, size=8):
    random = np.random.RandomState(number)
    images = random.randint(0, 256, (size, *SHAPE)).astype(np.uint8)
    labels = random.randint(0, CLASSES, size).astype(np.float32)
    return Batch(images, labels, np.arange(size), 0, [])


def with_weights(graph, seed=3):
    """A network of random weights, biases, gammas, betas and statistics."""
    generator, random = torch.Generator().manual_seed(seed), np.random.RandomState(seed)
    arrays = {
        name: draw(name, shape, {}, generator).numpy()
        for name, shape in infer_shapes(graph, SHAPE).items()
    }
    for name, array in arrays.items():
        if not name.endswith("_weight") and name not in edits.fixed_gammas(graph):
            array += random.uniform(0, 0.1, array.shape).astype(np.float32)
    stats = {name: arrays.pop(name) for name in auxiliary_states(graph)}
    return Network(graph, arrays, stats, "fc1")


def tiny_network():
    graph = edits.take_raw_images(build_resnet(10, CLASSES, width=8))
    return for_raw_images(with_weights(graph))


def smooth_network():
    """Every kind of parameter, without ReLU, at whose kink rounding grows to a difference."""
    builder = Builder()
    body = builder.add("BatchNorm", "bn_data", builder.variable("data"))
    for layer in range(2):
        # With a bias, or without padding, there would be gradients of nothing but rounding.
        shape = {"kernel": (3, 3), "pad": (1, 1), "num_filter": 8}
        body = builder.add("Convolution", f"conv{layer}", body, no_bias=True, **shape)
        body = builder.add("BatchNorm", f"bn{layer}", body, fix_gamma=False, momentum=0.8)
        body = builder.add("Activation", f"tanh{layer}", body, act_type="tanh")
        body = builder.add("Pooling", None, body, kernel=(4, 4), stride=(4, 4), pool_type="avg")
    graph = builder.graph(edits.classify(builder, body, CLASSES, "fc1"))
    return for_raw_images(with_weights(edits.take_raw_images(graph)))


def plain_network(dropout=0.0):
    """Without BatchNorm, whose statistics are those of each device's part of the batch."""
    builder = Builder()
    data = builder.add("_div_scalar", "scaled", builder.variable("data"), scalar=255)
    body = builder.add("Convolution", "conv0", data, kernel=(3, 3), stride=(4, 4), num_filter=8)
    body = builder.add("Flatten", "flat", builder.add("Activation", "relu", body, act_type="relu"))
    if dropout:
        body = builder.add("Dropout", "drop", body, p=dropout)
    graph = builder.graph(edits.classify(builder, body, CLASSES, "fc1"))
    return with_weights(edits.take_raw_images(graph))


def options(rate=RATE, **settings):
    settings.setdefault("optimizer_settings", {"momentum": 0.9, "wd": 1e-3})
    settings.setdefault("batch_size", 8)
    return TrainerOptions(image_shape=SHAPE, schedule=schedule(rate), **settings)


def make(network, on=CPU, **settings):
    return Trainer(network, on, options(**settings), Workers("device", on))


def make_mxnets(network, count=1, **settings):
    require_engine("mxnet")
    from common.engines import mxnet
    from common.engines.mxnet.runtime import mx

    on = [mx.cpu(number) for number in range(count)]
    return mxnet.Trainer(network, on, options(**settings), mxnet.Workers("local", on))


def train(trainer, numbers, rate=RATE):
    return [trainer.step(batch(number), rate)() for number in numbers]


def assert_close(got, expected, start, share=1e-4):
    """All weights together end within a share of the way that they went."""
    assert got.keys() == expected.keys()
    way, off = (
        np.sqrt(sum(np.square(expected[name] - other[name]).sum() for name in expected))
        for other in (start, got)
    )
    assert way > 0
    assert off / way < share


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


@pytest.mark.parametrize("optimizer", ["sgd", "nag", "lars", "signum"])
@pytest.mark.parametrize("corrects", [True, False])
def test_the_velocity_follows_the_rate_as_with_mxnet(optimizer, corrects):
    if optimizer == "lars" and not corrects:
        pytest.skip("MXNet's own correction reaches some of the weights")
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


TWO_CPUS = parse_devices("cpu:0,cpu:1")


@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_two_devices_make_the_update_of_one(optimizer):
    network, settings = plain_network(), settings_of(optimizer)
    one, two = make(network, **settings), make(network, TWO_CPUS, **settings)
    for expected, got in zip(train(one, range(3)), train(two, range(3))):
        np.testing.assert_allclose(got, expected, atol=1e-5)
    assert_close(two.state().params, one.state().params, network.params)
    np.testing.assert_allclose(two.evaluate(batch(9)), one.evaluate(batch(9)), atol=1e-5)


def test_two_devices_normalise_their_parts_of_the_batch_as_mxnets_do():
    network = smooth_network()
    ours, theirs = make(network, TWO_CPUS), make_mxnets(network, count=2)
    for trainer in (ours, theirs):
        train(trainer, range(3))
    got, expected = ours.state(), theirs.state()
    assert_close(got.params, expected.params, network.params)
    assert_close(got.stats, expected.stats, network.stats)
    np.testing.assert_allclose(ours.evaluate(batch(9)), theirs.evaluate(batch(9)), atol=1e-5)


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
    ours, theirs = make(network, TWO_CPUS, **settings), make_mxnets(network, 2, **settings)
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
    ours, theirs = make(network, TWO_CPUS, **settings), make_mxnets(network, 2, **settings)
    plain = make(network, TWO_CPUS)
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
    ours, theirs = make(network, TWO_CPUS, **settings), make_mxnets(network, 2, **settings)
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
    with pytest.raises(UserError, match=r"--kv-store dist_sync: .* one machine"):
        Workers("dist_sync", CPU)
    with pytest.raises(UserError, match="--kv-store nccl: is for GPUs"):
        Workers("nccl", CPU)
    with pytest.raises(UserError, match="--gc-type 2bit: "):
        make(plain_network(), compression={"type": "2bit", "threshold": 0.5})
    workers = Workers("local", CPU)
    assert (workers.rank, workers.size, workers.is_async, workers.agree(7)) == (0, 1, False, 7)
