"""One image: decode, resize, crop; the training and the validation preset side by side.

Pure functions on `(H, W, 3)` uint8 arrays in BGR, the order in which OpenCV decodes; `write_planes`
converts the result to the RGB planes that the networks take. All that is random comes from the
`numpy.random.Generator` that is passed in. The augmentations are in `augmentation.py`.
"""

import functools
import math

import cv2

from common.data.encoding import decode_image, is_cut_short, jpeg_size

_REDUCED = {2: cv2.IMREAD_REDUCED_COLOR_2, 4: cv2.IMREAD_REDUCED_COLOR_4}


def decode(data, at_least=None):
    """Decode an image file's bytes (JPEG, PNG, whatever OpenCV reads) to `(H, W, 3)` uint8 BGR.

    Grey-scale, CMYK, 16-bit and transparent images become plain BGR; the EXIF orientation is
    applied, as `cv2.imread` does and other readers do not.

    Args:
        data: bytes or memoryview.
        at_least: decode a JPEG at a half or a quarter of its size where its shorter side keeps
            this many pixels. Faster, but the pixels differ: the codec averages before the resize.

    Raises:
        ValueError: an incomplete image. (OpenCV fills the missing part of a JPEG with grey.)
    """
    flags = cv2.IMREAD_COLOR
    if at_least is not None:
        flags = _REDUCED.get(_reduction(data, at_least), flags)
    if is_cut_short(data):
        raise ValueError("is cut short: its end marker is missing")
    return decode_image(data, flags)


def _reduction(data, at_least):
    """Return 1, 2 or 4: how far a JPEG can be reduced and keep `at_least` pixels a side."""
    side = min(jpeg_size(data))
    return next((factor for factor in (4, 2) if side // factor >= at_least), 1)


def resize(image, height, width):
    """Resize to `(height, width)`: bilinear, and the mean of areas where it shrinks beyond a half.

    Bilinear is what MXNet's record iterators and im2rec do (`inter_method=1`); below half
    the size it would skip pixels. Bicubic costs 1.6 times, areas 6 times as much as bilinear.
    """
    if image.shape[:2] == (height, width):
        return image
    shrinks = image.shape[0] > 2 * height and image.shape[1] > 2 * width
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, (width, height), interpolation=method)


def resize_shorter_side(image, size):
    """Resize so that the shorter side has `size` pixels; the longer is rounded down, as in MXNet.

    See `shorten` for images of extreme length.
    """
    image = shorten(image)
    return resize(image, *resized_shape(*image.shape[:2], size))


def shorten(image):
    """Cut the ends off an image more than 32 times as long as it is wide.

    A line of 1 x 12,000 pixels, resized to a shorter side of 360, would be 4.7 GB.
    """
    longest = 32 * min(image.shape[:2])
    if max(image.shape[:2]) <= longest:
        return image
    top, left = (max(0, (length - longest) // 2) for length in image.shape[:2])
    return image[top : top + longest, left : left + longest]


def resized_shape(height, width, size):
    """Return (height, width) in the same proportion with `size` pixels on the shorter side."""
    if height < width:
        return size, size * width // height
    return size * height // width, size


def crop(image, top, left, height, width):
    """Return a view of the rectangle, which must lie within the image."""
    if top < 0 or left < 0 or top + height > image.shape[0] or left + width > image.shape[1]:
        raise ValueError(
            f"a crop of {height}x{width} at ({top}, {left}) from {image.shape[0]}x{image.shape[1]}"
        )
    return image[top : top + height, left : left + width]


def cover(image, height, width):
    """Return the image, enlarged where it is smaller than `(height, width)`, to cover it."""
    if image.shape[0] >= height and image.shape[1] >= width:
        return image
    scale = max(height / image.shape[0], width / image.shape[1])
    return resize(
        image,
        max(height, round(image.shape[0] * scale)),
        max(width, round(image.shape[1] * scale)),
    )


def center_crop(image, height, width):
    """Return the middle `(height, width)`; an image smaller than that is enlarged first."""
    image = cover(image, height, width)
    top, left = (image.shape[0] - height) // 2, (image.shape[1] - width) // 2
    return crop(image, top, left, height, width)


def corner_crops(image, height, width):
    """Return the four corners: top left, top right, bottom left, bottom right."""
    image = cover(image, height, width)
    bottom, right = image.shape[0] - height, image.shape[1] - width
    places = ((0, 0), (0, right), (bottom, 0), (bottom, right))
    return [crop(image, top, left, height, width) for top, left in places]


def mirror(image):
    """Return the image with left and right exchanged."""
    return cv2.flip(image, 1)


# The validation and test presets ------------------------------------------------------------------


def eval_side(height, width):
    """Return the shorter side in pixels that validation resizes to: 360 for 320, in proportion."""
    return round(max(height, width) * 360 / 320)


def eval_image(image, height, width, shorter_side):
    """The preset of validation and test: shorter side to `shorter_side`, then the centre.

    `image` may be a `common.data.partial_jpeg.PartialJpeg`.

    Margins that the crop takes away are not resized first: 0.28 ms for 683x512 to 320, not 0.36.
    """
    image = shorten(image)
    resized_height, resized_width = resized_shape(*image.shape[:2], shorter_side)
    top, resized_top = _margin(image.shape[0], resized_height, height)
    left, resized_left = _margin(image.shape[1], resized_width, width)
    image = image[top : image.shape[0] - top, left : image.shape[1] - left]
    image = resize(image, resized_height - 2 * resized_top, resized_width - 2 * resized_left)
    return center_crop(image, height, width)


@functools.lru_cache(maxsize=1024)
def _margin(length, resized, kept):
    """Return how many pixels to cut from both ends, before and after `length` becomes `resized`.

    The largest margin outside the middle `kept` that is an integer before the resize too, up to a
    fiftieth of a pixel: in most photographs that shift changes a tenth of a grey level. Bilinear
    interpolation needs a neighbour beyond the kept pixels.
    """
    neighbours = math.ceil(resized / length)
    for margin in range((resized - kept) // 2 - neighbours, 0, -1):
        before = margin * length / resized
        if abs(before - round(before)) <= 0.02:
            return round(before), margin
    return 0, 0


def eval_crops(image, height, width, shorter_side, num_crops):
    """Return several views of one image, to average the predictions over; the preset comes first.

    1: the centre; 5: also the four corners; 2 and 10: these and their mirror images (Krizhevsky et
    al. 2012); 12: like 10, with the largest central crop of that shape shrunk to it, as the
    challenge's winners did (after Szegedy et al. 2015).
    """
    views = [eval_image(image, height, width, shorter_side)]
    if num_crops >= 5:
        views += corner_crops(resize_shorter_side(image, shorter_side), height, width)
    if num_crops == 12:
        scale = min(image.shape[0] / height, image.shape[1] / width)
        largest = center_crop(image, *(max(1, round(side * scale)) for side in (height, width)))
        views.append(resize(largest, height, width))
    if num_crops % 2 == 0:
        views += [mirror(view) for view in views]
    if len(views) != num_crops:
        raise ValueError(f"{num_crops} crops; there are sets of 1, 2, 5, 10 and 12")
    return views


def write_planes(image, planes):
    """Write a BGR `(H, W, 3)` image into RGB `planes`, `(3, H, W)` uint8, in place.

    0.02 ms for 320 px; a transposed numpy copy takes 0.20 ms.
    """
    cv2.split(image, [planes[2], planes[1], planes[0]])
