"""The second set of weights."""

import importlib
from types import SimpleNamespace

import numpy as np
import pytest

from common.base.files import UserError
from tests.conftest import only


@pytest.fixture
def moving(engine):
    """An engine's `MovingAverage`, and `array`, which makes the engine's arrays of numpy's."""
    runtime, module = (
        importlib.import_module(f"common.engines.{engine}.{name}")
        for name in ("runtime", "moving_average")
    )

    def array(values, dtype="float32"):
        values = np.array(values, dtype)
        if engine == "mxnet":
            return runtime.mx.nd.array(values, dtype=dtype)
        return runtime.torch.tensor(values)

    return SimpleNamespace(Average=module.MovingAverage, array=array)


def read(average):
    """The average of `w`, as a numpy array."""
    array = average.weights["w"]
    return array.asnumpy() if hasattr(array, "asnumpy") else array.numpy()


def test_every_batch_moves_the_average_a_little(moving):
    average = moving.Average(0.9, {"w": moving.array([1.0, 2.0])})
    by_hand = np.array([1.0, 2.0])
    for step in range(3):
        weights = np.array([step, 10.0 * step])
        average.update({"w": moving.array(weights)})
        by_hand = 0.9 * by_hand + 0.1 * weights
    np.testing.assert_allclose(read(average), by_hand, rtol=1e-6)


@only("torch")
def test_the_average_of_weights_that_stay_stays(moving):
    frozen = moving.array([1.0, 3.0])
    average = moving.Average(0.9999, {"w": frozen})
    for _ in range(1000):
        average.update({"w": frozen})
    assert read(average).tolist() == [1.0, 3.0]


@only("mxnet")  # PyTorch's weights are always float32
def test_half_precision_weights_have_an_average_in_float32(moving):
    average = moving.Average(0.999, {"w": moving.array([1, 1], "float16")})
    average.update({"w": moving.array([1.001, 1.001], "float16")})
    assert average.weights["w"].dtype == np.float32
    assert 1 < read(average)[0] < 1.00001  # float16 would have stayed at 1


def test_the_average_does_not_follow_the_weights_that_it_began_with(moving):
    weights = {"w": moving.array([0, 0])}
    average = moving.Average(0.5, weights)
    weights["w"][:] = 8
    assert not read(average).any()


def test_an_average_of_another_network_is_named(moving):
    average = moving.Average(0.9, {"w": moving.array([0, 0])})
    average.restore({"w": np.array([3, 4], np.float32)})
    assert read(average).tolist() == [3, 4]
    for other in ({}, {"w": np.zeros(3, np.float32)}):
        with pytest.raises(UserError, match="has no average of w; it is of another network"):
            average.restore(other)
