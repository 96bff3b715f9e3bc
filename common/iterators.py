"""Batches for MXNet: a `DataIter` over a `Loader`, one of made-up images, and looks into both."""

import ctypes
import logging
import time

import cv2
import numpy as np

from common.files import UserError, replacing
from common.find_mxnet import mx
from common.progress import Progress

_TILE = 160  # pixels of an image on a contact sheet
_MOST_TILES = 48


class RecordIterator(mx.io.DataIter):
    """The batches of a `common.loader.Loader` as MXNet takes them, uint8 to be cast on the device.

    A quarter of the bytes of float32 go to the device. `data` is RGB of 0 to 255,
    `(N, 3, H, W)`, `softmax_label` float32, `(N,)`. The last short batch is filled up, and
    `DataBatch.pad` says how far.

    Attributes:
        loader, num_classes, image_shape (3, H, W), num_batches (of an epoch, of this worker).
    """

    def __init__(self, loader, num_classes):
        super().__init__(loader.batch_size)
        self.loader, self.num_classes = loader, num_classes
        self.image_shape, self.num_batches = loader.image_shape, len(loader)
        self.provide_data, self.provide_label = _describe(self.batch_size, self.image_shape)
        self._batches = None
        # The loader decodes right into memory of MXNet, each batch into a new NDArray.
        self._ndarrays = {}  # address -> NDArray
        loader.allocate = self._allocate

    def _allocate(self, shape, dtype):
        ndarray, array = shared_memory(shape, dtype)
        self._ndarrays[array.ctypes.data] = ndarray
        return array

    def set_epoch(self, epoch):
        """Begin an epoch, 0 or later: its order and its augmentation hang on the number."""
        self.close_epoch()
        self.loader.set_epoch(epoch)

    def reset(self):
        """Begin the next epoch, if this one has begun."""
        if self._batches is not None:
            self.set_epoch(self.loader.epoch + 1)

    def next(self):
        """Return the next `mx.io.DataBatch`; `index` holds the keys of its records.

        Raises:
            StopIteration: the epoch is over.
            UserError: too many images cannot be read.
        """
        if self._batches is None:
            self._batches = iter(self.loader)
        batch = next(self._batches)
        return mx.io.DataBatch(
            data=[self._ndarrays.pop(batch.images.ctypes.data)],
            label=[mx.nd.array(batch.labels)],
            pad=batch.pad,
            index=batch.keys,
            provide_data=self.provide_data,
            provide_label=self.provide_label,
        )

    def close_epoch(self):
        """Leave an epoch before its end: what is queued is not decoded any more."""
        if self._batches is not None:
            self._batches.close()
            self._batches = None
            self._ndarrays.clear()

    def close(self):
        """End the decoding threads."""
        self.close_epoch()
        self.loader.close()


class SyntheticIterator(mx.io.DataIter):
    """One batch of noise again and again, with the interface of `RecordIterator`.

    What remains of the training's time with it is the network's alone.
    """

    def __init__(self, batch_size, image_shape, num_classes, seed=0, num_batches=500):
        super().__init__(batch_size)
        self.image_shape, self.num_classes, self.num_batches = image_shape, num_classes, num_batches
        self.provide_data, self.provide_label = _describe(batch_size, image_shape)
        rng = np.random.default_rng(seed)
        images = rng.integers(0, 256, (batch_size, *image_shape), dtype=np.uint8)
        self._batch = mx.io.DataBatch(
            data=[mx.nd.array(images, dtype="uint8")],
            label=[mx.nd.array(rng.integers(0, num_classes, batch_size))],
            pad=0,
            index=np.arange(batch_size),
            provide_data=self.provide_data,
            provide_label=self.provide_label,
        )
        self._left = num_batches

    def set_epoch(self, epoch):
        """Begin an epoch; all of them are the same."""
        self.reset()

    def reset(self):
        """Begin the next epoch."""
        self._left = self.num_batches

    def next(self):
        """Return the batch, `num_batches` times."""
        if not self._left:
            raise StopIteration
        self._left -= 1
        return self._batch

    def close(self):
        """Do nothing: there are no threads to end."""


def shared_memory(shape, dtype):
    """Return a new NDArray on the CPU, and a numpy array of the same memory.

    To be written before MXNet is given anything to do with it. Saves a copy, for which
    `mx.nd.array` takes 12 ms with 48 images of 320 px. (`mx.nd.from_numpy` copies nothing either,
    but MXNet 1.5 has it not for uint8, and it lets threads of MXNet free Python's memory, even
    when Python has ended.)
    """
    ndarray = mx.nd.empty(shape, dtype=dtype)
    pointer = ctypes.c_void_p()
    mx.base.check_call(mx.base._LIB.MXNDArrayGetData(ndarray.handle, ctypes.byref(pointer)))
    num_bytes = int(np.prod(shape)) * np.dtype(dtype).itemsize
    memory = (ctypes.c_uint8 * num_bytes).from_address(pointer.value)
    memory.owner = ndarray  # which lives as long as the numpy array does
    return ndarray, np.frombuffer(memory, dtype=dtype).reshape(shape)


def _describe(batch_size, image_shape):
    data = mx.io.DataDesc("data", (batch_size, *image_shape), dtype=np.uint8, layout="NCHW")
    label = mx.io.DataDesc("softmax_label", (batch_size,), dtype=np.float32, layout="N")
    return [data], [label]


def measure_reading(iterator, seconds=60):
    """Read batches for an epoch, or for that long; log the images per second."""
    num_images = iterator.num_batches * iterator.batch_size
    start = time.monotonic()
    with Progress(num_images, "reading") as progress:
        for batch in iterator:
            batch.data[0].wait_to_read()
            progress.update(iterator.batch_size)
            if time.monotonic() - start > seconds:
                break
        rate = progress.count / (time.monotonic() - start)
    logging.info("reading alone: %.1f images/s (%d images)", rate, progress.count)


def preview(iterator, path):
    """Write a contact sheet of the next batch with its labels: what the network will see.

    Raises:
        UserError: the name tells no kind of image, or its folder is not there.
    """
    if not cv2.haveImageWriter(path):
        raise UserError(f"--preview {path}: must end in .png or .jpg")
    batch = next(iterator)
    images = batch.data[0].asnumpy()[:_MOST_TILES]
    labels = batch.label[0].asnumpy()
    tiles = [_tile(image, f"{label:.0f}") for image, label in zip(images, labels)]
    columns = int(np.ceil(np.sqrt(len(tiles) * 1.5)))
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[first : first + columns]) for first in range(0, len(tiles), columns)]
    with replacing(path) as temporary:
        cv2.imwrite(temporary, np.vstack(rows))
    logging.info("%s: %d images of the first batch, as the network sees them", path, len(images))


def _tile(image, caption):
    """Return a `(3, H, W)` RGB image as a captioned BGR tile."""
    scale = _TILE / max(image.shape[1:])
    size = max(1, round(image.shape[2] * scale)), max(1, round(image.shape[1] * scale))
    picture = cv2.resize(image.transpose(1, 2, 0)[:, :, ::-1], size, interpolation=cv2.INTER_AREA)
    tile = np.full((_TILE + 24, _TILE + 8, 3), 255, dtype=np.uint8)
    tile[4 : 4 + size[1], 4 : 4 + size[0]] = picture
    cv2.putText(tile, caption, (6, _TILE + 19), cv2.FONT_HERSHEY_SIMPLEX, 0.45, (0, 0, 0), 1)
    return tile
