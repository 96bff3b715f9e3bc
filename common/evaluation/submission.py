"""From probabilities to a Kaggle CSV: the rows of a run, the CSV.

Pure numpy. Rows come in the order of the images and leave in the order of the wanted ids; an image
that could not be read gets the classes' frequencies in training as its probabilities.
"""

import csv
import json
import logging
import os
from dataclasses import dataclass
from typing import Optional

import numpy as np

from common.base.files import UserError, open_own, replacing
from common.data.challenge import FORMATS
from common.evaluation.metrics import class_counts, top_k

PLACES = 5  # at least: top-5 error is counted, however many ids a row of the CSV has
# 2,048 rows of 5,089 classes are 42 MB in float32: merging stays far below 1 GB.
CHUNK = 2048


@dataclass
class Predictions:
    """The first places of N images: all that a submission and a score need."""

    ids: np.ndarray  # (N,) image ids: int64, or text
    ranked: np.ndarray  # (N, k) labels, best first
    probabilities: np.ndarray  # (N, k) float32, of those labels
    labels: Optional[np.ndarray] = None  # (N,) the truth, where it is known
    found: Optional[np.ndarray] = None  # (N,) bool: False where the photograph could not be read

    def with_truth(self):
        """Return those whose label is known: that of a damaged record may not be."""
        known = self.labels >= 0
        found = None if self.found is None else self.found[known]
        rows = (self.ids, self.ranked, self.probabilities, self.labels)
        return Predictions(*(array[known] for array in rows), found)


def first_places(probabilities, places=PLACES):
    """Return the labels and the probabilities of the first places, (N, k) each."""
    ranked = top_k(probabilities, places)
    return ranked, np.take_along_axis(probabilities, ranked, axis=1)


# --- The rows of a run --------------------------------------------------------------------------


def row_type(num_classes, save_probabilities, places=PLACES):
    """Return the dtype of one image's row; it holds all probabilities only where asked to."""
    places = min(max(PLACES, places), num_classes)
    return np.dtype(
        [
            ("id", "<i8"),  # the key of the record
            ("label", "<i4"),  # -1 where it is not known
            ("found", "?"),
            ("ranked", "<i4", (places,)),
            ("first", "<f4", (places,)),
            ("probabilities", "<f2", (num_classes if save_probabilities else 0,)),
        ]
    )


def make_rows(dtype, batch, probabilities, labelled):
    """Return the rows of one batch of `Predictor.predict`; `labelled` says if labels are known."""
    rows = np.zeros(len(probabilities), dtype)
    rows["id"] = batch.keys[: len(rows)]
    rows["label"] = batch.labels[: len(rows)] if labelled else -1
    rows["found"] = ~np.isin(np.arange(len(rows)), batch.missing)
    rows["ranked"], rows["first"] = first_places(probabilities, rows["ranked"].shape[1])
    if rows["probabilities"].size:
        rows["probabilities"] = probabilities
    return rows


class PartialRows:
    """Rows appended to a file beside the output, so that an interrupted run can go on.

    The file is one line of JSON, which says what the rows depend on, and the rows themselves.

    Args:
        together: rows of one round of batches over the devices. A run goes on after complete
            rounds, so that every image is computed on the device that it would have been on: in
            bfloat16, two devices round differently.

    Raises:
        UserError: `resume` is asked for and the file belongs to a run with other settings.
    """

    def __init__(self, output, fingerprint, dtype, resume=False, together=1):
        folder, name = os.path.split(os.path.abspath(output))
        self.path, self.dtype = os.path.join(folder, f".tmp-{name}.rows"), dtype
        self._output = output
        header = json.dumps(dict(fingerprint, row=str(dtype)), sort_keys=True).encode() + b"\n"
        self._offset = len(header)
        going_on = resume and self._is_begun(header)
        # Not buffered: a write that failed is not tried again when the file is closed.
        mode = "r+b" if going_on else "w+b"
        self._stream = open(self.path, mode, buffering=0, opener=open_own)  # noqa: SIM115
        if not going_on:
            self._write(header)
        self._together = together
        self.keep(len(self))  # a killed run may have left half a row, or half a round

    def _is_begun(self, header):
        """Return whether a run with this header left its rows; `UserError` for another run's."""
        if not os.path.exists(self.path):
            return False
        with open(self.path, "rb", opener=open_own) as stream:
            line = stream.readline()
        if line == header or not line.endswith(b"\n"):  # killed before it had written the line
            return line == header
        try:
            was, now = json.loads(line), json.loads(header)
            different = sorted(k for k in now if was.get(k) != now[k])
            what = ", ".join("--save-probs or --places" if k == "row" else k for k in different)
        except (ValueError, AttributeError):
            what = "format"
        raise UserError(
            f"{self._output}: the interrupted run differs in {what}; repeat its flags, or leave out"
            " --resume to start anew"
        )

    def _write(self, data):
        try:
            while data:  # a disk that becomes full takes a part first
                data = data[self._stream.write(data) :]
        except OSError as error:
            error.filename = self._output
            raise

    def __len__(self):
        return (os.path.getsize(self.path) - self._offset) // self.dtype.itemsize

    def keep(self, num_rows):
        """Forget what comes after so many rows, and after the last complete round in them."""
        num_rows = num_rows // self._together * self._together
        self._stream.truncate(self._offset + num_rows * self.dtype.itemsize)
        self._stream.seek(0, os.SEEK_END)

    def append(self, rows):
        """Add an array of rows; they are in the file when this returns."""
        self._write(rows.tobytes())

    def read(self):
        """Return all rows, memory-mapped where there are any."""
        if not len(self):
            return np.empty(0, self.dtype)
        return np.memmap(self.path, self.dtype, "r", offset=self._offset, shape=(len(self),))

    def remove(self):
        """Remove the file: the run is done."""
        self._stream.close()
        os.remove(self.path)

    def __enter__(self):
        return self

    def __exit__(self, kind, *_):
        self._stream.close()
        if kind is not None and len(self):
            logging.warning("%d rows are kept; the same command with --resume goes on", len(self))


def class_frequencies(train_labels, num_classes):
    """Return how often each class occurs in training, (classes,) float32 that add up to 1.

    The best guess where there is no photograph: its first places are the most frequent classes.
    Labels outside 0..classes-1 and an empty list leave every class equally frequent.
    """
    counts = class_counts(train_labels, num_classes).astype(np.float32)
    if not counts.any():
        counts[:] = 1
    return counts / counts.sum()


def arrange(rows, wanted_keys, frequencies, wanted_ids=None):
    """Put rows into the order of `wanted_keys`; absent or unread ones get the `frequencies`.

    Args:
        wanted_ids: the ids of the images, in the same order; None where the keys are the ids.

    Returns:
        (predictions, probabilities): a `Predictions`, and an iterator over chunks of
        (n, classes) float16 in the same order (unused where the rows hold no probabilities).

    Raises:
        UserError: an image occurs twice, or is not one of `wanted_keys`.
    """
    position = {int(image_id): i for i, image_id in enumerate(rows["id"])}
    extra = set(position) - {int(key) for key in wanted_keys}
    if extra or len(position) < len(rows):
        fault = f"image {min(extra)} is not in the JSON" if extra else "an image occurs twice"
        raise UserError(
            f"the photographs do not belong to the JSON: {fault}; make the records anew"
        )
    order = np.array([position.get(int(key), -1) for key in wanted_keys], np.int64)
    found = order >= 0
    found[found] = rows["found"][order[found]]
    guess_ranked, guess_first = first_places(frequencies[None], rows["ranked"].shape[1])
    ranked = np.repeat(guess_ranked, len(order), axis=0)
    first = np.repeat(guess_first, len(order), axis=0)
    labels = np.full(len(order), -1, np.int64)
    ranked[found], first[found] = rows["ranked"][order[found]], rows["first"][order[found]]
    labels[order >= 0] = rows["label"][order[order >= 0]]

    def probabilities():
        for start in range(0, len(order), CHUNK):
            part, there = order[start : start + CHUNK], found[start : start + CHUNK]
            chunk = np.repeat(frequencies[None].astype(np.float16), len(part), axis=0)
            chunk[there] = rows["probabilities"][part[there]]
            yield chunk

    ids = wanted_keys if wanted_ids is None else wanted_ids
    return Predictions(np.asarray(ids), ranked, first, labels, found), probabilities()


# --- The CSV ------------------------------------------------------------------------------------


def write_submission(path, predictions, category_ids, form=FORMATS[2017]):
    """Write the CSV that Kaggle takes; it appears only when it has passed `check_submission`.

    `form` is a `CsvFormat`: the ids that a row holds, and the header.
    """
    categories = list(map(str, np.asarray(category_ids).tolist()))
    with replacing(path) as temporary:
        with open(temporary, "w", encoding="utf-8", newline="\n", opener=open_own) as stream:
            stream.write(f"{form.header}\n")
            writer = csv.writer(stream, lineterminator="\n")  # an id may hold a comma
            for image_id, ranked in zip(predictions.ids.tolist(), predictions.ranked.tolist()):
                predicted = " ".join(categories[label] for label in ranked[: form.places])
                writer.writerow((image_id, predicted))
        check_submission(temporary, predictions.ids, category_ids, form)


def check_submission(path, ids, category_ids, form=FORMATS[2017]):
    """Read a submission as Kaggle does, and raise `ValueError` where it would be rejected.

    The header is that of the `form`, e.g. `id,predicted`; every id has one row, of as many
    distinct category ids as the `form` has places (or as there are classes).
    """
    known = set(map(str, np.asarray(category_ids).tolist()))
    places = min(form.places, len(known))
    missing = dict.fromkeys(map(str, np.asarray(ids).tolist()))
    with open(path, encoding="utf-8", newline="") as stream:
        if stream.readline() != f"{form.header}\n":
            raise ValueError(f"line 1: the header is not {form.header}")
        for number, row in enumerate(csv.reader(stream), 2):
            image_id, predicted = row
            categories = predicted.split(" ")
            if image_id not in missing:
                raise ValueError(f"line {number}: image {image_id} is unknown or occurs twice")
            del missing[image_id]
            if len(categories) != places or len(set(categories)) != places:
                raise ValueError(f"line {number}: not {places} distinct categories: {predicted}")
            if not set(categories) <= known:
                raise ValueError(f"line {number}: an unknown category in {predicted}")
    if missing:
        raise ValueError(f"{len(missing)} images have no row, the first is {next(iter(missing))}")
