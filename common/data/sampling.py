"""The order in which images are read: shuffled every epoch, balanced by class, split in parts."""

import numpy as np


def epoch_order(num_images, shuffle, seed, epoch, labels=None, class_balance=0.0):
    """Return the images of an epoch in reading order, int64, `(num_images,)`.

    The same seed and epoch give the same order; the order of one epoch says nothing of the next.

    Args:
        labels: of all images, needed for a `class_balance` above 0.
        class_balance: 0: every image once. 1: every class equally often. In between: a class of n
            images as often as n ** (1 - class_balance) says. The epoch keeps its length: images
            of large classes are left out in turn, those of small ones come several times.
    """
    if not shuffle:
        return np.arange(num_images)
    rng = np.random.default_rng((seed, epoch))
    order = rng.permutation(num_images)
    if class_balance > 0:
        order = _balance(order, np.asarray(labels)[order], class_balance, rng)
    return order


def class_shares(labels, num_classes, class_balance=0.0):
    """Return how often an epoch shows each class, `(num_classes,)`, as shares of all images.

    A class without images counts as if it had one.
    """
    sizes = np.bincount(np.asarray(labels, np.int64), minlength=num_classes)
    weights = np.maximum(sizes, 1) ** (1 - float(class_balance))
    return weights / weights.sum()


def _balance(order, labels, class_balance, rng):
    """Draw `len(order)` images, each as often as its class's weight says.

    Systematic sampling, one random offset and equal steps: a class gets its share to within one
    image, and so does every image of it; drawing independently would be off by the square root.
    """
    _, classes, sizes = np.unique(labels, return_inverse=True, return_counts=True)
    weights = (sizes ** -float(class_balance))[classes]
    by_class = np.argsort(classes, kind="stable")  # stable: shuffled within a class
    ends = np.cumsum(weights[by_class])
    steps = (np.arange(len(order)) + rng.random()) * (ends[-1] / len(order))
    drawn = np.searchsorted(ends, steps, side="right").clip(max=len(order) - 1)
    return rng.permutation(order[by_class[drawn]])


def part_positions(num_images, batch_size, part_index=0, num_parts=1):
    """Return (positions, how many of them are this part's own) of one part of an epoch.

    `positions`, int64, are places in the epoch's order, in full batches; every part has as many
    batches, because distributed training hangs where one worker has more. Positions from
    `num_images` on are padding and start over at the beginning (take them modulo `num_images`);
    they come last.
    """
    images_per_part = -(-num_images // num_parts)
    num_batches = -(-images_per_part // batch_size)
    positions = part_index + num_parts * np.arange(num_batches * batch_size)
    return positions, int(np.count_nonzero(positions < num_images))
