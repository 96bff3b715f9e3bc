"""WebP images with an EXIF orientation stand upright, with Pillow as the expectation."""

import io
import struct

import numpy as np
import pytest
from PIL import Image, ImageOps

from benchmarks.made_up import make_photograph
from common.data.encoding import Settings, decode_image, encode_image
from common.data.image import decode
from common.data.orientation import webp_orientation
from common.data.partial_jpeg import open_image

ORIENTATION = 0x0112  # the tag of EXIF


@pytest.fixture(scope="module")
def photo():
    return Image.fromarray(make_photograph(1, 24, 40))


def with_exif(photo, orientation, file_format="WebP", **options):
    """Return the bytes of an image file that is to be turned."""
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    stream = io.BytesIO()
    photo.save(stream, file_format, exif=exif, **options)
    return stream.getvalue()


def upright(pixels, orientation):
    """Return the pixels as Pillow turns them."""
    image = Image.fromarray(pixels)
    image.getexif()[ORIENTATION] = orientation
    return np.asarray(ImageOps.exif_transpose(image))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L"])
def test_all_eight_orientations_are_turned_upright(photo, mode, orientation):
    image = photo.convert(mode)
    if mode == "RGBA":
        image.putalpha(photo.getchannel("R"))
    data = with_exif(image, orientation, lossless=True, exact=True)
    expected = upright(np.asarray(image.convert("RGB"))[:, :, ::-1], orientation)
    np.testing.assert_array_equal(decode_image(data), expected)
    np.testing.assert_array_equal(decode(memoryview(data)), expected)  # the loader's
    grey = decode_image(with_exif(image, 1, lossless=True, exact=True), color=0)
    np.testing.assert_array_equal(decode_image(data, color=0), upright(grey, orientation))


@pytest.mark.parametrize("file_format", ["JPEG", "PNG", "WebP"])
def test_what_is_packed_is_turned_once(photo, file_format):
    packed = encode_image(with_exif(photo, 6, file_format), Settings(resize=12))
    assert decode(packed).shape == (20, 12, 3)
    as_it_is = encode_image(with_exif(photo, 6, file_format), Settings(color=-1))
    assert decode(as_it_is).shape == (24, 40, 3)  # --color -1 turns nothing


def webp(*chunks):
    """Return the container of a WebP with some chunks `(name, content)`."""
    body = b"".join(
        name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
        for name, content in chunks
    )
    return b"RIFF" + struct.pack("<I", 4 + len(body)) + b"WEBP" + body


def tiff(order, orientation, kind=3):
    """Return EXIF with another tag before the orientation."""
    entries = struct.pack(f"{order}HHII", 0x010F, 2, 4, 0)
    entries += struct.pack(f"{order}HHIHH", ORIENTATION, kind, 1, orientation, 0)
    start = {"<": b"II", ">": b"MM"}[order] + struct.pack(f"{order}HI", 42, 8)
    return start + struct.pack(f"{order}H", 2) + entries + bytes(4)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("prefix", [b"", b"Exif\0\0"])
def test_exif_is_read_in_both_byte_orders_and_behind_jpeg_s_prefix(order, prefix):
    data = webp((b"VP8L", b"odd"), (b"EXIF", prefix + tiff(order, 8)))
    assert webp_orientation(data) == 8


@pytest.mark.parametrize(
    "data",
    [
        webp((b"VP8L", b"pixels")),
        webp((b"EXIF", b"")),
        webp((b"EXIF", b"nothing of the kind")),
        webp((b"EXIF", tiff("<", 6)[:30])),
        webp((b"EXIF", b"II*\0\xff\xff\xff\xff")),
        webp((b"EXIF", tiff("<", 9))),
        webp((b"EXIF", tiff("<", 0))),
        webp((b"EXIF", tiff("<", 6, kind=2))),
        webp((b"VP8L", b"pixels"))[:-3],
        b"RIFF\0\0\0\0WEBP",
    ],
)
def test_exif_that_says_nothing_or_is_damaged_turns_nothing(data):
    assert webp_orientation(data) == 1


def test_a_turned_jpeg_is_decoded_whole_for_a_crop(photo):
    image = open_image(with_exif(photo, 6, "JPEG"))
    assert isinstance(image, np.ndarray) and image.shape == (40, 24, 3)
