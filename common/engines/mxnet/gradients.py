"""The gradients of an update: of one batch or of several, and no larger than they may be.

Nothing here waits: MXNet's engine knows of every read and write of a gradient.
"""

from common.engines.mxnet.runtime import mx


class Gradients:
    """The gradients of a bound Module, on each of its devices."""

    def __init__(self, module, scale, clip_norm=0.0):
        """Begin without any.

        Args:
            scale: what the optimizer multiplies them with.
            clip_norm: bound of the norm of all gradients together (Pascanu et al. 2013), summed
                over the devices and scaled; 0: none.
        """
        # Of each parameter that is trained, a list of one array for each device.
        arrays = module._exec_group.grad_arrays
        self._arrays = [copies for copies in arrays if copies[0] is not None]
        self._scale, self._clip_norm = scale, clip_norm
        self._sums, self._batches = None, 0

    def keep(self):
        """Keep the gradients of this batch for the update of a later one."""
        self._batches += 1
        if self._sums is None:
            self._sums = [[array.copy() for array in copies] for copies in self._arrays]
            return
        for sums, arrays in zip(self._sums, self._arrays):
            for total, array in zip(sums, arrays):
                total += array

    def complete(self):
        """Turn the gradients of this batch into the mean with those that were kept; clip it."""
        if self._sums is not None:
            for sums, arrays in zip(self._sums, self._arrays):
                for total, array in zip(sums, arrays):
                    array += total
                    array /= self._batches + 1
            self._sums, self._batches = None, 0
        if self._clip_norm:
            self._clip()

    def _clip(self):
        first = self._arrays[0][0].context
        squares = []
        for copies in self._arrays:
            total = sum(copy.as_in_context(first).astype("float32") for copy in copies)
            squares.append(mx.nd.sum(mx.nd.square(total * self._scale)))
        norm = mx.nd.sqrt(mx.nd.add_n(*squares))
        factor = mx.nd.minimum(self._clip_norm / (norm + 1e-6), 1)
        for copies in self._arrays:
            for array in copies:
                array *= factor.as_in_context(array.context).astype(array.dtype)
