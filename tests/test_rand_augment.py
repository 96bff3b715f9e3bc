"""RandAugment's operations are PIL's, and random erasing replaces a box by noise."""

import cv2
import numpy as np
import pytest
from PIL import Image, ImageEnhance, ImageOps

from benchmarks.made_up import make_photograph
from common.data import rand_augment as ra
from common.data.augmentation import Augmentation, erase, train_image

MAGNITUDES = [0, 2, 9, 10]
PLAIN = Augmentation(brightness=0, contrast=0, saturation=0, pca_noise=0)


@pytest.fixture(scope="module")
def photograph():
    """Not of all levels, so that there is something to stretch."""
    return make_photograph(1, 240, 320) // 2 + 40


def enhance(kind):
    return lambda picture, share, sign: kind(picture).enhance(1 + 0.9 * share * sign)


def affine(coefficients):
    """Of (share, sign, width, height); PIL's pixels have their centres at halves."""

    def work(picture, share, sign):
        return picture.transform(
            picture.size,
            Image.Transform.AFFINE,
            coefficients(share * sign, *picture.size),
            Image.Resampling.NEAREST,
            fillcolor=(128, 128, 128),
        )

    return work


PIL = {
    ra.identity: lambda picture, share, sign: picture,
    ra.autocontrast: lambda picture, share, sign: ImageOps.autocontrast(picture),
    ra.equalize: lambda picture, share, sign: ImageOps.equalize(picture),
    ra.posterize: lambda picture, share, sign: ImageOps.posterize(picture, 8 - round(4 * share)),
    ra.solarize: lambda picture, share, sign: ImageOps.solarize(picture, 256 * (1 - share)),
    ra.color: enhance(ImageEnhance.Color),
    ra.contrast: enhance(ImageEnhance.Contrast),
    ra.brightness: enhance(ImageEnhance.Brightness),
    ra.sharpness: enhance(ImageEnhance.Sharpness),
    ra.rotate: lambda picture, share, sign: picture.rotate(
        30 * share * sign, Image.Resampling.NEAREST, fillcolor=(128, 128, 128)
    ),
    ra.shear_x: affine(lambda way, width, height: (1, 0.3 * way, 0, 0, 1, 0)),
    ra.shear_y: affine(lambda way, width, height: (1, 0, 0, 0.3 * way, 1, 0)),
    ra.translate_x: affine(lambda way, width, height: (1, 0, round(0.45 * way * width), 0, 1, 0)),
    ra.translate_y: affine(lambda way, width, height: (1, 0, 0, 0, 1, round(0.45 * way * height))),
}
SHAPES = (ra.rotate, ra.shear_x, ra.shear_y, ra.translate_x, ra.translate_y)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("magnitude", MAGNITUDES)
@pytest.mark.parametrize("operation", ra.OPERATIONS, ids=lambda operation: operation.__name__)
def test_an_operation_is_pils(photograph, operation, magnitude, sign):
    share = magnitude / 10
    got = operation(photograph, share, sign)
    picture = Image.fromarray(photograph[:, :, ::-1])
    expected = np.asarray(PIL[operation](picture, share, sign))[:, :, ::-1]
    assert got.dtype == np.uint8 and got.shape == photograph.shape
    difference = abs(got.astype(int) - expected)
    if operation in SHAPES:
        # Rounding decides between two pixels that are equally near.
        assert (difference.max(axis=2) == 0).mean() > 0.95
    else:
        assert difference.max() <= 2 and np.quantile(difference, 0.99) <= 1


@pytest.mark.parametrize("operation", ra.OPERATIONS[1:], ids=lambda operation: operation.__name__)
def test_a_larger_magnitude_changes_at_least_as_much(photograph, operation):
    for sign in (1, -1):
        changes = [
            abs(operation(photograph, magnitude / 10, sign).astype(int) - photograph).mean()
            for magnitude in (0, 5, 10)
        ]
        assert changes == sorted(changes) and changes[-1] > 1


def test_an_image_of_one_level_stays(photograph):
    flat = np.full_like(photograph, 77)
    for operation in (ra.autocontrast, ra.equalize):
        np.testing.assert_array_equal(operation(flat, 1, 1), flat)


def test_operations_are_drawn_with_equal_chance_and_applied_in_turn(monkeypatch):
    drawn = []
    spies = [lambda image, *how, i=i: drawn.append((i, *how)) for i in range(len(ra.OPERATIONS))]
    monkeypatch.setattr(ra, "OPERATIONS", spies)
    rng = np.random.default_rng(0)
    for _ in range(700):
        ra.rand_augment(None, 2, 9, rng)
    assert len(drawn) == 1400 and {share for _, share, _ in drawn} == {0.9}
    counts = np.bincount([kind for kind, _, _ in drawn], minlength=14)
    assert counts.min() > 70 and counts.max() < 130
    assert 600 < sum(sign == 1 for _, _, sign in drawn) < 800


def test_a_training_image_is_augmented_and_without_it_stays_as_it_was(photograph):
    views = [
        train_image(photograph, 64, 64, settings, np.random.default_rng(3))
        for settings in (PLAIN, Augmentation(**{**vars(PLAIN), "rand_augment": (2, 9)}))
    ]
    generator = np.random.default_rng(3)
    plain = train_image(photograph, 64, 64, PLAIN, generator)
    np.testing.assert_array_equal(views[0], plain)
    np.testing.assert_array_equal(views[1], ra.rand_augment(plain, 2, 9, generator))


# Random erasing -----------------------------------------------------------------------------------


def test_a_box_of_noise_replaces_a_part_of_the_image():
    image, rng = np.zeros((100, 120, 3), np.uint8), np.random.default_rng(0)
    areas, ratios = [], []
    for _ in range(500):
        erased = erase(image, rng)
        left, top, width, height = cv2.boundingRect(erased.max(axis=2))
        areas.append(width * height / 12000)
        ratios.append(width / height)
        box = erased[top : top + height, left : left + width]
        assert (box > 0).mean() > 0.95 and abs(box.mean() - 127.5) < 10
    assert 0.015 < min(areas) < 0.04 and 0.29 < max(areas) < 0.34
    assert 0.28 < min(ratios) < 0.4 and 2.7 < max(ratios) < 3.6
    assert not image.any()


def test_as_many_images_are_erased_as_the_share_says(photograph):
    settings = Augmentation(**{**vars(PLAIN), "random_erasing": 0.25, "random_mirror": False})
    plain = Augmentation(**{**vars(PLAIN), "random_mirror": False})
    erased = 0
    for seed in range(400):
        views = [
            train_image(photograph, 32, 32, how, np.random.default_rng(seed))
            for how in (plain, settings)
        ]
        erased += bool((views[0] != views[1]).any())
    assert 70 < erased < 130
