"""The layers of image networks, as MXNet means them: functions of tensors, made from attributes."""

import math

from common.engines.torch import convolutions, joint_batch_norm, pooling
from common.engines.torch.runtime import torch

F = torch.nn.functional
_CONVOLUTIONS = {1: F.conv1d, 2: F.conv2d, 3: F.conv3d}
_TRANSPOSED = {1: F.conv_transpose1d, 2: F.conv_transpose2d, 3: F.conv_transpose3d}
_CHANNELS_FIRST = (None, "NCW", "NCHW", "NCDHW")


def windows(attrs):
    """Return kernel, stride, dilation and padding of a convolution."""
    attrs.require("layout", *_CHANNELS_FIRST)
    kernel = attrs.integers("kernel")
    ones = (1,) * len(kernel)
    return (
        kernel,
        attrs.integers("stride") or ones,
        attrs.integers("dilate") or ones,
        attrs.integers("pad") or (0,) * len(kernel),
    )


def _convolution(attrs):
    kernel, stride, dilation, padding = windows(attrs)
    convolve, groups = _CONVOLUTIONS[len(kernel)], attrs.integer("num_group", 1)
    picks_pixels = {*kernel} == {1} and not any(padding)
    picked = (slice(None), slice(None), *(slice(None, None, step) for step in stride))

    def compute(x, weight, bias=None):
        if picks_pixels and convolutions.has_fault(x.shape[1], stride):
            return convolve(x[picked], weight, bias, 1, 0, 1, groups)
        return convolve(x, weight, bias, stride, padding, dilation, groups)

    return compute


def _deconvolution(attrs):
    kernel, stride, dilation, padding = windows(attrs)
    convolve, groups = _TRANSPOSED[len(kernel)], attrs.integer("num_group", 1)
    if any(attrs.integers("target_shape")):
        raise ValueError("a target_shape")
    extra = attrs.integers("adj") or (0,) * len(kernel)

    def compute(x, weight, bias=None):
        return convolve(x, weight, bias, stride, padding, extra, groups, dilation)

    return compute


def _fully_connected(attrs):
    flatten = attrs.flag("flatten", True)

    def compute(x, weight, bias=None):
        return F.linear(x.flatten(1) if flatten else x, weight, bias)

    return compute


# --- Normalisation -------------------------------------------------------------------------------


class BatchNorm(torch.nn.Module):
    """Over all but one axis, with running statistics that a training pass moves.

    The variance that goes into `moving_var` is MXNet's: on a CPU the biased one, on a GPU cuDNN's,
    which is the unbiased one.

    Attributes:
        is_joint: whether training normalises by the batch of all processes together.
    """

    is_joint = False

    def __init__(self, attrs, relu=False):
        super().__init__()
        self.eps = attrs.number("eps", 1e-3)
        self.momentum = attrs.number("momentum", 0.9)
        self.has_gamma = not attrs.flag("fix_gamma", True)
        self.keeps_stats = attrs.flag("use_global_stats")
        self.axis = attrs.integer("axis", 1)
        self.relu = relu
        if attrs.flag("output_mean_var"):
            raise ValueError("output_mean_var=True")

    def forward(self, x, gamma, beta, mean, var):
        """Normalise, and in training move `mean` and `var` towards the batch's."""
        channels = x if self.axis == 1 else x.transpose(1, self.axis)
        if not self.has_gamma:
            # Without a gamma, CUDA's backward pass gives no gradient of beta.
            gamma = None if x.device.type == "cpu" else torch.ones_like(gamma)
        if self.training and not self.keeps_stats:
            y = self._normalise_batch(channels, gamma, beta, mean, var)
        else:
            y = torch.batch_norm(
                channels, gamma, beta, mean, var, False, 0.0, self.eps, torch.backends.cudnn.enabled
            )
        y = torch.relu(y) if self.relu else y
        return y if self.axis == 1 else y.transpose(1, self.axis)

    def _normalise_batch(self, x, gamma, beta, mean, var):
        if self.is_joint:
            y, batch_mean, batch_var = joint_batch_norm.normalise(x, gamma, beta, self.eps)
            self._move(mean, var, batch_mean, batch_var)
            return y
        count, cudnn = x.numel() // x.shape[1], torch.backends.cudnn.enabled
        if x.is_cuda and count > 1:  # one kernel, where the lines below start seven
            share = 1 - self.momentum
            return torch.batch_norm(x, gamma, beta, mean, var, True, share, self.eps, cudnn)
        batch_mean, batch_var = torch.zeros_like(mean), torch.zeros_like(var)
        y = torch.batch_norm(x, gamma, beta, batch_mean, batch_var, True, 1.0, self.eps, cudnn)
        if count == 1:  # the unbiased variance of one number is not a number
            batch_var = torch.zeros_like(batch_var)  # the backward pass needs the other one
        self._move(mean, var, batch_mean, batch_var, (count - 1) / count)
        return y

    @torch.no_grad()
    def _move(self, mean, var, batch_mean, batch_var, bias=1.0):
        share = 1 - self.momentum
        mean.mul_(self.momentum).add_(batch_mean, alpha=share)
        var.mul_(self.momentum).add_(batch_var, alpha=share * bias)


def _layer_norm(attrs):
    axis, eps = attrs.integer("axis", -1), attrs.number("eps", 1e-5)

    def compute(x, gamma, beta):
        moved = x.transpose(axis, -1)
        y = F.layer_norm(moved, moved.shape[-1:], gamma, beta, eps)
        return y.transpose(axis, -1)

    return compute


def _instance_norm(attrs):
    eps = attrs.number("eps", 1e-3)
    return lambda x, gamma, beta: F.instance_norm(x, weight=gamma, bias=beta, eps=eps)


def _group_norm(attrs):
    """MXNet 1 has a gamma and a beta for each group, not for each channel."""
    groups, eps = attrs.integer("num_groups", 1), attrs.number("eps", 1e-5)

    def compute(x, gamma, beta):
        repeats = x.shape[1] // len(gamma)
        gamma, beta = (a.repeat_interleave(repeats) for a in (gamma, beta))
        return F.group_norm(x, groups, gamma, beta, eps)

    return compute


def _l2_normalization(attrs):
    mode = attrs.require("mode", "instance", "channel", "spatial", default="instance")
    eps = attrs.number("eps", 1e-10)

    def compute(x):
        axes = {"instance": range(1, x.ndim), "channel": [1], "spatial": range(2, x.ndim)}[mode]
        return x / (x.square().sum(tuple(axes), keepdim=True) + eps).sqrt()

    return compute


def _lrn(attrs):
    size, alpha = attrs.integer("nsize"), attrs.number("alpha", 1e-4)
    beta, k = attrs.number("beta", 0.75), attrs.number("knorm", 2.0)
    return lambda x: F.local_response_norm(x, size, alpha, beta, k)


# --- Activations ---------------------------------------------------------------------------------

_ACTIVATIONS = {
    "relu": torch.relu,
    "sigmoid": torch.sigmoid,
    "log_sigmoid": F.logsigmoid,
    "mish": F.mish,
    "tanh": torch.tanh,
    "softrelu": F.softplus,
    "softsign": F.softsign,
}


def _activation(attrs):
    return _ACTIVATIONS[attrs.require("act_type", *_ACTIVATIONS)]


class _RandomLeakyReLU(torch.nn.Module):
    """The slope is drawn in training, and the mean of its bounds in prediction."""

    def __init__(self, attrs):
        super().__init__()
        self.bounds = attrs.number("lower_bound", 0.125), attrs.number("upper_bound", 0.334)

    def forward(self, x):
        return F.rrelu(x, *self.bounds, training=self.training)


def _prelu(x, gamma):
    return F.prelu(x, gamma.reshape(-1))


def _leaky_relu(attrs):
    kind = attrs.require(
        "act_type", "leaky", "elu", "selu", "gelu", "prelu", "rrelu", default="leaky"
    )
    slope = attrs.number("slope", 0.25)
    if kind == "rrelu":
        return _RandomLeakyReLU(attrs)
    return {
        "leaky": lambda x: F.leaky_relu(x, slope),
        "elu": lambda x: F.elu(x, slope),
        "selu": F.selu,
        "gelu": F.gelu,
        "prelu": _prelu,
    }[kind]


class _Dropout(torch.nn.Module):
    """Drops in training, or always; along `axes` all numbers share one draw."""

    def __init__(self, attrs):
        super().__init__()
        self.share = attrs.number("p", 0.5)
        self.always = attrs.require("mode", "training", "always", default="training") == "always"
        self.axes = attrs.integers("axes")

    def forward(self, x):
        if not (self.training or self.always):
            return x
        if not self.axes:
            return F.dropout(x, self.share)
        shape = [1 if axis in self.axes else size for axis, size in enumerate(x.shape)]
        return x * F.dropout(torch.ones(shape, dtype=x.dtype, device=x.device), self.share)


def _softmax(attrs):
    axis, temperature = attrs.integer("axis", -1), attrs.number("temperature", 1.0)
    if attrs.flag("use_length"):
        raise ValueError("use_length=True")
    return lambda x: torch.softmax(x.float() / temperature, axis)


def _log_softmax(attrs):
    axis, temperature = attrs.integer("axis", -1), attrs.number("temperature", 1.0)
    return lambda x: torch.log_softmax(x.float() / temperature, axis)


def _softmax_activation(attrs):
    """Over the channels of each pixel, or over the numbers of a row.

    Of an instance of several dimensions MXNet's documentation and its CPU code say two things: the
    sum of all numbers is 1, or that of each row along the last axis (measured).
    """
    if attrs.require("mode", "instance", "channel", default="instance") == "channel":
        return lambda x: torch.softmax(x.float(), 1)

    def of_rows(x):
        if x.dim() > 2:
            raise ValueError(
                f"this engine computes no SoftmaxActivation of an instance of {tuple(x.shape[1:])};"
                " use --engine mxnet"
            )
        return torch.softmax(x.float(), 1)

    return of_rows


# --- Size ----------------------------------------------------------------------------------------


def _upsampling(attrs):
    scale = attrs.integer("scale")
    if attrs.integer("num_args", 1) > 1 and attrs.text("sample_type") == "nearest":
        raise ValueError("several inputs")
    if attrs.require("sample_type", "nearest", "bilinear") == "nearest":
        return lambda x: F.interpolate(x, scale_factor=scale, mode="nearest")
    padding = math.ceil((scale - 1) / 2)
    return lambda x, weight: F.conv_transpose2d(x, weight, None, scale, padding, 0, x.shape[1], 1)


OPERATORS = {
    "Activation": _activation,
    "BatchNorm": BatchNorm,
    "BatchNorm_v1": BatchNorm,
    "Convolution": _convolution,
    "Convolution_v1": _convolution,
    "Deconvolution": _deconvolution,
    "Dropout": _Dropout,
    "FullyConnected": _fully_connected,
    "GroupNorm": _group_norm,
    "InstanceNorm": _instance_norm,
    "L2Normalization": _l2_normalization,
    "LRN": _lrn,
    "LayerNorm": _layer_norm,
    "LeakyReLU": _leaky_relu,
    "Pooling": pooling.pooling,
    "SoftmaxActivation": _softmax_activation,
    "UpSampling": _upsampling,
    "_contrib_AdaptiveAvgPooling2D": pooling.adaptive_pooling,
    "_contrib_BatchNormWithReLU": lambda attrs: BatchNorm(attrs, relu=True),
    "_contrib_SyncBatchNorm": BatchNorm,
    "log_softmax": _log_softmax,
    "softmax": _softmax,
}
