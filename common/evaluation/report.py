"""The report on the validation set: a page to look at, and a table beside it."""

import html
import os

from common.base.files import atomic_open
from common.evaluation import page, report_classes
from common.evaluation.metrics import FREQUENCY_GROUPS
from common.evaluation.scores import write_scores


def write_report(csv_path, settings, scores, predictions, categories, images=None):
    """Write `report-NAME.csv` and `report-NAME.html` beside the predictions `NAME.csv`.

    The page is one file that needs nothing else: its pictures are inside. Returns its path.

    Args:
        settings: a line that says how the predictions were made.
        scores: of `common.evaluation.scores.score`.
        images: an `ImageSet`, for the photographs.
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
        (f"{len(scores.classes):,}", "classes"),
    ]
    photographs = report_classes.Photographs(predictions, images)
    sections = {
        "mistakes": ("Worst mistakes", report_classes.mistakes),
        "pairs": ("Most confused", report_classes.pairs),
        "classes": ("Classes", report_classes.classes),
    }
    parts = {
        name: make(title, name, scores, categories, photographs)
        for name, (title, make) in sections.items()
    }
    links = [("errors", "Errors"), ("calibration", "Calibration")]
    links += [(name, title) for name, (title, _) in sections.items() if parts[name]]
    return page.page(
        title,
        settings,
        headline,
        _overview(scores),
        _filter(scores, categories),
        *parts.values(),
        links=links,
    )


def _overview(scores):
    groups = [scores.overall, *scores.by_supercategory]
    frequency = _group_table("training images of the class", scores.by_frequency)
    return page.columns(
        page.section("Error by super-category", _group_table("group", groups), name="errors"),
        "<div>"
        + page.section("Error by class frequency in training", frequency)
        + page.section(
            "Calibration",
            _draw_calibration(scores),
            name="calibration",
            note="How often the network is right, by how sure it is. The area of a dot is the"
            " number of images; on the dotted line it is right as often as it believes.",
        )
        + "</div>",
    )


def _group_table(title, groups):
    if not groups:
        return ""
    header = [(title, "text"), *((name, "number") for name in ("images", "top-1", "top-5"))]
    rows = [
        page.row(
            page.span(g.group, "name"),
            page.number(g.images),
            page.share(g.top1_error),
            page.share(g.top5_error),
        )
        for g in groups
    ]
    return page.table(header, rows)


def _filter(scores, categories):
    groups = sorted({categories[c.label].supercategory for c in scores.classes} - {""})
    frequencies = {c.frequency for c in scores.classes}
    frequencies = [group for group in FREQUENCY_GROUPS if group in frequencies]
    controls = []
    for label, name, values in (
        ("Super-category", "supercategory", groups),
        ("Training images", "frequency", frequencies),
    ):
        if len(values) > 1:
            options = [("", "all"), *((value, value) for value in values)]
            controls.append(page.choice(label, options, f'name="{name}" data-filters'))
    return page.form("classes-table", "classes", *controls)


# --- The reliability diagram --------------------------------------------------------------------

SIDE, MARGIN, EDGE = 240, 42, 14  # of the diagram, in its own units


def _draw_calibration(scores):
    """Return the reliability diagram as SVG: accuracy against confidence."""
    total = sum(images for _, _, images, _, _ in scores.calibration)
    points = []
    dots = []
    for low, high, images, confidence, accuracy in scores.calibration:
        x, y = _place(confidence, accuracy)
        points.append(f"{x:.1f},{y:.1f}")
        title = (
            f"confidence {low:.0%} to {high:.0%}: {images:,} images, {accuracy:.1%} of them right"
        )
        radius = (4 + 120 * images / total) ** 0.5
        dots.append(
            f'<circle cx="{x:.1f}" cy="{y:.1f}" r="{radius:.1f}"><title>{html.escape(title)}'
            "</title></circle>"
        )
    ticks = "".join(
        _svg_text(_place(tick, 0)[0], EDGE + SIDE + 16, f"{tick:.0%}")
        + _svg_text(MARGIN - 6, _place(0, tick)[1] + 3, f"{tick:.0%}", "end")
        for tick in (0, 0.5, 1)
    )
    (x0, y0), (x1, y1) = _place(0, 0), _place(1, 1)
    description = (
        f"Accuracy against confidence; the expected calibration error is"
        f" {scores.calibration_error:.2%}"
    )
    whole = MARGIN + SIDE + EDGE
    return (
        f'<svg class="calibration" viewBox="0 0 {whole} {whole}" role="img"'
        f' aria-label="{description}">\n'
        f'<rect class="frame" x="{x0}" y="{y1}" width="{x1 - x0}" height="{y0 - y1}"/>'
        f'<line class="ideal" x1="{x0}" y1="{y0}" x2="{x1}" y2="{y1}"/>'
        f'<polyline points="{" ".join(points)}"/>{"".join(dots)}{ticks}'
        f"{_svg_text((x0 + x1) / 2, EDGE + SIDE + 32, 'confidence')}"
        f'<g transform="translate(10 {(y0 + y1) / 2}) rotate(-90)">{_svg_text(0, 0, "accuracy")}'
        "</g>\n</svg>"
    )


def _svg_text(x, y, content, anchor="middle"):
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}">{content}</text>'


def _place(confidence, accuracy):
    """Return the point of the diagram, (x, y), for two fractions."""
    return MARGIN + confidence * SIDE, EDGE + (1 - accuracy) * SIDE
