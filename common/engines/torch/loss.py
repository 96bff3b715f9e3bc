"""The loss that training lowers, as MXNet's SoftmaxOutput has it: by its gradient."""

from common.engines.torch.runtime import torch


def loss_gradient(
    probabilities, labels, grad_scale=1.0, smooth_alpha=0.0, is_mean=False, logit_adjustment=None
):
    """Return the gradient of the cross-entropy with respect to the logits.

    Args:
        probabilities: `(N, num_classes)`, float32.
        labels: `(N,)`, the numbers of the classes; or soft labels, `(N, num_classes)`, which are
            taken as they are, without `smooth_alpha`.
        grad_scale: factor of the gradient.
        smooth_alpha: share of the truth that the other classes get together.
        is_mean: whether the loss is the mean over the images instead of their sum.
        logit_adjustment: `(num_classes,)`, added to the logits before the softmax of the loss.
    """
    if logit_adjustment is not None:
        adjustment = logit_adjustment.to(probabilities.device)
        probabilities = torch.softmax(probabilities.log() + adjustment, 1)
    truth = labels
    if labels.dim() == 1:
        others = smooth_alpha / max(1, probabilities.shape[1] - 1)
        truth = torch.full_like(probabilities, others)
        truth.scatter_(1, labels.long()[:, None], 1 - smooth_alpha)
    count = len(labels) if is_mean else 1
    return (probabilities - truth) * (grad_scale / count)
