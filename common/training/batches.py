"""The batches that fine-tune.py trains and validates on, from the data flags."""

import functools
import logging
import os
from dataclasses import dataclass
from typing import Any, Optional

import numpy as np

from common.base.files import UserError
from common.data.augmentation import train_image
from common.data.class_checks import check_classes
from common.data.flags import MAX_CLASSES, augmentation_of, check_flags, parse_image_shape
from common.data.image import decode, eval_image, eval_side
from common.data.list_checks import check_list
from common.data.loader import Batch, Loader, RecordSource
from common.data.mixing import Mixing
from common.data.packing_run import packed_list
from common.data.partial_jpeg import open_image
from common.data.sampling import own_rows
from common.training.class_counts import count_classes


@dataclass
class TrainingData:
    """What a run trains and validates on.

    Attributes:
        train, val: `Loader`s, or the made-up images of `--benchmark 1`; val may be None.
        num_classes: of the network.
        train_labels: of all training images; None with `--benchmark 1`.
        val_list: the digest of the list that the validation records were packed from; None where
            it is not known.
    """

    train: Any
    val: Optional[Loader]
    num_classes: int
    train_labels: Optional[np.ndarray] = None
    val_list: Optional[str] = None

    def close(self):
        """End the decoding threads."""
        self.train.close()
        if self.val is not None:
            self.val.close()


class MadeUpImages:
    """The same batch of noise again and again, with the interface of `Loader`.

    With it the time of a training run is the network's alone.
    """

    mixing = None  # nothing is changed at random

    def __init__(
        self,
        batch_size,
        image_shape,
        num_classes,
        seed=0,
        num_batches=500,
        allocate=None,
        share=(0, 1),
    ):
        self.batch_size, self.image_shape = batch_size, image_shape
        self._num_batches = num_batches
        rng = np.random.default_rng(seed)
        rows = own_rows(batch_size, *share)
        size = rows.stop - rows.start
        images = (allocate or np.empty)((size, *image_shape), np.uint8)
        images[:] = rng.integers(0, 256, images.shape, dtype=np.uint8)
        labels = rng.integers(0, num_classes, size).astype(np.float32)
        self._batch = Batch(images, labels, np.arange(size), pad=0, missing=[])

    def __len__(self):
        """Return the number of batches of an epoch."""
        return self._num_batches

    def __iter__(self):
        """Yield the batch `num_batches` times."""
        for _ in range(self._num_batches):
            yield self._batch

    def set_epoch(self, epoch):
        """Do nothing: all epochs are the same."""

    def close(self):
        """Do nothing: there are no threads to end."""


def open_batches(args, part=0, num_parts=1, allocate=None, share=(0, 1), validates_part=False):
    """Return the `TrainingData` of the flags; its `val` is None without `val.rec`.

    Several machines train on parts of equal length; each validates on all images, or with
    `validates_part` on a part of them.

    Args:
        share: `(number, count)` of this process among those of its machine, which share its
            batches and its decoding threads.
        allocate: makes the memory of the images: the engine's, or else numpy's.

    Raises:
        UserError: records are missing or contradict the flags, or a flag is out of its range.
    """
    height, width = parse_image_shape(args.image_shape)[1:]
    check_flags(args)
    if args.benchmark:
        num_classes = args.num_classes or 1000
        made_up = MadeUpImages(
            args.batch_size,
            (3, height, width),
            num_classes,
            args.seed,
            allocate=allocate,
            share=share,
        )
        return TrainingData(made_up, None, num_classes)
    train_source = _open_source(args.data_train, args.data_train_idx, args.data_dir, "train.rec")
    val_source = None
    if args.data_val or os.path.lexists(os.path.join(args.data_dir, "val.rec")):
        val_source = _open_source(args.data_val, args.data_val_idx, args.data_dir, "val.rec")
    else:
        logging.warning("%s/val.rec: not found; training runs without validation", args.data_dir)
    num_classes, train_labels = _check_contents(args, train_source, val_source)
    _check_batch_size(args, train_source, num_parts)
    for source in filter(None, (train_source, val_source)):
        source.num_classes = num_classes

    side = eval_side(height, width)
    augmentation = augmentation_of(args, side)
    common = {
        "batch_size": args.batch_size,
        "image_shape": (3, height, width),
        "threads": max(1, args.data_nthreads // share[1]),
        "share": share,
        "max_bad_images": args.max_bad_images,
        "batches_ahead": args.batches_ahead,
        "allocate": allocate or np.empty,
    }
    train = Loader(
        train_source,
        transform=functools.partial(_train, height, width, augmentation),
        shuffle=True,
        seed=args.seed,
        part_index=part,
        num_parts=num_parts,
        class_balance=args.class_balance,
        decode=_decoder(args, augmentation.least_side(height, width), augmentation.crops_first),
        mixing=_mixing_of(args, num_classes),
        **common,
    )
    if val_source is None:
        return TrainingData(train, None, num_classes, train_labels)
    val = Loader(
        val_source,
        transform=functools.partial(_eval, height, width, side),
        seed=None,
        part_index=part if validates_part else 0,
        num_parts=num_parts if validates_part else 1,
        decode=_decoder(args, side, crops_first=True),
        **common,
    )
    return TrainingData(train, val, num_classes, train_labels, packed_list(val_source.path)[0])


def _decoder(args, at_least, crops_first):
    if args.fast_decode:
        return functools.partial(decode, at_least=at_least)
    return open_image if crops_first else decode


def _mixing_of(args, num_classes):
    if args.mixup or args.cutmix:
        return Mixing(num_classes, args.mixup, args.cutmix, args.label_smoothing)
    return None


def _train(height, width, augmentation, image, rng):
    return train_image(image, height, width, augmentation, rng)


def _eval(height, width, side, image, rng):
    return eval_image(image, height, width, side)


def _open_source(rec_path, idx_path, data_dir, name):
    return RecordSource(rec_path or os.path.join(data_dir, name), idx_path)


def _check_contents(args, train_source, val_source):
    """Return the number of classes and the training labels.

    Refuses flags and records that contradict each other.
    """
    sources = [source for source in (train_source, val_source) if source]
    for source in sources:
        check_list(source)
    labels = {source.path: source.labels() for source in sources}
    for path, values in labels.items():
        if not (values >= 0).all() or (values % 1).any():
            raise UserError(
                f"{path}: holds labels that are not classes 0, 1, 2…; make its list anew"
            )
        if values.max() >= MAX_CLASSES:
            raise UserError(
                f"{path}: holds the label {values.max():.0f}, which no data set has; find it with:"
                f" python im2rec.py --verify {path}"
            )
    check_classes(labels)
    largest = {path: int(values.max()) for path, values in labels.items()}
    num_classes = count_classes(args, largest)
    if args.num_examples and args.num_examples != len(train_source):
        logging.warning(
            "--num-examples %d: %s holds %d images, and an epoch has as many",
            args.num_examples,
            train_source.path,
            len(train_source),
        )
    args.num_classes, args.num_examples = num_classes, len(train_source)
    return num_classes, labels[train_source.path]


def _check_batch_size(args, train_source, num_workers):
    images = len(train_source) // num_workers
    if args.batch_size > images:
        raise UserError(
            f"--batch-size {args.batch_size}: is more than the {images} images of"
            f" {train_source.path} for each worker; take at most {images}"
        )
