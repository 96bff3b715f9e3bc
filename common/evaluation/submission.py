"""From probabilities to a Kaggle CSV: the rows of a run, probability files, the CSV.

Pure numpy. Rows come in the order of the images and leave in the order of the wanted ids; an image
that could not be read gets the classes' frequencies in training as its probabilities.
"""

import contextlib
import csv
import errno
import json
import logging
import os
import zipfile
from dataclasses import dataclass
from typing import Optional

import numpy as np

from common.base.files import UserError, open_own, replacing, require_file
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
        # A killed run may have left half a row, or half a round.
        num_rows = len(self) // together * together
        self._stream.truncate(self._offset + num_rows * dtype.itemsize)
        self._stream.seek(0, os.SEEK_END)

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
            what = ", ".join(sorted(k for k in now if was.get(k) != now[k]))
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


# --- Probability files --------------------------------------------------------------------------


def write_probabilities(path, predictions, category_ids, chunks, names=None):
    """Write an .npz of ids (N,), labels (N,), classes (C,) and probabilities (N, C) float16.

    Ids are int64, or text of one width (no pickles), as are the `names` (C,) of the classes, where
    they are known.
    It is not compressed and written chunk by chunk: 182,707 x 5,089 are 1.9 GB on the disk and
    need some 20 MB of memory. float16 keeps three digits down to 6e-5, and ends at 6e-8.
    """
    shape = (len(predictions.ids), len(category_ids))
    with replacing(path) as temporary:
        with zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            arrays = {
                "ids": _plain(predictions.ids),
                "labels": np.asarray(predictions.labels, np.int64),
                "classes": _plain(category_ids),
            }
            if names is not None:
                arrays["names"] = np.array(names, "U")
            for name, array in arrays.items():
                with archive.open(zipfile.ZipInfo(f"{name}.npy"), "w") as stream:
                    np.lib.format.write_array(stream, array, allow_pickle=False)
            member = zipfile.ZipInfo("probabilities.npy")
            with archive.open(member, "w", force_zip64=True) as stream:
                header = {"descr": "<f2", "fortran_order": False, "shape": shape}
                np.lib.format.write_array_header_1_0(stream, header)
                for chunk in chunks:
                    stream.write(chunk.astype("<f2").tobytes())


def _plain(ids):
    """Return ids as an array that needs no pickle: int64, or text of one width."""
    ids = np.asarray(ids)
    return ids if ids.dtype.kind == "U" else ids.astype(np.int64)


class ProbabilityFile:
    """What `write_probabilities` wrote: `ids`, `labels`, `classes`, and `chunks()` of the rest.

    `names` of the classes are None where the file is of an older version.

    Raises:
        UserError: the file is missing, damaged, or something else.
    """

    def __init__(self, path):
        self.path = require_file(path, "sub.py --save-probs writes such files")
        with _naming_faults(self.path):
            with zipfile.ZipFile(path) as archive:  # uncompressed, as written: it cannot grow
                if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
                    raise ValueError("its arrays are compressed")
            with np.load(path, allow_pickle=False) as arrays:
                self.ids, self.classes = arrays["ids"], arrays["classes"]
                self.labels = arrays["labels"] if "labels" in arrays else np.full_like(self.ids, -1)
                self.names = arrays.get("names")
            if self.names is not None and self.names.shape != self.classes.shape:
                raise ValueError(f"{self.names.shape} names of {self.classes.shape} classes")
            for _ in self._read(0):
                pass

    def chunks(self, num_rows=CHUNK):
        """Yield the probabilities, (<= num_rows, classes) float32, in order."""
        with _naming_faults(self.path):
            yield from self._read(num_rows)

    def _read(self, num_rows):
        with zipfile.ZipFile(self.path) as archive:
            with archive.open("probabilities.npy") as stream:
                version = np.lib.format.read_magic(stream)
                if version != (1, 0):
                    raise ValueError(f"an array of format {version}")
                shape, fortran, dtype = np.lib.format.read_array_header_1_0(stream)
                if shape != (len(self.ids), len(self.classes)) or fortran or dtype.kind != "f":
                    raise ValueError(f"probabilities are {dtype} of shape {shape}")
                for start in range(0, shape[0] if num_rows else 0, num_rows or 1):
                    n = min(num_rows, shape[0] - start)
                    data = stream.read(n * shape[1] * dtype.itemsize)
                    chunk = np.frombuffer(data, dtype).reshape(n, shape[1]).astype(np.float32)
                    if not (np.isfinite(chunk).all() and (chunk >= 0).all()):
                        raise ValueError("a probability is not a number from 0 to 1")
                    yield chunk


@contextlib.contextmanager
def _naming_faults(path):
    """Turn what numpy and zipfile raise on a damaged file into a `UserError` that names it."""
    try:
        yield
    except (UserError, MemoryError):
        raise
    except Exception as error:  # zipfile has many words for it, and zlib its own
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the disk; a damaged zip seeks to nowhere, which is EINVAL
        raise UserError(
            f"{path}: not a whole probability file ({error}); make it anew: sub.py --save-probs"
        ) from None


def merge(paths, weights, set_name, places=PLACES):
    """Average probability files of the same images and classes, streaming.

    `weights` are a positive number for each; their scale does not matter. Returns their
    `Predictions` and the category ids.

    Raises:
        UserError: a file is damaged or not of this set, or they differ in images or classes.
    """
    files = [ProbabilityFile(path) for path in paths]
    first = files[0]
    found = "val" if first.labels.max(initial=-1) >= 0 else "test"
    if found != set_name:
        raise UserError(f"{first.path}: is of the {found} set; merge it with: --set {found}")
    for other in files[1:]:
        for what in ("ids", "classes"):
            one, another = getattr(first, what), getattr(other, what)
            if one.dtype.kind != another.dtype.kind or not np.array_equal(one, another):
                raise UserError(
                    f"{other.path}: its {what} differ from those of {first.path}; merge files that"
                    " were made from the same JSON"
                )
        _require_same_names(first, other)
    weights = np.asarray(weights, np.float32) / np.sum(weights)
    parts = []
    for chunks in zip(*(file.chunks() for file in files)):
        mean = chunks[0] * weights[0]
        for chunk, weight in zip(chunks[1:], weights[1:]):
            chunk *= weight
            mean += chunk
        parts.append(first_places(mean, max(PLACES, places)))
    ranked, probabilities = (np.concatenate(part) for part in zip(*parts))
    return Predictions(first.ids, ranked, probabilities, first.labels), first.classes


def _require_same_names(first, other):
    """Raise `UserError` where labels stand for the ids of classes, and not for the same classes."""
    numbers = np.arange(len(first.classes))
    names = (first.names, other.names)
    if any(each is None or np.array_equal(each, numbers.astype("U")) for each in names):
        return  # they are not known
    if np.array_equal(first.classes, numbers) and not np.array_equal(*names):
        label = next(label for label in numbers if first.names[label] != other.names[label])
        raise UserError(
            f"{other.path}: its class {label} is {other.names[label]}, and {first.names[label]} in"
            f" {first.path}; merge files of networks whose folders were numbered alike"
        )


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
