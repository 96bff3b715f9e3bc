"""The second set of weights."""

import numpy as np
import pytest

from common.base.files import UserError
from common.engines.mxnet.moving_average import MovingAverage
from common.engines.mxnet.runtime import mx


def test_every_batch_moves_the_average_a_little():
    average = MovingAverage(0.9, {"w": mx.nd.array([1.0, 2.0])})
    by_hand = np.array([1.0, 2.0])
    for step in range(3):
        weights = np.array([step, 10.0 * step])
        average.update({"w": mx.nd.array(weights)})
        by_hand = 0.9 * by_hand + 0.1 * weights
    np.testing.assert_allclose(average.weights["w"].asnumpy(), by_hand, rtol=1e-6)


def test_half_precision_weights_have_an_average_in_float32():
    average = MovingAverage(0.999, {"w": mx.nd.ones((2,), dtype="float16")})
    average.update({"w": mx.nd.array([1.001, 1.001], dtype="float16")})
    assert average.weights["w"].dtype == np.float32
    assert 1 < average.weights["w"].asnumpy()[0] < 1.00001  # float16 would have stayed at 1


def test_the_average_does_not_follow_the_weights_that_it_began_with():
    weights = {"w": mx.nd.zeros((2,))}
    average = MovingAverage(0.5, weights)
    weights["w"][:] = 8
    assert not average.weights["w"].asnumpy().any()


def test_an_average_of_another_network_is_named():
    average = MovingAverage(0.9, {"w": mx.nd.zeros((2,))})
    average.restore({"w": np.array([3, 4], np.float32)})
    assert average.weights["w"].asnumpy().tolist() == [3, 4]
    for other in ({}, {"w": np.zeros(3, np.float32)}):
        with pytest.raises(UserError, match="has no average of w; it is of another network"):
            average.restore(other)
