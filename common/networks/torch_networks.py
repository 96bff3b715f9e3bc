"""PyTorch's ResNets and EfficientNet-Lite0 in MXNet's operators, with the same weights."""

import dataclasses

import numpy as np

from common.base.files import UserError
from common.networks import Network
from common.networks.graph import Builder
from common.networks.torch_architectures import BY_ONNX

IMAGENET_MEAN = (0.485 * 255, 0.456 * 255, 0.406 * 255)
IMAGENET_STD = (0.229 * 255, 0.224 * 255, 0.225 * 255)

KNOWN_ARCHITECTURES = (
    "ResNet-18/34/50/101/152, ResNeXt-50/101 and Wide-ResNet-50/101 of torchvision and timm,"
    " and EfficientNet-Lite0"
)


# timm's ResNets that blur before they stride: their tensors are those of the plain ones.
ANTI_ALIASED = ("resnetaa", "resnetblur")


@dataclasses.dataclass
class _Lite0:
    """What the weights of an EfficientNet-Lite0 do not show."""

    eps: float
    same_padding: bool  # as TensorFlow pads at stride 2, not as PyTorch
    mean: tuple
    std: tuple


# timm's two have tensors of the same names: one was trained in TensorFlow, one in PyTorch.
LITE0_VARIANTS = {
    "efficientnet-lite0": _Lite0(1e-3, True, (127, 127, 127), (128, 128, 128)),
    "tf_efficientnet_lite0": _Lite0(1e-3, True, (127.5,) * 3, (127.5,) * 3),
    "efficientnet_lite0": _Lite0(1e-5, False, IMAGENET_MEAN, IMAGENET_STD),
}

# Stride and number of blocks of each stage; kernels, channels and expansion are in the weights.
_LITE0_STAGES = ((1, 1), (2, 2), (2, 2), (2, 3), (1, 3), (2, 4), (1, 1))


def build(state, lite0_variant=None):
    """Return the `Network` with the weights of a PyTorch state dict.

    The architecture is read off the tensors' names and shapes. The network is fed raw RGB images,
    `data` (N, 3, H, W), 0 to 255, uint8 or float32, whatever the original expects: its input
    normalisation is the first layer, `bn_data`. It ends in `flatten0`, `fc1` and `softmax`, or in
    `flatten0` if the state dict has no classifier.

    Args:
        state: {name: numpy array}, as from `torch_files.read_state_dict`.
        lite0_variant: a key of `LITE0_VARIANTS`, for timm's EfficientNet-Lite0.

    Raises:
        UserError: the tensors do not belong to an architecture that is known here.
    """
    if "conv_stem.weight" in state:
        if lite0_variant not in ("tf_efficientnet_lite0", "efficientnet_lite0"):
            raise UserError(
                "is an EfficientNet of timm, of which there are two with tensors of the same"
                " names; say which: --variant tf_efficientnet_lite0 or --variant efficientnet_lite0"
            )
        layers = _Layers(_rename_timm(state))
        logits = _efficientnet_lite0(layers, LITE0_VARIANTS[lite0_variant])
    elif "_conv_stem.weight" in state:
        layers = _Layers(state)
        logits = _efficientnet_lite0(layers, LITE0_VARIANTS["efficientnet-lite0"])
    elif "layer1.0.conv1.weight" in state:
        layers = _Layers(state)
        logits = _resnet(layers)
    else:
        raise UserError(
            f"its tensors are not of a network that is known here ({KNOWN_ARCHITECTURES})"
        )
    layers.require_all_used()
    if "fc1_weight" not in layers.params:
        return Network(layers.net.graph(logits), layers.params, layers.stats)
    graph = layers.net.graph(layers.net.add("SoftmaxOutput", "softmax", logits))
    return Network(graph, layers.params, layers.stats, "fc1")


def normalised_data(mean, std):
    """Return the `Network` of `(data - mean) / std`, channel by channel.

    `data` is of any type. A BatchNorm of fixed statistics, the same `bn_data` that the zoo's
    ResNets begin with. No training moves it: `use_global_stats`, and a gamma and beta of learning
    rate 0.
    """
    eps = 2e-5
    net = Builder()
    data = net.add("Cast", "data_float32", net.variable("data"), dtype="float32")
    gamma, beta = (
        net.variable(f"bn_data_{name}", lr_mult=0, wd_mult=0) for name in ("gamma", "beta")
    )
    normalised = net.add(
        "BatchNorm", "bn_data", data, gamma, beta, eps=eps, fix_gamma=True, use_global_stats=True
    )
    params = {"bn_data_gamma": np.ones(3), "bn_data_beta": np.zeros(3)}
    stats = {
        "bn_data_moving_mean": np.array(mean),
        "bn_data_moving_var": np.array(std, np.float64) ** 2 - eps,
    }
    params, stats = (
        {name: array.astype(np.float32) for name, array in arrays.items()}
        for arrays in (params, stats)
    )
    return Network(net.graph(normalised), params, stats)


class _Layers:
    """Adds layers to a graph, each of which takes its weights out of the state dict."""

    def __init__(self, state):
        self._left = {k: v for k, v in state.items() if not k.endswith("num_batches_tracked")}
        self.net, self.params, self.stats = Builder(), {}, {}

    def take(self, key):
        """Return the tensor `key`, which no other layer may take."""
        if key not in self._left:
            raise UserError(f"has no tensor {key} (known: {KNOWN_ARCHITECTURES})")
        return self._left.pop(key)

    def require_all_used(self):
        """Raise UserError if tensors are left: the network is a different one."""
        if self._left:
            names = ", ".join(sorted(self._left)[:3])
            raise UserError(
                f"is a variant with further tensors, {names} ... ({KNOWN_ARCHITECTURES})"
            )

    def normalised_data(self, mean, std):
        """Return the input of the network, normalised."""
        data = normalised_data(mean, std)
        self.params.update(data.params)
        self.stats.update(data.stats)
        return self.net.copy_of(data.graph)

    def relu(self, x, name):
        """Add a ReLU."""
        return self.net.add("Activation", name, x, act_type="relu")

    def __contains__(self, key):
        return key in self._left

    def kernel_size(self, key):
        """Return the side of the square kernel of the convolution `key`."""
        return self._left[f"{key}.weight"].shape[-1] if f"{key}.weight" in self._left else 1

    def conv(self, x, key, name, stride=1, pad=None, grouped=False):
        """Add a convolution without bias; padding keeps the size unless `pad` is given.

        A `grouped` one has as many channels as filters; the depth of its weight gives the groups.
        """
        weight = self.params[f"{name}_weight"] = self.take(f"{key}.weight")
        if weight.ndim != 4:
            raise UserError(f"{key}.weight is of shape {weight.shape}, not a convolution's")
        kernel = weight.shape[2:]
        return self.net.add(
            "Convolution",
            name,
            x,
            num_filter=weight.shape[0],
            kernel=kernel,
            stride=(stride, stride),
            pad=tuple(k // 2 for k in kernel) if pad is None else pad,
            num_group=weight.shape[0] // weight.shape[1] if grouped else 1,
            no_bias=True,
        )

    def batch_norm(self, x, key, name, eps):
        """Add a BatchNorm."""
        self.params[f"{name}_gamma"] = self.take(f"{key}.weight")
        self.params[f"{name}_beta"] = self.take(f"{key}.bias")
        self.stats[f"{name}_moving_mean"] = self.take(f"{key}.running_mean")
        self.stats[f"{name}_moving_var"] = self.take(f"{key}.running_var")
        return self.net.add("BatchNorm", name, x, eps=eps, momentum=0.9, fix_gamma=False)

    def head(self, x, key):
        """Add the mean over the image, `flatten0`, and the classifier `fc1` if there is one."""
        x = self.net.add("Pooling", "pool1", x, global_pool=True, pool_type="avg", kernel=(1, 1))
        x = self.net.add("Flatten", "flatten0", x)
        if f"{key}.weight" not in self:
            return x
        weight = self.params["fc1_weight"] = self.take(f"{key}.weight")
        self.params["fc1_bias"] = self.take(f"{key}.bias")
        return self.net.add("FullyConnected", "fc1", x, num_hidden=weight.shape[0])


def _rename_timm(state):
    """Return the state dict with the names of the original EfficientNet-Lite0 for timm's."""
    renamed = {"conv_stem": "_conv_stem", "bn1": "_bn0", "conv_head": "_conv_head", "bn2": "_bn1"}
    renamed["classifier"] = "_fc"
    index = 0
    for stage, (_, num_blocks) in enumerate(_LITE0_STAGES):
        parts = ["conv_pw", "bn1", "conv_dw", "bn2", "conv_pwl", "bn3"]
        originals = ["_expand_conv", "_bn0", "_depthwise_conv", "_bn1", "_project_conv", "_bn2"]
        if stage == 0:
            parts, originals = ["conv_dw", "bn1", "conv_pw", "bn2"], originals[2:]
        for block in range(num_blocks):
            for part, original in zip(parts, originals):
                renamed[f"blocks.{stage}.{block}.{part}"] = f"_blocks.{index}.{original}"
            index += 1
    split = ((*name.rpartition("."), tensor) for name, tensor in state.items())
    return {f"{renamed.get(layer, layer)}.{kind}": tensor for layer, _, kind, tensor in split}


def _efficientnet_lite0(layers, variant):
    """EfficientNet-Lite0 (Tan and Le, 2019): ReLU6 everywhere, no squeeze-and-excitation."""

    def norm(x, key, name, relu=None):
        x = layers.batch_norm(x, key, name, variant.eps)
        return x if relu is None else layers.net.add("clip", relu, x, a_min=0, a_max=6)

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
            if index > 0:  # the first block does not expand
                x = layers.conv(x, f"{key}._expand_conv", f"{name}_expand_conv")
                x = norm(x, f"{key}._bn0", f"{name}_bn0", relu=f"{name}_relu0")
            stride = stage_stride if block == 0 else 1
            conv = "depthwise_conv"
            x = strided_conv(x, f"{key}._{conv}", f"{name}_{conv}", stride, grouped=True)
            x = norm(x, f"{key}._bn1", f"{name}_bn1", relu=f"{name}_relu1")
            x = layers.conv(x, f"{key}._project_conv", f"{name}_project_conv")
            x = norm(x, f"{key}._bn2", f"{name}_bn2")
            if block > 0:
                x = layers.net.add("elemwise_add", f"{name}_add", block_input, x)
            index += 1
    x = layers.conv(x, "_conv_head", "head_conv")
    x = norm(x, "_bn1", "head_bn", relu="head_relu")
    return layers.head(x, "_fc")


def _same_conv(layers, x, key, name, grouped):
    """Add a convolution of stride 2, padded as TensorFlow's SAME.

    At an even size TensorFlow pads one pixel less left and above than right and below. Exact for
    images whose sides are multiples of 32.
    """
    after = layers.kernel_size(key) // 2
    before = after - 1
    x = layers.net.add(
        "Pad",
        f"{name}_pad",
        x,
        mode="constant",
        constant_value=0,
        pad_width=(0, 0, 0, 0, before, after, before, after),
    )
    return layers.conv(x, key, name, stride=2, pad=(0, 0), grouped=grouped)


def _resnet(layers):
    """The ResNets of torchvision and timm (He et al., 2015), stride 2 in the 3x3 convolution.

    Depth, width and groups are those of the weights: ResNet, ResNeXt and Wide-ResNet alike.
    """

    def norm(x, key, name, relu=None):
        x = layers.batch_norm(x, key, name, eps=1e-5)
        return x if relu is None else layers.relu(x, relu)

    x = layers.normalised_data(IMAGENET_MEAN, IMAGENET_STD)
    x = layers.conv(x, "conv1", "conv0", stride=2)
    height, width = layers.params["conv0_weight"].shape[2:]
    if (height, width) != (7, 7):  # for small images: of which stride, with which pooling?
        raise UserError(
            f"is a ResNet whose first convolution is {height}x{width}, not 7x7: its tensors do not"
            f" say what else differs; import it as ONNX: {BY_ONNX}"
        )
    x = norm(x, "bn1", "bn0", relu="relu0")
    x = layers.net.add(
        "Pooling", "pool0", x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max"
    )
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
                # The first 3x3 convolution strides: the second of three, or the first of two.
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
            x = layers.net.add("elemwise_add", f"{name}_add", x, shortcut)
            x = layers.relu(x, f"{name}_relu")
            unit += 1
    return layers.head(x, "fc")
