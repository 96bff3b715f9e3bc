"""Prediction: networks are built once on every device, and their probabilities are averaged."""

from collections import deque

import numpy as np

from common.base.files import UserError
from common.engines.torch import compilation, fusion, int8, operators, timm_prediction
from common.engines.torch.memory import copy_to
from common.engines.torch.recording import recorded
from common.engines.torch.runtime import torch
from common.engines.torch.shapes import shapes_of
from common.networks.timm_network import TimmNetwork

BATCHES_AHEAD = 2  # queued on each GPU before the oldest is waited for: it never idles


class Predictor:
    """Predicts with one network or several.

    Args:
        networks: `Network`s of the same classes.
        weights: a positive number for each; their scale does not matter.
        devices: `torch.device`s; batches go to them in turn.
        batch_size: images in a batch of one view.
        image_shape: (3, H, W) of one view.
        dtype: what the networks compute in; int8 takes those that `quantize` has calibrated.
        compiled: whether `torch.compile` translates them.

    Raises:
        UserError: the networks differ in classes, lack parameters, or do not take such images.
    """

    def __init__(
        self, networks, weights, devices, batch_size, image_shape, dtype="float32", compiled=False
    ):
        self.weights = [float(weight) / float(sum(weights)) for weight in weights]
        self.image_shape = tuple(image_shape)
        shape = (batch_size, *image_shape)
        built = [_build(network, devices, shape, dtype, compiled) for network in networks]
        self._devices = devices
        self._modules = [*zip(*(modules for modules, _ in built))]  # by devices, by networks
        self._logits_of = [
            [recorded(module, device) for module in modules]
            for device, modules in zip(devices, self._modules)
        ]
        classes = {num_classes for _, num_classes in built}
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
            UserError: a network gives NaN or an infinite value.
        """
        ahead = sum(BATCHES_AHEAD for device in self._devices if device.type != "cpu")
        waiting = deque()
        for number, batch in enumerate(batches):
            waiting.append((batch, self._start(batch.images, number % len(self._devices))))
            if len(waiting) > ahead:
                yield self._finish(*waiting.popleft())
        while waiting:
            yield self._finish(*waiting.popleft())

    @torch.inference_mode()
    def _start(self, images, device):
        """Queue one batch on a device; a GPU computes it while the next one is decoded."""
        views = images.reshape(len(images), -1, *self.image_shape)
        num_views = views.shape[1]
        mean = 0
        for view in range(num_views):
            data = copy_to(views[:, view], self._devices[device])
            networks = zip(self._modules[device], self._logits_of[device], self.weights)
            for module, logits_of, weight in networks:
                logits = logits_of(data)
                values = torch.softmax(logits, 1) if module.is_softmax else logits
                mean = mean + values * (weight / num_views)
        return mean

    @staticmethod
    def _finish(batch, mean):
        probabilities = mean.cpu().numpy()[: len(batch.images) - batch.pad]
        if not np.isfinite(probabilities).all():
            raise UserError(
                "the network's probabilities are NaN or infinite: its training has diverged;"
                " choose an earlier epoch"
            )
        return batch, probabilities


def _build(network, devices, data_shape, dtype, compiled):
    """Return a module for each device, and the number of classes.

    All devices of a CPU are one, and share its module.
    """
    modules = {}
    for device in devices:
        place = "cpu" if device.type == "cpu" else device
        if place not in modules:
            modules[place], num_classes = _build_on(network, place, data_shape, dtype, compiled)
    return [modules["cpu" if d.type == "cpu" else d] for d in devices], num_classes


def _build_on(network, device, data_shape, dtype, compiled):
    if isinstance(network, TimmNetwork):
        return timm_prediction.build_to_predict(network, device, data_shape, dtype, compiled)
    module, entries = load(network, device, data_shape, "float32" if dtype == "int8" else dtype)
    shape = entries[module.plan.output]
    if len(shape) != 2:
        raise UserError(f"the network gives {shape} for a batch, not (images, classes)")
    if dtype == "int8":
        int8.prepare(module, entries)
    elif compiled:
        compilation.compile_for_prediction(module)
    else:
        fusion.prepare(module, entries, dtype, fusion.has_onednn(device))
    return module, shape[1]


def load(network, device, data_shape, dtype="float32"):
    """Return the `GraphModule` of a network, and `{entry: shape}` of all that it computes.

    Raises:
        UserError: the network lacks parameters, or does not take such images.
    """
    by_pixels = torch.device(device).type in ("cpu", "cuda")
    module = operators.build(network, dtype, device, channels_last=by_pixels)
    try:
        expected, entries = shapes_of(module.plan, data_shape)
    except ValueError as error:
        raise UserError(
            f"the network does not take images of {data_shape[2]}x{data_shape[3]}"
            f" ({error}); choose the size that it was trained with: --crop-size"
        ) from None
    _check_shapes(network, expected)
    return module, entries


def _check_shapes(network, expected):
    found = network.shapes()
    for name, shape in expected.items():
        if found.get(name) != shape:
            raise UserError(
                f"the checkpoint does not fit its symbol: {name} should be {shape}, and is"
                f" {found.get(name, 'nothing')}; are both of the same training run?"
            )
