"""The gradients of an update: of one batch or of several, and no larger than they may be."""

from common.engines.torch.runtime import torch
from common.engines.torch.tensor_lists import norms


class Gradients:
    """The sum of the gradients since the last update."""

    def __init__(self, scale, clip_norm=0.0):
        """Begin without any.

        Args:
            scale: factor of each batch's gradients.
            clip_norm: bound of the norm of all gradients together (Pascanu et al. 2013); 0: none.
        """
        self._scale, self._clip_norm = scale, clip_norm
        self._sums, self._batches = None, 0

    def add(self, gradients):
        """Add those of one more batch, a list of tensors, which are overwritten."""
        self._batches += 1
        if self._sums is None:
            self._sums = gradients
        else:
            torch._foreach_add_(self._sums, gradients)

    def take(self):
        """Return the mean over the batches, scaled and clipped, and begin anew."""
        gradients = self._sums
        torch._foreach_mul_(gradients, self._scale / self._batches)
        if self._clip_norm:
            norm = torch.linalg.vector_norm(norms(gradients))
            torch._foreach_mul_(gradients, (self._clip_norm / (norm + 1e-6)).clamp(max=1))
        self._sums, self._batches = None, 0
        return gradients
