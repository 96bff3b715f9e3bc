"""The optimizers of the torch engine make MXNet's updates, and keep MXNet's state."""

import importlib

import numpy as np
import pytest

from common.engines.torch.optimizers import Optimizer, optimizers
from common.engines.torch.runtime import torch
from tests.conftest import require_engine

# Of every kind that the rules treat in a way of its own.
SHAPES = {
    "conv0_weight": (4, 3, 3, 3),
    "conv0_bias": (4,),
    "bn0_gamma": (4,),
    "bn0_beta": (4,),
    "fc1_weight": (5, 4),
    "fc1_bias": (5,),
}
ATTRIBUTES = {
    "fc1_weight": {"__lr_mult__": "10.0"},
    "fc1_bias": {"__lr_mult__": "10.0", "__wd_mult__": "0.5"},
}
SETTINGS = {
    "lbsgd": {"momentum": 0.9},
    "lars": {"momentum": 0.9, "eta": 0.5},
    "nag": {"momentum": 0.9},
    "sgd": {"momentum": 0.9},
    "signum": {"momentum": 0.9, "wd_lh": 0.01},
}
NOT_COMPARED = ("sgld", "adamw")  # which draws noise; which MXNet lacks
CASES = {
    **{name: (name, SETTINGS.get(name, {})) for name in optimizers() if name not in NOT_COMPARED},
    **{f"{name} without momentum": (name, {"momentum": 0.0}) for name in SETTINGS},
    "rmsprop centered": ("rmsprop", {"centered": True}),
}
RATE, COMMON = 0.01, {"wd": 0.1, "rescale_grad": 0.25}


def draw(seed):
    random = np.random.RandomState(seed)
    return {name: random.randn(*shape).astype(np.float32) for name, shape in SHAPES.items()}


def load_mxnet():
    require_engine("mxnet")
    return importlib.import_module("common.engines.mxnet.runtime").mx


def mxnets(name, **settings):
    """MXNet's optimizer and updater, as Module makes them for one device."""
    mx = load_mxnet()
    variables = [mx.sym.Variable(n, attr=ATTRIBUTES.get(n)) for n in SHAPES]
    if name == "lars":
        settings["momentum_correction"] = False
    optimizer = mx.optimizer.create(
        name,
        learning_rate=RATE,
        param_idx2name=dict(enumerate(SHAPES)),
        sym=mx.sym.Group(variables),
        **settings,
    )
    return mx, optimizer, mx.optimizer.get_updater(optimizer)


def train_mxnet(name, updates, **settings):
    """Returns the weights and the updater's states."""
    mx, _, updater = mxnets(name, **COMMON, **settings)
    weights = [mx.nd.array(array) for array in draw(0).values()]
    for number in range(updates):
        gradients = [mx.nd.array(array) for array in draw(number + 1).values()]
        updater(list(range(len(SHAPES))), gradients, weights)
    return dict(zip(SHAPES, (w.asnumpy() for w in weights))), updater.states


def make(name, weights, **settings):
    return Optimizer(name, weights, {"wd": COMMON["wd"], **settings}, ATTRIBUTES)


def train(optimizer, numbers, rate=RATE, **more):
    for number in numbers:
        gradients = [
            COMMON["rescale_grad"] * torch.from_numpy(array) for array in draw(number + 1).values()
        ]
        optimizer.update(gradients, rate, **more)


def tensors(arrays):
    return {name: torch.from_numpy(array.copy()) for name, array in arrays.items()}


def flatten(state):
    if state is None:
        return []
    if isinstance(state, (tuple, list)):
        return [array for part in state for array in flatten(part)]
    return [state.asnumpy()]


def assert_close(got, expected, name=""):
    np.testing.assert_allclose(got, expected, rtol=1e-4, atol=1e-5, err_msg=name)


@pytest.mark.parametrize("clip", [None, 0.2], ids=["whole gradients", "clipped"])
@pytest.mark.parametrize("case", CASES)
def test_ten_updates_are_mxnets(case, clip):
    name, settings = CASES[case]
    if clip:
        settings = {**settings, "clip_gradient": clip}
    expected, states = train_mxnet(name, 10, **settings)
    weights = tensors(draw(0))
    optimizer = make(name, weights, **settings)
    train(optimizer, range(10))
    for weight in SHAPES:
        moved = np.abs(expected[weight] - draw(0)[weight]).max()
        assert moved > 1e-5
        assert_close(weights[weight].numpy(), expected[weight], weight)
    expected_states = {
        f"state:{weight}/{slot}": array
        for weight, key in zip(SHAPES, states)
        for slot, array in enumerate(flatten(states[key]))
    }
    got = optimizer.state()
    got.pop("number:m_schedule", None)
    assert got.keys() == expected_states.keys()
    for key, array in got.items():
        assert_close(array, expected_states[key], key)


def test_the_names_are_mxnets():
    load_mxnet()
    from common.engines import mxnet

    mxnets_names = mxnet.optimizers()
    assert [name for name in optimizers() if name != "adamw"] == list(mxnets_names)
    ours = {name for name, settings in optimizers().items() if "momentum" in settings}
    theirs = {name for name, settings in mxnets_names.items() if "momentum" in settings}
    assert ours == theirs - {"dcasgd"}  # which fails with a momentum


def test_adamw_makes_pytorchs_updates_and_decays_weights_alone():
    ours, theirs = tensors(draw(0)), tensors(draw(0))
    decayed = [theirs[name] for name in SHAPES if name.endswith("_weight")]
    others = [theirs[name] for name in SHAPES if not name.endswith("_weight")]
    groups = [{"params": decayed}, {"params": others, "weight_decay": 0.0}]
    peer = torch.optim.AdamW(groups, lr=RATE, weight_decay=COMMON["wd"])
    optimizer = Optimizer("adamw", ours, {"wd": COMMON["wd"]}, {})
    for number in range(10):
        gradients = tensors(draw(number + 1))
        for name, gradient in gradients.items():
            theirs[name].grad = gradient.clone()
        peer.step()
        optimizer.update(list(gradients.values()), RATE)
    for name, weight in ours.items():
        assert abs(weight.numpy() - draw(0)[name]).max() > 0.01
        torch.testing.assert_close(weight, theirs[name], rtol=1e-5, atol=1e-6, msg=name)


@pytest.mark.parametrize("name", ["sgd", "nag", "lars", "adam", "rmsprop"])
def test_in_float16_the_weights_stand_where_mxnets_masters_do(name):
    mx, optimizer, _ = mxnets(name, multi_precision=True, **SETTINGS.get(name, {}))
    weight = draw(0)["fc1_weight"]
    half = mx.nd.array(weight, dtype="float16")
    masters = flatten(optimizer.create_state_multi_precision(0, half))
    weights = {"fc1_weight": torch.from_numpy(weight)}
    settings = SETTINGS.get(name, {})
    ours = Optimizer(name, weights, settings, {}, keeps_weights=True)
    ours.restore({f"state:fc1_weight/{slot}": array for slot, array in enumerate(masters)})
    np.testing.assert_array_equal(weights["fc1_weight"].numpy(), half.asnumpy())
    for slot, array in enumerate(masters):
        np.testing.assert_array_equal(ours.state()[f"state:fc1_weight/{slot}"], array)


@pytest.mark.parametrize("name", optimizers())
def test_a_rate_of_0_leaves_numbers(name):
    """The last update of a cosine."""
    weights = tensors(draw(0))
    train(make(name, weights, **SETTINGS.get(name, {})), range(2), rate=0.0)
    assert all(torch.isfinite(weight).all() for weight in weights.values())


def test_sgld_draws_noise_of_the_size_of_the_rate():
    weights = {"w_weight": torch.zeros(10_000)}
    torch.manual_seed(3)
    Optimizer("sgld", weights, {}, {}).update([torch.zeros(10_000)], 0.04)
    assert weights["w_weight"].std().item() == pytest.approx(0.2, rel=0.05)


def test_lars_scales_no_rate_of_norms_and_biases():
    shapes = {"bn1.weight": (4,), "bn1.bias": (4,), "bn1_gamma": (4,), "fc.weight": (5, 4)}
    weights = {name: torch.full(shape, 3.0) for name, shape in shapes.items()}
    gradients = [torch.full_like(weight, 2.0) for weight in weights.values()]
    Optimizer("lars", weights, {"eta": 0.5}, {}).update(gradients, 0.1)
    changes = {name: 3 - weight.mean().item() for name, weight in weights.items()}
    rate = {"bn1.weight": 0.1, "bn1.bias": 0.1, "bn1_gamma": 0.1, "fc.weight": 0.1 * 0.5 * 3 / 2}
    assert changes == pytest.approx({name: 2 * each for name, each in rate.items()}, rel=1e-5)


def test_a_velocity_that_holds_the_rate_is_scaled_with_it():
    for name, factor in (("sgd", 0.5), ("signum", 1.0), ("adam", 1.0)):
        scaled, other = tensors(draw(0)), tensors(draw(0))
        settings = {"momentum": 0.9} if name != "adam" else {}
        first, second = make(name, scaled, **settings), make(name, other, **settings)
        for optimizer in (first, second):
            train(optimizer, [0])
        states = second.state()
        second.restore({key: array * np.float32(factor) for key, array in states.items()})
        train(first, [1], velocity_factor=0.5)
        train(second, [1])
        for key, array in second.state().items():
            np.testing.assert_array_equal(first.state()[key], array, err_msg=name)


@pytest.mark.parametrize("name", optimizers())
def test_a_weight_without_a_gradient_stays_a_number(name):
    """Behind a ReLU that is 0 for all images so far."""
    weights = {"bn0_beta": torch.ones(3)}
    optimizer = Optimizer(name, weights, SETTINGS.get(name, {}), {})
    optimizer.update([torch.zeros(3)], 0.01)
    assert torch.isfinite(weights["bn0_beta"]).all()
