"""The parts of an HTML page: one file that needs nothing else, with its pictures inside.

`report_page.css` and `report_page.js` beside this module are put into the page. The script sorts
and filters what is there; without it the page is complete. The functions below escape all texts.
"""

import base64
import hashlib
import html
import os

import cv2

from common.data.image import decode

THUMBNAIL_SIDE = 320  # pixels of the longer side
LONG_TABLE = 1000  # rows; of so many, a browser lays out those that are in view

# A browser loads nothing from elsewhere, and runs no script but ours.
_PAGE = """<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; \
style-src 'unsafe-inline'; script-src 'sha256-{script_hash}'">
<title>{title}</title>
<style>
{style}</style>
</head>
<body>
<header>
<h1>{title}</h1>
<p class="settings">{settings}</p>
<div class="headline">{headline}</div>
</header>
{nav}
<main>
{body}
</main>
<script>{script}</script>
</body>
</html>
"""


def report_stem(csv_path):
    """Return what the names of the reports beside the predictions `NAME.csv` begin with."""
    folder, name = os.path.split(csv_path)
    return os.path.join(folder, f"report-{os.path.splitext(name)[0]}")


def page(title, settings, headline, *parts, links=()):
    """Return a page.

    Args:
        settings: a line that says how its content was made.
        headline: [(value, name)] of the numbers at its top.
        parts: HTML, of the functions below.
        links: [(id, text)] of the sections that the page's top leads to.
    """
    script = _read_beside("report_page.js")
    items = "\n".join(f'<a href="#{target}">{html.escape(text)}</a>' for target, text in links)
    return _PAGE.format(
        title=html.escape(readable(title)),
        settings=html.escape(readable(settings)),
        headline="".join(f"<div><b>{value}</b>{name}</div>" for value, name in headline),
        nav=f'<nav aria-label="On this page">\n{items}\n</nav>' if links else "",
        body="\n".join(filter(None, parts)),
        style=_read_beside("report_page.css"),
        script=script,
        script_hash=base64.b64encode(hashlib.sha256(script.encode()).digest()).decode(),
    )


def readable(path):
    """Return a path as a terminal and a page can show it."""
    return "".join(c if c.isprintable() else repr(c)[1:-1] for c in path)


def _read_beside(name):
    with open(os.path.join(os.path.dirname(__file__), name), encoding="utf-8") as stream:
        return stream.read()


def section(title, *parts, name="", note=""):
    """Return parts under a heading, which links reach as `name`; nothing of no parts."""
    if not any(parts):
        return ""
    identity = f' id="{name}"' if name else ""
    note = f'<p class="note">{html.escape(note)}</p>\n' if note else ""
    content = "\n".join(filter(None, parts))
    return f"<section>\n<h2{identity}>{html.escape(title)}</h2>\n{note}{content}\n</section>"


def columns(*parts):
    """Return parts side by side, where the screen is wide enough."""
    return '<div class="columns">\n' + "\n".join(filter(None, parts)) + "\n</div>"


# --- Tables -------------------------------------------------------------------------------------


def table(header, rows, name="", style="", sorted_by=None):
    """Return a table whose columns a reader can sort.

    The roles are those of its elements: some browsers forget them where a row is laid out as a
    grid.

    Args:
        header: [(text, kind)], kind: "text" or "number".
        rows: HTML, of `row`.
        name: that filters and links know the rows by.
        style: "pictures" of a table whose rows take two lines on a phone.
        sorted_by: the column by which the rows are sorted already, the largest first.
    """
    identity = f' id="{name}"' if name else ""
    cells = "".join(
        f'<th scope="col" role="columnheader"{_NUMBER if kind == "number" else ""}'
        f"{_DESCENDING if text == sorted_by else ''}>{html.escape(text)}</th>"
        for text, kind in header
    )
    body = "\n".join(rows)
    styles = filter(None, ["sortable", style, "long" if len(rows) >= LONG_TABLE else ""])
    return (
        f'<table class="{" ".join(styles)}" role="table">\n'
        f'<thead role="rowgroup"><tr role="row">{cells}</tr></thead>\n'
        f'<tbody role="rowgroup"{identity}>\n{body}\n</tbody>\n</table>'
    )


_NUMBER = ' class="number"'
_DESCENDING = ' aria-sort="descending"'


def row(first, *cells, groups=None):
    """Return a row of a table: the HTML of what it is about, then the `number`s and `share`s.

    Args:
        groups: {name: value} that a filter looks at; None: of no filter.
    """
    attributes = _item_attributes(groups)
    heading = f'<th scope="row" role="rowheader">{first}</th>'
    return f'<tr role="row"{attributes}>{heading}{"".join(cells)}</tr>'


def _item_attributes(values):
    """Return the attributes of what a filter shows or hides."""
    if values is None:
        return ""
    return ' class="item"' + "".join(
        f' data-{name}="{html.escape(str(value))}"' for name, value in values.items()
    )


def number(value):
    """Return a cell with a whole number."""
    return f'<td role="cell" class="number">{value:,}</td>'


def share(fraction):
    """Return a cell with a fraction as a percentage and as a bar."""
    percent = f"{100 * fraction:.1f}%"
    return f'<td role="cell" class="number share" style="--part:{percent}">{percent}</td>'


# --- Photographs --------------------------------------------------------------------------------


def picture(data, description):
    """Return the HTML of an encoded JPEG."""
    source = f"data:image/jpeg;base64,{base64.b64encode(data).decode()}"
    return f'<img alt="{html.escape(description)}" decoding="async" src="{source}">'


def figure(pictures, caption):
    """Return the HTML of a photograph, or of several, with a caption of `span`s."""
    return f"<figure>{pictures}<figcaption>{caption}</figcaption></figure>"


def span(content, style):
    """Return text in styles of the page, e.g. "true name"; a filter looks for what is a "name".

    The styles are "true", "wrong", "first", "other" and "file".
    """
    return f'<span class="{style}">{html.escape(content)}</span>'


def pictured(thumbnail, content):
    """Return HTML beside a small picture of what it names; where that is None, beside a blank."""
    image = picture(thumbnail, "") if thumbnail else '<span class="blank"></span>'
    return f'<div class="pictured">{image}<div>{content}</div></div>'


def small(content):
    """Return text in small letters, on a line of its own."""
    return f"<small>{html.escape(content)}</small>"


def listed(style, items, name=""):
    """Return a list of pictures: `items` are (HTML, {name: value} that a filter looks at)."""
    identity = f' id="{name}"' if name else ""
    lines = "\n".join(f"<li{_item_attributes(groups)}>{content}</li>" for content, groups in items)
    return f'<ul class="{style}"{identity}>\n{lines}\n</ul>' if items else ""


def make_thumbnail(data, side=THUMBNAIL_SIDE, is_square=False):
    """Return a small JPEG of an encoded image; None for None or a damaged image.

    Its longer side has at most `side` pixels; a square one is the middle of the image.
    """
    if data is None:
        return None
    try:
        image = decode(data, at_least=side)
    except ValueError:
        return None
    height, width = image.shape[:2]
    if is_square:
        shorter = min(height, width)
        top, left = (height - shorter) // 2, (width - shorter) // 2
        image = image[top : top + shorter, left : left + shorter]
        height = width = shorter
    scale = min(1, side / max(height, width))
    size = max(1, round(width * scale)), max(1, round(height * scale))
    image = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    quality = 85 if side > 200 else 75  # nobody looks closely at a small one
    return cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, quality])[1].tobytes()


# --- Filters ------------------------------------------------------------------------------------


def form(counts, unit, *controls):
    """Return the controls of a filter; the script shows them, for it is what makes them work.

    Args:
        counts: name of the table or list whose items are counted beside the controls.
        unit: what is counted.
        controls: HTML, of `choice`; a field for a name follows them.
    """
    counted = f'data-counts="{counts}" data-unit="{unit}"'
    return (
        f'<form class="filter" aria-label="Filter" {counted} hidden>\n'
        + "\n".join(controls)
        + '\n<label>Name <input type="search" name="name" autocomplete="off"></label>\n'
        '<output aria-live="polite"></output>\n</form>'
    )


def choice(label, options, purpose):
    """Return a labelled <select>.

    Args:
        options: [(value, text)].
        purpose: its other attributes, for the script.
    """
    items = "".join(
        f'<option value="{html.escape(value)}">{html.escape(content)}</option>'
        for value, content in options
    )
    return f"<label>{html.escape(label)} <select {purpose}>{items}</select></label>"
