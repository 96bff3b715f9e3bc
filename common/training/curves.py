"""The learning curves of a run, drawn from its log after every epoch."""

import math

from common.base.files import UserError, replacing
from common.training.history import read_rows

TRAIN_COLOUR, VAL_COLOUR = "#8c96a3", "#d1495b"


def plot_curves(log_csv, png_path):
    """Draw loss and accuracy over the epochs of a training log.

    `log_csv` has one row an epoch and the columns epoch, lr, loss, top1, top5, val_loss, val_top1,
    val_top5, images_per_second, seconds; accuracies are fractions, cells may be empty. Dotted
    lines mark the epochs at which the learning rate drops.

    Raises:
        UserError: the log is missing, empty, or not such a table.
    """
    from matplotlib.figure import Figure  # here: it takes half a second
    from matplotlib.ticker import MaxNLocator, PercentFormatter

    epochs = [_numbers(row) for row in read_rows(log_csv).values()]
    if not epochs:
        raise UserError(f"{log_csv}: holds no epoch yet; train for one first")
    figure = Figure(figsize=(11, 4.2), dpi=110, layout="constrained")
    loss_axes, accuracy_axes = figure.subplots(1, 2)
    drops = [b["epoch"] for a, b in zip(epochs, epochs[1:]) if b["lr"] < a["lr"]]
    for axes in (loss_axes, accuracy_axes):
        axes.set_xlabel("epoch")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
        for epoch in drops:
            axes.axvline(epoch - 0.5, color="#c8ccd2", linestyle=":", linewidth=1.2, zorder=0)
        axes.grid(axis="y", color="#eceef1")
        axes.spines[["top", "right"]].set_visible(False)

    _draw(loss_axes, epochs, "loss", "train", TRAIN_COLOUR)
    _draw(loss_axes, epochs, "val_loss", "val", VAL_COLOUR)
    loss_axes.set_title("cross-entropy loss", loc="left")
    _draw(accuracy_axes, epochs, "top1", "train top-1", TRAIN_COLOUR)
    _draw(accuracy_axes, epochs, "top5", "train top-5", TRAIN_COLOUR, "--")
    _draw(accuracy_axes, epochs, "val_top1", "val top-1", VAL_COLOUR)
    _draw(accuracy_axes, epochs, "val_top5", "val top-5", VAL_COLOUR, "--")
    accuracy_axes.set_title("accuracy", loc="left")
    accuracy_axes.set_ylim(0, 1.02)
    accuracy_axes.yaxis.set_major_formatter(PercentFormatter(1))
    for axes in (loss_axes, accuracy_axes):
        if axes.lines:
            axes.legend(frameon=False)
    with replacing(png_path) as temporary:
        figure.savefig(temporary, format="png")


def _draw(axes, epochs, column, label, colour, style="-"):
    points = [(e["epoch"], e.get(column, math.nan)) for e in epochs]
    points = [point for point in points if not math.isnan(point[1])]
    if points:
        axes.plot(*zip(*points), style, color=colour, label=label, marker="o", markersize=3.5)


def _numbers(row):
    """Return a row of the log as floats, NaN where a cell is empty."""
    return {name: float(cell or "nan") for name, cell in row.items()}
