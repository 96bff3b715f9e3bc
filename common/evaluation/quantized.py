"""Checkpoints in 8-bit integers: calibrated once, then kept beside the checkpoint."""

import hashlib
import logging
import os

import numpy as np

from common.base.files import UserError
from common.data.image_set import Selection
from common.data.loader import Batch
from common.evaluation.views import load_views
from common.networks import checkpoint, timm_files
from common.networks.edits import take_raw_images
from common.networks.timm_network import TimmNetwork

CALIBRATION_IMAGES = 64


def quantized_prefix(engine, prefix, epoch):
    """Return the prefix of the quantized network that an engine keeps beside a checkpoint."""
    return f"{os.path.splitext(checkpoint.weights_path(prefix, epoch))[0]}-{engine.QUANTIZED}"


def quantized_digest(engine, prefix, epoch):
    """Return the SHA-256 of the quantized network that is kept, as hexadecimal."""
    kept = quantized_prefix(engine, prefix, epoch)
    is_timm = checkpoint.is_timm(kept, 0)
    ranges = timm_files.config_path(kept) if is_timm else checkpoint.symbol_path(kept)
    digest = hashlib.sha256()
    for path in (ranges, checkpoint.weights_path(kept, 0)):
        with open(path, "rb") as stream:
            digest.update(stream.read())
    return digest.hexdigest()


def load_quantized(engine, prefix, epoch, devices, make_images, make_others=None):
    """Return the quantized `Network` of a checkpoint; make it where needed.

    It is made where there is none that can be read, or one of another checkpoint: its weights have
    the time of those that they were made of.

    Args:
        make_images: is called only then, and returns the calibration images, (N, 3, H, W) uint8.
        make_others: returns those to take where that raises a `UserError`. The network is then not
            kept: these images may be few, or unlike those that are predicted next.
    """
    kept = quantized_prefix(engine, prefix, epoch)
    path, kept_path = checkpoint.weights_path(prefix, epoch), checkpoint.weights_path(kept, 0)
    time = os.stat(path).st_mtime_ns if os.path.exists(path) else 0
    if os.path.exists(kept_path) and os.stat(kept_path).st_mtime_ns == time:
        try:
            return checkpoint.load(kept, 0)
        except UserError as error:
            logging.warning("made again: %s", error)
    reference = load_raw(prefix, epoch)
    try:
        images, is_kept = make_images(), True
    except UserError as error:
        if make_others is None:
            raise
        logging.warning("%s; int8 is calibrated on the photographs of --images", error)
        images, is_kept = make_others(), False
    if not len(images):
        raise UserError(
            "--dtype int8: none of the photographs that it is to be calibrated on can be read; look"
            " at them, or take float32"
        )
    quantized = engine.quantize(reference, images)
    same = agreement(engine, devices, reference, quantized, images)
    if is_kept:
        checkpoint.save(kept, 0, quantized, version=engine.SYMBOL_VERSION)
        path = checkpoint.weights_path(kept, 0)
        os.utime(path, ns=(time, time))
        quantized = checkpoint.load(kept, 0)
    logging.info(
        "%s: quantized; its first choice is that of float32 on %d of %d calibration images",
        *(path, same, len(images)),
    )
    return quantized


def load_raw(prefix, epoch):
    """Return the network of a checkpoint, for raw images."""
    network = checkpoint.load(prefix, epoch)
    if isinstance(network, TimmNetwork):
        return network
    return network.with_graph(take_raw_images(network.graph))


def spread_images(source, args):
    """Return calibration images from all over a source, (N, 3, H, W) uint8, one view each.

    `args` are the flags of `common.evaluation.views.add_view_args`.
    """
    count = min(CALIBRATION_IMAGES, len(source))
    chosen = np.linspace(0, len(source) - 1, count).astype(int)
    (batch,) = load_views(Selection(source, chosen), args, crops=1, batch_size=count)
    return np.delete(batch.images, batch.missing, axis=0)


def agreement(engine, devices, network, quantized, images):
    """Return on how many of the `images` two networks have the same first choice."""
    choices = []
    size, shape = len(images), images.shape[1:]
    for each, dtype in ((network, "float32"), (quantized, "int8")):
        predictor = engine.Predictor([each], [1], devices[:1], size, shape, dtype)
        batch = Batch(images, None, None, pad=0, missing=[])
        ((_, probabilities),) = predictor.predict([batch])
        choices.append(probabilities.argmax(axis=1))
    return int((choices[0] == choices[1]).sum())
