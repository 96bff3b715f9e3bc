"""Photographs that belong to no challenge, and the names that the networks give them."""

import contextlib
import csv
import logging
import os
from dataclasses import dataclass
from typing import List

import numpy as np

from common.base.files import UserError, atomic_open, read_at_once, replacing, require_file
from common.base.help import refuse_together
from common.base.progress import Progress
from common.data.image_folder import image_paths
from common.data.loader import FileSource
from common.data.recordio import MAX_RECORD_BYTES
from common.evaluation import page
from common.evaluation.metrics import top_k
from common.evaluation.scores import format_table

PLACES = 5
SHOWN_ON_TERMINAL = 20  # photographs; a file and a page name more of them
SHOWN_ON_PAGE = 1000  # of 15 kB each: a page of 20 MB
PLACES_ON_TERMINAL = 3
COMMON_NAMES = 20


@dataclass
class NamedPhotographs:
    """The first places of N photographs, and those that could not be read."""

    paths: List[str]
    ranked: np.ndarray  # (N, k) labels, best first
    probabilities: np.ndarray  # (N, k) float32, of those labels
    names: List[str]  # of all classes, in the order of their labels
    unread: List[str]

    def places(self, row, count=PLACES):
        """Return [(name, probability)] of the first places of a photograph."""
        labels, probabilities = self.ranked[row, :count], self.probabilities[row, :count]
        return [(self.names[label], float(p)) for label, p in zip(labels, probabilities)]


def check_flags(args):
    """Raise `UserError` for flags of sub.py that have no meaning with --images."""
    others = {
        "--set val": args.set == "val",
        "--data-val": args.data_val,
        "--save-probs": args.save_probs,
        "--merge": args.merge,
        "--export-onnx": args.export_onnx,
        "--resume": args.resume,
    }
    refuse_together("--images", others)


def find_photographs(paths):
    """Return a source of the files and of the photographs in the folders, each once.

    Raises:
        UserError: a path does not exist, or a folder holds no photograph.
    """
    found = {}
    for path in paths:
        if os.path.isdir(path):
            named = image_paths(path, report=logging.warning)
        else:
            named = [require_file(path, "name photographs, or a folder of them")]
        for each in named:
            found.setdefault(os.path.normpath(each), each)
    return FileSource(found.values())


def name_photographs(predictor, batches, source, names):
    """Return the `NamedPhotographs` of `source`.

    Args:
        predictor: a `Predictor` of as many classes as there are `names`.
        batches: of `load_views` over the source.

    Raises:
        UserError: no photograph can be read.
    """
    rows = []
    unread = []
    with Progress(len(source), "predicting") as progress:
        for batch, probabilities in predictor.predict(batches):
            ranked = top_k(probabilities, PLACES)
            first = np.take_along_axis(probabilities, ranked, axis=1)
            for row, key in enumerate(batch.keys[: len(ranked)]):
                if row in batch.missing:
                    unread.append(source.paths[key])
                else:
                    rows.append((source.paths[key], ranked[row], first[row]))
            progress.update(len(ranked))
    if not rows:
        raise UserError(
            f"{unread[0]}: cannot be read, nor can any other photograph of --images; look at it"
        )
    paths, ranked, first = zip(*rows)
    return NamedPhotographs(list(paths), np.array(ranked), np.array(first), names, unread)


def write_names(path, named):
    """Write a CSV with a row a photograph: the file, then name and probability of each place."""
    places = range(1, named.ranked.shape[1] + 1)
    with replacing(path) as temporary:
        # A file's name may hold bytes that are not UTF-8; they are written as they are.
        with open(
            temporary, "w", encoding="utf-8", errors="surrogateescape", newline="\n"
        ) as stream:
            writer = csv.writer(stream, lineterminator="\n")
            writer.writerow(["file", *(f"{kind}_{i}" for i in places for kind in _COLUMNS)])
            for row, file_path in enumerate(named.paths):
                cells = ((name, f"{p:.6f}") for name, p in named.places(row))
                writer.writerow([file_path, *(cell for pair in cells for cell in pair)])


_COLUMNS = ("name", "probability")


def format_names(named):
    """Return the first places of a few photographs as a table for a terminal."""
    places = min(PLACES_ON_TERMINAL, named.ranked.shape[1])
    rows = [
        (page.readable(path), *(f"{name} {p:.0%}" for name, p in named.places(row, places)))
        for row, path in enumerate(named.paths)
    ]
    title = f"names of {len(rows)} photographs"
    return format_table(title, ("file", *("first", "second", "third")[:places]), rows)


def write_page(csv_path, settings, named):
    """Write `report-NAME.html` beside `NAME.csv`: the photographs, named; return its path."""
    path = f"{page.report_stem(csv_path)}.html"
    labels, counts = np.unique(named.ranked[:, 0], return_counts=True)
    common = sorted(zip(-counts, labels))[:COMMON_NAMES]
    headline = [(f"{len(named.paths):,}", "photographs"), (f"{len(labels):,}", "different names")]
    if named.unread:
        headline.append((f"{len(named.unread):,}", "could not be read"))
    figures = [_figure(named, row) for row in range(min(SHOWN_ON_PAGE, len(named.paths)))]
    shown = "The photographs" if len(figures) == len(named.paths) else f"The first {len(figures)}"
    content = page.page(
        os.path.basename(csv_path),
        settings,
        headline,
        page.section(
            "The most frequent names",
            page.table(
                [("name", "text"), ("photographs", "number")],
                [
                    page.row(page.span(named.names[label], "name"), page.number(-count))
                    for count, label in common
                ],
                sorted_by="photographs",
            ),
            name="names",
        ),
        page.form("photographs-list", "photographs", page.choice("Order", _ORDERS, _SORTS)),
        page.section(
            shown, page.listed("photographs", figures, name="photographs-list"), name="photographs"
        ),
        links=[("names", "The most frequent names"), ("photographs", shown)],
    )
    with atomic_open(path) as stream:
        stream.write(content)
    return path


_ORDERS = (
    ("file", "as given"),
    ("name", "by name"),
    ("most", "the most certain first"),
    ("least", "the least certain first"),
)
_SORTS = 'data-sorts="photographs-list"'


def _figure(named, row):
    """Return a photograph with its names, and what it is sorted by."""
    path = named.paths[row]
    (first, probability), *others = named.places(row)
    lines = [
        page.span(f"{first} {probability:.0%}", "first name"),
        *(page.span(f"{name} {p:.0%}", "other name") for name, p in others),
        page.span(page.readable(path), "file name"),
    ]
    image = ""
    with contextlib.suppress(ValueError, OSError):  # it has been moved away since
        thumbnail = page.make_thumbnail(read_at_once(path, MAX_RECORD_BYTES))
        image = page.picture(thumbnail, first) if thumbnail else ""
    return page.figure(image, "<br>".join(lines)), {"probability": f"{probability:.6f}"}
