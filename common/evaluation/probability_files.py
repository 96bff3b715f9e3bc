"""Probability files, `.npz`: what `sub.py --save-probs` writes, and `--merge` averages."""

import contextlib
import errno
import zipfile

import numpy as np

from common.base.files import UserError, replacing, require_file
from common.evaluation.submission import CHUNK, PLACES, Predictions, first_places


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

    def chunks(self):
        """Yield the probabilities, (<= CHUNK, classes) float32, in order."""
        with _naming_faults(self.path):
            yield from self._read(CHUNK)

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
        _require_same_labels(first, other)
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


def _require_same_labels(first, other):
    """Raise `UserError` where an image has two true labels: lists of folders number from 0."""
    differ = (first.labels >= 0) & (other.labels >= 0) & (first.labels != other.labels)
    if differ.any():
        row = differ.argmax()
        raise UserError(
            f"{other.path}: image {first.ids[row]} has the label {other.labels[row]}, and"
            f" {first.labels[row]} in {first.path}; merge files of one validation set"
        )


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
