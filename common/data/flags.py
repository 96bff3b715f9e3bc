"""The data flags of MXNet's image-classification examples, and the checks of their values.

They do what MXNet's `ImageRecordIter` does with them; their defaults are the 2017 baseline's.
Of flags that take 0 or 1, 0 is off.
"""

import argparse
import functools
import logging
import os

from common.base.files import DATA_DIR, UserError
from common.base.help import TypedAction, check_ranges, number, whole
from common.data.augmentation import Augmentation
from common.data.loader import MAX_BAD_IMAGES
from common.data.rand_augment import LARGEST_MAGNITUDE

MAX_SIDE = 10_000  # pixels; an image of that height and width takes 300 MB
MAX_CLASSES = 1 << 20  # a damaged label would ask for a head of gigabytes

# What the levels of MXNet's examples turn on; all else is off.
_OFF = {
    "random_resized_crop": 0,
    "random_crop": 0,
    "random_mirror": 0,
    "max_random_h": 0,
    "max_random_s": 0,
    "max_random_l": 0,
    "max_random_rotate_angle": 0,
    "max_random_shear_ratio": 0.0,
    "max_random_aspect_ratio": None,
    "min_random_aspect_ratio": None,
    "brightness": 0.0,
    "contrast": 0.0,
    "saturation": 0.0,
    "pca_noise": 0.0,
}
_CROPS = {**_OFF, "random_crop": 1, "random_mirror": 1}
_COLORS = {**_CROPS, "max_random_h": 36, "max_random_s": 50, "max_random_l": 50}
_SHAPES = {
    **_COLORS,
    "max_random_rotate_angle": 10,
    "max_random_shear_ratio": 0.1,
    "max_random_aspect_ratio": 0.25,
}
_LEVELS = [_OFF, _CROPS, _COLORS, _SHAPES]
# What has no effect without (0) and with (1) the random resized crop.
_IDLE = {
    0: ("max_random_area", "min_random_area"),
    1: ("resize", "random_crop", "max_crop_size", "min_crop_size"),
}


def add_data_args(parser):
    """Add the flags that say which images are read, and how."""
    group = parser.add_argument_group("Data", "the images: which are read, and how")
    add = group.add_argument
    add("--data-dir", metavar="DIR", default=DATA_DIR, help="holds train.rec and val.rec")
    add("--data-train", metavar="REC", help="training records (default: DIR/train.rec)")
    add("--data-train-idx", metavar="IDX", help="their index (default: the .idx beside them)")
    add("--data-val", metavar="REC", help="validation records (default: DIR/val.rec)")
    add("--data-val-idx", metavar="IDX", help="their index (default: the .idx beside them)")
    add(
        "--image-shape", default="3,320,320", help="what the network sees: 3,HEIGHT,WIDTH in pixels"
    )
    add("--num-classes", type=whole, help="classes of the network (default: those in the records)")
    add("--num-examples", type=whole, help="training images (default: the number of records)")
    add("--rgb-mean", default="0,0,0", help="mean of each colour, 0 to 255, to be subtracted")
    add("--rgb-std", default="1,1,1", help="standard deviation of each colour, to divide by then")
    add("--data-nthreads", type=whole, default=_num_cores(), help="threads that decode images")
    add("--batches-ahead", type=whole, default=4, help="batches decoded before they are needed")
    add(
        "--fast-decode",
        type=whole,
        default=0,
        choices=[0, 1],
        help="decode large JPEGs at half size",
    )
    add(
        "--max-bad-images",
        type=number,
        default=MAX_BAD_IMAGES,
        help="share of images, 0 to 1, that may be unreadable before the run stops",
    )
    add(
        "--class-balance",
        type=number,
        default=0.0,
        help="0: every image once an epoch; 1: every class equally often; 0.5: in between",
    )
    add("--seed", type=int, default=0, help="of all random numbers")
    add(
        "--dtype",
        default="float32",
        help="what the network computes in: float32, float16, bfloat16",
    )
    add("--benchmark", type=whole, default=0, choices=[0, 1], help="1: train on made-up images")
    add(
        "--test-io",
        type=whole,
        default=0,
        choices=[0, 1],
        help="1: measure reading alone, and stop",
    )
    add("--preview", metavar="PNG", help="write a picture of one augmented batch, and stop")
    return group


def add_data_aug_args(parser):
    """Add the flags that say how training images are changed at random."""
    defaults = Augmentation()
    group = parser.add_argument_group("Augmentation", "how training images are changed at random")
    add = functools.partial(group.add_argument, action=TypedAction)
    switch = {"type": whole, "choices": [0, 1]}
    group.add_argument(
        "--data-aug-level",
        type=whole,
        choices=[0, 1, 2, 3],
        action=_LevelAction,
        help="a set of these flags, as in MXNet's examples: 0 none, 1 random crop and mirror, 2 and"
        " HLS colours, 3 and shapes (default: the 2017 baseline's set)",
    )
    add("--random-resized-crop", default=1, **switch, help="1: crop a random share of the image")
    add("--max-random-area", type=number, default=defaults.area[1], help="largest share, 0 to 1")
    add("--min-random-area", type=number, default=defaults.area[0], help="least share, 0 to 1")
    add(
        "--max-random-aspect-ratio",
        type=number,
        help="largest width to height; without a least one: how far it is from 1 at most"
        " (default: 4/3 for the random resized crop, else 0; with a least one: 1, or that one)",
    )
    add("--min-random-aspect-ratio", type=number, help="least width to height (default: 3/4)")
    add("--resize", type=whole, help="without it: shorter side in pixels (default: validation's)")
    add("--random-crop", default=1, **switch, help="without it: 1 crops anywhere, 0 the centre")
    add("--max-crop-size", type=whole, default=-1, help="without it: largest crop side, pixels")
    add("--min-crop-size", type=whole, default=-1, help="without it: least crop side, pixels")
    add("--random-mirror", default=1, **switch, help="1: mirror every second image")
    add("--pad-size", type=whole, default=0, help="padding on each side before cropping, pixels")
    add("--fill-value", type=whole, default=255, help="grey level of the padding, 0 to 255")
    add("--max-random-rotate-angle", type=number, default=0, help="degrees, either way")
    add("--max-random-shear-ratio", type=number, default=0.0, help="shear, either way, 0 to 1")
    add("--max-random-scale", type=number, default=1.0, help="largest factor of the size")
    add("--min-random-scale", type=number, default=1.0, help="least factor of the size")
    add("--max-random-h", type=whole, default=0, help="hue shift, either way; 180: all hues")
    add("--max-random-s", type=whole, default=0, help="HLS saturation shift, either way, to 255")
    add("--max-random-l", type=whole, default=0, help="HLS lightness shift, either way, to 255")
    add("--brightness", type=number, default=defaults.brightness, help="jitter, 0 to 1")
    add("--contrast", type=number, default=defaults.contrast, help="jitter, 0 to 1")
    add("--saturation", type=number, default=defaults.saturation, help="jitter, 0 to 1")
    add("--pca-noise", type=number, default=defaults.pca_noise, help="lighting noise, 0 to 1")
    add(
        "--rand-augment",
        metavar="N,M",
        help="RandAugment: N operations of magnitude M, 0 to 10, on every image, e.g. 2,9",
    )
    add("--random-erasing", type=number, default=0.0, help="share of images with a box of noise")
    add(
        "--mixup",
        type=number,
        default=0.0,
        metavar="ALPHA",
        help="blend pairs of images and their labels, in a share of Beta(ALPHA, ALPHA); 0: off",
    )
    add(
        "--cutmix",
        type=number,
        default=0.0,
        metavar="ALPHA",
        help="exchange a box between pairs of images; with --mixup: one of both for each batch",
    )
    return group


class _LevelAction(argparse.Action):
    """Sets the flags of a level, except those that were typed."""

    def __call__(self, parser, namespace, level, option_string=None):
        setattr(namespace, self.dest, level)
        for name, value in _LEVELS[level].items():
            if name not in getattr(namespace, "typed", []):
                setattr(namespace, name, value)


def set_data_aug_level(parser, level):
    """Make a level of MXNet's examples, 0 to 3, the default of the augmentation flags."""
    parser.set_defaults(**_LEVELS[level])


def parse_image_shape(text):
    """Return `--image-shape 3,HEIGHT,WIDTH` as integers, or raise `UserError`."""
    try:
        shape = tuple(int(part) for part in text.split(","))
    except ValueError:
        shape = ()
    if len(shape) != 3 or shape[0] != 3 or min(shape) < 1 or max(shape) > MAX_SIDE:
        raise UserError(
            f"--image-shape {text}: must be 3,HEIGHT,WIDTH in pixels, e.g. 3,320,320, at most"
            f" {MAX_SIDE} each"
        )
    return shape


def check_batch_fits(batch_size, height, width):
    """Raise `UserError` where a batch of such images is more than MXNet can hold."""
    if batch_size * 3 * height * width >= 1 << 31:
        raise UserError(
            f"--batch-size {batch_size}: that many images of {height}x{width} exceed the 2^31"
            " numbers of an array of MXNet; take fewer"
        )


def parse_colors(flag, text):
    """Return three numbers of `--rgb-mean R,G,B` or `--rgb-std`, or raise `UserError`."""
    try:
        values = tuple(number(part) for part in text.split(","))
    except argparse.ArgumentTypeError:
        values = ()
    if len(values) == 1:
        values *= 3
    if len(values) != 3:
        raise UserError(f"{flag} {text}: must be three numbers, RED,GREEN,BLUE")
    return values


def parse_rand_augment(text):
    """Return (N, M) of `--rand-augment N,M`, (0, 0) without one, or raise `UserError`."""
    if not text:
        return 0, 0
    try:
        count, magnitude = text.split(",")
        count, magnitude = int(count), float(magnitude)
    except ValueError:
        count, magnitude = 0, 0
    if not (count >= 1 and 0 <= magnitude <= LARGEST_MAGNITUDE):
        raise UserError(
            f"--rand-augment {text}: must be N,M, N operations of magnitude M, 0 to"
            f" {LARGEST_MAGNITUDE}, e.g. 2,9"
        )
    return count, magnitude


def check_flags(args):
    """Raise `UserError` for a flag that is out of its range."""
    shares = ("max_bad_images", "class_balance", "brightness", "contrast", "saturation")
    ranges = dict.fromkeys((*shares, "random_erasing"), (0, 1))
    ranges.update(
        batch_size=(1, None),
        data_nthreads=(1, 1024),
        batches_ahead=(1, 1024),
        seed=(0, 2**64 - 1),
        num_classes=(1, MAX_CLASSES),
        num_examples=(1, None),
        resize=(1, MAX_SIDE),
        max_crop_size=(-1, MAX_SIDE),
        min_crop_size=(-1, MAX_SIDE),
        pad_size=(0, MAX_SIDE),
        max_random_scale=(0, 10),
        max_random_aspect_ratio=(0, 100),
        min_random_aspect_ratio=(0.01, 100),
        fill_value=(0, 255),
        max_random_h=(0, 180),
        max_random_s=(0, 255),
        max_random_l=(0, 255),
        max_random_rotate_angle=(0, 360),  # MXNet's range
        max_random_shear_ratio=(0, 1),
        pca_noise=(0, 10),
        mixup=(0, None),
        cutmix=(0, None),
    )
    check_ranges(args, ranges)
    check_batch_fits(args.batch_size, *parse_image_shape(args.image_shape)[1:])
    parse_colors("--rgb-mean", args.rgb_mean)
    if 0 in parse_colors("--rgb-std", args.rgb_std):
        raise UserError(f"--rgb-std {args.rgb_std}: must not be 0: colours are divided by it")


def augmentation_of(args, eval_side):
    """Return the `Augmentation` that the flags describe, or raise `UserError`."""
    for name in getattr(args, "typed", []):
        if name in _IDLE[args.random_resized_crop]:
            logging.warning(
                "--%s %g: does nothing with --random-resized-crop %d",
                name.replace("_", "-"),
                getattr(args, name),
                args.random_resized_crop,
            )
    crop_sizes = [size for size in (args.min_crop_size, args.max_crop_size) if size != -1]
    resized_crop = bool(args.random_resized_crop)
    ratio = _aspect_ratio(args.min_random_aspect_ratio, args.max_random_aspect_ratio)
    area = (args.min_random_area, args.max_random_area)
    scale = (args.min_random_scale, args.max_random_scale)
    sizes = (crop_sizes[0], crop_sizes[-1]) if crop_sizes else None
    for flag, limits in (
        ("random-area", area),
        ("random-scale", scale),
        ("random-aspect-ratio", ratio),
        ("crop-size", sizes),
    ):
        if limits and not 0 < limits[0] <= limits[1]:
            raise UserError(
                f"--min-{flag} {limits[0]:g}, --max-{flag} {limits[1]:g}:"
                " must be above 0, and the least no larger than the largest"
            )
    if area[1] > 1:
        raise UserError(f"--max-random-area {area[1]:g}: must be at most 1, the whole image")
    return Augmentation(
        random_resized_crop=resized_crop,
        area=area,
        aspect_ratio=(ratio or Augmentation.aspect_ratio) if resized_crop else (1.0, 1.0),
        shorter_side=args.resize or eval_side,
        random_crop=bool(args.random_crop),
        crop_size=sizes,
        random_mirror=bool(args.random_mirror),
        rotate=args.max_random_rotate_angle,
        shear=args.max_random_shear_ratio,
        scale=scale,
        stretch=(1.0, 1.0) if resized_crop else (ratio or (1.0, 1.0)),
        pad=args.pad_size,
        fill=args.fill_value,
        hue=args.max_random_h,
        saturation_shift=args.max_random_s,
        lightness=args.max_random_l,
        brightness=args.brightness,
        contrast=args.contrast,
        saturation=args.saturation,
        pca_noise=args.pca_noise,
        rand_augment=parse_rand_augment(args.rand_augment),
        random_erasing=args.random_erasing,
    )


def _aspect_ratio(least, largest):
    """MXNet's reading: without a least ratio, the largest one is a distance from 1."""
    if least is None and largest is None:
        return None
    if least is None:
        return (1 - largest, 1 + largest) if largest < 1 else (1 / largest, largest)
    return least, max(1.0, least) if largest is None else largest


def _num_cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
