"""PyTorch's ResNets and EfficientNet-Lite0 as MXNet's own symbols.

The tests compare bytes, as with `mxnet_peer.py`.
"""

import numpy as np

from common.engines.mxnet.runtime import mx
from common.networks.torch_networks import (
    _LITE0_STAGES,
    IMAGENET_MEAN,
    IMAGENET_STD,
    LITE0_VARIANTS,
    _rename_timm,
)


def build(state, lite0_variant=None):
    if "conv_stem.weight" in state:
        layers = _Layers(_rename_timm(state))
        network = _efficientnet_lite0(layers, LITE0_VARIANTS[lite0_variant])
    elif "_conv_stem.weight" in state:
        layers = _Layers(state)
        network = _efficientnet_lite0(layers, LITE0_VARIANTS["efficientnet-lite0"])
    else:
        layers = _Layers(state)
        network = _resnet(layers)
    if "fc1_weight" in layers.arg_params:
        network = mx.sym.SoftmaxOutput(network, name="softmax")
    return network, layers.arg_params, layers.aux_params


def normalised_data(mean, std):
    eps = 2e-5
    data = mx.sym.Cast(mx.sym.Variable("data"), dtype="float32", name="data_float32")
    gamma, beta = (
        mx.sym.Variable(f"bn_data_{name}", lr_mult=0, wd_mult=0) for name in ("gamma", "beta")
    )
    symbol = mx.sym.BatchNorm(
        data, gamma, beta, eps=eps, fix_gamma=True, use_global_stats=True, name="bn_data"
    )
    arg_params = {"bn_data_gamma": np.ones(3), "bn_data_beta": np.zeros(3)}
    aux_params = {
        "bn_data_moving_mean": np.array(mean),
        "bn_data_moving_var": np.array(std, np.float64) ** 2 - eps,
    }
    arg_params, aux_params = (
        {name: array.astype(np.float32) for name, array in params.items()}
        for params in (arg_params, aux_params)
    )
    return symbol, arg_params, aux_params


class _Layers:
    def __init__(self, state):
        self._left = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        self.arg_params, self.aux_params = {}, {}

    def take(self, key):
        return self._left.pop(key)

    def normalised_data(self, mean, std):
        data, arg_params, aux_params = normalised_data(mean, std)
        self.arg_params.update(arg_params)
        self.aux_params.update(aux_params)
        return data

    def __contains__(self, key):
        return key in self._left

    def kernel_size(self, key):
        return self._left[f"{key}.weight"].shape[-1] if f"{key}.weight" in self._left else 1

    def conv(self, x, key, name, stride=1, pad=None, grouped=False):
        weight = self.arg_params[f"{name}_weight"] = self.take(f"{key}.weight")
        kernel = weight.shape[2:]
        return mx.sym.Convolution(
            x,
            num_filter=weight.shape[0],
            kernel=kernel,
            stride=(stride, stride),
            pad=tuple(k // 2 for k in kernel) if pad is None else pad,
            num_group=weight.shape[0] // weight.shape[1] if grouped else 1,
            no_bias=True,
            name=name,
        )

    def batch_norm(self, x, key, name, eps):
        self.arg_params[f"{name}_gamma"] = self.take(f"{key}.weight")
        self.arg_params[f"{name}_beta"] = self.take(f"{key}.bias")
        self.aux_params[f"{name}_moving_mean"] = self.take(f"{key}.running_mean")
        self.aux_params[f"{name}_moving_var"] = self.take(f"{key}.running_var")
        return mx.sym.BatchNorm(x, eps=eps, momentum=0.9, fix_gamma=False, name=name)

    def head(self, x, key):
        x = mx.sym.Pooling(x, global_pool=True, pool_type="avg", kernel=(1, 1), name="pool1")
        x = mx.sym.Flatten(x, name="flatten0")
        if f"{key}.weight" not in self:
            return x
        weight = self.arg_params["fc1_weight"] = self.take(f"{key}.weight")
        self.arg_params["fc1_bias"] = self.take(f"{key}.bias")
        return mx.sym.FullyConnected(x, num_hidden=weight.shape[0], name="fc1")


def _efficientnet_lite0(layers, variant):
    def norm(x, key, name, relu=None):
        x = layers.batch_norm(x, key, name, variant.eps)
        return x if relu is None else mx.sym.clip(x, a_min=0, a_max=6, name=relu)

    def strided_conv(x, key, name, stride, grouped=False):
        if stride == 2 and variant.same_padding:
            return _same_conv(layers, x, key, name, grouped)
        return layers.conv(x, key, name, stride, grouped=grouped)

    x = layers.normalised_data(variant.mean, variant.std)
    x = norm(strided_conv(x, "_conv_stem", "stem_conv", 2), "_bn0", "stem_bn", relu="stem_relu")
    index = 0
    for stage_stride, num_blocks in _LITE0_STAGES:
        for block in range(num_blocks):
            key, name, block_input = f"_blocks.{index}", f"block{index}", x
            if index > 0:
                x = layers.conv(x, f"{key}._expand_conv", f"{name}_expand_conv")
                x = norm(x, f"{key}._bn0", f"{name}_bn0", relu=f"{name}_relu0")
            stride = stage_stride if block == 0 else 1
            conv = "depthwise_conv"
            x = strided_conv(x, f"{key}._{conv}", f"{name}_{conv}", stride, grouped=True)
            x = norm(x, f"{key}._bn1", f"{name}_bn1", relu=f"{name}_relu1")
            x = layers.conv(x, f"{key}._project_conv", f"{name}_project_conv")
            x = norm(x, f"{key}._bn2", f"{name}_bn2")
            if block > 0:
                x = mx.sym.elemwise_add(block_input, x, name=f"{name}_add")
            index += 1
    x = layers.conv(x, "_conv_head", "head_conv")
    x = norm(x, "_bn1", "head_bn", relu="head_relu")
    return layers.head(x, "_fc")


def _same_conv(layers, x, key, name, grouped):
    after = layers.kernel_size(key) // 2
    before = after - 1
    x = mx.sym.pad(
        x,
        mode="constant",
        constant_value=0,
        pad_width=(0, 0, 0, 0, before, after, before, after),
        name=f"{name}_pad",
    )
    return layers.conv(x, key, name, stride=2, pad=(0, 0), grouped=grouped)


def _resnet(layers):
    def norm(x, key, name, relu=None):
        x = layers.batch_norm(x, key, name, eps=1e-5)
        return x if relu is None else mx.sym.Activation(x, act_type="relu", name=relu)

    x = layers.normalised_data(IMAGENET_MEAN, IMAGENET_STD)
    x = norm(layers.conv(x, "conv1", "conv0", stride=2), "bn1", "bn0", relu="relu0")
    x = mx.sym.Pooling(x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max", name="pool0")
    for stage in range(1, 5):
        unit = 0
        while f"layer{stage}.{unit}.conv1.weight" in layers:
            key, name = f"layer{stage}.{unit}", f"stage{stage}_unit{unit + 1}"
            stride = 2 if stage > 1 and unit == 0 else 1
            shortcut = x
            if f"{key}.downsample.0.weight" in layers:
                shortcut = layers.conv(x, f"{key}.downsample.0", f"{name}_sc", stride)
                shortcut = norm(shortcut, f"{key}.downsample.1", f"{name}_sc_bn")
            num_convs = 3 if f"{key}.conv3.weight" in layers else 2
            for i in range(1, num_convs + 1):
                is_middle = i == num_convs - 1
                x = layers.conv(
                    x,
                    f"{key}.conv{i}",
                    f"{name}_conv{i}",
                    stride=stride if is_middle else 1,
                    grouped=is_middle and num_convs == 3,
                )
                relu = f"{name}_relu{i}" if i < num_convs else None
                x = norm(x, f"{key}.bn{i}", f"{name}_bn{i}", relu)
            x = mx.sym.elemwise_add(x, shortcut, name=f"{name}_add")
            x = mx.sym.Activation(x, act_type="relu", name=f"{name}_relu")
            unit += 1
    return layers.head(x, "fc")
