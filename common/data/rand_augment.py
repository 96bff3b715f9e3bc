"""RandAugment: a few operations on an image, drawn from a list, all of one strength.

Cubuk et al. 2020 (arXiv:1909.13719). The list is the paper's, magnitudes go from 0 to 10, and every
operation changes more at a larger one (the paper's posterize and solarize change less):

    identity, autocontrast, equalize         the same at every magnitude
    rotate                                   by up to 30 degrees, either way
    shear_x, shear_y                         by up to 0.3, either way
    translate_x, translate_y                 by up to 0.45 of the side, either way
    color, contrast, brightness, sharpness   factor of up to 0.9 more or less than 1
    posterize                                8 down to 4 bits of each colour
    solarize                                 inverts levels from 256 down to 0 on

Functions on `(H, W, 3)` uint8 BGR arrays: `(image, share, sign)`, where `share`, 0 to 1, is the
magnitude and `sign`, 1 or -1, the way. What comes from outside of the image is grey.
"""

import math

import cv2
import numpy as np

LARGEST_MAGNITUDE = 10
_GREY = 128


def rand_augment(image, count, magnitude, rng):
    """Apply `count` operations, drawn with equal chance, to an image."""
    for draw in rng.integers(2 * len(OPERATIONS), size=count).tolist():
        kind, way = divmod(draw, 2)
        image = OPERATIONS[kind](image, magnitude / LARGEST_MAGNITUDE, 2 * way - 1)
    return image


def identity(image, share, sign):
    """Return the image as it is."""
    return image


# Levels -------------------------------------------------------------------------------------------


def autocontrast(image, share, sign):
    """Stretch each colour to the whole range of 0 to 255."""
    stretched = []
    for plane in cv2.split(image):
        least, largest = cv2.minMaxLoc(plane)[:2]
        if largest > least:
            scale = 255 / (largest - least)
            plane = cv2.convertScaleAbs(plane, alpha=scale, beta=-least * scale)
        stretched.append(plane)
    return cv2.merge(stretched)


def equalize(image, share, sign):
    """Make the levels of each colour equally frequent."""
    equalized = []
    for plane in cv2.split(image):
        counts = cv2.calcHist([plane], [0], None, [256], [0, 256]).ravel().astype(np.int64)
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        if step:
            table = (np.cumsum(counts) - counts + step // 2) // step
            plane = cv2.LUT(plane, np.minimum(table, 255).astype(np.uint8))
        equalized.append(plane)
    return cv2.merge(equalized)


def posterize(image, share, sign):
    """Keep only the first bits of each level."""
    lost_bits = round(4 * share)
    return image & np.uint8(255 >> lost_bits << lost_bits)


def solarize(image, share, sign):
    """Invert the levels from a threshold on."""
    last_kept = math.ceil(256 * (1 - share)) - 1
    _, mask = cv2.threshold(image, last_kept, 255, cv2.THRESH_BINARY)
    return cv2.bitwise_xor(image, mask)


# Colours: mixtures of the image with a plainer one ------------------------------------------------


def color(image, share, sign):
    """Strengthen or weaken the colours against the image's own grey."""
    grey = cv2.cvtColor(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY), cv2.COLOR_GRAY2BGR)
    return _mix(image, grey, share, sign)


def contrast(image, share, sign):
    """Spread the levels around the image's mean grey, or draw them together."""
    mean = round(cv2.mean(cv2.cvtColor(image, cv2.COLOR_BGR2GRAY))[0])
    return _mix(image, np.full_like(image, mean), share, sign)


def brightness(image, share, sign):
    """Make the image brighter or darker."""
    return _mix(image, np.zeros_like(image), share, sign)


def sharpness(image, share, sign):
    """Sharpen or blur the image; its border stays."""
    mean = image.copy()
    mean[1:-1, 1:-1] = cv2.boxFilter(image, -1, (3, 3))[1:-1, 1:-1]
    # PIL's plainer image counts the centre five times: 9 / 13 of it are the mean. (cv2.filter2D
    # would take 0.15 ms for 320 px, and not 0.05.)
    return _mix(image, mean, share * 9 / 13, sign)


def _mix(image, plainer, share, sign):
    factor = 1 + 0.9 * share * sign
    return cv2.addWeighted(image, factor, plainer, 1 - factor, 0)


# Shapes -------------------------------------------------------------------------------------------


def rotate(image, share, sign):
    """Rotate about the centre."""
    angle = math.radians(30 * share * sign)
    cos, sin = math.cos(angle), math.sin(angle)
    center = np.array(image.shape[1::-1]) / 2
    linear = np.array([[cos, -sin], [sin, cos]])
    return _warp(image, linear, center - linear @ center)


def shear_x(image, share, sign):
    """Shift each row in proportion to its height."""
    return _warp(image, [[1, 0.3 * share * sign], [0, 1]], (0, 0))


def shear_y(image, share, sign):
    """Shift each column in proportion to its place."""
    return _warp(image, [[1, 0], [0.3 * share * sign, 1]], (0, 0))


def translate_x(image, share, sign):
    """Shift the image sideways, by whole pixels."""
    shift, width = round(0.45 * share * image.shape[1]), image.shape[1]
    first, second = slice(0, width - shift), slice(shift, width)
    target, source = (first, second) if sign > 0 else (second, first)
    shifted = np.full_like(image, _GREY)
    shifted[:, target] = image[:, source]
    return shifted


def translate_y(image, share, sign):
    """Shift the image up or down, by whole pixels."""
    return translate_x(image.transpose(1, 0, 2), share, sign).transpose(1, 0, 2)


def _warp(image, linear, shift):
    """Take each pixel from the one at `linear @ (x, y) + shift`; (0, 0) is a corner of the image.

    The nearest pixel, as in the paper's code: 0.14 ms for 320 px, and 0.30 bilinear.
    """
    linear = np.array(linear, np.float64)
    shift = linear @ (0.5, 0.5) + shift - 0.5  # OpenCV counts from the centre of the first pixel
    return cv2.warpAffine(
        image,
        np.column_stack([linear, shift]),
        image.shape[1::-1],
        flags=cv2.INTER_NEAREST | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(_GREY,) * 3,
    )


OPERATIONS = (
    *(identity, autocontrast, equalize, rotate, solarize, color, posterize, contrast),
    *(brightness, sharpness, shear_x, shear_y, translate_x, translate_y),
)
