"""Pictures and pages to look at: learning curves, and the report on the validation set."""

import csv
import io
import math
import os

from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from common import page
from common.files import UserError, atomic_open, replacing, require_file
from common.scores import sections, write_scores

PHOTOGRAPHS = 24  # of the worst mistakes

TRAIN_COLOUR, VAL_COLOUR = "#8c96a3", "#d1495b"


def plot_curves(log_csv, png_path):
    """Draw loss and accuracy over the epochs of a training log.

    `log_csv` has one row an epoch and the columns epoch, lr, loss, top1, top5, val_loss, val_top1,
    val_top5, images_per_second, seconds; accuracies are fractions, cells may be empty. Dotted
    lines mark the epochs at which the learning rate drops.

    Raises:
        UserError: the log is missing, empty, or not such a table.
    """
    epochs = read_log(log_csv)
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


def read_log(log_csv):
    """Return the epochs of a training log: dictionaries of floats, NaN where a cell is empty."""
    require_file(log_csv, "fine-tune.py writes it while it trains")
    with open(log_csv, encoding="utf-8", newline="") as stream:
        rows = list(csv.DictReader(stream))
    if not rows:
        raise UserError(f"{log_csv}: holds no epoch yet; train for one first")
    try:
        epochs = [{name: float(cell or "nan") for name, cell in row.items()} for row in rows]
        if not {"epoch", "lr", "loss"} <= set(epochs[0]):
            raise ValueError
    except (TypeError, ValueError):
        raise UserError(
            f"{log_csv}: not a training log (epoch,lr,loss,top1,…); name another file"
        ) from None
    return epochs


def _draw(axes, epochs, column, label, colour, style="-"):
    points = [(e["epoch"], e.get(column, math.nan)) for e in epochs]
    points = [point for point in points if not math.isnan(point[1])]
    if points:
        axes.plot(*zip(*points), style, color=colour, label=label, marker="o", markersize=3.5)


# --- The report on the validation set ------------------------------------------------------------


def write_report(csv_path, settings, scores, predictions, categories, images=None):
    """Write `report-NAME.csv` and `report-NAME.html` beside the predictions `NAME.csv`.

    The page is one file that needs nothing else: its pictures are inside. Returns its path.

    Args:
        settings: a line that says how the predictions were made.
        scores: of `common.scores.score`.
        images: an `ImageSet`, for the photographs of the worst mistakes.
    """
    stem = page.report_stem(csv_path)
    name = os.path.basename(csv_path)
    write_scores(f"{stem}.csv", scores)
    with atomic_open(f"{stem}.html") as stream:
        stream.write(_page(name, settings, scores, predictions, categories, images))
    return f"{stem}.html"


def _page(title, settings, scores, predictions, categories, images):
    overall = scores.overall
    headline = [
        (f"{overall.top1_error:.2%}", "top-1 error"),
        (f"{overall.top5_error:.2%}", "top-5 error"),
        (f"{scores.calibration_error:.2%}", "calibration error"),
        (f"{overall.images:,}", "images"),
    ]
    return page.page(
        title,
        settings,
        headline,
        page.picture(_draw_charts(scores), "errors and calibration", "png"),
        *(page.table(*section) for section in sections(scores)),
        _photographs(scores, predictions, categories, images),
    )


def _draw_charts(scores):
    """Draw the errors of each group, and the reliability diagram; return the bytes of a PNG."""
    groups = [scores.overall, *scores.by_supercategory, *scores.by_frequency]
    figure = Figure(figsize=(11, max(3.6, 0.32 * len(groups) + 1)), dpi=110, layout="constrained")
    bars, reliability = figure.subplots(1, 2, gridspec_kw={"width_ratios": (3, 2)})
    places = range(len(groups), 0, -1)
    bars.barh(places, [g.top1_error for g in groups], color="#e9c3c9", label="top-1 error")
    bars.barh(places, [g.top5_error for g in groups], color=VAL_COLOUR, label="top-5 error")
    bars.set_yticks(list(places), [_plain(g.group) for g in groups])
    bars.xaxis.set_major_formatter(PercentFormatter(1))
    bars.set_xlim(0, 1)
    bars.legend(frameon=False, loc="lower right", bbox_to_anchor=(1, 1), ncol=2)

    reliability.plot((0, 1), (0, 1), ":", color=TRAIN_COLOUR)
    _, _, images, confidence, accuracy = zip(*scores.calibration)
    areas = [20 + 400 * n / sum(images) for n in images]
    reliability.plot(confidence, accuracy, color=VAL_COLOUR, linewidth=1)
    reliability.scatter(
        confidence, accuracy, areas, color=VAL_COLOUR, alpha=0.7, clip_on=False, zorder=3
    )
    reliability.set(xlabel="confidence", ylabel="accuracy", xlim=(0, 1.03), ylim=(0, 1.03))
    reliability.set_title("calibration (area: images)", loc="left")
    for axes in (bars, reliability):
        axes.spines[["top", "right"]].set_visible(False)
    stream = io.BytesIO()
    figure.savefig(stream, format="png")
    return stream.getvalue()


def _plain(text):
    """Return a name as matplotlib is to show it: of one line's length, a $ being no formula."""
    return (text if len(text) <= 40 else f"{text[:39]}…").replace("$", r"\$")


def _photographs(scores, predictions, categories, images):
    figures = []
    for row in scores.worst[:PHOTOGRAPHS] if images is not None else ():
        thumbnail = page.make_thumbnail(images.read_image(predictions.ids[row].item()))
        if thumbnail is None:
            continue
        true = categories[predictions.labels[row]].name
        guesses = "<br>".join(
            page.span(f"{categories[label].name} {probability:.0%}", "wrong")
            for label, probability in zip(
                predictions.ranked[row, :3], predictions.probabilities[row, :3]
            )
        )
        image_id = page.span(f"image {predictions.ids[row]}", "file")
        figures.append(
            page.figure(thumbnail, true, f"{page.span(true, 'true')}<br>{guesses}<br>{image_id}")
        )
    return page.photographs("Worst mistakes: wrong, and sure of it", figures)
