"""MXNet's optimizers, and AdamW, by their rules, on lists of tensors that are updated together.

A rule holds its settings, with MXNet's defaults, and is called with what one update has in common
(`Step`), the weights, their gradients, which it may overwrite, and the arrays that it keeps for
each weight (`slots` of them). Its docstring says what an update does.
"""

import dataclasses
import math
from dataclasses import dataclass

from common.engines.torch.runtime import torch
from common.engines.torch.tensor_lists import blend, blend_squares, norms, root, scale


@dataclass(frozen=True)
class Step:
    """What the weights of one update have in common.

    Attributes:
        rate: the learning rate; a rate of 0 may still move a weight (`AdaDelta`).
        decay: the weight decay.
        count: the number of this update; the first one is 1.
        clip: bound of the gradients' elements; None: no bound.
        is_scaled: whether `LARS` scales the rate.
    """

    rate: float
    decay: float
    count: int
    clip: float = None
    is_scaled: bool = False


def _clip(step, gradients):
    if step.clip:
        torch._foreach_clamp_min_(gradients, -step.clip)
        torch._foreach_clamp_max_(gradients, step.clip)


def _decay(step, weights, gradients):
    if step.decay:
        torch._foreach_add_(gradients, weights, alpha=step.decay)


def _clip_and_decay(step, weights, gradients):
    _clip(step, gradients)
    _decay(step, weights, gradients)


def _decay_and_clip(step, weights, gradients):
    _decay(step, weights, gradients)
    _clip(step, gradients)


@dataclass
class SGD:
    """velocity = momentum * velocity - rate * gradient; weight += velocity."""

    momentum: float = 0.0

    @property
    def slots(self):
        return int(self.momentum > 0)

    def __call__(self, step, weights, gradients, velocities=None):
        _clip_and_decay(step, weights, gradients)
        if velocities is None:
            torch._foreach_add_(weights, gradients, alpha=-step.rate)
            return
        torch._foreach_mul_(velocities, self.momentum)
        torch._foreach_add_(velocities, gradients, alpha=-step.rate)
        torch._foreach_add_(weights, velocities)


@dataclass
class PlainSGD(SGD):
    """MXNet's ccsgd, whose momentum cannot be set."""

    momentum: float = dataclasses.field(default=0.0, init=False)


@dataclass
class NAG(SGD):
    """As SGD, and weight += momentum * velocity - rate * gradient.

    In MXNet the velocity gets the decay of the weight as it is after the update.
    """

    def __call__(self, step, weights, gradients, velocities=None):
        if velocities is None:
            super().__call__(step, weights, gradients)
            return
        _clip(step, gradients)
        slopes = torch._foreach_add(gradients, weights, alpha=step.decay)
        torch._foreach_mul_(velocities, self.momentum)
        torch._foreach_add_(weights, velocities, alpha=self.momentum)
        torch._foreach_add_(weights, slopes, alpha=-step.rate * (1 + self.momentum))
        _decay(step, weights, gradients)
        torch._foreach_add_(velocities, gradients, alpha=-step.rate)


@dataclass
class LARS(SGD):
    """As SGD with rate * eta * |weight| / (|gradient| + decay * |weight| + eps)."""

    eta: float = 0.001
    eps: float = 0.0

    def __call__(self, step, weights, gradients, velocities=None):
        if step.is_scaled:
            sizes, slopes = norms(weights), norms(gradients)
            _clip_and_decay(step, weights, gradients)
            factors = self.eta * sizes / (slopes + step.decay * sizes + self.eps)
            scale(gradients, factors, sizes, slopes)
            step = dataclasses.replace(step, decay=0.0, clip=None)
        super().__call__(step, weights, gradients, velocities)


@dataclass
class DCASGD:
    """weight -= rate * (gradient + decay * weight + lamda * gradient^2 * (weight - previous))."""

    lamda: float = 0.04
    slots = 1

    def __call__(self, step, weights, gradients, previous):
        _clip(step, gradients)
        torch._foreach_neg_(previous)
        torch._foreach_add_(previous, weights)
        torch._foreach_mul_(previous, gradients)
        changes = torch._foreach_addcmul(gradients, previous, gradients, self.lamda)
        _decay(step, weights, changes)
        torch._foreach_copy_(previous, weights)
        torch._foreach_add_(weights, changes, alpha=-step.rate)


@dataclass
class SGLD:
    """weight += noise of the variance `rate` - rate / 2 * gradient."""

    slots = 0

    def __call__(self, step, weights, gradients):
        _clip_and_decay(step, weights, gradients)
        noise = [torch.randn_like(weight) for weight in weights]
        torch._foreach_add_(weights, gradients, alpha=-step.rate / 2)
        torch._foreach_add_(weights, noise, alpha=math.sqrt(step.rate))


@dataclass
class Signum:
    """velocity = momentum * velocity - (1 - momentum) * gradient; weight += rate * its sign.

    Without momentum the decay stays out of the sign: weight -= rate * (decay * weight + sign).
    With momentum `wd_lh` is a second weight decay of this kind.
    """

    momentum: float = 0.9
    wd_lh: float = 0.0

    @property
    def slots(self):
        return int(self.momentum > 0)

    def __call__(self, step, weights, gradients, velocities=None):
        _clip(step, gradients)
        decay = step.decay
        if velocities is not None:
            _decay(step, weights, gradients)
            blend(velocities, torch._foreach_neg(gradients), self.momentum)
            gradients = torch._foreach_neg(velocities)
            decay = self.wd_lh
        torch._foreach_mul_(weights, 1 - step.rate * decay)
        torch._foreach_add_(weights, torch._foreach_sign(gradients), alpha=-step.rate)


@dataclass
class Adam:
    """weight -= rate * sqrt(1 - beta2^t) / (1 - beta1^t) * mean / (sqrt(variance) + epsilon)."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    slots = 2

    def __call__(self, step, weights, gradients, means, variances):
        _decay_and_clip(step, weights, gradients)
        blend(means, gradients, self.beta1)
        blend_squares(variances, gradients, self.beta2)
        rate = step.rate * math.sqrt(1 - self.beta2**step.count) / (1 - self.beta1**step.count)
        torch._foreach_addcdiv_(weights, means, root(variances, outside=self.epsilon), -rate)


@dataclass
class AdamW:
    """weight -= rate * (decay * weight + corrected mean / (sqrt(corrected variance) + epsilon)).

    Loshchilov and Hutter 2019 (arXiv:1711.05101), as PyTorch has it; MXNet has none.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    slots = 2

    def __call__(self, step, weights, gradients, means, variances):
        _clip(step, gradients)
        torch._foreach_mul_(weights, 1 - step.rate * step.decay)
        blend(means, gradients, self.beta1)
        blend_squares(variances, gradients, self.beta2)
        corrected = torch._foreach_div(variances, 1 - self.beta2**step.count)
        roots = root(corrected, outside=self.epsilon)
        rate = step.rate / (1 - self.beta1**step.count)
        torch._foreach_addcdiv_(weights, means, roots, -rate)


@dataclass
class Adamax:
    """weight -= rate / (1 - beta1^t) * mean / the largest gradient of late."""

    beta1: float = 0.9
    beta2: float = 0.999
    slots = 2

    def __call__(self, step, weights, gradients, means, largest):
        _decay_and_clip(step, weights, gradients)
        blend(means, gradients, self.beta1)
        torch._foreach_mul_(largest, self.beta2)
        torch._foreach_maximum_(largest, torch._foreach_abs(gradients))
        rate = step.rate / (1 - self.beta1**step.count)
        # MXNet divides 0 by 0 where there was no gradient yet.
        torch._foreach_addcdiv_(weights, means, torch._foreach_add(largest, 1e-37), -rate)


@dataclass
class Nadam:
    """Adam with Nesterov's momentum, which grows by a schedule.

    In MXNet one number, `m_schedule`, goes on with every weight: weights are updated one by one.
    """

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-8
    schedule_decay: float = 0.004
    m_schedule: float = dataclasses.field(default=1.0, init=False)
    slots = 2

    def _momentum(self, count):
        return self.beta1 * (1 - 0.5 * 0.96 ** (count * self.schedule_decay))

    def __call__(self, step, weights, gradients, means, variances):
        _decay_and_clip(step, weights, gradients)
        now, after = self._momentum(step.count), self._momentum(step.count + 1)
        self.m_schedule *= now
        blend(means, gradients, self.beta1)
        blend_squares(variances, gradients, self.beta2)
        torch._foreach_mul_(gradients, (1 - now) / (1 - self.m_schedule))
        torch._foreach_add_(gradients, means, alpha=after / (1 - self.m_schedule * after))
        corrected = torch._foreach_div(variances, 1 - self.beta2**step.count)
        roots = root(corrected, outside=self.epsilon)
        torch._foreach_addcdiv_(weights, gradients, roots, -step.rate)


@dataclass
class LAMB:
    """Adam's step, of the size of the weights: weight -= rate * |weight| / |step| * step."""

    beta1: float = 0.9
    beta2: float = 0.999
    epsilon: float = 1e-6
    bias_correction: bool = True
    slots = 2

    def __call__(self, step, weights, gradients, means, variances):
        _clip(step, gradients)
        blend(means, gradients, self.beta1)
        blend_squares(variances, gradients, self.beta2)
        of_means = of_variances = 1.0
        if self.bias_correction:
            of_means, of_variances = 1 - self.beta1**step.count, 1 - self.beta2**step.count
        roots = root(torch._foreach_div(variances, of_variances), outside=self.epsilon)
        changes = torch._foreach_div(means, of_means)
        torch._foreach_div_(changes, roots)
        _decay(step, weights, changes)
        sizes, lengths = norms(weights), norms(changes)
        scale(changes, sizes / lengths, sizes, lengths)
        torch._foreach_add_(weights, changes, alpha=-step.rate)


@dataclass
class RMSProp:
    """weight -= rate * gradient / sqrt(mean square + epsilon); centered: with momentum `gamma2`."""

    gamma1: float = 0.9
    gamma2: float = 0.9
    epsilon: float = 1e-8
    centered: bool = False

    @property
    def slots(self):
        return 3 if self.centered else 1

    def __call__(self, step, weights, gradients, squares, means=None, velocities=None):
        _decay_and_clip(step, weights, gradients)
        blend_squares(squares, gradients, self.gamma1)
        if not self.centered:
            roots = root(squares, inside=self.epsilon)
            torch._foreach_addcdiv_(weights, gradients, roots, -step.rate)
            return
        blend(means, gradients, self.gamma1)
        variances = torch._foreach_addcmul(squares, means, means, -1)
        torch._foreach_mul_(velocities, self.gamma2)
        roots = root(variances, inside=self.epsilon)
        torch._foreach_addcdiv_(velocities, gradients, roots, -step.rate)
        torch._foreach_add_(weights, velocities)


@dataclass
class AdaGrad:
    """weight -= rate * (gradient / sqrt(sum of squares + eps) + decay * weight)."""

    eps: float = 1e-7
    slots = 1

    def __call__(self, step, weights, gradients, sums):
        _clip(step, gradients)
        torch._foreach_addcmul_(sums, gradients, gradients)
        torch._foreach_div_(gradients, root(sums, inside=self.eps))
        _decay(step, weights, gradients)
        torch._foreach_add_(weights, gradients, alpha=-step.rate)


@dataclass
class AdaDelta:
    """weight -= gradient * sqrt(changes + epsilon) / sqrt(squares + epsilon); without a rate."""

    rho: float = 0.9
    epsilon: float = 1e-5
    slots = 2

    def __call__(self, step, weights, gradients, squares, changes):
        _clip(step, gradients)
        blend_squares(squares, gradients, self.rho)
        torch._foreach_mul_(gradients, root(changes, inside=self.epsilon))
        torch._foreach_div_(gradients, root(squares, inside=self.epsilon))
        blend_squares(changes, gradients, self.rho)
        _decay(step, weights, gradients)
        torch._foreach_sub_(weights, gradients)


@dataclass
class Ftrl:
    """Follow the regularized leader (McMahan et al. 2013): small weights become 0."""

    lamda1: float = 0.01
    beta: float = 1.0
    slots = 2

    def __call__(self, step, weights, gradients, sums, squares):
        if not step.rate:
            return  # the rule divides by it
        _clip(step, gradients)
        before = root(squares)
        torch._foreach_addcmul_(squares, gradients, gradients)
        roots = root(squares)
        torch._foreach_add_(sums, gradients)
        torch._foreach_sub_(before, roots)
        torch._foreach_addcmul_(sums, before, weights, 1 / step.rate)
        for weight, z, r in zip(weights, sums, roots):
            shrunk = torch.nn.functional.softshrink(z, self.lamda1)
            weight.copy_(-shrunk / ((self.beta + r) / step.rate + step.decay))


@dataclass
class FTML:
    """Follow the moving leader (Zheng and Kwok 2017): weight = -leader / distance."""

    beta1: float = 0.6
    beta2: float = 0.999
    epsilon: float = 1e-8
    slots = 3

    def __call__(self, step, weights, gradients, distances, variances, leaders):
        if not step.rate:
            return  # the rule divides by it
        _decay_and_clip(step, weights, gradients)
        blend_squares(variances, gradients, self.beta2)
        corrected = torch._foreach_div(variances, 1 - self.beta2**step.count)
        now = root(corrected, outside=self.epsilon)
        torch._foreach_mul_(now, (1 - self.beta1**step.count) / step.rate)
        torch._foreach_mul_(distances, self.beta1)
        torch._foreach_sub_(distances, now)  # from here on the change, with the other sign
        blend(leaders, gradients, self.beta1)
        torch._foreach_addcmul_(leaders, distances, weights)
        torch._foreach_copy_(distances, now)
        torch._foreach_copy_(weights, torch._foreach_neg(torch._foreach_div(leaders, now)))
