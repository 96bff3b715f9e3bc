"""The networks that sub.py averages: loaded from checkpoints, in the precision asked for."""

import functools
import logging
import os

from common.data.image_set import open_image_set, open_records
from common.engines import require_engine_of_timm
from common.evaluation.quantized import (
    load_quantized,
    load_raw,
    quantized_digest,
    spread_images,
)
from common.networks import checkpoint


def load_predictor(args, photographs=None):
    """Return the `Predictor` of `args.networks`, [(prefix, epoch)].

    Args:
        args: the flags of sub.py.
        photographs: a source of images for int8, where there is no validation set.
    """
    networks = [_load_network(args, *network, photographs) for network in args.networks]
    logging.info("engine: %s, %s", args.engine.NAME, args.why)
    return args.engine.Predictor(
        networks,
        args.weights,
        args.devices,
        args.batch_size,
        (3, *args.crop_shape),
        args.dtype,
        args.compile,
    )


def _load_network(args, prefix, epoch, photographs):
    """Return the network of a checkpoint, quantized where that is asked for."""
    if checkpoint.is_timm(prefix, epoch):
        require_engine_of_timm(args.engine, checkpoint.weights_path(prefix, epoch))
    if args.dtype == "int8":
        validation = functools.partial(_validation_images, args)
        others = functools.partial(spread_images, photographs, args) if photographs else None
        return load_quantized(args.engine, prefix, epoch, args.devices, validation, others)
    return load_raw(prefix, epoch)


def _validation_images(args):
    """Return calibration images of the validation set that the flags name."""
    if args.data_val:
        images = open_records(args.data_val)
    else:
        images = open_image_set(args.data_dir, "val", args.year)
    return spread_images(images.source, args)


def fingerprint(args, images):
    """Return what the rows depend on: an interrupted run goes on only where it is the same."""
    checkpoints = [
        [*network, *_file_state(checkpoint.weights_path(*network))] for network in args.networks
    ]
    if args.dtype == "int8":  # another calibration gives other networks
        for state, network in zip(checkpoints, args.networks):
            state.append(quantized_digest(args.engine, *network))
    return {
        "checkpoints": checkpoints,
        "engine": args.engine.NAME,  # the other one rounds differently
        "images": [images.path, len(images.source), *_file_state(images.path)],
        "crop_size": args.crop_shape,
        **{
            name: getattr(args, name)
            for name in ("weights", "dtype", "compile", "tf32", "crops", "resize")
        },
    }


def _file_state(path):
    """Return what differs when a file is made again under the same name."""
    state = os.stat(path)
    return state.st_size, state.st_mtime
