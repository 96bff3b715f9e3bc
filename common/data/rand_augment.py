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
_FILL = (128, 128, 128)
_LEVELS = np.arange(256)
_SMOOTH = np.array([[1, 1, 1], [1, 5, 1], [1, 1, 1]], np.float32) / 13


def rand_augment(image, count, magnitude, rng):
    """Apply `count` operations, drawn with equal chance, to an image."""
    kinds = rng.integers(len(OPERATIONS), size=count).tolist()
    signs = rng.choice((-1, 1), size=count).tolist()
    for kind, sign in zip(kinds, signs):
        image = OPERATIONS[kind](image, magnitude / LARGEST_MAGNITUDE, sign)
    return image


def identity(image, share, sign):
    """Return the image as it is."""
    return image


# Levels -------------------------------------------------------------------------------------------


def autocontrast(image, share, sign):
    """Stretch each colour to the whole range of 0 to 255."""
    table = []
    for counts in _histograms(image):
        used = np.flatnonzero(counts)
        least, largest = int(used[0]), int(used[-1])
        scale = 255 / max(1, largest - least)
        table.append((_LEVELS - least) * scale if largest > least else _LEVELS)
    return _map_levels(image, table)


def equalize(image, share, sign):
    """Make the levels of each colour equally frequent."""
    table = []
    for counts in _histograms(image):
        step = (counts.sum() - counts[np.flatnonzero(counts)[-1]]) // 255
        below = np.cumsum(counts) - counts
        table.append((below + step // 2) // step if step else _LEVELS)
    return _map_levels(image, table)


def posterize(image, share, sign):
    """Keep only the first bits of each level."""
    bits = 8 - round(4 * share)
    return _map_levels(image, [_LEVELS & (256 - (1 << (8 - bits)))] * 3)


def solarize(image, share, sign):
    """Invert the levels from a threshold on."""
    threshold = 256 * (1 - share)
    return _map_levels(image, [np.where(threshold > _LEVELS, _LEVELS, 255 - _LEVELS)] * 3)


def _histograms(image):
    """Return how often each colour has each level, `(3, 256)` integers."""
    counts = [cv2.calcHist([image], [channel], None, [256], [0, 256]) for channel in range(3)]
    return np.concatenate(counts, axis=1).T.astype(np.int64)


def _map_levels(image, table):
    """Replace each level by `table[channel][level]`."""
    table = np.clip(np.stack(table, axis=1), 0, 255).astype(np.uint8)
    return cv2.LUT(image, table[np.newaxis])


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
    smooth = image.copy()
    smooth[1:-1, 1:-1] = cv2.filter2D(image, -1, _SMOOTH)[1:-1, 1:-1]
    return _mix(image, smooth, share, sign)


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
    """Shift the image sideways."""
    return _warp(image, np.eye(2), (0.45 * share * sign * image.shape[1], 0))


def translate_y(image, share, sign):
    """Shift the image up or down."""
    return _warp(image, np.eye(2), (0, 0.45 * share * sign * image.shape[0]))


def _warp(image, linear, shift):
    """Take each pixel from `linear @ (x, y) + shift`, bilinear; (0, 0) is a corner of the image."""
    linear = np.array(linear, np.float64)
    shift = linear @ (0.5, 0.5) + shift - 0.5  # OpenCV counts from the centre of the first pixel
    return cv2.warpAffine(
        image,
        np.column_stack([linear, shift]),
        image.shape[1::-1],
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=_FILL,
    )


OPERATIONS = (
    *(identity, autocontrast, equalize, rotate, solarize, color, posterize, contrast),
    *(brightness, sharpness, shear_x, shear_y, translate_x, translate_y),
)
