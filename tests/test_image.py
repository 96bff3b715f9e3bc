"""One image: what is decoded, and where it is cropped."""

import io
import struct

import cv2
import numpy as np
import pytest
from PIL import Image

from benchmarks.made_up import encode, make_photograph
from common.data import augmentation as aug
from common.data import image as images
from common.data.augmentation import Augmentation, train_image


@pytest.fixture(scope="module")
def photograph():
    return make_photograph(1, 240, 320)


def coordinates(height, width):
    """An image whose blue is the column and whose green is the row."""
    rows, columns = np.mgrid[:height, :width]
    return np.stack([columns, rows, np.zeros_like(rows)], axis=2).astype(np.uint8)


def pillow_bytes(image, mode, file_format, **options):
    stream = io.BytesIO()
    Image.fromarray(image).convert(mode).save(stream, file_format, **options)
    return stream.getvalue()


# Decoding -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "make"),
    [
        ("colour JPEG", lambda photo: encode(photo)),
        ("PNG with alpha", lambda photo: pillow_bytes(photo, "RGBA", "PNG")),
        ("grey-scale JPEG", lambda photo: pillow_bytes(photo, "L", "JPEG")),
        ("CMYK JPEG", lambda photo: pillow_bytes(photo, "CMYK", "JPEG")),
        ("16-bit PNG", lambda photo: encode(photo.astype(np.uint16) * 257, ".png")),
        ("one pixel", lambda photo: encode(photo[:1, :1])),
        ("12,000 pixels wide", lambda photo: encode(np.tile(photo, (1, 38, 1))[:, :12000])),
        ("a line of 12,000 pixels", lambda photo: encode(np.tile(photo[:1], (1, 38, 1)), ".png")),
    ],
)
def test_every_kind_of_image_goes_through_both_presets(photograph, kind, make):
    image = images.decode(memoryview(make(photograph)))
    assert image.dtype == np.uint8 and image.shape[2] == 3
    rng = np.random.default_rng(0)
    for settings in (Augmentation(), Augmentation(random_resized_crop=False, shorter_side=72)):
        assert train_image(image, 64, 48, settings, rng).shape == (64, 48, 3)
    assert images.eval_image(image, 64, 48, 72).shape == (64, 48, 3)


def test_cmyk_and_grey_keep_their_tone(photograph):
    grey = images.decode(pillow_bytes(photograph, "L", "JPEG"))
    assert (grey[:, :, 0] == grey[:, :, 2]).all()
    cmyk = images.decode(pillow_bytes(photograph, "CMYK", "JPEG", quality=95))
    assert abs(cmyk.mean() - photograph.mean()) < 6


def test_a_truncated_jpeg_is_refused_even_with_a_whole_thumbnail(photograph):
    thumbnail = Image.Exif()
    thumbnail[0x010E] = encode(photograph[::8, ::8]).decode("latin-1")
    whole = pillow_bytes(photograph, "RGB", "JPEG", exif=thumbnail)
    assert images.decode(whole).shape == photograph.shape
    for length in (len(whole) // 2, len(whole) - 100, 200):
        with pytest.raises(ValueError):
            images.decode(whole[:length])


def test_bytes_behind_a_jpeg_do_no_harm(photograph):
    whole = encode(photograph)
    np.testing.assert_array_equal(images.decode(whole + bytes(100)), images.decode(whole))


def test_fill_bytes_between_the_segments_of_a_jpeg_do_no_harm(photograph):
    plain = encode(photograph)  # 240 x 320
    frame = plain.index(b"\xff\xc0")
    filled = plain[:2] + b"\xff" * 3 + plain[2:frame] + b"\xff" * 7 + plain[frame:]
    for data in (filled, filled + b"more"):
        np.testing.assert_array_equal(images.decode(data), images.decode(plain))
        assert images.decode(data, at_least=120).shape == (120, 160, 3)
    with pytest.raises(ValueError, match="is cut short"):
        images.decode(filled[:-1000])


def test_stray_bytes_between_the_segments_of_a_jpeg_do_no_harm(photograph):
    plain = encode(photograph)  # 240 x 320
    frame = plain.index(b"\xff\xc0")
    stray = plain[:frame] + b"stray \xff\x00 bytes" + plain[frame:]
    for data in (stray, stray + b"more", memoryview(stray + b"more")):
        np.testing.assert_array_equal(images.decode(data), images.decode(plain))
        assert images.decode(data, at_least=120).shape == (120, 160, 3)
    with pytest.raises(ValueError, match="is cut short"):
        images.decode(stray[:-1000])
    with pytest.raises(ValueError, match="is cut short"):
        images.decode(plain[:2] + bytes(100))


def test_an_empty_file_is_called_empty():
    with pytest.raises(ValueError, match=r"^is empty$"):
        images.decode(b"")


@pytest.mark.parametrize(
    ("mode", "file_format", "options"),
    [
        ("L", "JPEG", {"progressive": True, "optimize": True, "quality": 1}),
        ("RGB", "JPEG", {"optimize": True, "subsampling": "4:2:0"}),
        ("1", "PNG", {"optimize": True}),
    ],
)
def test_the_smallest_files_of_large_images_are_believed(mode, file_format, options):
    black = np.zeros((3000, 3000), np.uint8)
    data = pillow_bytes(black, mode, file_format, **options)
    assert images.decode(data).shape == (3000, 3000, 3)


def test_a_size_that_the_bytes_cannot_hold_is_refused(photograph):
    data = bytearray(encode(photograph))
    start = data.index(b"\xff\xc0") + 5
    assert data[start : start + 4] == struct.pack(">HH", 240, 320)
    data[start : start + 4] = struct.pack(">HH", 16000, 16000)
    with pytest.raises(ValueError, match=r"claims 16000x16000 pixels, which \d+ bytes cannot hold"):
        images.decode(bytes(data))


@pytest.mark.parametrize("data", [b"<html>404</html>", b"\xff\xd8\xff", b"\x89PNG\r\n"])
def test_what_is_no_image_is_a_value_error(data):
    with pytest.raises(ValueError):
        images.decode(data)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_the_exif_orientation_is_applied_as_opencv_does(photograph, orientation, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = orientation
    path = tmp_path / "turned.jpg"
    path.write_bytes(pillow_bytes(photograph, "RGB", "JPEG", exif=exif))
    np.testing.assert_array_equal(images.decode(path.read_bytes()), cv2.imread(str(path)))


def test_fast_decoding_halves_only_what_stays_large_enough(photograph):
    data = encode(photograph)  # 240 x 320
    assert images.decode(data, at_least=121).shape == (240, 320, 3)
    assert images.decode(data, at_least=120).shape == (120, 160, 3)
    assert images.decode(data, at_least=60).shape == (60, 80, 3)
    assert images.decode(encode(photograph, ".png"), at_least=60).shape == (240, 320, 3)
    halved = images.decode(data, at_least=120).astype(int)
    resized = cv2.resize(photograph, (160, 120), interpolation=cv2.INTER_AREA)
    assert abs(halved - resized).mean() < 3


def test_training_s_fast_decoding_leaves_no_crop_to_be_enlarged():
    side, rng = Augmentation().least_side(320, 320), np.random.default_rng(0)
    boxes = [aug.random_box(side, side, (0.3, 1), (3 / 4, 4 / 3), rng) for _ in range(3000)]
    smallest = min(min(height, width) for _, _, height, width in boxes)
    assert 320 <= smallest < 335
    plain = Augmentation(random_resized_crop=False, shorter_side=360, scale=(0.5, 1.0))
    assert plain.least_side(320, 320) == 720


# Crops --------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("height", "width"), [(240, 320), (320, 240), (200, 200), (97, 311)])
def test_the_shorter_side_is_resized_as_mxnet_does(height, width, mx):
    image = make_photograph(2, height, width)
    theirs = mx.image.resize_short(mx.nd.array(image, dtype="uint8"), 150, interp=1).asnumpy()
    np.testing.assert_array_equal(images.resize_shorter_side(image, 150), theirs)


def test_the_ends_of_a_line_are_cut_off_before_it_is_resized():
    line = coordinates(1, 200)
    assert images.shorten(line).shape == (1, 32, 3)
    assert images.shorten(line)[0, 0, 0] == 84
    assert images.resize_shorter_side(line, 360).shape == (360, 360 * 32, 3)
    assert images.shorten(coordinates(200, 7)).shape == (200, 7, 3)


def test_centre_and_corners_are_where_they_should_be():
    image = coordinates(100, 200)
    assert images.center_crop(image, 40, 60)[0, 0].tolist() == [70, 30, 0]
    first = [crop[0, 0].tolist()[:2] for crop in images.corner_crops(image, 40, 60)]
    assert first == [[0, 0], [140, 0], [0, 60], [140, 60]]


def test_an_image_smaller_than_the_crop_is_enlarged():
    assert images.center_crop(coordinates(10, 20), 40, 40).shape == (40, 40, 3)


@pytest.mark.parametrize("num_crops", [1, 2, 5, 10, 12])
def test_crops_for_averaging_begin_with_the_preset_and_end_with_mirrors(photograph, num_crops):
    crops = images.eval_crops(photograph, 64, 64, 72, num_crops)
    assert len({crop.tobytes() for crop in crops}) == num_crops
    np.testing.assert_array_equal(crops[0], images.eval_image(photograph, 64, 64, 72))
    if num_crops % 2 == 0:
        np.testing.assert_array_equal(crops[num_crops // 2], crops[0][:, ::-1])


def test_crops_show_the_corners_of_the_resized_image_and_the_whole_of_its_middle():
    views = images.eval_crops(coordinates(100, 200), 50, 50, 60, 12)  # resized to 60 x 120
    (left, top), (right, bottom) = views[1][0, 0, :2], views[4][-1, -1, :2]
    assert max(left, top) <= 1 and right >= 198 and bottom >= 98
    assert int(views[1][0, -1, 0]) == pytest.approx(50 * 200 / 120, abs=2)
    whole = views[5]
    assert [int(whole[0, 0, 0]), int(whole[0, -1, 0])] == pytest.approx([50, 149], abs=1)
    assert [int(whole[0, 0, 1]), int(whole[-1, 0, 1])] == pytest.approx([0, 99], abs=1)
    whole = images.eval_crops(coordinates(100, 200), 20, 30, 34, 12)[5]  # of 100 x 150
    assert [int(whole[0, 0, 0]), int(whole[0, -1, 0])] == pytest.approx([26, 173], abs=2)
    assert [int(whole[0, 0, 1]), int(whole[-1, 0, 1])] == pytest.approx([2, 97], abs=2)


@pytest.mark.parametrize("shape", [(512, 683), (768, 512), (375, 500), (90, 2000), (300, 301)])
def test_margins_that_are_cut_before_the_resize_leave_the_centre_as_it_is(shape):
    image = make_photograph(3, *shape)
    whole = images.center_crop(images.resize_shorter_side(image, 360), 320, 320)
    difference = np.abs(images.eval_image(image, 320, 320, 360).astype(int) - whole)
    assert difference.mean() < 0.1 and difference.max() <= 3


def test_planes_are_rgb(photograph):
    planes = np.empty((3, 240, 320), np.uint8)
    images.write_planes(photograph, planes)
    np.testing.assert_array_equal(planes, photograph[:, :, ::-1].transpose(2, 0, 1))
