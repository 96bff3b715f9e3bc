"""What a training is made of, held against each other: weights, network, data and devices."""

from common import network
from common.files import UserError


def check_params(symbol, arg_params, aux_params, image_shape, untrained, source):
    """Raise `UserError` where weights do not fit the network; `untrained` may be missing.

    `source` says in the message where the weights are from.
    """
    shapes = network.infer_shapes(symbol, image_shape)
    given = {**arg_params, **aux_params}
    missing = [name for name in shapes if name not in given and not name.startswith(untrained)]
    if missing:
        raise UserError(f"{source}: lacks {', '.join(missing[:5])}; it is of another network")
    for name, shape in shapes.items():
        if name in given and given[name].shape != shape:
            raise UserError(
                f"--image-shape or weights: {name} is {given[name].shape} in {source}, and"
                f" {shape} in the network for images of {image_shape}"
            )


def check_num_classes(arg_params, head, num_classes):
    """Raise `UserError` where a checkpoint's head has another number of classes than the data."""
    bias = arg_params.get(f"{head}_bias")
    if bias is not None and len(bias) != num_classes:
        raise UserError(
            f"the checkpoint's head {head} has {len(bias)} classes, the data {num_classes};"
            " check --model-prefix and --data-train, or start anew with --load-epoch 0"
        )


def check_batch_size(args, contexts):
    """Raise `UserError` where a batch is less than an image a device."""
    if args.batch_size < len(contexts):
        raise UserError(
            f"--batch-size {args.batch_size}: is less than an image for each of the"
            f" {len(contexts)} devices of --gpus {args.gpus}"
        )
