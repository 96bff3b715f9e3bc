"""What a run prints: MXNet's lines for programs, and one line an epoch for people."""

import datetime
import logging
import time

from common.base.help import whole
from common.base.script import be_quiet, start_log

# Carries the lines of MXNet's examples, which its tools/parse_log.py reads.
mxnet_lines = logging.getLogger("mxnet_lines")


def add_log_args(parser):
    """Add the flags that choose what is printed."""
    parser.add_argument(
        "--log",
        choices=["mxnet", "plain"],
        default="mxnet",
        help="mxnet: the lines of MXNet's examples, and one line an epoch for people; plain: only"
        " the latter",
    )
    parser.add_argument(
        "--disp-batches",
        type=whole,
        default=20,
        help="batches between two of MXNet's lines, where there is no bar",
    )
    parser.add_argument(
        "--quiet", action="store_true", help="print warnings and errors alone, and no bar"
    )


def start(args, workers):
    """Start the log of a run: `--log` and `--quiet`.

    Of workers that do all the same only the first speaks, and of the others what ends them.
    """
    is_plain = args.log == "plain"
    start_log(workers.rank, is_plain)
    mxnet_lines.setLevel(logging.WARNING if is_plain else logging.NOTSET)
    is_silent = workers.rank and workers.is_joint
    if args.quiet or is_silent:
        be_quiet()
    if is_silent:
        logging.getLogger().setLevel(logging.ERROR)


def bar_title(args, epoch):
    """Return what a bar calls an epoch, counted from 0: as the lines of the log call it."""
    return f"Epoch {epoch + 1} of {args.num_epochs}" if args.log == "plain" else f"Epoch {epoch}"


class EpochLines:
    """The lines for people, `Epoch 2 of 16: loss 0.693, …`; 1 is the first, as in checkpoints."""

    def __init__(self, args, history, epochs_done):
        """Prepare to report the epochs after `epochs_done`; `history` holds their scores."""
        self._history, self._num_epochs = history, args.num_epochs
        self._begin, self._start = epochs_done, time.monotonic()

    def log_first(self):
        """Log the validation before the first epoch of this run, if there is one."""
        row = self._history.rows.get(self._begin, {})
        if row.get("val_loss"):
            when = f"After epoch {self._begin}" if self._begin else "Before training"
            logging.info("%s: %s", when, _scores(row))
        self._start = time.monotonic()

    def log(self, epoch):
        """Log the scores of an epoch that is done, the best one, the speed and the time left."""
        row = self._history.rows[epoch]
        parts = [_scores(row)]
        best = self._history.best_epoch()
        if best:
            top5 = float(self._history.rows[best]["val_top5"])
            parts.append(f"best top-5 {top5:.1%} (epoch {best})")
        seconds = (time.monotonic() - self._start) / (epoch - self._begin)
        left = datetime.timedelta(seconds=round(seconds * (self._num_epochs - epoch)))
        parts += [f"{float(row['images_per_second']):.1f} images/s", f"{left} left"]
        logging.info("Epoch %d of %d: %s", epoch, self._num_epochs, "; ".join(parts))


def _scores(row):
    """Return the losses, and the accuracies of validation; of training where there is none."""
    losses = [
        f"{name} {float(row[column]):.3f}"
        for name, column in (("loss", "loss"), ("validation loss", "val_loss"))
        if row.get(column)
    ]
    prefix, of_what = ("val_", "") if row.get("val_loss") else ("", " of training")
    columns = {f"top-{k}": f"{prefix}top{k}" for k in (1, 5)}  # which a damaged log may lack
    accuracies = [f"{name} {float(row[c]):.1%}" for name, c in columns.items() if row.get(c)]
    return ", ".join([*losses, *accuracies]) + of_what
