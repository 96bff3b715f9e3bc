"""Photographs to be packed, and runs of im2rec.py that are stopped."""

import os
import shutil
import signal
import subprocess
import sys
import time

import cv2
import numpy as np
import pytest

from common.base.files import ROOT

NUM_IMAGES = 300
FLAGS = ["--resize", "300", "--num-thread", "2"]


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A list of 300 images below a folder, five of them bad; returns the folder."""
    folder = tmp_path_factory.mktemp("photographs")
    pixels = np.random.default_rng(0).integers(0, 255, (60, 80, 3), dtype=np.uint8)
    for number in range(20):
        image = cv2.resize(np.roll(pixels, number, axis=1), (640, 480))
        cv2.imwrite(str(folder / f"{number}.jpg"), image)
    names = [f"{n % 20}.jpg" if n % 60 != 30 else f"missing {n}.jpg" for n in range(NUM_IMAGES)]
    lines = [f"{1000 - n}\t{n % 3}\t{name}\n" for n, name in enumerate(names)]
    (folder / "train.lst").write_text("".join(lines))
    return folder


@pytest.fixture
def prefix(photographs, tmp_path):
    """The prefix of a fresh copy of the list."""
    shutil.copy(photographs / "train.lst", tmp_path)
    return tmp_path / "train"


@pytest.fixture(scope="module")
def whole(script, photographs):
    """The bytes of the .rec, the .idx and the failed.txt that an uninterrupted run makes."""
    script("im2rec.py", *FLAGS, photographs / "train", photographs, status=1)
    return contents(photographs / "train")


def contents(prefix):
    return [
        prefix.with_suffix(suffix).read_bytes() for suffix in (".rec", ".idx", ".rec.failed.txt")
    ]


def start(prefix, photographs, *flags, **options):
    """Start packing; return the process."""
    command = [sys.executable, os.path.join(ROOT, "im2rec.py"), *FLAGS, *flags]
    return subprocess.Popen(
        [*command, prefix, photographs], stderr=subprocess.PIPE, encoding="utf-8", **options
    )


def stop_within(prefix, process, num_bytes, number=signal.SIGKILL):
    """Send a signal once the partial file has that many bytes; return what was said."""
    partial = prefix.with_suffix(".rec.partial")
    while process.poll() is None and (not partial.exists() or partial.stat().st_size < num_bytes):
        time.sleep(0.002)
    process.send_signal(number)
    return process.communicate()[1]


@pytest.fixture
def stopped(prefix, photographs, whole):
    """The prefix of a run that was killed half-way."""
    stop_within(prefix, start(prefix, photographs), len(whole[0]) // 2)
    return prefix
