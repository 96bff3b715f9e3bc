"""From the data flags to the iterators that fine-tune.py trains and validates on."""

import functools
import logging
import os

from common.augmentation import train_image
from common.class_checks import check_classes
from common.data_flags import (
    MAX_CLASSES,
    add_data_args,
    add_data_aug_args,
    augmentation_of,
    check_flags,
    parse_colors,
    parse_image_shape,
    set_data_aug_level,
)
from common.files import UserError
from common.find_mxnet import mx
from common.image import eval_image, eval_side
from common.iterators import RecordIterator, SyntheticIterator, measure_reading, preview
from common.loader import Loader, RecordSource

__all__ = [
    "add_data_args",
    "add_data_aug_args",
    "get_record_iterators",
    "measure_reading",
    "normalize_input",
    "preview",
    "set_data_aug_level",
]


def get_record_iterators(args, kv_rank=0, kv_num_workers=1):
    """Return the iterators of training and validation; the latter None without `val.rec`.

    Both are `mx.io.DataIter`s with uint8 images; see `common.iterators.RecordIterator`. Several
    machines train on parts of equal length; each validates on all images.

    Raises:
        UserError: records are missing or contradict the flags, or a flag is out of its range.
    """
    height, width = parse_image_shape(args.image_shape)[1:]
    check_flags(args)
    if args.benchmark:
        num_classes = args.num_classes or 1000
        return SyntheticIterator(args.batch_size, (3, height, width), num_classes, args.seed), None
    train_source = _open_source(args.data_train, args.data_train_idx, args.data_dir, "train.rec")
    val_source = None
    if args.data_val or os.path.lexists(os.path.join(args.data_dir, "val.rec")):
        val_source = _open_source(args.data_val, args.data_val_idx, args.data_dir, "val.rec")
    else:
        logging.warning("%s/val.rec: not found; training goes without validation", args.data_dir)
    num_classes = _check_contents(args, train_source, val_source)
    _check_batch_size(args, train_source, kv_num_workers)
    for source in filter(None, (train_source, val_source)):
        source.num_classes = num_classes

    side = eval_side(height, width)
    augmentation = augmentation_of(args, side)
    common = {
        "batch_size": args.batch_size,
        "image_shape": (3, height, width),
        "threads": args.data_nthreads,
        "max_bad_images": args.max_bad_images,
        "batches_ahead": args.batches_ahead,
    }
    train = Loader(
        train_source,
        transform=functools.partial(_train, height, width, augmentation),
        shuffle=True,
        seed=args.seed,
        part_index=kv_rank,
        num_parts=kv_num_workers,
        class_balance=args.class_balance,
        decode_at_least=augmentation.least_side(height, width) if args.fast_decode else None,
        **common,
    )
    if val_source is None:
        return RecordIterator(train, num_classes), None
    val = Loader(
        val_source,
        transform=functools.partial(_eval, height, width, side),
        seed=None,
        decode_at_least=side if args.fast_decode else None,
        **common,
    )
    return RecordIterator(train, num_classes), RecordIterator(val, num_classes)


def _train(height, width, augmentation, image, rng):
    return train_image(image, height, width, augmentation, rng)


def _eval(height, width, side, image, rng):
    return eval_image(image, height, width, side)


def _open_source(rec_path, idx_path, data_dir, name):
    return RecordSource(rec_path or os.path.join(data_dir, name), idx_path)


def _check_contents(args, train_source, val_source):
    """Return the number of classes; complain where flags and records contradict each other."""
    labels = {source.path: source.labels() for source in (train_source, val_source) if source}
    for path, values in labels.items():
        if not (values >= 0).all() or (values % 1).any():
            raise UserError(
                f"{path}: holds labels that are no classes 0, 1, 2…; make its list anew"
            )
        if values.max() >= MAX_CLASSES:
            raise UserError(
                f"{path}: holds the label {values.max():.0f}, as no data set has; find it with:"
                f" python im2rec.py --verify {path}"
            )
    check_classes(labels)
    largest = {path: int(values.max()) for path, values in labels.items()}
    held = 1 + max(largest.values())
    num_classes = args.num_classes or held
    for path, label in largest.items():
        if label >= num_classes:
            raise UserError(
                f"--num-classes {num_classes}: {path} holds labels up to {label};"
                f" leave the flag out, or give --num-classes {held}"
            )
    if num_classes > held:
        logging.warning(
            "--num-classes %d: the records hold labels 0 to %d only; the network learns %d classes"
            " that it never sees",
            num_classes,
            held - 1,
            num_classes - held,
        )
    if args.num_examples and args.num_examples != len(train_source):
        logging.warning(
            "--num-examples %d: %s holds %d images, and an epoch has as many",
            args.num_examples,
            train_source.path,
            len(train_source),
        )
    args.num_classes, args.num_examples = num_classes, len(train_source)
    return num_classes


def _check_batch_size(args, train_source, num_workers):
    images = len(train_source) // num_workers
    if args.batch_size > images:
        raise UserError(
            f"--batch-size {args.batch_size}: is more than the {images} images of"
            f" {train_source.path} for each worker; take at most {images}"
        )


def normalize_input(symbol, args):
    """Put `--rgb-mean` and `--rgb-std` behind the input of a pretrained network.

    They become part of the symbol, and so of every checkpoint: images stay raw wherever they are
    fed from, in validation and in sub.py too.
    """
    mean = parse_colors("--rgb-mean", args.rgb_mean)
    std = parse_colors("--rgb-std", args.rgb_std)
    if not any(mean) and set(std) == {1}:
        return symbol
    raw = mx.sym.Cast(mx.sym.Variable("data"), dtype="float32", name="raw_cast")
    colors = mx.sym.SliceChannel(raw, num_outputs=3, axis=1, name="colors")
    scaled = [(colors[i] - mean[i]) / std[i] for i in range(3)]
    return symbol(data=mx.sym.Concat(*scaled, dim=1, name="normalized"))
