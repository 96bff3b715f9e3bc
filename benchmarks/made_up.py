"""Made-up photographs and records of them, for benchmarks and tests."""

from concurrent.futures import ProcessPoolExecutor

import cv2
import numpy as np

from common.data.recordio import frame_record, pack_record


def make_photograph(seed, height=512, width=683):
    """Return smooth noise of many scales, weaker the finer: as many bytes as a photograph."""
    rng = np.random.default_rng(seed)
    image = np.full((height, width, 3), 120, np.float32)
    for cells, strength in ((4, 50), (16, 30), (64, 14), (128, 8), (400, 6)):
        grey = rng.normal(0, strength, (cells, cells * 4 // 3, 1))
        color = rng.normal(0, strength / 3, (cells, cells * 4 // 3, 3))
        noise = (grey + color).astype(np.float32)
        image += cv2.resize(noise, (width, height), interpolation=cv2.INTER_CUBIC)
    return np.clip(image, 0, 255).astype(np.uint8)


def encode(image, suffix=".jpg"):
    """Return the image's bytes as JPEG 95, or another format."""
    return cv2.imencode(suffix, image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()


def encoded_photographs(number):
    """Return the JPEGs of made-up photographs, a list; all cores make them."""
    with ProcessPoolExecutor() as pool:
        return list(pool.map(_encoded_photograph, range(number), chunksize=8))


def _encoded_photograph(seed):
    return encode(make_photograph(seed))


def write_records(prefix, encoded, labels):
    """Write images with the keys 0, 1, 2… as `PREFIX.rec` and `.idx`; return the former's name."""
    offset = 0
    with open(f"{prefix}.rec", "wb") as records, open(f"{prefix}.idx", "w") as index:
        for key, (image, label) in enumerate(zip(encoded, labels)):
            index.write(f"{key}\t{offset}\n")
            offset += records.write(frame_record(pack_record(key, label, image)))
    return f"{prefix}.rec"
