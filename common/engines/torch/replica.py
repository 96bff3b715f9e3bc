"""The network of one process: gradients and statistics are shared with the other processes."""

from common.engines.torch.layers import BatchNorm
from common.engines.torch.loss import loss_gradient
from common.engines.torch.memory import copy_to
from common.engines.torch.recording import recorded
from common.engines.torch.runtime import torch


class Replica:
    """A network on the device of this process; other processes have the same on theirs.

    Each normalises its part of the batch and moves BatchNorm's statistics by it, as MXNet's devices
    do. The statistics become their means over the processes when they are read.
    """

    def __init__(self, module, workers, loss_settings, sync_batch_norm=False):
        """Share the gradients of a `GraphModule`, which is on the worker's device.

        Args:
            loss_settings: the keyword arguments of `loss.loss_gradient`.
            sync_batch_norm: whether BatchNorm normalises by the joint batch instead.
        """
        self._module, self._workers, self._loss_settings = module, workers, loss_settings
        self._shared = workers.share_gradients(module)
        self._is_averaged = True
        for layer in module.modules():
            if isinstance(layer, BatchNorm):
                layer.is_joint = sync_batch_norm and workers.size > 1
        self._gradients_of, self._probabilities_of = self._gradients, self._probabilities
        if workers.size == 1:  # what waits for other processes is not recorded
            self._gradients_of = recorded(self._gradients, workers.device)
            self._probabilities_of = recorded(self._probabilities, workers.device)

    def forward_backward(self, batch):
        """Compute the gradients of a batch, summed over its images.

        Returns:
            `(probabilities, gradients)`: of this process's part; of each parameter that requires
            one, the mean over all processes. The next call may overwrite them.
        """
        self._is_averaged = False
        self._module.train()
        device = self._workers.device
        with self._workers.until_ended():
            return self._gradients_of(copy_to(batch.images, device), copy_to(batch.targets, device))

    def _gradients(self, images, truth):
        logits = self._shared(images)
        probabilities = torch.softmax(logits.detach(), 1)
        # The gradient of this number is the loss's. Where `backward` is given a gradient, it
        # imports sympy first, which takes half a second.
        loss = (logits * loss_gradient(probabilities, truth, **self._loss_settings)).sum()
        try:
            loss.backward()
        except RuntimeError:  # too little memory to record: nothing may be left to add to
            self._module.zero_grad(set_to_none=True)
            raise
        return probabilities, _take_gradients(self._module)

    def forward(self, batch):
        """Return the probabilities of this process's part of a batch."""
        self.statistics()
        self._module.eval()
        with torch.inference_mode():
            return self._probabilities_of(copy_to(batch.images, self._workers.device))

    def _probabilities(self, images):
        return torch.softmax(self._module(images), 1)

    @torch.no_grad()
    def statistics(self):
        """Return `{name: tensor}` of BatchNorm's statistics, after averaging them."""
        if not self._is_averaged:
            self._workers.average(list(self._module.stats.values()))
            self._is_averaged = True
        return self._module.stats


def _take_gradients(module):
    """Return the gradients of a module, and leave it without any."""
    gradients = []
    for param in module.params.values():
        if param.requires_grad:
            gradients.append(torch.zeros_like(param) if param.grad is None else param.grad)
            param.grad = None
    return gradients
