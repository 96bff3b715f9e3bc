"""The parts of an HTML page: one file that needs nothing else, with its pictures inside."""

import base64
import html
import os

import cv2

from common.data.image import decode

THUMBNAIL_SIDE = 320  # pixels of the longer side

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
figure {{ margin: 0; }} figcaption {{ font-size: .85rem; line-height: 1.35;
  overflow-wrap: anywhere; }}
figure img {{ width: 100%; height: 190px; object-fit: contain; background: #f4f5f7; }}
.true {{ color: #2a7d4f; }} .wrong {{ color: #b3364a; }}
.first {{ font-weight: 600; }} .file {{ color: #68727d; }}
</style>
</head>
<body>
<h1>{title}</h1>
<p class="settings">{settings}</p>
<div class="headline">{headline}</div>
{body}
</body>
</html>
"""


def report_stem(csv_path):
    """Return what the names of the reports beside the predictions `NAME.csv` begin with."""
    folder, name = os.path.split(csv_path)
    return os.path.join(folder, f"report-{os.path.splitext(name)[0]}")


def page(title, settings, headline, *parts):
    """Return a page.

    Args:
        settings: a line that says how its content was made.
        headline: [(value, name)] of the numbers at its top.
        parts: HTML, of the functions below.
    """
    return _PAGE.format(
        title=html.escape(title),
        settings=html.escape(settings),
        headline="".join(f"<div><b>{value}</b>{name}</div>" for value, name in headline),
        body="\n".join(parts),
    )


def table(title, header, rows):
    """Return the HTML of a table of text."""
    head = "".join(f"<th>{html.escape(cell)}</th>" for cell in header)
    body = "\n".join(
        "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows
    )
    return f"<h2>{html.escape(title.capitalize())}</h2>\n<table><tr>{head}</tr>\n{body}</table>"


def picture(data, description, kind="jpeg"):
    """Return the HTML of an encoded image."""
    encoded = base64.b64encode(data).decode()
    return f'<img alt="{html.escape(description)}" src="data:image/{kind};base64,{encoded}">'


def figure(thumbnail, description, caption):
    """Return the HTML of a photograph; `caption` is HTML, of `span`s."""
    return f"<figure>{picture(thumbnail, description)}<figcaption>{caption}</figcaption></figure>"


def span(text, style):
    """Return text in one of the page's styles: "true", "wrong", "first", "other" or "file"."""
    return f'<span class="{style}">{html.escape(text)}</span>'


def photographs(title, figures):
    """Return the HTML of many `figure`s under a title; nothing of none."""
    if not figures:
        return ""
    grid = "\n".join(figures)
    return f'<h2>{html.escape(title)}</h2>\n<div class="photographs">{grid}</div>'


def make_thumbnail(data):
    """Return a small JPEG of an encoded image; None for None or a damaged image."""
    if data is None:
        return None
    try:
        image = decode(data, at_least=THUMBNAIL_SIDE)
    except ValueError:
        return None
    scale = min(1, THUMBNAIL_SIDE / max(image.shape[:2]))
    small = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_AREA)
    return cv2.imencode(".jpg", small, [cv2.IMWRITE_JPEG_QUALITY, 85])[1].tobytes()
