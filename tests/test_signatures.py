"""Files that are called .jpg and are something else are named for what they are."""

import io

import numpy as np
import pytest
from PIL import Image

from benchmarks.made_up import encode, make_photograph
from common.data.encoding import decode_image
from common.data.signatures import explain


def gif():
    """Return the bytes of a photograph as a GIF."""
    stream = io.BytesIO()
    Image.fromarray(make_photograph(0, 24, 32)).save(stream, "GIF")
    return stream.getvalue()


def media(*brands):
    """Return the head of an ISO media file: its major brand, a version, compatible brands."""
    content = b"ftyp" + brands[0] + bytes(4) + b"".join(brands[1:])
    return (len(content) + 4).to_bytes(4, "big") + content + bytes(100)


GIF = gif()
CONVERT = "not a JPEG or PNG; convert it"
KINDS = [
    (GIF, f"is a GIF, {CONVERT}"),
    (media(b"avif", b"mif1"), f"is an AVIF, {CONVERT}"),
    (media(b"mif1", b"mif1", b"avif", b"miaf"), f"is an AVIF, {CONVERT}"),
    (media(b"heic", b"mif1", b"heic"), f"is a HEIC, {CONVERT}"),
    (media(b"mif1", b"heic"), f"is a HEIC, {CONVERT}"),
    (media(b"isom", b"mp42"), f"is a video, {CONVERT}"),
    (b"\xff\x0a" + bytes(50), f"is a JPEG XL image, {CONVERT}"),
    (b"%PDF-1.7\n", f"is a PDF, {CONVERT}"),
    (b"PK\3\4" + bytes(50), "is a zip archive, not a JPEG or PNG; unpack it"),
    (b"<html>404</html>", "is a web page (HTML), not a photograph; download it again"),
    (b"\xef\xbb\xbf\r\n <!DOCTYPE HTML>", "is a web page (HTML), not a photograph; download it"),
    (b'<?xml version="1.0"?><svg/>', f"is an SVG drawing, {CONVERT}"),
    (b"<?xml version='1.0'?><Error>", "is text (XML or JSON), not a photograph; download it"),
    (b'{"error": 404}', "is text (XML or JSON), not a photograph; download it again"),
    (b"version https://git-lfs.github.com/spec/v1\n", "is a Git LFS pointer, not the photograph"),
]


@pytest.mark.parametrize(("data", "message"), KINDS)
def test_a_file_of_another_kind_is_named(data, message):
    assert explain(memoryview(data)).startswith(message)


@pytest.mark.parametrize(
    ("data", "message"), [(data, message) for data, message in KINDS if b"<" in data[:9]]
)
def test_the_failure_of_decoding_says_it(data, message):
    with pytest.raises(ValueError) as failure:
        decode_image(data)
    assert str(failure.value).startswith(message)


def test_a_gif_is_read_where_opencv_can():
    """OpenCV 4.11 cannot, OpenCV 5.0 can."""
    try:
        assert decode_image(GIF).shape == (24, 32, 3)
    except ValueError as failure:
        assert str(failure) == f"is a GIF, {CONVERT}"


@pytest.mark.parametrize(
    "data",
    [b"noise", b"", b"\xff\xd8\xff\xe0", encode(np.zeros((9, 9, 3), np.uint8), ".png")],
)
def test_what_is_not_known_is_not_named(data):
    assert explain(data) is None
