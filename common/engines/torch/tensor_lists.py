"""Arithmetic on lists of tensors, which PyTorch computes together."""

from common.engines.torch.runtime import torch


def blend(averages, values, share):
    """average = share * average + (1 - share) * value."""
    torch._foreach_lerp_(averages, values, 1 - share)


def blend_squares(averages, values, share):
    """average = share * average + (1 - share) * value ** 2."""
    torch._foreach_mul_(averages, share)
    torch._foreach_addcmul_(averages, values, values, 1 - share)


def root(arrays, inside=0.0, outside=0.0):
    """Return sqrt(array + inside) + outside."""
    roots = torch._foreach_add(arrays, inside)
    torch._foreach_sqrt_(roots)
    if outside:
        torch._foreach_add_(roots, outside)
    return roots


def norms(arrays):
    """Return the norms of the arrays, as one vector."""
    return torch.stack(torch._foreach_norm(arrays))


def scale(arrays, factors, sizes, others):
    """Multiply each array with its factor, where neither of its two sizes is 0."""
    factors = torch.where((sizes > 0) & (others > 0), factors, torch.ones_like(factors))
    torch._foreach_mul_(arrays, factors.unbind())
