"""A JPEG that is decoded only down to a crop has the same pixels as the whole one."""

import cv2
import numpy as np
import pytest

from benchmarks.made_up import make_photograph
from common.data.augmentation import Augmentation, random_box, train_image
from common.data.image import decode, eval_image
from common.data.loader import random_numbers
from common.data.partial_jpeg import PartialJpeg, open_image

HEIGHT, WIDTH = 150, 90
SAMPLING = {
    "4:2:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_420,
    "4:2:2": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_422,
    "4:1:1": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_411,
    "4:4:0": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_440,
    "4:4:4": cv2.IMWRITE_JPEG_SAMPLING_FACTOR_444,
}


def photograph(height=HEIGHT, width=WIDTH):
    return make_photograph(0, height, width)


def jpeg(pixels, *flags):
    return cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 95, *flags])[1].tobytes()


@pytest.mark.parametrize("sampling", SAMPLING.values(), ids=SAMPLING)
def test_every_row_is_that_of_the_whole_image(sampling, capfd):
    data = jpeg(photograph(), cv2.IMWRITE_JPEG_SAMPLING_FACTOR, sampling)
    whole = decode(data)
    for end in range(1, HEIGHT + 1):
        image = open_image(memoryview(data))
        assert isinstance(image, PartialJpeg) and image.shape == whole.shape
        np.testing.assert_array_equal(image[end // 2 : end, 3:50], whole[end // 2 : end, 3:50])
    assert capfd.readouterr().err == ""  # libjpeg warns of bytes that it does not expect


@pytest.mark.parametrize(
    "pixels",
    [photograph()[:, :, 0], np.zeros((HEIGHT, 8, 3), np.uint8), photograph()[:40]],
    ids=["grey", "narrow and black", "low"],
)
def test_of_any_size_and_colour(pixels):
    data = jpeg(pixels)
    for end in range(1, len(pixels) + 1):
        np.testing.assert_array_equal(open_image(data)[:end, :], decode(data)[:end])


def test_fewer_rows_are_decoded_than_the_image_has():
    image = open_image(jpeg(photograph(512, 64)))
    assert len(image[:100, :]) == 100
    assert len(image._decoded) == 100


def test_what_is_above_is_not_decoded_again():
    image = open_image(jpeg(photograph()))
    rows = image[:100, :]
    assert np.shares_memory(image[20:60, 5:10], rows)
    np.testing.assert_array_equal(image[:HEIGHT, :], decode(jpeg(photograph())))


@pytest.mark.parametrize(
    "data",
    [
        jpeg(photograph(), cv2.IMWRITE_JPEG_PROGRESSIVE, 1),
        jpeg(photograph(), cv2.IMWRITE_JPEG_RST_INTERVAL, 4),
        jpeg(photograph()) + b"a second picture",
        cv2.imencode(".png", photograph())[1].tobytes(),
    ],
    ids=["progressive", "restart markers", "more behind the end", "png"],
)
def test_other_files_are_decoded_whole(data):
    image = open_image(data)
    assert isinstance(image, np.ndarray)
    np.testing.assert_array_equal(image, decode(data))


def test_a_damaged_file_is_refused():
    data = jpeg(photograph())
    with pytest.raises(ValueError, match="cut short"):
        open_image(data[: len(data) // 2])
    with pytest.raises(ValueError, match="not a"):
        open_image(b"<html>" + data)
    with pytest.raises(ValueError, match="claims"):
        open_image(with_height(data, 65535))


def with_height(data, height):
    at = data.index(b"\xff\xc0") + 5
    return data[:at] + height.to_bytes(2, "big") + data[at + 2 :]


def test_a_training_image_is_the_same():
    data = jpeg(photograph(200, 150))
    for number in range(50):
        partly, wholly = (
            train_image(image, 32, 32, Augmentation(), random_numbers(0, 0, number))
            for image in (open_image(data), decode(data))
        )
        np.testing.assert_array_equal(partly, wholly)


@pytest.mark.parametrize(
    "sides, share", [((512, 683), 0.09), ((512, 512), 0.12), ((683, 512), 0.17)], ids=str
)
def test_how_many_rows_lie_below_a_random_crop(sides, share):
    plain, left_out = Augmentation(), []
    for number in range(4000):
        top, _, height, _ = random_box(
            *sides, plain.area, plain.aspect_ratio, random_numbers(0, 0, number)
        )
        left_out.append(1 - (top + height) / sides[0])
    assert np.mean(left_out) == pytest.approx(share, abs=0.005)


@pytest.mark.parametrize("sides", [(200, 150), (150, 200), (90, 90), (40, 1400)])
def test_a_validation_image_is_the_same(sides):
    data = jpeg(photograph(*sides))
    partly, wholly = (eval_image(image, 32, 32, 36) for image in (open_image(data), decode(data)))
    np.testing.assert_array_equal(partly, wholly)


def test_the_lower_rows_of_a_portrait_are_not_decoded_for_its_centre():
    image = open_image(jpeg(photograph(680, 512)))
    eval_image(image, 320, 320, 360)
    assert len(image._decoded) < 580
