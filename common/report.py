"""Pictures and pages to look at: learning curves, and the report on the validation set."""

import base64
import csv
import html
import io
import math
import os

import cv2
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator, PercentFormatter

from common.files import UserError, atomic_open, replacing, require_file
from common.image import decode
from common.scores import sections, write_scores

PHOTOGRAPHS = 24  # of the worst mistakes
THUMBNAIL_SIDE = 320  # pixels of the longer side

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

_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title>
<style>
body {{ font: 15px/1.5 system-ui, sans-serif; color: #1d2329; background: #fff;
  max-width: 1080px; margin: 2rem auto; padding: 0 1rem; }}
h1 {{ font-size: 1.5rem; margin-bottom: 0; }} h2 {{ font-size: 1.1rem; margin: 2.2rem 0 .6rem; }}
.settings {{ color: #68727d; margin-top: .2rem; }}
.headline {{ display: flex; flex-wrap: wrap; gap: 2.5rem; margin: 1.5rem 0; }}
.headline b {{ display: block; font-size: 1.9rem; font-weight: 600; }}
table {{ border-collapse: collapse; }}
th, td {{ padding: .25rem .9rem .25rem 0; text-align: left; border-bottom: 1px solid #eceef1; }}
th {{ font-weight: 600; color: #68727d; }} td + td {{ font-variant-numeric: tabular-nums; }}
img {{ max-width: 100%; }}
.photographs {{ display: grid; grid-template-columns: repeat(auto-fill, minmax(230px, 1fr));
  gap: 1.2rem; }}
figure {{ margin: 0; }} figcaption {{ font-size: .85rem; line-height: 1.35; }}
figure img {{ width: 100%; height: 190px; object-fit: contain; background: #f4f5f7; }}
.true {{ color: #2a7d4f; }} .wrong {{ color: #b3364a; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="settings">{settings}</p>
<div class="headline">{headline}</div>
<img alt="errors and calibration" src="{charts}">
{tables}
{photographs}
</body>
</html>
"""


def write_report(csv_path, settings, scores, predictions, categories, images=None):
    """Write `report-NAME.csv` and `report-NAME.html` beside the predictions `NAME.csv`.

    The page is one file that needs nothing else: its pictures are inside. Returns its path.

    Args:
        settings: a line that says how the predictions were made.
        scores: of `common.scores.score`.
        images: an `ImageSet`, for the photographs of the worst mistakes.
    """
    folder, name = os.path.split(csv_path)
    stem = os.path.join(folder, f"report-{os.path.splitext(name)[0]}")
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
    return _PAGE.format(
        title=html.escape(title),
        settings=html.escape(settings),
        headline="".join(f"<div><b>{value}</b>{name}</div>" for value, name in headline),
        charts=_embed(_draw_charts(scores), "png"),
        tables="\n".join(_table(*section) for section in sections(scores)),
        photographs=_photographs(scores, predictions, categories, images),
    )


def _embed(data, kind):
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"


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


def _table(title, header, rows):
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<h2>{html.escape(title.capitalize())}</h2>\n<table><tr>{head}</tr>\n{body}</table>"


def _photographs(scores, predictions, categories, images):
    figures = []
    for row in scores.worst[:PHOTOGRAPHS] if images is not None else ():
        thumbnail = _thumbnail(images.read_image(predictions.ids[row].item()))
        if thumbnail is None:
            continue
        true = html.escape(categories[predictions.labels[row]].name)
        guesses = "<br>".join(
            f"{html.escape(categories[label].name)} {probability:.0%}"
            for label, probability in zip(
                predictions.ranked[row, :3], predictions.probabilities[row, :3]
            )
        )
        figures.append(
            f'<figure><img alt="{true}" src="{_embed(thumbnail, "jpeg")}"><figcaption>'
            f'<span class="true">{true}</span><br><span class="wrong">{guesses}</span>'
            f"<br>image {html.escape(str(predictions.ids[row]))}</figcaption></figure>"
        )
    if not figures:
        return ""
    grid = "\n".join(figures)
    return f'<h2>Worst mistakes: wrong, and sure of it</h2>\n<div class="photographs">{grid}</div>'


def _thumbnail(data):
    """Return a small JPEG of an encoded image; None of none, or of a damaged one."""
    if data is None:
        return None
    try:
        image = decode(data)
    except ValueError:
        return None
    scale = min(1, THUMBNAIL_SIDE / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
