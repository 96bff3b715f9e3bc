"""The peers of feeding: each reads a photograph as our presets do."""

import argparse

import numpy as np
import pytest

from benchmarks.made_up import encode, make_photograph
from common.data.image import decode, eval_image, eval_side

torch_photographs = pytest.importorskip("benchmarks.torch_photographs")

SIDE = 320
READERS = ["pil", "cv2", "torchvision", "torchvision-cv2"]


@pytest.fixture(scope="module")
def photograph(tmp_path_factory):
    path = tmp_path_factory.mktemp("photographs") / "0.jpg"
    path.write_bytes(encode(make_photograph(0)))
    return path


def read(reader, preset, path):
    try:
        torch_photographs.reader_version(reader)
    except SystemExit as error:
        pytest.skip(str(error))
    return torch_photographs.PRESETS[reader, preset](str(path), SIDE)


@pytest.mark.parametrize("reader", READERS)
def test_the_validation_preset_is_ours(photograph, reader):
    ours = eval_image(decode(photograph.read_bytes()), SIDE, SIDE, eval_side(SIDE, SIDE))
    theirs = read(reader, "validation", photograph)
    assert theirs.shape == (SIDE, SIDE, 3) and theirs.dtype == np.uint8
    # They average where they shrink, PIL and torchvision over more pixels than OpenCV.
    assert np.abs(ours[..., ::-1].astype(int) - theirs).mean() < 4


@pytest.mark.parametrize("reader", READERS)
def test_the_training_preset_is_random(photograph, reader):
    first, second = (read(reader, "training", photograph) for _ in range(2))
    assert first.shape == (SIDE, SIDE, 3) and first.dtype == np.uint8
    assert (first != second).any()


def test_dali_reads_with_both_presets(photograph):
    pytest.importorskip("nvidia.dali")
    from nvidia import dali

    from benchmarks.dali_peer import make_pipeline

    ours = eval_image(decode(photograph.read_bytes()), SIDE, SIDE, eval_side(SIDE, SIDE))
    for preset in ("training", "validation"):
        args = argparse.Namespace(batch_size=2, workers=1, preset=preset, size=SIDE)
        images, _ = make_pipeline(dali, args, [str(photograph)]).run()
        theirs = images.as_array()
        assert theirs.shape == (2, 3, SIDE, SIDE) and theirs.dtype == np.uint8
    assert np.abs(ours[..., ::-1].astype(int) - theirs[0].transpose(1, 2, 0)).mean() < 4
