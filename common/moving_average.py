"""An exponential moving average of the weights (Polyak and Juditsky 1992; as timm keeps one)."""

from common.files import UserError


class MovingAverage:
    """The second set of weights: `average = decay * average + (1 - decay) * weight` every batch.

    Moving means and variances of BatchNorm are averages already and are taken as they are when the
    average is saved; to read them in every batch would make the devices wait (see trainer.py).
    """

    def __init__(self, decay, weights):
        """Start from `{name: NDArray}`, on the devices where they live."""
        if not 0 < decay < 1:
            raise UserError(f"--ema {decay}: the decay must lie between 0 and 1, as 0.999")
        self.decay = decay
        self.weights = {name: array.astype("float32").copy() for name, array in weights.items()}

    def update(self, weights):
        """Take the weights of one more batch into the average."""
        for name, average in self.weights.items():
            average *= self.decay
            average += (1 - self.decay) * weights[name].astype("float32")

    def restore(self, arg_params, path):
        """Go on from a saved average."""
        for name, average in self.weights.items():
            if name not in arg_params or arg_params[name].shape != average.shape:
                raise UserError(f"{path}: has no average of {name}; it is of another network")
            arg_params[name].copyto(average)
