"""The order of an epoch, and the shares of its classes where they are balanced."""

import numpy as np
import pytest

from common.data.sampling import class_shares, epoch_order


def test_balance_makes_classes_equal_within_one_image_and_keeps_the_length():
    labels = np.repeat([0, 1, 2], [900, 90, 9])
    for epoch in range(3):
        order = epoch_order(999, True, 0, epoch, labels, class_balance=1.0)
        assert len(order) == 999
        assert np.bincount(labels[order]).tolist() == pytest.approx([333] * 3, abs=1)
        times = np.bincount(order[labels[order] == 2], minlength=999)[990:]
        assert set(times) == {37} or times.max() - times.min() <= 1


def test_classes_come_mixed_in_a_balanced_epoch():
    labels = np.repeat([0, 1, 2], [900, 90, 9])
    first = labels[epoch_order(999, True, 0, 0, labels, class_balance=1.0)][:300]
    assert np.bincount(first).tolist() == pytest.approx([100] * 3, abs=30)


def test_half_a_balance_goes_by_the_square_root_and_none_changes_nothing():
    labels = np.repeat([0, 1], [900, 100])
    half = epoch_order(1000, True, 0, 0, labels, class_balance=0.5)
    assert np.bincount(labels[half]).tolist() == pytest.approx([750, 250], abs=1)
    none = epoch_order(1000, True, 0, 0, labels, class_balance=0.0)
    assert sorted(none) == [*range(1000)]


@pytest.mark.parametrize("balance", [0.0, 0.5, 1.0])
def test_the_shares_of_the_classes_are_those_of_an_epoch(balance):
    labels = np.repeat([0, 1, 3], [700, 250, 50]).astype(np.float32)
    order = epoch_order(1000, True, 0, 0, labels, class_balance=balance)
    counted = np.bincount(labels[order].astype(int), minlength=5)
    shares = class_shares(labels, 5, balance)
    assert shares.sum() == pytest.approx(1) and (shares > 0).all()
    there = [0, 1, 3]  # classes 2 and 4 have no images, and count as if they had one
    expected = shares[there] / shares[there].sum()
    np.testing.assert_allclose(counted[there] / 1000, expected, atol=0.002)
    np.testing.assert_allclose(shares[2] / shares[3], 50 ** (balance - 1))


def test_balanced_epochs_leave_out_other_images_each_time():
    labels = np.repeat([0, 1], [900, 100])
    seen = set()
    for epoch in range(12):
        seen |= set(epoch_order(1000, True, 0, epoch, labels, class_balance=1.0))
    assert len(seen) > 990
