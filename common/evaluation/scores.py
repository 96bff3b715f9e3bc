"""How good predictions are: overall, by group, their calibration, what is confused with what."""

import csv
from dataclasses import dataclass, field
from typing import List, Optional, Tuple

import numpy as np

from common.base.files import UserError, atomic_open
from common.evaluation import metrics

PAIRS = 20


@dataclass
class ClassScore:
    """The errors of one class over its images; errors are fractions."""

    label: int
    images: int
    top1_error: float
    top5_error: float
    train_images: Optional[int] = None  # None where the training list is not known
    frequency: str = ""  # one of `metrics.FREQUENCY_GROUPS`; "" where it is not known
    taken_for: Optional[Tuple[int, int]] = None  # (label, images) of the most frequent mistake


@dataclass
class Scores:
    """The result of `score`; errors are fractions, classes are named."""

    overall: metrics.GroupError
    by_supercategory: List[metrics.GroupError]
    by_frequency: List[metrics.GroupError]  # of the class in training; empty where not known
    calibration: List[Tuple]  # (low, high, images, mean confidence, accuracy) a bin
    calibration_error: float
    confused: List[Tuple]  # (true name, predicted name, images), the most frequent first
    pairs: List[Tuple]  # the same as ((true label, predicted label), images)
    classes: List[ClassScore]  # those that have images, the largest error first
    worst: List[int] = field(default_factory=list)  # rows of mistakes, the most confident first


def score(predictions, categories, train_labels=()):
    """Score `Predictions` that know their labels.

    Args:
        categories: in the order of their labels, with `name` and `supercategory`.
        train_labels: (N,) labels of the training list; empty where there is none.

    Raises:
        UserError: the predictions have no labels, or labels of other classes.
    """
    labels, ranked = predictions.labels, predictions.ranked
    if labels is None or not len(labels) or labels.min() < 0:
        raise UserError("--set val: the true categories are not known; score the validation set")
    if labels.max() >= len(categories):
        raise UserError(
            f"--set val: an image has the label {labels.max()}, and there are {len(categories)}"
            " categories; make lists and records anew from the same JSON"
        )
    correct = metrics.hits(ranked, labels, 1)
    confidence = predictions.probabilities[:, 0]
    # An image that could not be read is as wrong as its row of the CSV, but the network did not say
    # so: calibration and confusions are of those that it has seen.
    seen = np.ones(len(labels), bool) if predictions.found is None else predictions.found
    bins, error = metrics.calibration(confidence[seen], correct[seen])
    names = [category.name for category in categories]
    counts, groups, by_frequency = None, None, []
    if len(train_labels):
        counts = metrics.class_counts(train_labels, len(categories))
        groups = metrics.frequency_groups(counts)
        by_frequency = metrics.error_by_group(ranked, labels, groups, metrics.FREQUENCY_GROUPS)
    pairs = metrics.confused_pairs(ranked[seen, 0], labels[seen])
    worst = sorted(np.flatnonzero(seen & ~correct).tolist(), key=lambda row: -confidence[row])
    return Scores(
        metrics.group_error("all", ranked, labels),
        _by_supercategory(ranked, labels, categories),
        by_frequency,
        bins,
        error,
        [(names[true], names[taken], images) for (true, taken), images in pairs[:PAIRS]],
        pairs[:PAIRS],
        _by_class(ranked, labels, pairs, len(categories), counts, groups),
        worst,
    )


def _by_class(ranked, labels, pairs, num_classes, train_counts, groups):
    images, top1_errors, top5_errors = metrics.class_errors(ranked, labels, num_classes)
    taken_for = {}
    for (true, predicted), count in pairs:  # the most frequent first
        taken_for.setdefault(true, (predicted, count))
    classes = [
        ClassScore(
            label,
            int(images[label]),
            top1_errors[label] / images[label],
            top5_errors[label] / images[label],
            None if train_counts is None else int(train_counts[label]),
            "" if groups is None else groups[label],
            taken_for.get(label),
        )
        for label in np.flatnonzero(images).tolist()
    ]
    return sorted(classes, key=lambda c: (-c.top1_error, -c.top5_error, -c.images))


def _by_supercategory(ranked, labels, categories):
    """Return the error of each super-category; nothing where the classes have none."""
    if not any(category.supercategory for category in categories):
        return []
    groups = [category.supercategory or "-" for category in categories]
    return metrics.error_by_group(ranked, labels, groups)


def sections(scores):
    """Return the tables of a report: [(title, header, rows of text)]."""
    errors = ("images", "top-1 error", "top-5 error")
    tables = [
        ("error by super-category", errors, [scores.overall, *scores.by_supercategory]),
        ("error by class frequency in training", errors, scores.by_frequency),
    ]
    result = [
        (
            title,
            (title[len("error by ") :], *header),
            [(g.group, str(g.images), f"{g.top1_error:.4f}", f"{g.top5_error:.4f}") for g in rows],
        )
        for title, header, rows in tables
        if rows
    ]
    bins = [
        (f"{low:.1f} to {high:.1f}", str(images), f"{confidence:.4f}", f"{accuracy:.4f}")
        for low, high, images, confidence, accuracy in scores.calibration
    ]
    title = f"calibration (expected error {scores.calibration_error:.4f})"
    if bins:
        result.append((title, ("confidence", "images", "mean confidence", "accuracy"), bins))
    if scores.confused:
        pairs = [(true, predicted, str(images)) for true, predicted, images in scores.confused]
        result.append(("most confused", ("true", "taken for", "images"), pairs))
    return result


def format_scores(scores):
    """Return the tables as text for a terminal."""
    return "\n\n".join(format_table(*section) for section in sections(scores))


def format_table(title, header, rows):
    """Return a table of text for a terminal, numbers at the right."""
    widths = [max(map(len, column)) for column in zip(header, *rows)]
    lines = [
        "  ".join(
            cell.rjust(width) if _is_number(rows[0][i]) else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths))
        ).rstrip()
        for row in [header, *rows]
    ]
    lines.insert(1, "  ".join("-" * width for width in widths))
    return "\n".join([title, "", *lines])


def _is_number(cell):
    return cell.replace(".", "", 1).isdigit()


def write_scores(path, scores):
    """Write the tables as one CSV of `table,row,column,value` lines, for programs."""
    with atomic_open(path) as stream:
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow(("table", "row", "column", "value"))
        for title, header, rows in sections(scores):
            name = title.partition(" (")[0]
            for row in rows:
                keys = 2 if name == "most confused" else 1
                for column, value in zip(header[keys:], row[keys:]):
                    writer.writerow((name, " > ".join(row[:keys]), column, value))
        writer.writerow(("calibration", "all", "expected error", f"{scores.calibration_error:.4f}"))
