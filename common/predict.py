"""From networks and images to probabilities: epochs averaged, views averaged, devices in turn."""

import argparse
import json
import os
from collections import deque

import numpy as np

from common.data_flags import MAX_SIDE, check_batch_fits, parse_image_shape
from common.files import UserError, require_file
from common.find_mxnet import mx
from common.help import check_ranges, whole
from common.image import eval_crops, eval_image, eval_side, mirror
from common.loader import Loader

VIEWS = (1, 2, 5, 10, 12)  # the centre; mirrored too; `common.image.eval_crops`
BATCHES_AHEAD = 2  # given to each device before the oldest is waited for: it never idles


def add_view_args(parser):
    """Add the flags that say how images are looked at."""
    add = parser.add_argument_group("Prediction").add_argument
    add(
        "--crops",
        type=whole,
        choices=VIEWS,
        default=1,
        help="views of an image that are averaged: the centre; mirrored too; 5: with the corners;"
        " 10: these mirrored too; 12: with the whole image (default: %(default)s)",
    )
    add(
        "--crop-size",
        type=whole,
        metavar="PIXELS",
        help="side of a crop (default: that of the training, or 320)",
    )
    add(
        "--resize",
        type=whole,
        metavar="PIXELS",
        help="shorter side of an image before it is cropped (default: 360/320 of the crop size)",
    )
    add(
        "--dtype",
        choices=["float32", "bfloat16", "float16", "int8"],
        default="float32",
        help="bfloat16 and int8 are for CPUs, float16 for GPUs; int8 is calibrated on val once and"
        " kept beside the checkpoint (default: %(default)s)",
    )
    add("--batch-size", type=whole, default=16, help="images a batch (default: %(default)s)")
    add(
        "--data-nthreads",
        type=whole,
        default=os.cpu_count(),
        help="threads that decode images (default: %(default)s)",
    )


def settle_view_args(args, model_prefixes):
    """Fill in the sizes that were not named; complain about those that cannot be."""
    if args.crop_size is None:
        sizes = sorted(set(map(trained_crop_size, model_prefixes)) - {None})
        if len(sizes) > 1:
            raise UserError(
                f"--model-prefix: these networks were trained with {' and '.join(map(str, sizes))}"
                " pixels; name one size for all with --crop-size, or predict with each, keep the"
                " probabilities (--save-probs) and average those (--merge)"
            )
        args.crop_size = sizes[0] if sizes else 320
    if args.resize is None:
        args.resize = eval_side(args.crop_size, args.crop_size)
    sides = {"crop_size": (1, MAX_SIDE), "resize": (1, 2 * MAX_SIDE)}
    check_ranges(args, {**sides, "batch_size": (1, None), "data_nthreads": (1, 1024)})
    check_batch_fits(args.batch_size * args.crops, args.crop_size, args.crop_size)


def load_views(source, args, **changes):
    """Return a loader of the views of every image of `source`, in order.

    Its batches' images are (N, 3, S, S) uint8, or (N, views, 3, S, S); what cannot be read is
    zeros, and named in the log and in `Batch.missing`.

    Args:
        args: the flags of `add_view_args`; `changes` are other values of them.
    """
    args = argparse.Namespace(**{**vars(args), **changes})
    size, side = args.crop_size, args.resize

    def transform(image, _rng):
        if args.crops > 2:
            return eval_crops(image, size, size, side, args.crops)
        centre = eval_image(image, size, size, side)
        return [centre, mirror(centre)] if args.crops == 2 else centre

    return Loader(
        source,
        args.batch_size,
        (3, size, size),
        transform,
        args.data_nthreads,
        num_views=args.crops,
        replace_bad=False,
        max_bad_images=1,
    )


def trained_crop_size(model_prefix):
    """Return the side in pixels that fine-tune.py noted beside a network; None where it did not."""
    path = f"{model_prefix}-config.json"
    if not os.path.lexists(path):
        return None
    require_file(path, "name the image's side in pixels: --crop-size")
    try:
        with open(path, encoding="utf-8") as stream:
            return parse_image_shape(json.load(stream)["flags"]["image_shape"])[-1]
    except (UserError, ValueError, LookupError, TypeError, AttributeError):
        raise UserError(f"{path}: does not tell the image shape; name it: --crop-size") from None


class Predictor:
    """Networks that are bound once, on every device, and average their probabilities.

    Args:
        networks: [(symbol, arg_params, aux_params)] of the same classes; the symbols take uint8.
        weights: a positive number for each; their scale is of no matter.
        devices: `mx.Context`s; batches go to them in turn.
        batch_size: images in a batch of one view.
        image_shape: (3, H, W) of one view.

    Raises:
        UserError: the networks differ in classes, miss parameters, or do not take such images.
    """

    def __init__(self, networks, weights, devices, batch_size, image_shape):
        self.weights = [float(weight) / float(sum(weights)) for weight in weights]
        self.image_shape = tuple(image_shape)
        shape = (batch_size, *image_shape)
        self._executors = [
            [_bind(*network, device, shape) for network in networks] for device in devices
        ]
        self._devices = devices
        shapes = [executor.outputs[0].shape for executor in self._executors[0]]
        for shape in shapes:
            if len(shape) != 2:
                raise UserError(f"the network gives {shape} for a batch, not (images, classes)")
        classes = {shape[1] for shape in shapes}
        if len(classes) > 1:
            raise UserError(
                f"the networks have {' and '.join(map(str, sorted(classes)))} classes;"
                " only networks of the same classes can be averaged"
            )
        self.num_classes = classes.pop()

    def predict(self, batches):
        """Yield (batch, probabilities) in the order of `batches`.

        `batch.images` are (N, [views,] 3, H, W) uint8, of which the last `batch.pad` do not count;
        probabilities are (N - pad, classes) float32.

        Raises:
            UserError: a network gives something that is no number.
        """
        waiting = deque()
        for number, batch in enumerate(batches):
            waiting.append((batch, self._start(batch.images, number % len(self._devices))))
            if len(waiting) > BATCHES_AHEAD * len(self._devices):
                yield self._finish(*waiting.popleft())
        while waiting:
            yield self._finish(*waiting.popleft())

    def _start(self, images, device):
        """Queue one batch on a device; MXNet computes it while the next one is decoded."""
        views = images.reshape(len(images), -1, *self.image_shape)
        num_views = views.shape[1]
        mean = 0
        for view in range(num_views):
            data = mx.nd.array(views[:, view], self._devices[device], dtype="uint8")
            for executor, weight in zip(self._executors[device], self.weights):
                executor.forward(is_train=False, data=data)
                mean = mean + executor.outputs[0].astype("float32") * (weight / num_views)
        return mean

    @staticmethod
    def _finish(batch, mean):
        probabilities = mean.asnumpy()[: len(batch.images) - batch.pad]
        if not np.isfinite(probabilities).all():
            raise UserError(
                "the network gives probabilities that are no numbers: its training has diverged;"
                " choose an earlier epoch"
            )
        return batch, probabilities


def _bind(symbol, arg_params, aux_params, device, data_shape):
    """Bind a network for prediction alone: no gradients, and memory shared between layers."""
    try:
        shapes, _, aux_shapes = symbol.infer_shape(data=data_shape)
        dtypes, _, aux_dtypes = symbol.infer_type(data="uint8")
    except mx.MXNetError as error:
        reason = str(error).strip().splitlines()[-1]
        raise UserError(
            f"the network does not take images of {data_shape[2]}x{data_shape[3]} ({reason});"
            " choose the size that it was trained with: --crop-size"
        ) from None
    # The label is of no use here, but an input of SoftmaxOutput.
    inputs = {"data", *(name for name in symbol.list_arguments() if name.endswith("label"))}
    arguments = {
        name: mx.nd.zeros(shape, device, dtype=dtype)
        if name in inputs
        else _placed(arg_params, name, shape, dtype, device)
        for name, shape, dtype in zip(symbol.list_arguments(), shapes, dtypes)
    }
    states = {
        name: _placed(aux_params, name, shape, dtype, device)
        for name, shape, dtype in zip(symbol.list_auxiliary_states(), aux_shapes, aux_dtypes)
    }
    return symbol.bind(device, arguments, grad_req="null", aux_states=states)


def _placed(params, name, shape, dtype, device):
    if name not in params or params[name].shape != shape:
        found = params[name].shape if name in params else "nothing"
        raise UserError(
            f"the checkpoint does not fit its symbol: {name} should be {shape}, and is {found};"
            " are both of the same training?"
        )
    return params[name].astype(dtype, copy=False).as_in_context(device)
