"""The views of an image that are predicted: their flags, and batches of them."""

import argparse
import contextlib
import json
import os

import numpy as np

from common.base.files import UserError, require_file
from common.base.help import check_ranges, whole
from common.data.flags import MAX_SIDE, check_batch_fits, parse_image_shape
from common.data.image import decode, eval_crops, eval_image, eval_side, mirror
from common.data.loader import Loader
from common.data.partial_jpeg import open_image
from common.networks import checkpoint

VIEWS = (1, 2, 5, 10, 12)  # the centre; mirrored too; `common.data.image.eval_crops`


def add_view_args(parser):
    """Add the flags that say which views of an image are predicted, and how."""
    group = parser.add_argument_group("Prediction")
    add = group.add_argument
    add(
        "--crops",
        type=whole,
        choices=VIEWS,
        default=1,
        help="views of an image that are averaged: the centre; mirrored too; 5: with the corners;"
        " 10: these mirrored too; 12: with the whole image (default: %(default)s)",
    )
    add(
        "--crop-size",
        metavar="PIXELS",
        help="side of a crop, or HEIGHT,WIDTH (default: those of the training run, or 320)",
    )
    add(
        "--resize",
        type=whole,
        metavar="PIXELS",
        help="shorter side of an image before it is cropped (default: 360/320 of the crop size)",
    )
    add(
        "--dtype",
        choices=["float32", "bfloat16", "float16", "int8"],
        default="float32",
        help="bfloat16 is for CPUs, float16 for GPUs (PyTorch: where the device has it); int8 is"
        " for CPUs, calibrated on val once and kept beside the checkpoint (default: %(default)s)",
    )
    add("--batch-size", type=whole, default=16, help="images a batch (default: %(default)s)")
    add(
        "--data-nthreads",
        type=whole,
        default=os.cpu_count(),
        help="threads that decode images (default: %(default)s)",
    )
    return group


def complete_view_args(args, model_prefixes):
    """Fill in the sizes that were not given; raise `UserError` for impossible ones.

    `args.crop_shape` becomes (height, width) of a crop.
    """
    if args.crop_size is None:
        shapes = sorted(set(map(trained_crop_shape, model_prefixes)) - {None})
        if len(shapes) > 1:
            raise UserError(
                f"--model-prefix: these networks were trained with"
                f" {' and '.join(map(_describe, shapes))} pixels; name one size for all with"
                " --crop-size, or predict with each, keep the probabilities (--save-probs) and"
                " average those (--merge)"
            )
        args.crop_shape = shapes[0] if shapes else (320, 320)
    else:
        args.crop_shape = _parse_crop_size(args.crop_size)
    if args.resize is None:
        args.resize = eval_side(*args.crop_shape)
    ranges = {"resize": (1, 2 * MAX_SIDE), "batch_size": (1, None), "data_nthreads": (1, 1024)}
    check_ranges(args, ranges)
    check_batch_fits(args.batch_size * args.crops, *args.crop_shape)


def _parse_crop_size(text):
    """Return `--crop-size PIXELS`, or `HEIGHT,WIDTH`, as (height, width), or raise `UserError`."""
    try:
        sides = [int(part) for part in text.split(",")]
    except ValueError:
        sides = []
    if len(sides) not in (1, 2) or not all(1 <= side <= MAX_SIDE for side in sides):
        raise UserError(
            f"--crop-size {text}: must be 1 to {MAX_SIDE} pixels, or two such numbers for images"
            " that are no squares: HEIGHT,WIDTH"
        )
    return sides[0], sides[-1]


def _describe(shape):
    height, width = shape
    return str(height) if height == width else f"{height}x{width}"


def load_views(source, args, **changes):
    """Return a loader of the views of every image of `source`, in order.

    Its batches' images are (N, 3, H, W) uint8, or (N, views, 3, H, W); an image that
    cannot be read is zeros, and is named in the log and in `Batch.missing`.

    Args:
        args: the flags of `add_view_args`; `changes` are other values of them.
    """
    args = argparse.Namespace(**{**vars(args), **changes})

    def transform(image, _rng):
        if args.crops > 2:
            return eval_crops(image, *args.crop_shape, args.resize, args.crops)
        centre = eval_image(image, *args.crop_shape, args.resize)
        return [centre, mirror(centre)] if args.crops == 2 else centre

    return Loader(
        source,
        args.batch_size,
        (3, *args.crop_shape),
        transform,
        args.data_nthreads,
        num_views=args.crops,
        decode=open_image if args.crops <= 2 else decode,  # the centre needs no lower rows
        replace_bad=False,
        max_bad_images=1,
    )


def first_to_read_again(found, source):
    """Return the first position of `source` of an image that can be read now, and could not before.

    Args:
        found: bool, (N,): which of the first N images could be read; N is returned where there is
            nothing to read again.
    """
    for position in np.flatnonzero(~found).tolist():
        with contextlib.suppress(ValueError, OSError):
            decode(source.read(position)[0])
            return position
    return len(found)


def trained_crop_shape(model_prefix):
    """Return (height, width) that fine-tune.py wrote beside a network; None where it did not.

    Raises:
        UserError: the file is damaged.
    """
    prefixes = [model_prefix]
    if model_prefix.endswith(checkpoint.AVERAGE):  # older versions wrote one file for both
        prefixes.append(model_prefix[: -len(checkpoint.AVERAGE)])
    paths = map(checkpoint.config_path, prefixes)
    path = next(filter(os.path.lexists, paths), None)
    if path is None:
        return None
    require_file(path, "name the size of the images: --crop-size")
    try:
        with open(path, encoding="utf-8") as stream:
            return parse_image_shape(json.load(stream)["flags"]["image_shape"])[1:]
    except (UserError, ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"{path}: does not hold the image shape; name it: --crop-size") from None
