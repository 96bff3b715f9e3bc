"""An exponential moving average of the weights (Polyak and Juditsky 1992; as timm keeps one)."""

from common.base.files import UserError


class MovingAverage:
    """A second set of weights: `average = decay * average + (1 - decay) * weight` every batch.

    Moving means and variances of BatchNorm are averages already, and are saved as they are; to read
    them in every batch would make the devices wait (see trainer.py).
    """

    def __init__(self, decay, weights):
        """Start from `{name: NDArray}`, on the devices of these arrays."""
        self.decay = decay
        self.weights = {name: array.astype("float32").copy() for name, array in weights.items()}

    def update(self, weights):
        """Add the weights after one more batch to the average."""
        for name, average in self.weights.items():
            average *= self.decay
            average += (1 - self.decay) * weights[name].astype("float32")

    def restore(self, saved):
        """Continue from a saved average, `{name: numpy array}`.

        Raises:
            UserError: it is of another network.
        """
        for name, average in self.weights.items():
            if name not in saved or saved[name].shape != average.shape:
                raise UserError(f"has no average of {name}; it is of another network")
            average[:] = saved[name]
