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

    def keep(self, gradients):
        """Keep those of a batch, a list of tensors, for the update of a later one."""
        self._batches += 1
        if self._sums is None:
            # Copies: the next backward pass may use the same memory.
            self._sums = [gradient.clone() for gradient in gradients]
        else:
            torch._foreach_add_(self._sums, gradients)

    def complete(self, gradients):
        """Turn those of a batch into the mean with those that were kept; scale and clip it.

        Returns:
            the same tensors, overwritten.
        """
        if self._sums is not None:
            torch._foreach_add_(gradients, self._sums)
        scale = self._scale / (self._batches + 1)
        if scale != 1:
            torch._foreach_mul_(gradients, scale)
        if self._clip_norm:
            norm = torch.linalg.vector_norm(norms(gradients))
            torch._foreach_mul_(gradients, (self._clip_norm / (norm + 1e-6)).clamp(max=1))
        self._sums, self._batches = None, 0
        return gradients
