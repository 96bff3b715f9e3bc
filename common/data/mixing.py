"""Mixup and CutMix: the images of a batch are mixed in pairs, and their labels in the same shares.

Zhang et al. 2018 (arXiv:1710.09412) and Yun et al. 2019 (arXiv:1905.04899), as timm has them: one
share, one box and one pairing for the whole batch, the first image with the last and so on.
"""

import math
from dataclasses import dataclass

import cv2
import numpy as np


@dataclass(frozen=True)
class Mixing:
    """How batches are mixed.

    Attributes:
        num_classes: of the soft labels.
        mixup, cutmix: parameter of the beta distribution that the share is drawn from; 0: off.
            With both, every batch is mixed in one of the two ways, with equal chance.
        smoothing: share of each label that is spread over the other classes.
    """

    num_classes: int
    mixup: float = 0.0
    cutmix: float = 0.0
    smoothing: float = 0.0

    def mix(self, batch, rng):
        """Mix a `common.data.loader.Batch` in place.

        Its `soft_labels` are set, float32, `(N, num_classes)`; its `labels` become those of the
        larger share.
        """
        use_cutmix = self.cutmix > 0 and (not self.mixup or rng.random() < 0.5)
        alpha = self.cutmix if use_cutmix else self.mixup
        share = float(rng.beta(alpha, alpha))  # of the image itself; the rest is its partner's
        if use_cutmix:
            share = swap_boxes(batch.images, share, rng)
        else:
            blend(batch.images, share)
        labels, partners = batch.labels, batch.labels[::-1]
        batch.soft_labels = share * self._targets(labels) + (1 - share) * self._targets(partners)
        batch.labels = (labels if share >= 0.5 else partners).copy()

    def _targets(self, labels):
        others = self.smoothing / max(1, self.num_classes - 1)
        targets = np.full((len(labels), self.num_classes), others, np.float32)
        targets[np.arange(len(labels)), labels.astype(np.int64)] = 1 - self.smoothing
        return targets


def blend(images, share):
    """Mix each image, `(N, 3, H, W)` uint8, with its partner, in place; `share` is its own part."""
    planes = images.reshape(len(images), -1, images.shape[-1])
    for first, second in zip(planes[: len(planes) // 2], planes[::-1]):
        mixed = cv2.addWeighted(first, share, second, 1 - share, 0)
        second += first  # modulo 256; a pair keeps its sum
        second -= mixed
        first[:] = mixed


def swap_boxes(images, share, rng):
    """Exchange a box between each image and its partner, in place.

    The box has `1 - share` of the area where it lies within the image; it is cut off at the edges.

    Returns:
        the share of an image that is its own.
    """
    height, width = images.shape[-2:]
    sides = int(height * math.sqrt(1 - share)), int(width * math.sqrt(1 - share))
    box, area = [], 1
    for length, side in zip((height, width), sides):
        centre = int(rng.integers(length))
        first, end = max(0, centre - side // 2), min(length, centre + (side + 1) // 2)
        box.append(slice(first, end))
        area *= end - first
    images[:, :, box[0], box[1]] = images[::-1, :, box[0], box[1]].copy()
    return 1 - area / (height * width)
