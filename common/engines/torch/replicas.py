"""Copies of a network, one for each device: a batch is split over them, gradients are summed."""

import copy

from common.engines.torch.loss import loss_gradient
from common.engines.torch.runtime import torch


class Replicas:
    """A network on its devices.

    Each copy normalises its part of the batch, and moves BatchNorm's statistics by it, as in
    MXNet. Copies on the CPU share their weights.
    """

    def __init__(self, module, devices):
        """Copy a `GraphModule`, which is on the first device."""
        self._devices = devices
        self._modules = [module, *(copy.deepcopy(module).to(device) for device in devices[1:])]
        self._weights, *copies = (list(module.params.values()) for module in self._modules)
        self._remote = []
        for device, weights in zip(devices[1:], copies):
            if device.type != "cpu":
                self._remote.append(weights)
                continue
            for weight, original in zip(weights, self._weights):
                weight.data = original.data

    def forward_backward(self, batch, **loss_settings):
        """Compute the gradients of a batch, summed over its images.

        Returns:
            `(probabilities, gradients)`: of each device's part of the batch; of each parameter
            that requires one, on the first device.
        """
        gradients, probabilities = [], []
        labels = torch.from_numpy(batch.targets)
        parts = zip(self._modules, self._devices, self._split(batch.images), self._split(labels))
        for module, device, images, truth in parts:
            module.train()
            logits = module(images.to(device, non_blocking=True))
            probabilities.append(torch.softmax(logits.detach(), 1))
            truth = truth.to(device, non_blocking=True)
            logits.backward(loss_gradient(probabilities[-1], truth, **loss_settings))
            gradients.append(_take_gradients(module))
        total, *others = gradients
        for part in others:
            torch._foreach_add_(total, [array.to(self._devices[0]) for array in part])
        return probabilities, total

    def forward(self, batch):
        """Return the probabilities of each device's part of a batch."""
        probabilities = []
        for module, device, images in zip(self._modules, self._devices, self._split(batch.images)):
            module.eval()
            with torch.inference_mode():
                logits = module(images.to(device, non_blocking=True))
                probabilities.append(torch.softmax(logits, 1))
        return probabilities

    def _split(self, array):
        return torch.as_tensor(array).tensor_split(len(self._modules))

    @torch.no_grad()
    def spread(self):
        """Copy the weights of the first device to the others."""
        for weights in self._remote:
            torch._foreach_copy_(weights, self._weights)

    @torch.no_grad()
    def statistics(self):
        """Return `{name: tensor}` of BatchNorm's statistics, averaged over the devices."""
        first, *others = (module.stats for module in self._modules)
        device = self._devices[0]
        return {
            name: sum((part[name].to(device) for part in others), stat) / len(self._modules)
            for name, stat in first.items()
        }


def _take_gradients(module):
    """Return the gradients of a module, and leave it without any."""
    gradients = []
    for param in module.params.values():
        if param.requires_grad:
            gradients.append(torch.zeros_like(param) if param.grad is None else param.grad)
            param.grad = None
    return gradients
