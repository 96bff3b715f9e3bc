"""Batch normalisation over the joint batch of several processes (Ioffe and Szegedy 2015)."""

from common.engines.torch.runtime import torch


class _Normalise(torch.autograd.Function):
    """PyTorch's SyncBatchNorm has no code for CPUs."""

    @staticmethod
    def forward(ctx, x, gamma, beta, eps):
        values, axes = x.float(), [0, *range(2, x.ndim)]
        count = values.new_tensor([x.numel() // x.shape[1]])
        sums = _sum_over_all(torch.cat([values.sum(axes), count]))
        total, mean = sums[-1], sums[:-1] / sums[-1]
        centred = values - _by_channel(mean, x)
        # A second sum: a difference of squares would lose what the mean exceeds the deviation by.
        var = _sum_over_all(centred.square().sum(axes)) / total
        scale = (var + eps).rsqrt()
        ctx.save_for_backward(x, gamma, mean, scale, total)
        y = centred * _by_channel(scale if gamma is None else scale * gamma, x)
        ctx.mark_non_differentiable(mean, var)
        return (y + _by_channel(beta, x)).to(x.dtype), mean, var

    @staticmethod
    def backward(ctx, upper, *_):
        x, gamma, mean, scale, total = ctx.saved_tensors
        axes, upper_values = [0, *range(2, x.ndim)], upper.float()
        normal = (x.float() - _by_channel(mean, x)) * _by_channel(scale, x)
        of_beta, of_gamma = upper_values.sum(axes), (upper_values * normal).sum(axes)
        joint_beta, joint_gamma = _sum_over_all(torch.cat([of_beta, of_gamma])).chunk(2)
        of_x = upper_values - _by_channel(joint_beta / total, x)
        of_x -= normal * _by_channel(joint_gamma / total, x)
        of_x *= _by_channel(scale if gamma is None else scale * gamma, x)
        return of_x.to(x.dtype), None if gamma is None else of_gamma, of_beta, None


def normalise(x, gamma, beta, eps):
    """Return x normalised along axis 1, and the mean and the biased variance of all processes.

    The gradients of gamma and beta are those of this process's part.
    """
    return _Normalise.apply(x, gamma, beta, eps)


def _sum_over_all(sums):
    torch.distributed.all_reduce(sums)
    return sums


def _by_channel(vector, x):
    return vector.reshape(1, -1, *[1] * (x.ndim - 2))
