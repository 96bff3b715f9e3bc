"""The report on the validation set: a page to look at, and a table beside it."""

import io
import os

from matplotlib.figure import Figure
from matplotlib.ticker import PercentFormatter

from common.base.files import atomic_open
from common.evaluation import page
from common.evaluation.scores import sections, write_scores

PHOTOGRAPHS = 24  # of the worst mistakes

TRAIN_COLOUR, VAL_COLOUR = "#8c96a3", "#d1495b"


def write_report(csv_path, settings, scores, predictions, categories, images=None):
    """Write `report-NAME.csv` and `report-NAME.html` beside the predictions `NAME.csv`.

    The page is one file that needs nothing else: its pictures are inside. Returns its path.

    Args:
        settings: a line that says how the predictions were made.
        scores: of `common.evaluation.scores.score`.
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
    """Return a name for matplotlib to draw: cut to the length of a line, `$` as a character."""
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
