"""How a training run goes: what is counted in an epoch, and the log of all epochs."""

import csv
import logging
import math
import os
import time

import numpy as np

from common.base.files import UserError, atomic_open, require_file
from common.base.progress import Progress, on_terminal
from common.training.log_lines import mxnet_lines


def count(probabilities, labels, top_ks):
    """Return the number of images, their summed loss and the hits of each top k, float64.

    Args:
        probabilities: `(N, num_classes)`.
        labels: `(N,)` of 0 to num_classes - 1.
    """
    labels = labels.astype(np.int64)
    of_truth = probabilities[np.arange(len(labels)), labels]
    loss = float(-np.log(np.maximum(of_truth, 1e-30)).sum())  # NaN stays NaN
    # The rank of the true class: how many others have its probability or more. A network that
    # gives all classes the same probability gets no credit for it.
    rank = (~(probabilities < of_truth[:, None])).sum(axis=1) - 1  # NaN is never a hit
    return np.array([len(labels), loss, *((rank < k).sum() for k in top_ks)], np.float64)


class Tally:
    """Mean loss and top-k accuracies over the images seen since it was made.

    Attributes:
        counts: sums of what `count` returns; those of several tallies can be added.
    """

    def __init__(self, top_ks):
        self.top_ks = top_ks
        self.counts = np.zeros(2 + len(top_ks))

    def add(self, probabilities, labels):
        """Count images, as `count` does."""
        self.counts = self.counts + count(probabilities, labels, self.top_ks)

    @property
    def images(self):
        """How many images were seen."""
        return int(self.counts[0])

    @property
    def loss(self):
        """Mean cross-entropy, in nats."""
        return self.counts[1] / max(self.images, 1)

    def accuracy(self, k):
        """Share of images whose true class is among the first k, 0 to 1."""
        return self.counts[2 + self.top_ks.index(k)] / max(self.images, 1)

    def row(self, prefix=""):
        """Return the columns of the log: `{loss: …, top1: …, top5: …}`."""
        columns = {f"{prefix}loss": self.loss}
        columns.update((f"{prefix}top{k}", self.accuracy(k)) for k in self.top_ks)
        return {name: f"{value:.6f}" for name, value in columns.items()}

    def named(self):
        """Return `[(name, value)]` under the names of MXNet's metrics, as in its log lines."""
        names = [("accuracy" if k == 1 else f"top_k_accuracy_{k}", k) for k in self.top_ks]
        return [(name, self.accuracy(k)) for name, k in names] + [("cross-entropy", self.loss)]


class EpochMeter:
    """The speed and the scores of a running epoch, as a bar or as MXNet's log lines."""

    def __init__(self, epoch, train, lines_apart, top_ks, title):
        """Begin to count epoch `epoch`, from 0; `title` is what the bar calls it."""
        self.epoch, self.tally = epoch, Tally(top_ks)
        self._lines_apart, self._recent = lines_apart, Tally(top_ks)
        self._bar, self._batch_size = None, train.batch_size
        if on_terminal():  # the last batch counts as a whole one
            self._bar = Progress(len(train) * train.batch_size, title)
        self._start = self._line_start = time.monotonic()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.seconds = time.monotonic() - self._start
        if self._bar is not None:
            self._bar.close()

    def add(self, number, counts):
        """Add what `count` returned of batch `number` of the epoch."""
        self.tally.counts += counts
        self._recent.counts += counts
        if self._bar is not None:
            self._bar.update(self._batch_size)
        elif (number + 1) % self._lines_apart == 0:
            now = time.monotonic()
            speed = self._recent.images / (now - self._line_start)
            scores = "\t".join(f"{name}={value:f}" for name, value in self._recent.named())
            line = "Epoch[%d] Batch [%d]\tSpeed: %.2f samples/sec\t%s"
            mxnet_lines.info(line, self.epoch, number + 1, speed, scores)
            self._recent, self._line_start = Tally(self._recent.top_ks), now

    @property
    def images_per_second(self):
        """Of the whole epoch, reading included."""
        return self.tally.images / self.seconds

    def log_epoch(self):
        """Log the lines that MXNet's tools/parse_log.py reads."""
        for name, value in self.tally.named():
            mxnet_lines.info("Epoch[%d] Train-%s=%f", self.epoch, name, value)
        mxnet_lines.info("Epoch[%d] Time cost=%.3f", self.epoch, self.seconds)


def log_path(prefix):
    """Return the name of the log of a run: `PREFIX-log.csv`."""
    return f"{prefix}-log.csv"


def last_epoch(path):
    """Return the last epoch in a log, 0 where it has none; None without a log.

    Raises:
        UserError: the file is no such log.
    """
    return max(read_rows(path), default=0) if os.path.lexists(path) else None


def read_rows(path):
    """Return `{epoch: {column: text}}` of a log, in its order.

    Raises:
        UserError: the file is no such log.
    """
    require_file(path, "move it away and run again")
    try:
        with open(path, newline="", encoding="utf-8") as stream:
            table = csv.DictReader(stream)
            rows = {int(row["epoch"]): row for row in table}
            for row in rows.values():
                for cell in row.values():
                    float(cell or "nan")  # a cell that is cut off is None
            if "epoch" not in (table.fieldnames or ()):
                raise ValueError
            return rows
    except (KeyError, ValueError, TypeError, csv.Error):
        raise UserError(
            f"{path}: not the log of a training run; move it away and run again"
        ) from None


class History:
    """The log of a run, `MODEL-PREFIX-log.csv`: one row an epoch, rewritten at each change.

    Row 0, where there is one, is the validation before the first epoch. An epoch gets its row when
    its checkpoint is complete: checkpoints after the last row are an earlier run's.
    """

    def __init__(self, path, top_ks, epochs_done=0, trains=True):
        """Continue the rows of `path` up to `epochs_done`; later epochs are trained again.

        The log is written at once: an earlier run's log would pass for this one's.

        Args:
            trains: whether an epoch follows; where none does, the rows of later ones stay.
        """
        self.path = path
        scores = ["loss", *(f"top{k}" for k in top_ks)]
        self.columns = ["epoch", "lr", *scores, *(f"val_{score}" for score in scores)]
        self.columns += ["images_per_second", "seconds"]
        self.rows = {}
        if epochs_done:
            rows = read_rows(path) if os.path.lexists(path) else {}
            self.rows = {e: row for e, row in rows.items() if e <= epochs_done or not trains}
            known = dict.fromkeys([*self.columns, *(c for row in rows.values() for c in row)])
            self.columns = list(known)  # also those that this run does not count, as top3
            lost = sorted(set(range(1, epochs_done)) - self.rows.keys()) if rows else ()
            if lost:
                logging.warning("%s: has no rows of %d epochs before this one", path, len(lost))
            self.rows.setdefault(epochs_done, {"epoch": epochs_done})
        self._write()

    def update(self, epoch, columns):
        """Add columns to the row of an epoch, and write the log."""
        self.rows.setdefault(epoch, {"epoch": epoch}).update(columns)
        self._write()

    def _write(self):
        with atomic_open(self.path) as stream:
            writer = csv.DictWriter(stream, self.columns, restval="", extrasaction="ignore")
            writer.writeheader()
            writer.writerows(self.rows[e] for e in sorted(self.rows))

    def lacks_validation(self, epoch):
        """Return whether an epoch has its row, but not yet its validation."""
        return epoch in self.rows and not self.rows[epoch].get("val_loss")

    def best_epoch(self):
        """Return the epoch (1 or later) of the best validation top-5 accuracy, or None."""
        scored = [e for e, row in self.rows.items() if e > 0 and row.get("val_top5")]
        return max(scored, key=self._score, default=None)

    def epochs_since_best(self):
        """Return how many epochs have passed since the first of the best validation top-1."""
        scores = {e: float(r["val_top1"]) for e, r in self.rows.items() if e and r.get("val_top1")}
        if not scores:
            return 0
        return max(scores) - max(sorted(scores), key=scores.get)

    def _score(self, epoch):
        row = self.rows[epoch]
        scores = [float(row.get(name) or "nan") for name in ("val_top5", "val_top1", "val_loss")]
        scores[2] = -scores[2]
        return [score if math.isfinite(score) else -math.inf for score in scores]
