"""How one image is changed at random: each change against its definition, and MXNet's."""

import math

import cv2
import numpy as np
import pytest

from benchmarks.made_up import make_photograph
from common.data import augmentation as aug
from common.data.augmentation import Augmentation, train_image
from tests.test_image import coordinates

PLAIN = {"brightness": 0, "contrast": 0, "saturation": 0, "pca_noise": 0, "random_mirror": False}


@pytest.fixture(scope="module")
def photograph():
    return make_photograph(1, 240, 320)


# The random resized crop, against its definition --------------------------------------------------


@pytest.fixture(scope="module")
def boxes():
    rng = np.random.default_rng(0)
    return np.array(
        [aug.random_box(1000, 1000, (0.3, 1), (3 / 4, 4 / 3), rng) for _ in range(4000)]
    )


def test_boxes_lie_within_the_image_and_within_their_ranges(boxes):
    top, left, height, width = boxes.T
    assert (top >= 0).all() and (top + height <= 1000).all() and (left + width <= 1000).all()
    share, ratio = height * width / 1e6, width / height
    assert 0.299 < share.min() < 0.32 and 0.97 < share.max() <= 1
    assert 0.749 < ratio.min() < 0.76 and 1.32 < ratio.max() < 1.335


def test_areas_are_uniform_where_every_ratio_fits(boxes):
    share = boxes[:, 2] * boxes[:, 3] / 1e6
    share = share[share < 0.7]  # above, long boxes do not fit and are drawn anew
    counts, _ = np.histogram(share, bins=4, range=(0.3, 0.7))
    assert abs(counts / counts.sum() - 0.25).max() < 0.03


def test_aspect_ratios_lean_to_neither_side(boxes):
    log_ratio = np.log(boxes[:, 3] / boxes[:, 2])
    assert abs(log_ratio.mean()) < 0.01
    assert 0.13 < log_ratio.std() < math.log(4 / 3) / math.sqrt(3) + 0.005  # of a uniform one


def test_places_are_uniform(boxes):
    room = 1000 - boxes[:, 3]
    place = boxes[room > 50, 1] / room[room > 50]
    counts, _ = np.histogram(place, bins=5, range=(0, 1))
    assert abs(counts / counts.sum() - 0.2).max() < 0.025


def test_a_box_that_never_fits_is_the_largest_central_one():
    box = aug.random_box(1000, 10, (0.9, 1), (3 / 4, 4 / 3), np.random.default_rng(0))
    assert box == (493, 0, 13, 10)


def test_every_second_image_is_mirrored(photograph):
    settings = Augmentation(**{**PLAIN, "random_mirror": True}, area=(1, 1), aspect_ratio=(1, 1))
    square, rng = photograph[:64, :64], np.random.default_rng(0)
    views = [train_image(square, 64, 64, settings, rng) for _ in range(1000)]
    mirrored = sum((view == square[:, ::-1]).all() for view in views)
    assert sum((view == square).all() for view in views) + mirrored == 1000
    assert 450 < mirrored < 550


def test_a_plain_random_crop_reaches_every_place():
    settings = Augmentation(**PLAIN, random_resized_crop=False, shorter_side=100)
    rng = np.random.default_rng(0)
    corners = [train_image(coordinates(100, 120), 90, 90, settings, rng)[0, 0] for _ in range(2000)]
    columns, rows, _ = np.array(corners).T
    assert set(columns) == set(range(31)) and set(rows) == set(range(11))


def test_a_crop_of_random_size_keeps_to_its_range():
    settings = Augmentation(
        **PLAIN, random_resized_crop=False, shorter_side=100, crop_size=(50, 80)
    )
    rng = np.random.default_rng(0)
    views = (train_image(coordinates(100, 100), 50, 50, settings, rng) for _ in range(500))
    sides = [int(view[-1, -1, 0]) - int(view[0, 0, 0]) + 1 for view in views]
    assert 49 <= min(sides) <= 52 and 77 <= max(sides) <= 80


# Shapes -------------------------------------------------------------------------------------------


def bar():
    """A white bar on black; its second moments tell how it lies."""
    image = np.zeros((101, 101, 3), np.uint8)
    image[46:55, 10:91] = 255
    return image


def direction(image):
    moments = cv2.moments(image[:, :, 0])
    return math.degrees(0.5 * math.atan2(2 * moments["mu11"], moments["mu20"] - moments["mu02"]))


def test_angles_are_uniform_either_way():
    rng, settings = np.random.default_rng(0), Augmentation(rotate=30, fill=0)
    angles = [direction(aug.warp(bar(), settings, rng)) for _ in range(600)]
    assert -30.5 < min(angles) < -28 and 28 < max(angles) < 30.5
    assert abs(np.mean(angles)) < 2 and abs(np.std(angles) - 30 / math.sqrt(3)) < 1.5


def test_a_line_is_cut_and_what_is_too_large_is_one_bad_image():
    rng, turned = np.random.default_rng(0), Augmentation(rotate=10)
    assert aug.warp(np.zeros((4, 40_000, 3), np.uint8), turned, rng).shape == (4, 128, 3)
    for image, settings in (
        (np.zeros((1100, 33_000, 3), np.uint8), turned),
        (np.zeros((300, 4_000, 3), np.uint8), Augmentation(scale=(9, 9))),
    ):
        with pytest.raises(ValueError, match=r"pixels, too large to be turned, sheared or scaled"):
            aug.warp(image, settings, rng)


def test_scale_changes_the_size_and_stretch_the_shape():
    rng = np.random.default_rng(0)
    assert aug.warp(bar(), Augmentation(scale=(2, 2)), rng).shape == (202, 202, 3)
    sides = [len(aug.warp(bar(), Augmentation(scale=(0.5, 1.5)), rng)) for _ in range(400)]
    assert 50 <= min(sides) < 54 and 148 < max(sides) <= 152 and abs(np.mean(sides) - 101) < 5
    disc = cv2.circle(np.zeros((201, 201, 3), np.uint8), (100, 100), 50, (255,) * 3, -1)
    stretched = aug.warp(disc, Augmentation(stretch=(2, 2), fill=0), rng)[:, :, 0] > 127
    height, width = stretched.any(axis=1).sum(), stretched.any(axis=0).sum()
    assert width / height == pytest.approx(2, abs=0.05)
    assert width + height == pytest.approx(202, abs=4)


def test_shear_slants_and_keeps_the_centre():
    image, rng = np.zeros((101, 101, 3), np.uint8), np.random.default_rng(0)
    image[10:91, 46:55] = 255
    views = [aug.warp(image, Augmentation(shear=0.3, fill=0), rng)[:, :, 0] for _ in range(200)]
    slants = []
    for view in views:
        moments = cv2.moments(view)
        assert moments["m10"] / moments["m00"] == pytest.approx(50, abs=1.5)
        slants.append(moments["mu11"] / moments["mu02"])
    assert -0.31 < min(slants) < -0.27 and 0.27 < max(slants) < 0.31


def test_padding_is_filled(photograph):
    settings = Augmentation(**PLAIN, area=(1, 1), pad=40, fill=7, aspect_ratio=(1, 1))
    view = train_image(photograph[:80, :80], 160, 160, settings, np.random.default_rng(0))
    np.testing.assert_array_equal(view[40:120, 40:120], photograph[:80, :80])
    assert (view[:40] == 7).all() and (view[:, 120:] == 7).all()


# Colours ------------------------------------------------------------------------------------------

GREY = np.array([0.114, 0.587, 0.299])
MEAN = np.array([60.0, 120.0, 90.0])


def matrices(strengths, pca_noise=0.0, number=2000):
    rng = np.random.default_rng(0)
    return np.array([aug.color_matrix(MEAN, strengths, pca_noise, rng) for _ in range(number)])


def assert_uniform_around_one(factors):
    """The factors are uniform in 0.6 to 1.4."""
    assert 0.6 <= factors.min() < 0.61 and 1.39 < factors.max() <= 1.4
    assert factors.mean() == pytest.approx(1, abs=0.015)
    counts, _ = np.histogram(factors, bins=4, range=(0.6, 1.4))
    assert abs(counts / len(factors) - 0.25).max() < 0.03


def test_brightness_is_a_factor_uniform_around_one():
    drawn = matrices((0.4, 0, 0))
    factors = drawn[:, 0, 0]
    np.testing.assert_allclose(drawn, factors[:, None, None] * np.eye(3, 4), atol=1e-6)
    assert_uniform_around_one(factors)


def test_contrast_is_a_factor_of_the_distance_from_the_mean_grey_of_the_image():
    drawn = matrices((0, 0.4, 0))
    factors = drawn[:, 0, 0]
    np.testing.assert_allclose(drawn[:, :, :3], factors[:, None, None] * np.eye(3), atol=1e-6)
    np.testing.assert_allclose(drawn @ np.append(MEAN, 1) @ GREY, MEAN @ GREY, rtol=1e-5)
    assert_uniform_around_one(factors)


def test_saturation_is_a_factor_of_the_distance_from_the_grey_of_every_pixel():
    drawn, color = matrices((0, 0, 0.4)), np.array([200, 10, 70, 1])
    grey = color[:3] @ GREY
    distances = (drawn @ color - grey) / (color[:3] - grey)
    np.testing.assert_allclose(distances, distances[:, :1] * np.ones(3), rtol=1e-4)
    np.testing.assert_allclose(drawn @ [50, 50, 50, 1], 50, rtol=1e-5)
    assert_uniform_around_one(distances[:, 0])


def test_lighting_noise_has_the_spread_of_mxnets(mx):
    ours = matrices((0, 0, 0), 0.1, 4000)[:, ::-1, 3]  # to RGB
    np.random.seed(0)
    values, vectors = aug._PCA_VALUES, aug._PCA_VECTORS[::-1]
    lighting = mx.image.LightingAug(0.1, values, vectors)
    theirs = np.array([lighting(mx.nd.zeros((1, 1, 3))).asnumpy()[0, 0] for _ in range(1500)])
    np.testing.assert_allclose(np.cov(ours.T), np.cov(theirs.T), rtol=0.12)
    assert abs(ours.mean(axis=0)).max() < 0.2


def test_colours_spread_as_mxnets_do(photograph, mx):
    small = cv2.resize(photograph, (12, 12)) // 2 + 64  # far from clipping
    settings, rng = Augmentation(), np.random.default_rng(0)
    ours = [aug.jitter_colors(small, settings, rng)[:, :, ::-1] for _ in range(1500)]
    mx.random.seed(0)
    jitter = mx.image.ColorJitterAug(0.4, 0.4, 0.4)
    flipped = mx.nd.array(small[:, :, ::-1].astype(np.float32))
    theirs = [np.clip(jitter(flipped.copy()).asnumpy(), 0, 255) for _ in range(700)]
    for statistic in (np.mean, np.std):
        mine, peer = (
            np.array([statistic(view, axis=(0, 1)) for view in views]) for views in (ours, theirs)
        )
        assert abs(mine.mean(axis=0) - peer.mean(axis=0)).max() < 4
        assert abs(mine.std(axis=0) / peer.std(axis=0) - 1).max() < 0.15


def test_one_matrix_gives_the_pixels_of_floating_point(photograph):
    matrix = matrices((0.4, 0.4, 0.4), 0.1, 1)[0]
    pixels = np.concatenate([photograph, np.ones((240, 320, 1))], axis=2)
    expected = np.clip(pixels @ matrix.T.astype(float), 0, 255)
    changed = cv2.transform(photograph, matrix)
    assert abs(changed - expected).max() < 1.01


def test_saturation_in_hls_is_shifted_either_way_and_nothing_else_is():
    color, rng = np.full((1, 1, 3), (60, 90, 180), np.uint8), np.random.default_rng(0)
    settings = Augmentation(saturation_shift=50)
    shifted = np.array([aug.shift_hls(color, settings, rng)[0] for _ in range(400)])
    hue, lightness, saturation = cv2.cvtColor(shifted, cv2.COLOR_BGR2HLS)[:, 0].astype(int).T
    before = cv2.cvtColor(color, cv2.COLOR_BGR2HLS)[0, 0].astype(int)
    assert abs(hue - before[0]).max() <= 1 and abs(lightness - before[1]).max() <= 1
    change = saturation - before[2]
    assert -53 <= change.min() <= -48 and 48 <= change.max() <= 53 and abs(change.mean()) < 5


def test_hue_goes_around_the_circle_and_lightness_stops_at_its_end():
    red, rng = np.full((1, 1, 3), (0, 0, 255), np.uint8), np.random.default_rng(0)
    shifted = [aug.shift_hls(red, Augmentation(hue=60), rng)[0, 0] for _ in range(300)]
    hues = cv2.cvtColor(np.array([shifted]), cv2.COLOR_BGR2HLS)[0, :, 0].astype(int)
    hues = (hues + 90) % 180 - 90
    assert -61 <= hues.min() <= -57 and 57 <= hues.max() <= 61 and abs(hues.mean()) < 5
    bright = [aug.shift_hls(red, Augmentation(lightness=255), rng)[0, 0] for _ in range(50)]
    assert [255, 255, 255] in np.array(bright).tolist() and [0, 0, 0] in np.array(bright).tolist()
