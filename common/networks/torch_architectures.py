"""PyTorch networks that are recognised but not imported, and what to do about them."""

import dataclasses
import re
from typing import Optional, Tuple

_BIG = "a ResNeXt-101 or Wide-ResNet-101"
_LITE0 = "an EfficientNet-Lite0"
_RESNET = "a ResNet-{nearest}"

BY_ONNX = (
    "torch.onnx.export(network.eval(), torch.zeros(1, 3, 224, 224), 'net.onnx', dynamo=False,"
    " opset_version=9) in PyTorch, then: python -m common.modelzoo import net.onnx --name NAME"
)


@dataclasses.dataclass(frozen=True)
class _Architecture:
    """A kind of network: `marks` are regular expressions, each of which begins a tensor's name.

    `depthwise` is the number of its depthwise convolutions, where it distinguishes the network.
    `onnx` says whether its ONNX file can be imported (tried with timm 1.0 and torchvision 0.29).
    `{depth}` is that of a ResNet, `{nearest}` the nearest depth that is imported.
    """

    name: str
    instead: str
    marks: Tuple[str, ...]
    depthwise: Optional[int] = None
    onnx: bool = True


# The first squeeze-and-excitation in timm, efficientnet_pytorch and torchvision.
_SE = r"blocks\.0\.0\.se\.|_blocks\.0\._se_reduce\.|features\.1\.0\.block\.1\.fc1\."
_BLOCKS = {"0": 16, "1 or B2": 23, "3": 26, "4": 32, "5": 39, "6": 45, "7": 55}
_LITE_BLOCKS = {"1 or Lite2": 21, "3": 24, "4": 30}
_LITE = r"_?conv_stem\."

# The first one that fits counts.
_ARCHITECTURES = (
    _Architecture("a DenseNet", _RESNET, (r"features\.denseblock1\.",)),
    _Architecture(
        "a VGG or AlexNet",
        _RESNET,
        (r"features\.\d\d\.weight", r"classifier\.6\.weight|pre_logits\.fc1\."),
    ),
    _Architecture("a SqueezeNet", _LITE0, (r"features\.3\.squeeze\.",)),
    _Architecture("a GoogLeNet", _RESNET, (r"inception3a\.",)),
    _Architecture("an Inception-v3", _RESNET, (r"Mixed_5b\.",)),
    _Architecture("an Inception-ResNet-v2", _RESNET, (r"mixed_5b\.",)),
    _Architecture("an Inception-v4", _RESNET, (r"features\.4\.branch0\.",)),
    _Architecture("an Xception", _RESNET, (r"block1\.rep\.",)),
    _Architecture("a ShuffleNetV2", _LITE0, (r"stage2\.0\.branch1\.",)),
    _Architecture("a RegNet", _RESNET, (r"s1\.b1\.|trunk_output\.",)),
    # Their operators are missing from opset 9 or from the importer: ConvNeXt-V2 and transformers.
    _Architecture(
        "a ConvNeXt-V2",
        _BIG,
        (r"stages\.0\.blocks\.0\.mlp\.grn\.|stages\.0\.0\.grn\.|convnextv2\.",),
        onnx=False,
    ),
    _Architecture(
        "a ConvNeXt",
        _BIG,
        (
            r"stages\.0\.blocks\.0\.conv_dw\.|features\.1\.0\.layer_scale|stages\.0\.0\.dwconv\."
            r"|convnext\.",
        ),
    ),
    _Architecture(
        "a Swin Transformer",
        _BIG,
        (r"layers\.0\.blocks\.0\.attn\.|features\.1\.0\.attn\.|swin(v2)?\.",),
        onnx=False,
    ),
    _Architecture(
        "a vision transformer (ViT)",
        _BIG,
        (r"(cls|class)_token|(vit|deit|beit|dinov2|visual|vision_model)\.",),
        onnx=False,
    ),
    # Built of inverted residuals: timm gives all of them the same names.
    _Architecture("an EfficientNet-V2", _LITE0, (r"conv_stem\.", r"blocks\.0\.0\.conv\.")),
    _Architecture(
        "a MobileNetV3 or a relative", _LITE0, (r"conv_head\.bias|features\.1\.block\.0\.0\.",)
    ),
    *(
        _Architecture(f"an EfficientNet-B{number}", _LITE0, (_SE,), blocks)
        for number, blocks in _BLOCKS.items()
    ),
    _Architecture("an EfficientNet with squeeze-and-excitation", _LITE0, (_SE,)),
    _Architecture("an EfficientNet-V2", _LITE0, (r"features\.1\.0\.block\.0\.0\.",)),
    _Architecture("a MixNet", _LITE0, (r"conv_stem\.", r"blocks\.\d\.\d\.conv_(dw|pw|pwl)\.0\.")),
    _Architecture("an FBNet", _LITE0, (r"conv_stem\.", r"blocks\.0\.0\.conv_pwl\.")),
    _Architecture("an MNASNet", _LITE0, (r"conv_stem\.", r"blocks\.1\.2\."), 17),
    _Architecture("an MNASNet", _LITE0, (r"layers\.8\.0\.layers\.",)),
    *(
        _Architecture(f"an EfficientNet-Lite{number}", _LITE0, (_LITE,), blocks)
        for number, blocks in _LITE_BLOCKS.items()
    ),
    _Architecture("a MobileNetV2", _LITE0, (r"conv_stem\.",), 17),
    _Architecture("a MobileNetV2", _LITE0, (r"features\.1\.conv\.0\.0\.",)),
    _Architecture("a MobileNetV1", _LITE0, (r"conv_stem\.",), 13),
    # ResNets with something more.
    _Architecture("an HRNet", "a ResNet-50", (r"stage2\.0\.fuse_layers\.",)),
    _Architecture("a Res2Net-{depth}", _RESNET, (r"layer1\.0\.convs\.0\.",)),
    _Architecture("a ResNeSt-{depth}", _RESNET, (r"layer1\.0\.conv2\.fc1\.",)),
    _Architecture("an ECA-ResNet-{depth}", _RESNET, (r"layer1\.0\.(eca|se\.conv)\.",), onnx=False),
    _Architecture("an SE-ResNet-{depth} or SE-ResNeXt-{depth}", _RESNET, (r"layer1\.0\.se",)),
    _Architecture("a ResNet-{depth}-D", _RESNET, (r"conv1\.0\.", r"layer1\.0\.conv1\.")),
    _Architecture(
        "a ResNet with normalisation in front (ResNetV2, BiT)",
        _RESNET,
        (r"stem\.conv\.", r"stages\.0\.blocks\.0\.norm1\."),
    ),
)


def describe(state, supported):
    """Return what network, none of `supported`, a state dict is of, and what to do; None: unknown.

    Args:
        state: {name: array}.
        supported: the networks that are imported, in words.
    """
    found = next((known for known in _ARCHITECTURES if _fits(known, state)), None)
    if found is None:
        return None
    depth = _resnet_depth(state)
    nearest = min((18, 34, 50, 101, 152), key=lambda known: abs(known - (depth or 50)))
    name, instead = (
        text.format(depth=depth, nearest=nearest) for text in (found.name, found.instead)
    )
    way = f", or import it as ONNX: {BY_ONNX}" if found.onnx else " (ONNX does not help either)"
    of_timm = "; weights of timm's: --engine torch --architecture NAME, timm's name of the network"
    return f"is {name}, which is not imported (known: {supported}); take {instead}{way}{of_timm}"


def _fits(known, state):
    if known.depthwise not in (None, _count_depthwise(state)):
        return False
    return all(any(re.match(mark, name) for name in state) for mark in known.marks)


def _count_depthwise(state):
    return sum(array.ndim == 4 and array.shape[1] == 1 for array in state.values())


def _resnet_depth(state):
    """Return the number of layers of a ResNet, as its name has it: 3 (or 2) a unit, and 2 more."""
    units = {m.group() for m in (re.match(r"layer[1-4]\.\d+\.", name) for name in state) if m}
    return len(units) * (3 if "layer1.0.conv3.weight" in state else 2) + 2 if units else None
