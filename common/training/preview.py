"""A look at the training batches: a contact sheet of the first, and the speed of reading."""

import contextlib
import logging
import os
import time

import cv2
import numpy as np

from common.base.files import UserError, atomic_open
from common.base.progress import Progress

_TILE = 160  # pixels of an image on a contact sheet
_MAX_TILES = 48


def measure_reading(loader, seconds=60):
    """Read batches for an epoch, at most for `seconds`; log the images per second."""
    num_images = len(loader) * loader.batch_size
    start = time.monotonic()
    with Progress(num_images, "reading") as progress, contextlib.closing(iter(loader)) as batches:
        for _ in batches:
            progress.update(loader.batch_size)
            if time.monotonic() - start > seconds:
                break
        rate = progress.count / (time.monotonic() - start)
    logging.info("reading alone: %.1f images/s (%d images)", rate, progress.count)


def preview(loader, path):
    """Write a contact sheet of the next batch with its labels: what the network will see.

    Raises:
        UserError: the name has no ending of an image file, or its folder does not exist.
    """
    if not path.lower().endswith((".png", ".jpg", ".jpeg")) or not os.path.splitext(path)[1]:
        raise UserError(f"--preview {path}: must end in .png or .jpg")
    with contextlib.closing(iter(loader)) as batches:
        batch = next(batches)
    images = batch.images[:_MAX_TILES]
    tiles = [_tile(image, f"{label:.0f}") for image, label in zip(images, batch.labels)]
    columns = int(np.ceil(np.sqrt(len(tiles) * 1.5)))
    blank = np.full_like(tiles[0], 255)
    tiles += [blank] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[first : first + columns]) for first in range(0, len(tiles), columns)]
    _, encoded = cv2.imencode(os.path.splitext(path)[1], np.vstack(rows))
    with atomic_open(path, "wb") as stream:
        stream.write(encoded)
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
