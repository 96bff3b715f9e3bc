"""The metrics of predictions: top-k error, calibration, confusions, groups of classes.

Pure numpy. Labels are ranks 0..N-1 of the category ids, probabilities are (N, classes) in 0..1,
`ranked` is what `top_k` returns: (N, k) labels, best first. Errors are fractions, 0 to 1.
"""

from collections import Counter
from dataclasses import dataclass

import numpy as np

# The bounds of "few", "medium" and "many" in long-tailed recognition (Liu et al., CVPR 2019).
FEW_BELOW, MANY_ABOVE = 20, 100


def top_k(probabilities, k=5):
    """Return the `k` labels of each row, best first: (N, min(k, classes)) int64.

    Among equal probabilities the lower label comes first, so that the result depends on the
    numbers alone. `k` passes of argmax: 9 us for a row of 5,089; a stable sort takes 420.
    """
    left = np.array(probabilities, dtype=np.float32)
    rows = np.arange(len(left))
    ranked = np.empty((len(left), min(k, left.shape[1])), np.int64)
    for place in range(ranked.shape[1]):
        ranked[:, place] = left.argmax(axis=1)
        left[rows, ranked[:, place]] = -np.inf
    return ranked


def hits(ranked, labels, k):
    """Return where the label is among the first `k` of its row: (N,) bool."""
    return (ranked[:, :k] == np.asarray(labels).reshape(-1, 1)).any(axis=1)


def top_k_error(ranked, labels, k):
    """Return the fraction of rows whose label is not among the first `k`; NaN of no rows."""
    return 1 - float(hits(ranked, labels, k).mean()) if len(ranked) else float("nan")


@dataclass
class GroupError:
    """The errors over one group of images."""

    group: str
    images: int
    top1_error: float
    top5_error: float


def error_by_group(ranked, labels, group_of_label, order=None):
    """Return a `GroupError` for each group that has images.

    `group_of_label` names the group of each class: a sequence of `classes` strings. The groups come
    in the `order` that is given, or that of their names.
    """
    labels = np.asarray(labels, np.int64)
    groups = np.asarray(group_of_label, dtype=object)[labels]
    return [
        group_error(name, ranked, labels, groups == name)
        for name in order or sorted(set(groups))
        if (groups == name).any()
    ]


def group_error(name, ranked, labels, chosen=slice(None)):
    """Return the `GroupError` of the rows that `chosen` (a mask or a slice) picks."""
    ranked, labels = ranked[chosen], np.asarray(labels)[chosen]
    return GroupError(
        name, len(labels), top_k_error(ranked, labels, 1), top_k_error(ranked, labels, 5)
    )


def class_errors(ranked, labels, num_classes):
    """Return the images, top-1 errors and top-5 errors of each class, (classes,) int64 each."""
    labels = np.asarray(labels, np.int64)
    images, *correct = (
        np.bincount(chosen, minlength=num_classes)
        for chosen in (labels, labels[hits(ranked, labels, 1)], labels[hits(ranked, labels, 5)])
    )
    return (images, *(images - right for right in correct))


FREQUENCY_GROUPS = (
    f"few (< {FEW_BELOW})",
    f"medium ({FEW_BELOW} to {MANY_ABOVE})",
    f"many (> {MANY_ABOVE})",
)


def class_counts(labels, num_classes):
    """Return how many of the labels each class has, (classes,); those outside count for none."""
    labels = np.asarray(labels, np.int64)
    return np.bincount(labels[(labels >= 0) & (labels < num_classes)], minlength=num_classes)


def frequency_groups(train_counts):
    """Name each class by its number of training images: one of `FREQUENCY_GROUPS`."""
    few, medium, many = FREQUENCY_GROUPS
    return [few if n < FEW_BELOW else many if n > MANY_ABOVE else medium for n in train_counts]


def calibration(confidences, correct, bins=10):
    """Compare what the network believed with what was true (Guo et al., ICML 2017).

    `confidences` are the probabilities of the first choices, (N,) in 0..1; `correct` says which of
    those were right. Returns a list of (low, high, images, mean confidence, accuracy), one for
    each of the equal bins that is not empty, and the expected calibration error: the mean gap
    between the last two, weighted by images.
    """
    confidences = np.asarray(confidences, np.float64)
    correct = np.asarray(correct, bool)
    # Bins are open below and closed above, so that a confidence of 1 falls into the last one.
    place = np.clip(np.ceil(confidences * bins).astype(int) - 1, 0, bins - 1)
    rows = []
    for b in np.unique(place):
        inside = place == b
        confidence, accuracy = confidences[inside].mean(), correct[inside].mean()
        rows.append((b / bins, (b + 1) / bins, int(inside.sum()), confidence, accuracy))
    gap = sum(images * abs(confidence - accuracy) for *_, images, confidence, accuracy in rows)
    return rows, gap / max(len(confidences), 1)


def confused_pairs(predicted, labels, count=None):
    """Return the most frequent mistakes: [((true label, predicted label), images)], worst first.

    All of them where no `count` is given.
    """
    pairs = Counter((int(t), int(p)) for t, p in zip(labels, predicted) if t != p)
    return sorted(pairs.items(), key=lambda item: (-item[1], item[0]))[:count]
