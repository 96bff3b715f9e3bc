"""Checks that the parts of a run fit together: weights, network, data and devices."""

from common.base.files import UserError


def check_params(network, shapes, image_shape, untrained, source):
    """Raise `UserError` where weights do not fit the network; `untrained` may be missing.

    `shapes` are those that the engine infers; the message names `source`, the file of the weights.
    """
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
    bias = network.params.get(f"{network.head}_bias")
    if bias is not None and len(bias) != num_classes:
        raise UserError(
            f"the checkpoint's head {network.head} has {len(bias)} classes, the data"
            f" {num_classes}; check --model-prefix and --data-train, or start again with"
            " --load-epoch 0"
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
