"""im2rec.py as a user calls it: photographs of every kind, and lists of them."""

import os
import struct
import zlib
from importlib.util import find_spec

import cv2
import numpy as np
import pytest

from tests.conftest import with_orientation

# skimage is here for its photographs, without what it needs to be imported
PHOTOGRAPHS = os.path.join(os.path.dirname(find_spec("skimage").origin), "data")
LONG_NAME = "Plantae/Salix × fragilis é 柳/" + "long name " * 15 + ".JPG"


def bomb():
    """Return a PNG of a few bytes that says it is 60,000 x 60,000 pixels."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of photographs of every kind that users have."""
    folder = tmp_path_factory.mktemp("photographs")
    cat = cv2.imread(os.path.join(PHOTOGRAPHS, "chelsea.png"))[:120, :157]
    jpeg = cv2.imencode(".jpg", cat)[1].tobytes()
    alpha = np.dstack([cat, np.arange(120 * 157, dtype=np.uint8).reshape(120, 157)])
    files = {
        "Aves/wide.jpg": jpeg,
        "Aves/tall.jpeg": cv2.imencode(".jpg", cat.transpose(1, 0, 2))[1].tobytes(),
        "Aves/square.jpg": cv2.imencode(".jpg", cat[:, :120])[1].tobytes(),
        "Aves/rotated.jpg": with_orientation(jpeg, 6),
        "Aves/mirrored.jpg": with_orientation(jpeg, 2),
        "Plantae/grey.jpg": cv2.imencode(".jpg", cat[:, :, 0])[1].tobytes(),
        "Plantae/grey.png": cv2.imencode(".png", cat[:, :, 1])[1].tobytes(),
        "Plantae/alpha.png": cv2.imencode(".png", alpha)[1].tobytes(),
        "Plantae/deep.png": cv2.imencode(".png", cat.astype(np.uint16) * 257)[1].tobytes(),
        "Plantae/behind the end.jpg": jpeg + b"more",
        "one pixel.png": cv2.imencode(".png", cat[:1, :1])[1].tobytes(),
        "notes.txt": b"no photograph",
        LONG_NAME: jpeg,
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "linked").symlink_to(folder / "Aves")
    return folder


@pytest.fixture
def lines(photographs):
    """The lines of a list of all photographs: keys in no order, float labels, several labels."""
    names = sorted(
        os.path.relpath(os.path.join(folder, name), photographs)
        for folder, _, files in os.walk(photographs)
        for name in files
        if name != "notes.txt"
    )
    labels = ["3.000000", "0.1\t7\t-2.5", "12", "1e3\t0"]
    return [f"{(7 * n + 3) % 100}\t{labels[n % 4]}\t{name}\n" for n, name in enumerate(names)]


@pytest.fixture
def ours(tmp_path, lines):
    """The prefix of `train.lst`, a list of all photographs."""
    (tmp_path / "train.lst").write_text("".join(lines), encoding="utf-8")
    return tmp_path / "train"


def bytes_of(prefix):
    """Return the bytes of `PREFIX.rec` and `PREFIX.idx`."""
    return tuple(prefix.with_suffix(suffix).read_bytes() for suffix in (".rec", ".idx"))


@pytest.fixture
def damaged(ours, photographs):
    """A list of two good photographs among bad ones; returns its prefix and the root."""
    root = ours.parent
    jpeg = (photographs / "Aves/wide.jpg").read_bytes()
    thumbnail = b"\xff\xe1\x00\x06\xff\xd8\xff\xd9"  # an end marker within the EXIF
    files = {
        "good.jpg": jpeg,
        "empty.jpg": b"",
        "page.jpg": b"<html>404</html>",
        "half.jpg": jpeg[: len(jpeg) // 2],
        "no end.jpg": jpeg[:-2],
        "half with thumbnail.jpg": jpeg[:2] + thumbnail + jpeg[2 : len(jpeg) // 2],
        "half.png": (photographs / "Plantae/alpha.png").read_bytes()[:-500],
        "bomb.png": bomb(),
        "good too.jpg": jpeg,
    }
    for name, content in files.items():
        (root / name).write_bytes(content)
    (root / "folder.jpg").mkdir()
    os.mkfifo(root / "pipe.jpg")
    names = [*files, "folder.jpg", "pipe.jpg", "missing.jpg"]
    (root / "train.lst").write_text("".join(f"{n}\t1\t{name}\n" for n, name in enumerate(names)))
    return ours, root
