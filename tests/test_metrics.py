"""common/evaluation/metrics.py: what is counted about predictions."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from common.evaluation import metrics


@given(arrays(np.float32, (4, 9), elements=st.sampled_from([0, 0.125, 0.25, 0.5, 1])))
def test_top_k_is_a_stable_sort_of_the_probabilities(probabilities):
    expected = np.argsort(-probabilities, axis=1, kind="stable")[:, :5]
    np.testing.assert_array_equal(metrics.top_k(probabilities), expected)


def test_top_k_of_fewer_classes_ranks_them_all_and_leaves_its_input_alone():
    probabilities = np.array([[0.2, 0.5, 0.3]])
    assert metrics.top_k(probabilities, 5).tolist() == [[1, 2, 0]]
    assert probabilities.tolist() == [[0.2, 0.5, 0.3]]


def test_top_k_error_counts_the_labels_that_are_not_among_the_first_k():
    ranked = np.array([[3, 1, 2], [0, 3, 1], [2, 0, 1], [1, 2, 3]])
    labels = [3, 3, 3, 3]
    assert metrics.top_k_error(ranked, labels, 1) == 0.75
    assert metrics.top_k_error(ranked, labels, 2) == 0.5
    assert metrics.top_k_error(ranked, labels, 3) == 0.25


def test_the_error_of_each_group_is_that_of_its_images():
    ranked = np.array([[0, 1], [0, 1], [2, 0], [1, 0]])
    birds, fungi = metrics.error_by_group(ranked, [0, 1, 2, 2], ["birds", "birds", "fungi"])
    assert birds == metrics.GroupError("birds", 2, 0.5, 0.0)
    assert fungi == metrics.GroupError("fungi", 2, 0.5, 0.5)


def test_labels_of_no_class_are_not_counted():
    assert metrics.class_counts([0, 2, 2, -2, 9], 3).tolist() == [1, 0, 2]


def test_classes_are_few_medium_or_many_by_their_training_images():
    groups = metrics.frequency_groups([0, 19, 20, 100, 101])
    assert [group.split()[0] for group in groups] == ["few", "few", "medium", "medium", "many"]


def test_a_group_without_images_is_left_out_and_the_order_is_kept():
    ranked = np.array([[0], [1]])
    groups = metrics.error_by_group(ranked, [0, 1], ["b", "a", "c"], order=["c", "b", "a"])
    assert [group.group for group in groups] == ["b", "a"]


def test_a_network_that_is_as_right_as_it_believes_is_calibrated():
    confidence = np.repeat([0.25, 0.75], 100)
    correct = np.concatenate([np.arange(100) < 25, np.arange(100) < 75])
    bins, error = metrics.calibration(confidence, correct)
    assert error == pytest.approx(0)
    assert [(low, images) for low, _, images, _, _ in bins] == [(0.2, 100), (0.7, 100)]


def test_a_network_that_is_sure_and_wrong_has_the_whole_gap_as_its_error():
    bins, error = metrics.calibration([1.0, 1.0, 0.0], [False, False, False])
    assert error == pytest.approx(2 / 3)
    assert [images for _, _, images, _, _ in bins] == [1, 2]


def test_the_most_confused_pair_comes_first():
    pairs = metrics.confused_pairs(predicted=[1, 1, 0, 2, 2, 1], labels=[0, 0, 0, 1, 2, 2])
    assert pairs == [((0, 1), 2), ((1, 2), 1), ((2, 1), 1)]


def test_the_errors_of_each_class_are_counted():
    ranked = np.array([[0, 1, 2], [1, 0, 2], [2, 1, 0], [0, 1, 2]])
    images, top1, top5 = metrics.class_errors(ranked, [0, 0, 2, 3], 5)
    assert images.tolist() == [2, 0, 1, 1, 0]
    assert top1.tolist() == [1, 0, 0, 1, 0]
    assert top5.tolist() == [0, 0, 0, 1, 0]
