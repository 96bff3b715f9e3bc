"""One image as it is packed: decoded, cropped, resized and encoded as MXNet's `im2rec.py` does."""

import os
import struct
from dataclasses import dataclass

import cv2
import numpy as np

from common.data.orientation import is_webp, turn_upright, webp_orientation
from common.data.signatures import explain

MAX_JPEG_SIDE = 65500  # libjpeg's

_JPEG_START, _JPEG_END, _JPEG_SCAN = b"\xff\xd8", b"\xff\xd9", 0xDA
_JPEG_FRAMES = set(range(0xC0, 0xD0)) - {0xC4, 0xC8, 0xCC}  # the segments that hold the size
_PNG_START, _PNG_END = b"\x89PNG", b"IEND"

# The most that a file can hold: a JPEG spends at least a bit on a block of 8x8, a PNG's deflate
# makes at most 1,032 bytes of one, and a byte is at most eight pixels.
_JPEG_PIXELS_A_BYTE, _PNG_PIXELS_A_BYTE = 512, 8 * 1032


@dataclass
class Settings:
    """How images are packed; the names and defaults of MXNet's `im2rec.py`."""

    resize: int = 0  # shorter side in pixels; 0 keeps the size
    center_crop: bool = False  # to a square
    quality: int = 95  # of JPEG, 0 to 100; for PNG the compression, 0 to 9
    color: int = 1  # 1: colour, 0: grey, -1: as it is, with alpha and 16 bits
    encoding: str = ".jpg"  # or .png
    pass_through: bool = False  # the bytes of the file
    pack_label: bool = False  # all labels of a line, not only the first


def encode_image(data, settings):
    """Return the bytes to pack for the bytes of an image file.

    The image is turned as its EXIF orientation says (except for `color=-1`), as `cv2.imread` does.
    A WebP is turned, too, which OpenCV 4 and so MXNet's tool do not do.

    Raises:
        ValueError: an incomplete image, or one beyond cv2's limits; says why in one line.
    """
    if is_cut_short(data):
        raise ValueError("is cut short: its end marker is missing")
    if settings.pass_through and data.startswith((_JPEG_START, _PNG_START)):
        check_claim(data)
        return data  # not decoded: that is what the flag is for
    image = decode_image(data, settings.color)
    if settings.pass_through:
        return data
    try:
        if settings.center_crop:
            image = _crop_to_square(image)
        if settings.resize:
            image = _resize_shorter_side(image, settings.resize)
        return _encode(image, settings)
    except cv2.error as error:
        raise ValueError(_first_line(error)) from None


def decode_image(data, color=1):
    """Return the pixels (H, W[, C]) of the bytes of an image file; `color` as in `Settings`.

    Raises:
        ValueError: not an image that cv2 can read (says what it is), or one beyond its limits.
    """
    if not len(data):
        raise ValueError("is empty")
    check_claim(data)
    webp = is_webp(data)
    flags = color | cv2.IMREAD_IGNORE_ORIENTATION if webp else color
    try:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), flags)
    except cv2.error as error:
        raise ValueError(_first_line(error)) from None
    if image is None:
        raise ValueError(explain(data) or "is not an image that cv2 can read, or is damaged")
    if webp and color != cv2.IMREAD_UNCHANGED:
        return turn_upright(image, webp_orientation(data))
    return image


def check_claim(data):
    """Raise `ValueError` where a JPEG or PNG claims more pixels than so few bytes can hold.

    cv2 would allocate memory for them first, and fill what a JPEG lacks with grey.
    """
    if bytes(data[:4]) == _PNG_START and len(data) >= 24:
        width, height = struct.unpack_from(">II", data, 16)
        most = _PNG_PIXELS_A_BYTE * len(data)
    else:
        height, width = jpeg_size(data)
        most = _JPEG_PIXELS_A_BYTE * len(data)
    if height * width > most:
        raise ValueError(f"claims {width}x{height} pixels, which {len(data)} bytes cannot hold")


def is_cut_short(data):
    """Return whether the bytes of a JPEG or PNG lack its end marker; False for other formats.

    libjpeg fills what is missing with grey and continues. The end marker of a thumbnail in the EXIF
    does not count, and bytes after the end (some cameras put a second picture there) do no harm.
    """
    if bytes(data[:4]) == _PNG_START:
        return _PNG_END not in bytes(data[-8:]) and _PNG_END not in bytes(data)
    if bytes(data[:2]) != _JPEG_START or bytes(data[-2:]) == _JPEG_END:
        return False
    for marker, position in jpeg_segments(data):
        if marker == _JPEG_SCAN:
            return bytes(data).find(_JPEG_END, position) < 0
    return True


def jpeg_segments(data):
    """Yield (marker, position of what follows it) of a JPEG's segments, up to the first scan."""
    position = len(_JPEG_START)
    while position + 4 <= len(data):
        if data[position] != 0xFF:  # stray bytes, which libjpeg skips
            data = bytes(data)
            position = data.find(b"\xff", position)
            if position < 0:
                return
            continue
        marker = data[position + 1]
        position += 1
        if marker == 0xFF:  # the standard allows any number of them before a marker
            continue
        position += 1
        if not marker:  # no marker, but a byte of data
            continue
        yield marker, position
        if marker == _JPEG_SCAN:
            return
        position += int.from_bytes(data[position : position + 2], "big")


def jpeg_size(data):
    """Return (height, width) as a JPEG's header claims; (0, 0) where there is none."""
    if bytes(data[:2]) == _JPEG_START:
        for marker, position in jpeg_segments(data):
            if marker in _JPEG_FRAMES and position + 7 <= len(data):
                # the segment's length, 8 bits a sample, height, width
                return struct.unpack_from(">HH", data, position + 3)
    return 0, 0


def _crop_to_square(image):
    height, width = image.shape[:2]
    if height > width:
        top = (height - width) // 2
        return image[top : top + width, :]
    left = (width - height) // 2
    return image[:, left : left + height]


def _resize_shorter_side(image, size):
    height, width = image.shape[:2]
    if height > width:
        new_width, new_height = size, height * size // width
    else:
        new_width, new_height = width * size // height, size
    if max(new_width, new_height) > MAX_JPEG_SIDE:
        raise ValueError(f"would become {new_width}x{new_height}: too long for its width")
    return cv2.resize(image, (new_width, new_height))


def _encode(image, settings):
    png = settings.encoding == ".png"
    parameter = cv2.IMWRITE_PNG_COMPRESSION if png else cv2.IMWRITE_JPEG_QUALITY
    done, encoded = cv2.imencode(settings.encoding, image, [parameter, settings.quality])
    if not done:
        raise ValueError(f"cannot be encoded as {settings.encoding}")
    return encoded.tobytes()


def _first_line(error):
    if "CV_IO_MAX_IMAGE" in str(error):
        most = os.environ["OPENCV_IO_MAX_IMAGE_PIXELS"]
        return f"has more than {most} pixels; to read it, set OPENCV_IO_MAX_IMAGE_PIXELS higher"
    return f"cv2: {getattr(error, 'err', '') or str(error).strip().splitlines()[0]}"
