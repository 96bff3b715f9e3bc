"""Checks that the parts of a run fit together: weights, network, data and devices."""

import logging
import os

from common.base.files import MODEL_DIR, ROOT, UserError
from common.data.flags import parse_colors
from common.networks import checkpoint, timm_pretrained
from common.networks.timm_network import TimmNetwork
from common.training.run_files import flags_before, of_the_start


def check_params(network, engine, image_shape, untrained, source):
    """Raise `UserError` where weights do not fit the network; `untrained` may be missing.

    The message names `source`, the file of the weights. timm checks those of its networks itself.
    """
    if isinstance(network, TimmNetwork):
        return
    shapes = engine.infer_shapes(network.graph, image_shape)
    given = {**network.params, **network.stats}
    missing = [name for name in shapes if name not in given and not name.startswith(untrained)]
    if missing:
        raise UserError(f"{source}: lacks {', '.join(missing[:5])}; it is of another network")
    for name, shape in shapes.items():
        if name in given and given[name].shape != shape:
            raise UserError(
                f"--image-shape or weights: {name} is {given[name].shape} in {source}, and"
                f" {shape} in the network for images of {image_shape}"
            )


def check_num_classes(network, num_classes):
    """Raise `UserError` where a checkpoint's head has another number of classes than the data."""
    if isinstance(network, TimmNetwork):
        found = network.num_classes
    else:
        found = len(network.params.get(f"{network.head}_bias", range(num_classes)))
    if found != num_classes:
        raise UserError(
            f"the checkpoint's head {network.head} has {found} classes, the data"
            f" {num_classes}; check --model-prefix and --data-train, or start again with"
            " --load-epoch 0"
        )


def check_graph_flags(args):
    """Raise `UserError` for flags of fine-tune.py that are only for networks of timm."""
    if args.drop_path or args.layer_decay != 1:
        raise UserError(
            f"--drop-path, --layer-decay: are for networks of timm, and {args.pretrained_model} is"
            " none; leave them out"
        )


def check_timm_flags(args):
    """Raise `UserError` for flags of fine-tune.py that are not for networks of timm."""
    name = args.pretrained_model
    if args.layer_before_fullc or args.variant:
        raise UserError(f"--layer-before-fullc, --variant: are not for networks of timm: {name}")
    if args.architecture and name.startswith(timm_pretrained.HUB):
        raise UserError(f"--architecture: is for files, and {name} names its architecture itself")
    if any(parse_colors("--rgb-mean", args.rgb_mean)) or set(
        parse_colors("--rgb-std", args.rgb_std)
    ) != {1}:
        raise UserError(f"--rgb-mean, --rgb-std: {name} normalises images itself; leave them out")


def check_pretrained_stays(args):
    """Raise `UserError` where a run that begins would overwrite the network that it begins with."""
    name = args.pretrained_model
    prefixes = [name, os.path.join(ROOT, name), os.path.join(MODEL_DIR, name)]
    there = (prefix for prefix in prefixes if checkpoint.is_there(prefix))
    pretrained = os.path.realpath(next(there, prefixes[-1]))
    for ending in ("", checkpoint.AVERAGE) if args.ema else ("",):
        if os.path.realpath(args.model_prefix + ending) == pretrained:
            raise UserError(
                f"--model-prefix {args.model_prefix}: would overwrite --pretrained-model {name};"
                " choose another prefix, or go on with that run: --resume"
            )


def report_unused_flags(args, network):
    """Warn of flags that a run which goes on cannot change: its checkpoint has the network."""
    before = flags_before(args.model_prefix)
    for name in sorted(of_the_start(network) & set(before)):
        now = getattr(args, name)
        if now != before[name]:
            logging.warning(
                "--%s %s: does nothing to a run that goes on, which began with %s (%s)",
                *(name.replace("_", "-"), now, before[name]),
                checkpoint.config_path(args.model_prefix),
            )


def check_patience(args, data, workers):
    """Raise `UserError` where `--patience` has no validation to wait for."""
    if args.patience and data.val is None:
        raise UserError(
            f"--patience {args.patience}: needs validation records; make val.rec, or leave it out"
        )
    if args.patience and workers.size > 1 and not workers.is_joint:
        raise UserError(
            f"--patience {args.patience}: only the first of several workers validates; leave it out"
        )


def check_batch_size(args, devices):
    """Raise `UserError` where a batch has less than one image for each device."""
    if args.batch_size < len(devices):
        raise UserError(
            f"--batch-size {args.batch_size}: is less than an image for each of the"
            f" {len(devices)} devices of --gpus {args.gpus}"
        )
