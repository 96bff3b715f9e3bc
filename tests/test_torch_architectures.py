"""Networks that are known but not imported: what they are, and what to do instead."""

import re

import numpy as np
import pytest

from common.networks.torch_architectures import describe


def state_of(names, depthwise=0):
    """A state dict with these names, and as many depthwise convolutions."""
    state = {name: np.zeros((8, 4, 3, 3), np.float32) for name in names}
    convolution = np.zeros((8, 1, 3, 3), np.float32)
    return {**state, **{f"a.{i}.depthwise.weight": convolution for i in range(depthwise)}}


def resnet(units, *further, first="conv1.weight"):
    names = [f"layer{i}.{n}.conv3.weight" for i, count in enumerate(units, 1) for n in range(count)]
    return [first, "layer1.0.conv1.weight", *names, *further]


TIMM = ("conv_stem.weight", "bn1.weight", "blocks.0.0.conv_dw.weight")


@pytest.mark.parametrize(
    ("names", "depthwise", "what", "instead"),
    [
        ([*TIMM, "blocks.0.0.se.conv_reduce.weight"], 16, "EfficientNet-B0", "Lite0"),
        (["_conv_stem.weight", "_blocks.0._se_reduce.weight"], 26, "EfficientNet-B3", "Lite0"),
        (["features.1.0.block.1.fc1.weight"], 55, "EfficientNet-B7", "Lite0"),
        (TIMM, 21, "EfficientNet-Lite1 or Lite2", "Lite0"),
        (["conv_stem.weight", "blocks.0.0.conv.weight"], 30, "EfficientNet-V2", "Lite0"),
        (["features.1.0.block.0.0.weight"], 30, "EfficientNet-V2", "Lite0"),
        (TIMM, 17, "MobileNetV2", "Lite0"),
        (["features.1.conv.0.0.weight"], 17, "MobileNetV2", "Lite0"),
        ([*TIMM, "conv_head.bias"], 15, "MobileNetV3", "Lite0"),
        ([*TIMM, "blocks.1.2.conv_dw.weight"], 17, "MNASNet", "Lite0"),
        (resnet((3, 4, 6, 3), first="conv1.0.weight"), 0, "ResNet-50-D", "a ResNet-50,"),
        (resnet((3, 8, 36, 3), "layer1.0.se.fc1.weight"), 0, "SE-ResNet-152", "a ResNet-152,"),
        (resnet((3, 4, 23, 3), "layer1.0.convs.0.weight"), 0, "Res2Net-101", "a ResNet-101,"),
        (resnet((3, 4, 6, 3), "layer1.0.conv2.fc1.weight"), 0, "ResNeSt-50", "a ResNet-50,"),
        (["features.denseblock1.denselayer1.norm1.weight"], 0, "DenseNet", "a ResNet-50,"),
        (["features.0.weight", "features.28.weight", "classifier.6.weight"], 0, "VGG", "ResNet-50"),
        (["Mixed_5b.branch1x1.conv.weight", "fc.weight"], 0, "Inception-v3", "a ResNet-50,"),
        (["stem.0.weight", "stages.0.blocks.0.conv_dw.weight"], 0, "ConvNeXt", "a ResNeXt-101"),
        (["features.1.0.layer_scale"], 0, "ConvNeXt", "a ResNeXt-101"),
    ],
)
def test_a_network_is_named_with_the_nearest_and_the_way_by_onnx(names, depthwise, what, instead):
    said = describe(state_of(names, depthwise), "ResNets")
    assert re.search(rf"^is an? {what}\b.*, which is not imported \(known: ResNets\)", said)
    assert instead in said.partition("; take ")[2]
    assert "dynamo=False, opset_version=9" in said and "modelzoo import net.onnx" in said
    assert said.endswith("--engine torch --architecture NAME, timm's name of the network")


@pytest.mark.parametrize(
    ("names", "what"),
    [
        (["stages.0.blocks.0.conv_dw.weight", "stages.0.blocks.0.mlp.grn.weight"], "ConvNeXt-V2"),
        (["convnextv2.embeddings.layernorm.weight"], "ConvNeXt-V2"),
        (["layers.0.blocks.0.attn.qkv.weight", "patch_embed.proj.weight"], "Swin Transformer"),
        (["cls_token", "pos_embed", "patch_embed.proj.weight"], r"vision transformer \(ViT\)"),
        (["class_token", "conv_proj.weight"], r"vision transformer \(ViT\)"),
    ],
)
def test_what_onnx_cannot_bring_either_is_not_sent_there(names, what):
    said = describe(state_of(names), "ResNets")
    assert re.search(rf"^is a {what}, .*; take a ResNeXt-101", said)
    assert "torch.onnx" not in said


@pytest.mark.parametrize(
    "names", [resnet((3, 4, 6, 3)), ["x.weight"], ["conv_stem.weight", "bn1.weight"]]
)
def test_what_is_imported_or_unknown_is_not_named(names):
    assert describe(state_of(names), "ResNets") is None
