"""An exponential moving average of the weights (Polyak and Juditsky 1992; as timm keeps one)."""

from common.base.files import UserError
from common.engines.torch.runtime import torch
from common.engines.torch.tensor_lists import blend


class MovingAverage:
    """The second set of weights: `average = decay * average + (1 - decay) * weight` every batch.

    Moving means and variances of BatchNorm are averages already and are taken as they are.
    """

    def __init__(self, decay, weights):
        """Start from `{name: tensor}`, on the device where they live."""
        self.decay = decay
        self.weights = {name: array.detach().clone() for name, array in weights.items()}

    @torch.no_grad()
    def update(self, weights):
        """Take the weights of one more batch into the average."""
        averages = list(self.weights.values())
        blend(averages, [weights[n] for n in self.weights], self.decay)

    @torch.no_grad()
    def restore(self, saved):
        """Go on from a saved average, `{name: numpy array}`."""
        for name, average in self.weights.items():
            if name not in saved or saved[name].shape != tuple(average.shape):
                raise UserError(f"has no average of {name}; it is of another network")
            average.copy_(torch.tensor(saved[name]))
