"""Many images: a pool of threads that decodes records or files into `(N, 3, H, W)` uint8 batches.

`common/training/batches.py` and `common/evaluation/views.py` choose what it reads.
"""

import functools
import logging
import math
import os
import threading
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import List, Optional

import cv2
import numpy as np

from common.base.files import UserError, explain_os_error, read_at_once
from common.base.memory import keep_freed_memory
from common.data.image import decode, write_planes
from common.data.recordio import MAGIC, MAX_RECORD_BYTES, RecordFile, map_file, read_list
from common.data.sampling import epoch_order, own_rows, part_positions

ROWS_PER_TASK = 8  # of a batch; a task costs 0.05 ms, an image 3 ms
MAX_BAD_IMAGES = 0.001  # share of the images
SAMPLED_LABELS = 200
_LARGEST_LIST = 20  # bad images that an error names


@dataclass
class Batch:
    """One batch of images.

    Attributes:
        images: uint8 RGB, `(N, 3, H, W)`; `(N, V, 3, H, W)` where the loader makes V views.
        labels: float32, `(N,)`.
        keys: int64, `(N,)`: of the records, or as given to `FileSource`.
        pad: how many rows at the end only fill the batch, with other images.
        missing: the rows whose image could not be read (zeros), where the loader does not replace
            them.
        soft_labels: float32, `(N, num_classes)`, where images are mixed; `labels` are then those of
            the larger share.
    """

    images: np.ndarray
    labels: np.ndarray
    keys: np.ndarray
    pad: int
    missing: List[int]
    soft_labels: Optional[np.ndarray] = None

    @property
    def targets(self):
        """What a network learns: the soft labels, or else the labels."""
        return self.labels if self.soft_labels is None else self.soft_labels


class RecordSource:
    """The images of a `.rec`.

    Attributes:
        num_classes: an image with a label of this or more, or of less than 0, cannot be read;
            None where labels do not matter.
    """

    def __init__(self, rec_path, idx_path=None):
        self.path = rec_path
        self._records = RecordFile(rec_path, idx_path)
        self.num_classes = None
        self.keys = self._records.keys
        self._listed = None
        self._expected = None  # the labels that records are compared with

    def __len__(self):
        return len(self._records)

    def read(self, position):
        """Return (encoded bytes, label, key) of the image at `position`."""
        record = self._records.read(position)
        label = float(record.label[0])
        if self._expected is not None and label != self._expected[position]:
            listed = self._expected[position]
            raise ValueError(f"has the label {label:g}, and in its list {listed:g}")
        if self.num_classes is not None and not 0 <= label < self.num_classes:
            raise ValueError(f"has the label {label:g}, of {self.num_classes} classes")
        return record.image, label, record.key

    def listed_label(self, position):
        """Return the label by the `.lst`, for an image that cannot be read; -1 without one."""
        if self._listed is None:
            labels = self._listed_labels()
            self._listed = np.full(len(self), -1) if labels is None else labels
        return float(self._listed[position])

    def name(self, position):
        """Say which image it is, for people."""
        return f"{self.path}: record {self.keys[position]}"

    def labels(self):
        """Return all labels, float32, `(N,)`, without decoding an image.

        They are those of the `.lst` beside the `.rec`, where samples agree with it: on a disk,
        600,000 headers are as many seeks. Otherwise they are those of the headers: 0.2 s for
        600,000 of them in memory.

        Raises:
            UserError: a record has several labels.
        """
        listed = self._listed_labels()
        samples = np.linspace(0, len(self) - 1, min(len(self), SAMPLED_LABELS)).astype(int)
        labels, damaged = self.header_labels(samples)
        if listed is not None:
            differ = (listed[samples] != labels) & ~damaged
            if not differ.any():
                self._expected = listed
                return listed
            first = differ.argmax()
            logging.warning(
                "%s: has the label %g, and in its list %g; the labels of the records count",
                *(self.name(samples[first]), labels[first], listed[samples[first]]),
            )
        labels, damaged = self.header_labels(np.arange(len(self)))
        labels[damaged] = 0  # reading skips it
        return labels

    def _listed_labels(self):
        """Return the labels by the `.lst`; None where it lacks one for a record."""
        list_path = os.path.splitext(self.path)[0] + ".lst"
        try:
            listed = {entry.index: entry.label for entry in read_list(list_path)}
        except UserError:  # missing, or edited since: the records need no list
            return None
        labels = [listed.get(key) for key in self.keys.tolist()]
        is_of_records = not any(label is None or isinstance(label, tuple) for label in labels)
        return np.array(labels, dtype=np.float32) if is_of_records else None

    def header_labels(self, positions):
        """Return the labels of records, and which of these do not count: no record begins there."""
        data = np.frombuffer(map_file(self.path), dtype=np.uint8)
        starts = self._records.offsets[positions, np.newaxis] + np.arange(4)
        # magic and length (8 bytes), then the header: number of extra labels, label, key, 0
        damaged = data[starts].view("<u4")[:, 0] != MAGIC
        num_extra = data[starts + 8].view("<u4")[:, 0]
        num_extra[damaged] = 0
        if (num_extra > 1).any():
            raise UserError(
                f"{self.path}: its records have several labels each; pack it without --pack-label"
            )
        labels = data[starts + np.where(num_extra, 32, 12)[:, np.newaxis]].view("<f4")[:, 0]
        return labels, damaged


class FileSource:
    """Image files; labels default to 0, keys to 0, 1, 2…"""

    def __init__(self, paths, labels=None, keys=None):
        self.paths = list(paths)
        self._labels = np.zeros(len(self.paths)) if labels is None else np.asarray(labels)
        self.keys = np.arange(len(self.paths)) if keys is None else np.asarray(keys, np.int64)

    def __len__(self):
        return len(self.paths)

    def read(self, position):
        """Return (encoded bytes, label, key) of the image at `position`."""
        data = read_at_once(self.paths[position], MAX_RECORD_BYTES)
        return data, float(self._labels[position]), int(self.keys[position])

    def listed_label(self, position):
        """Return the label, for an image that cannot be read."""
        return float(self._labels[position])

    def name(self, position):
        """Say which image it is, for people."""
        return self.paths[position]

    def labels(self):
        """Return all labels, float32, `(N,)`."""
        return self._labels.astype(np.float32)


class Loader:
    """Batches of decoded images: `for batch in loader` is one epoch.

    The same source, seed and epoch give the same batches, whatever the number of threads: what is
    random for an image depends on (seed, epoch, position in the epoch) only.

    Threads, not processes: OpenCV releases Python's lock while it works. Measured: an image takes
    3.0 ms of a core, 0.3 ms of them with the lock held, so that threads help up to about ten cores
    and 3,000 images/s; four GPUs train a ResNet-152 with a tenth of that.

    Attributes:
        epoch: of the next iteration; `set_epoch` changes it.
        bad: {position in the source: reason} of what could not be read so far.
    """

    def __init__(
        self,
        source,
        batch_size,
        image_shape,
        transform,
        threads=1,
        shuffle=False,
        seed=0,
        part_index=0,
        num_parts=1,
        share=(0, 1),
        class_balance=0.0,
        num_views=1,
        decode=decode,
        replace_bad=True,
        max_bad_images=MAX_BAD_IMAGES,
        batches_ahead=4,
        allocate=np.empty,
        mixing=None,
    ):
        """Prepare to read `source`, a `RecordSource` or `FileSource`.

        Args:
            image_shape: (3, H, W).
            transform: `(image, rng) -> image`, both uint8 BGR, `(h, w, 3)` to `(H, W, 3)`; or to a
                list of `num_views` such images. `rng` is a `numpy.random.Generator`.
            seed: of the order and of every `rng`; None: no `rng`, because nothing is random.
            share: `(number, count)` of this process among those that read the same batches: of each
                it reads its own rows only.
            class_balance: 0 to 1, see `common.data.sampling.epoch_order`.
            decode: `bytes -> image`, what `transform` takes; raises `ValueError`. It may put off
                the decoding until `transform` takes the pixels.
            replace_bad: put the next image that can be read in the place of one that cannot.
                Otherwise `Batch.missing` names its row.
            max_bad_images: share of the images that may be bad (rounded up: one always may).
            batches_ahead: how many batches are decoded while one is used.
            allocate: `(shape, dtype) -> array` that makes the memory of a batch's images.
            mixing: `common.data.mixing.Mixing` of each batch; None: images stay apart.
        """
        self.source, self.batch_size, self.image_shape = source, batch_size, tuple(image_shape)
        self.transform, self.shuffle, self.seed = transform, shuffle, seed
        self.num_views, self._decode = num_views, decode
        self.replace_bad, self.batches_ahead = replace_bad, batches_ahead
        self.max_bad = math.ceil(max_bad_images * len(source))
        self._allocate, self.mixing = allocate, mixing
        self.epoch = 0
        self.bad = {}
        self._lock = threading.Lock()
        self._positions, self._num_own = part_positions(
            len(source), batch_size, part_index, num_parts
        )
        self._rows = own_rows(batch_size, *share)
        self._class_balance = class_balance
        self._labels = source.labels() if class_balance > 0 else None
        # OpenCV's own threads would compete with these: 0 turns them off.
        cv2.setNumThreads(0)
        # Otherwise the kernel gives every batch new pages and zeroes them: 0.1 to 0.3 ms an image.
        rows = self._rows.stop - self._rows.start
        keep_freed_memory((batches_ahead + 2) * rows * num_views * math.prod(image_shape))
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="decoder")

    def __len__(self):
        """Return the number of batches of an epoch."""
        return len(self._positions) // self.batch_size

    def close(self):
        """End the threads; what is being decoded is finished first."""
        self._pool.shutdown()

    def set_epoch(self, epoch):
        """Choose the epoch (from 0) whose order and augmentation the next iteration has."""
        self.epoch = epoch

    def __iter__(self):
        """Yield the batches of an epoch.

        Raises:
            UserError: more images cannot be read than may be; names them.
        """
        order = epoch_order(
            len(self.source), self.shuffle, self.seed, self.epoch, self._labels, self._class_balance
        )
        ahead = deque()
        try:
            for start in range(0, len(self._positions), self.batch_size):
                ahead.append(self._start_batch(order, self.epoch, start))
                if len(ahead) > self.batches_ahead:
                    yield self._finish_batch(*ahead.popleft())
            while ahead:
                yield self._finish_batch(*ahead.popleft())
        finally:  # also where the user's loop breaks or fails
            for _, tasks, _ in ahead:
                for task in tasks:
                    task.cancel()

    def _start_batch(self, order, epoch, start):
        first, last = start + self._rows.start, start + self._rows.stop
        size = last - first
        views = () if self.num_views == 1 else (self.num_views,)
        batch = Batch(
            # New memory each time: nobody overwrites a batch that is still in use.
            images=self._allocate((size, *views, *self.image_shape), np.uint8),
            labels=np.zeros(size, dtype=np.float32),
            keys=np.zeros(size, dtype=np.int64),
            pad=min(size, max(0, last - self._num_own)),
            missing=[],
        )
        positions = self._positions[first:last].tolist()
        tasks = [
            self._pool.submit(self._fill_rows, batch, row, order, epoch, positions)
            for row in range(0, size, ROWS_PER_TASK)
        ]
        mix = None
        if self.mixing is not None:
            # A stream of its own: what is drawn for the images stays as it is.
            rng = random_numbers(self.seed, epoch, positions[0], stream=1)
            mix = functools.partial(self.mixing.mix, batch, rng)
        return batch, tasks, mix

    def _finish_batch(self, batch, tasks, mix):
        for task in tasks:
            task.result()
        if len(self.bad) > self.max_bad or (self.replace_bad and batch.missing):
            raise UserError(self._too_many_bad())
        batch.missing.sort()
        if mix is not None:
            mix()
        return batch

    def _fill_rows(self, batch, first, order, epoch, positions):
        for row in range(first, min(first + ROWS_PER_TASK, len(positions))):
            position = positions[row]
            rng = None if self.seed is None else random_numbers(self.seed, epoch, position)
            number = int(order[position % len(order)])
            batch.keys[row] = self.source.keys[number]
            result = self._read(number, batch, row, rng)
            if result is None:
                batch.images[row] = 0
                batch.labels[row] = self.source.listed_label(number)
                batch.missing.append(row)
                continue
            views = [result] if self.num_views == 1 else result
            rows = batch.images[row].reshape(-1, *self.image_shape)
            for view, planes in zip(views, rows):
                write_planes(view, planes)

    def _read(self, number, batch, row, rng):
        """Return what is made of image `number`, or of its replacement, or None.

        Sets its label and key.
        """
        for candidate in range(number, number + len(self.source)):
            candidate %= len(self.source)
            try:
                data, batch.labels[row], batch.keys[row] = self.source.read(candidate)
                return self.transform(self._decode(data), rng)
            except (ValueError, OSError) as error:
                self._report(candidate, error)
            except MemoryError:
                self._report(candidate, "is too large for this machine's memory")
            if not self.replace_bad or len(self.bad) > self.max_bad:
                return None
        return None

    def _report(self, number, error):
        name = self.source.name(number)
        reason = explain_os_error(error) if isinstance(error, OSError) else str(error)
        if reason.startswith(f"{name}: "):
            reason = reason[len(name) + 2 :]
        with self._lock:
            if number in self.bad:
                return
            self.bad[number] = reason
        outcome = "its neighbour takes its place" if self.replace_bad else "left out"
        logging.warning("%s: %s; %s", name, reason, outcome)

    def _too_many_bad(self):
        lines = [f"  {self.source.name(number)}: {why}" for number, why in sorted(self.bad.items())]
        if len(lines) > _LARGEST_LIST:
            lines[_LARGEST_LIST:] = [f"  and {len(lines) - _LARGEST_LIST} more"]
        what = f"{len(self.bad)} of {len(self.source)} images cannot be read"
        if len(self.bad) > self.max_bad:
            what += f" (--max-bad-images allows {self.max_bad}); fix them, or allow more:"
        else:
            what += ", and none takes their place; fix them:"
        return "\n".join([what, *lines])


def random_numbers(seed, epoch, position, stream=0):
    """Return the `numpy.random.Generator` of one image in one epoch, or another stream of it.

    Philox makes its numbers from a key and a counter, so that any place in the stream is reached as
    fast as the first: 0.013 ms, and 0.022 ms for `default_rng` of three numbers. An image may draw
    2 ** 64 of them.
    """
    key, counter = np.array([seed, epoch], np.uint64), (0, position, stream, 0)
    return np.random.Generator(np.random.Philox(key=key, counter=counter))
