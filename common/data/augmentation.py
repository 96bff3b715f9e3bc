"""The training preset: random crops, shapes and colours of one image, all of them optional.

Like `common/data/image.py`: functions on `(H, W, 3)` uint8 BGR arrays, random only through `rng`, a
`numpy.random.Generator`. The names are those of MXNet's `ImageRecordIter`, whose order is kept:
resize, affine, pad, crop, colour, mirror. RandAugment comes before the colours, random erasing at
the end. The defaults are the 2017 baseline's.
"""

import math
from dataclasses import dataclass
from typing import Tuple

import cv2
import numpy as np

from common.data.image import (
    center_crop,
    cover,
    crop,
    mirror,
    resize,
    resize_shorter_side,
    shorten,
)
from common.data.rand_augment import rand_augment

_MAX_WARPED = (1 << 15) - 1  # OpenCV warps no side of as many pixels
_GREY = np.array([0.114, 0.587, 0.299])  # BT.601 luma, of B, G and R
# Principal components of ImageNet's colours on the 0 to 255 scale (Krizhevsky et al. 2012), one
# row for each channel, in BGR order.
_PCA_VALUES = np.array([55.46, 4.794, 1.148])
_PCA_VECTORS = np.array(
    [
        [-0.5836, -0.6948, 0.4203],
        [-0.5808, -0.0045, -0.8140],
        [-0.5675, 0.7192, 0.4009],
    ]
)


@dataclass(frozen=True)
class Augmentation:
    """What happens to a training image; ranges are inclusive (least, largest).

    Attributes:
        random_resized_crop: crop a random share `area` of the image in a random `aspect_ratio`
            (width to height), resized to the network's shape. Otherwise a crop of the image
            resized to `shorter_side` (pixels): at a random place if `random_crop`, else the centre;
            of a random side within `crop_size` (pixels, None: the network's shape).
        random_mirror: mirror every second image.
        rotate: largest angle in degrees, either way.
        shear: largest shear ratio, either way.
        scale, stretch: ranges of the affine warp's scale and of its width to height.
        pad: pixels of `fill` (grey level, 0 to 255) put around the image; warps fill with it too.
        hue, saturation_shift, lightness: largest shift in the HLS space, either way: 180 is the
            whole circle of hues (2 degrees a unit), the others go to 255.
        brightness, contrast, saturation: each factor is uniform in 1 - x to 1 + x.
        pca_noise: standard deviation of the lighting noise along ImageNet's colour components.
        rand_augment: how many operations of RandAugment, and their magnitude, 0 to 10.
        random_erasing: share of the images of which a box is replaced by noise.
    """

    random_resized_crop: bool = True
    area: Tuple[float, float] = (0.3, 1.0)
    aspect_ratio: Tuple[float, float] = (3 / 4, 4 / 3)
    shorter_side: int = 360
    random_crop: bool = True
    crop_size: Tuple[int, int] = None
    random_mirror: bool = True
    rotate: float = 0
    shear: float = 0
    scale: Tuple[float, float] = (1.0, 1.0)
    stretch: Tuple[float, float] = (1.0, 1.0)
    pad: int = 0
    fill: int = 255
    hue: int = 0
    saturation_shift: int = 0
    lightness: int = 0
    brightness: float = 0.4
    contrast: float = 0.4
    saturation: float = 0.4
    pca_noise: float = 0.1
    rand_augment: Tuple[int, float] = (0, 0)
    random_erasing: float = 0.0

    @property
    def warps(self):
        """Whether images are rotated, sheared, scaled or stretched."""
        still = (self.rotate, self.shear, *self.scale, *self.stretch) == (0, 0, 1, 1, 1, 1)
        return not still

    @property
    def crops_first(self):
        """Whether a crop comes before all else, so that the rest of the image is not needed."""
        return self.random_resized_crop and not self.warps and not self.pad

    def least_side(self, height, width):
        """Return the shorter side from which on no crop has to be enlarged to `(height, width)`."""
        if not self.random_resized_crop:
            return round(self.shorter_side / min(1.0, self.scale[0]))
        # The narrowest box of the least area: its sides are sqrt(area * ratio) of the image's.
        stretch = max(self.aspect_ratio[1], 1 / self.aspect_ratio[0])
        return math.ceil(max(height, width) * math.sqrt(stretch / self.area[0]))


def train_image(image, height, width, augmentation, rng):
    """The preset of training: one random view `(height, width, 3)` of an image.

    Where `augmentation.crops_first`, `image` may be a `common.data.partial_jpeg.PartialJpeg`.
    """
    settings = augmentation
    if not settings.random_resized_crop:
        image = resize_shorter_side(image, settings.shorter_side)
    image = warp(image, settings, rng)
    if settings.pad:
        edges = (settings.pad,) * 4
        image = cv2.copyMakeBorder(image, *edges, cv2.BORDER_CONSTANT, value=(settings.fill,) * 3)
    if settings.random_resized_crop:
        box = random_box(*image.shape[:2], settings.area, settings.aspect_ratio, rng)
        # Cropping before resizing touches only the pixels that are kept.
        image = resize(crop(image, *box), height, width)
    else:
        image = random_crop(image, height, width, settings, rng)
    if settings.random_mirror and rng.random() < 0.5:
        image = mirror(image)
    if settings.rand_augment[0]:
        image = rand_augment(image, *settings.rand_augment, rng)
    image = shift_hls(jitter_colors(image, settings, rng), settings, rng)
    if settings.random_erasing and rng.random() < settings.random_erasing:
        image = erase(image, rng)
    return image


def random_box(height, width, area, aspect_ratio, rng):
    """Draw (top, left, height, width) of a random share of an image.

    Area uniform in `area` (share of the image), aspect ratio log-uniform in `aspect_ratio`, place
    uniform. It is drawn again until it fits, ten times at most; then it is the largest centred box
    of the nearest aspect ratio (as in torchvision; MXNet's Python iterator takes a centre crop).
    """
    least, largest = math.log(aspect_ratio[0]), math.log(aspect_ratio[1])
    for area_draw, ratio_draw, y, x in rng.random((10, 4)).tolist():
        pixels = height * width * (area[0] + (area[1] - area[0]) * area_draw)
        ratio = math.exp(least + (largest - least) * ratio_draw)
        box_width, box_height = round(math.sqrt(pixels * ratio)), round(math.sqrt(pixels / ratio))
        if 0 < box_width <= width and 0 < box_height <= height:
            top = int(y * (height - box_height + 1))
            left = int(x * (width - box_width + 1))
            return top, left, box_height, box_width
    ratio = min(max(width / height, aspect_ratio[0]), aspect_ratio[1])
    box_width = max(1, min(width, round(height * ratio)))
    box_height = max(1, min(height, round(width / ratio)))
    return (height - box_height) // 2, (width - box_width) // 2, box_height, box_width


def random_crop(image, height, width, augmentation, rng):
    """Crop `(height, width)`, or a square of a random side resized to it, anywhere or central."""
    crop_height, crop_width = height, width
    if augmentation.crop_size:
        side = int(rng.integers(augmentation.crop_size[0], augmentation.crop_size[1] + 1))
        crop_height = crop_width = side
    if augmentation.random_crop:
        image = cover(image, crop_height, crop_width)
        y, x = rng.random(2).tolist()
        top = int(y * (image.shape[0] - crop_height + 1))
        left = int(x * (image.shape[1] - crop_width + 1))
        image = crop(image, top, left, crop_height, crop_width)
    else:
        image = center_crop(image, crop_height, crop_width)
    return resize(image, height, width)


def warp(image, augmentation, rng):
    """Rotate, shear, scale and stretch about the centre, in one affine warp.

    The result's sides are `scale` times the image's; what comes from outside is `fill`. Follows
    MXNet's `image_aug_default.cc`, but a stretch above 1 widens, as MXNet's documentation says.
    """
    if not augmentation.warps:
        return image
    ranges = (
        (-augmentation.rotate, augmentation.rotate),
        (-augmentation.shear, augmentation.shear),
        augmentation.scale,
        augmentation.stretch,
    )
    angle, shear, scale, stretch = (rng.uniform(*limits) for limits in ranges)
    image = shorten(image)
    # Stretching keeps the sum of the sides.
    x, y = 2 * scale * stretch / (1 + stretch), 2 * scale / (1 + stretch)
    cos, sin = math.cos(math.radians(angle)), math.sin(math.radians(angle))
    linear = np.array(
        [
            [x * cos - shear * y * sin, x * sin + shear * y * cos],
            [-y * sin, y * cos],
        ]
    )
    height, width = image.shape[:2]
    size = max(1, round(width * scale)), max(1, round(height * scale))
    if max(*size, width, height) >= _MAX_WARPED:
        raise ValueError(f"is {width}x{height} pixels, too large to be turned, sheared or scaled")
    shift = (np.array(size) - linear @ (width, height)) / 2
    return cv2.warpAffine(
        image,
        np.column_stack([linear, shift]),
        size,
        flags=cv2.INTER_LINEAR,
        borderMode=cv2.BORDER_CONSTANT,
        borderValue=(augmentation.fill,) * 3,
    )


def jitter_colors(image, augmentation, rng):
    """Change brightness, contrast and saturation, in random order, and the lighting, in one step.

    All of them are affine in the colour of a pixel, so they compose into one 3x4 matrix
    (0.07 ms for 320 px) and are rounded and clipped once, where MXNet does so after each.
    """
    strengths = (augmentation.brightness, augmentation.contrast, augmentation.saturation)
    if not any(strengths) and not augmentation.pca_noise:
        return image
    # The mean of every eighth row is within one grey level of the mean of all in 95 of 100
    # photographs; contrast uses 0.4 of it at most. It takes 0.01 ms for 320 px, not 0.07.
    mean = cv2.mean(image[::8])[:3]
    return cv2.transform(image, color_matrix(mean, strengths, augmentation.pca_noise, rng))


def color_matrix(mean, strengths, pca_noise, rng):
    """Draw the 3x4 matrix, float32, that changes a BGR colour, (b, g, r, 1), of 0 to 255.

    Brightness mixes the image with black, contrast with its mean grey, saturation with its own
    grey, in random order; the image's share of the mixture is uniform in 1 - x to 1 + x. Then
    the lighting noise is added. (As in `mx.image.ColorJitterAug`, `LightingAug` and the C++
    iterator.)

    Args:
        mean: of the image's colours, (3,).
        strengths: (brightness, contrast, saturation), 0 to 1.
        pca_noise: standard deviation of the draws along ImageNet's colour components.
    """
    shares = (1 + rng.uniform(-1, 1, 3) * strengths).tolist()
    matrix = np.eye(3, 4)
    for kind in rng.permutation(3).tolist():
        share, grey = shares[kind], _GREY @ matrix
        matrix *= share
        if kind == 1:
            matrix[:, 3] += (1 - share) * (grey[:3] @ mean + grey[3])
        elif kind == 2:
            matrix += (1 - share) * grey
    matrix[:, 3] += _PCA_VECTORS @ (rng.normal(0, pca_noise, 3) * _PCA_VALUES)
    return matrix.astype(np.float32)


def shift_hls(image, augmentation, rng):
    """Shift hue (around the circle), lightness and saturation (clipped) by integers.

    Follows MXNet's `image_aug_default.cc`, which clips hue: red could shift one way only.
    """
    limits = (augmentation.hue, augmentation.lightness, augmentation.saturation_shift)
    if not any(limits):
        return image
    shifts = [int(rng.integers(-limit, limit + 1)) for limit in limits]
    levels = np.arange(256)
    table = [(levels + shifts[0]) % 180, levels + shifts[1], levels + shifts[2]]
    table = np.clip(np.stack(table, axis=1), 0, 255).astype(np.uint8)
    image = cv2.cvtColor(image, cv2.COLOR_BGR2HLS)
    return cv2.cvtColor(cv2.LUT(image, table[np.newaxis]), cv2.COLOR_HLS2BGR)


def erase(image, rng):
    """Replace a random box by noise (random erasing, Zhong et al. 2020, arXiv:1708.04896).

    The box has 0.02 to 1/3 of the area, and an aspect ratio of 0.3 to 1/0.3. Each value in it is
    uniform in 0 to 255.
    """
    box = random_box(*image.shape[:2], (0.02, 1 / 3), (0.3, 1 / 0.3), rng)
    erased = image.copy()
    part = crop(erased, *box)
    part[:] = rng.integers(0, 256, part.shape, np.uint8)
    return erased
