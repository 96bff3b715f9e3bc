"""Prediction: networks are bound once on every device, and their probabilities are averaged."""

from collections import deque

import numpy as np

from common.base.files import UserError
from common.engines.mxnet import precision
from common.engines.mxnet.runtime import mx, reason_of

BATCHES_AHEAD = 2  # queued on each device before the oldest is waited for: it never idles


class Predictor:
    """Predicts with one network or several.

    Args:
        networks: `Network`s of the same classes.
        weights: a positive number for each; their scale does not matter.
        devices: `mx.Context`s; batches go to them in turn.
        batch_size: images in a batch of one view.
        image_shape: (3, H, W) of one view.
        dtype: what the networks compute in.
        compiled: for other engines: False (`devices.check`).

    Raises:
        UserError: the networks differ in classes, lack parameters, or do not take such images.
    """

    def __init__(
        self, networks, weights, devices, batch_size, image_shape, dtype="float32", compiled=False
    ):
        self.weights = [float(weight) / float(sum(weights)) for weight in weights]
        self.image_shape = tuple(image_shape)
        shape = (batch_size, *image_shape)
        symbols = [
            precision.prediction_symbol(network.graph, dtype, image_shape) for network in networks
        ]
        self._executors = [
            [_bind(symbol, network, device, shape) for symbol, network in zip(symbols, networks)]
            for device in devices
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
            UserError: a network gives NaN or an infinite value.
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
                "the network's probabilities are NaN or infinite: its training has diverged;"
                " choose an earlier epoch"
            )
        return batch, probabilities


def _bind(symbol, network, device, data_shape):
    """Bind a network for prediction alone: no gradients, and memory shared between layers."""
    try:
        shapes, _, aux_shapes = symbol.infer_shape(data=data_shape)
        dtypes, _, aux_dtypes = symbol.infer_type(data="uint8")
    except mx.MXNetError as error:
        raise UserError(
            f"the network does not take images of {data_shape[2]}x{data_shape[3]}"
            f" ({reason_of(error)}); choose the size that it was trained with: --crop-size"
        ) from None
    # SoftmaxOutput has the label as an input, which does not matter here.
    inputs = {"data", *(name for name in symbol.list_arguments() if name.endswith("label"))}
    arguments = {
        name: mx.nd.zeros(shape, device, dtype=dtype)
        if name in inputs
        else _placed(network.params, name, shape, dtype, device)
        for name, shape, dtype in zip(symbol.list_arguments(), shapes, dtypes)
    }
    states = {
        name: _placed(network.stats, name, shape, dtype, device)
        for name, shape, dtype in zip(symbol.list_auxiliary_states(), aux_shapes, aux_dtypes)
    }
    return symbol.bind(device, arguments, grad_req="null", aux_states=states)


def _placed(params, name, shape, dtype, device):
    if name not in params or params[name].shape != shape:
        found = params[name].shape if name in params else "nothing"
        raise UserError(
            f"the checkpoint does not fit its symbol: {name} should be {shape}, and is {found};"
            " are both of the same training run?"
        )
    return mx.nd.array(params[name], device, dtype=dtype)
