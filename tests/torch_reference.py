"""The architectures that `common/networks/torch_networks.py` imports, in PyTorch, to compare with.

    python tests/torch_reference.py ARCHITECTURE CHECKPOINT IMAGES.npy LOGITS.npy

Run by a Python that has torch. Makes the network with random weights and BatchNorm statistics,
saves its state dict as CHECKPOINT (its suffix chooses the format: .pth, .legacy.pth or
.safetensors) and the logits of raw RGB images (N, 3, H, W).
"""

import sys

import numpy as np
import torch
from torch import nn

IMAGENET = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


class ResNet(nn.Module):
    """torchvision's ResNet: its layers, names and strides."""

    def __init__(self, depths, bottleneck=True, groups=1, base_width=64, num_classes=1000):
        super().__init__()
        self.mean, self.std = IMAGENET
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        for i, depth in enumerate(depths):
            planes, units = 64 * 2**i, []
            out = planes * 4 if bottleneck else planes
            for unit in range(depth):
                stride = 2 if i > 0 and unit == 0 else 1
                width = planes * base_width // 64 * groups
                units.append(Unit(channels, planes, out, stride, bottleneck, groups, width))
                channels = out
            setattr(self, f"layer{i + 1}", nn.Sequential(*units))
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = self.maxpool(torch.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        return self.fc(x.mean((2, 3)))


class Unit(nn.Module):
    """One residual unit, of two or three convolutions."""

    def __init__(self, channels, planes, out, stride, bottleneck, groups, width):
        super().__init__()
        if bottleneck:
            self.conv1 = nn.Conv2d(channels, width, 1, bias=False)
            self.conv2 = nn.Conv2d(width, width, 3, stride, 1, groups=groups, bias=False)
            self.conv3 = nn.Conv2d(width, out, 1, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm2d(width), nn.BatchNorm2d(width)
            self.bn3 = nn.BatchNorm2d(out)
        else:
            self.conv1 = nn.Conv2d(channels, planes, 3, stride, 1, bias=False)
            self.conv2 = nn.Conv2d(planes, out, 3, 1, 1, bias=False)
            self.bn1, self.bn2 = nn.BatchNorm2d(planes), nn.BatchNorm2d(out)
        self.downsample = None
        if stride != 1 or channels != out:
            conv = nn.Conv2d(channels, out, 1, stride, bias=False)
            self.downsample = nn.Sequential(conv, nn.BatchNorm2d(out))

    def forward(self, x):
        y = self.bn2(self.conv2(torch.relu(self.bn1(self.conv1(x)))))
        if hasattr(self, "conv3"):
            y = self.bn3(self.conv3(torch.relu(y)))
        return torch.relu(y + (x if self.downsample is None else self.downsample(x)))


class PreActivationResNet(nn.Module):
    """The zoo's ResNet (`common/networks/resnet.py`) as one would write it in PyTorch.

    It takes raw images: its first layer normalises them, without a scale and with a shift.
    """

    def __init__(self, depths, bottleneck=True, num_classes=1000):
        super().__init__()
        self.input_norm = nn.BatchNorm2d(3)
        self.input_norm.weight.requires_grad_(False)
        self.stem = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.norm = nn.BatchNorm2d(64)
        channels, units = 64, []
        for stage, depth in enumerate(depths):
            out = 64 * 2**stage * (4 if bottleneck else 1)
            for unit in range(depth):
                stride = 2 if stage and not unit else 1
                units.append(PreActivationUnit(channels, out, stride, bottleneck))
                channels = out
        self.units = nn.Sequential(*units)
        self.last_norm = nn.BatchNorm2d(channels)
        self.fc = nn.Linear(channels, num_classes)

    def forward(self, x):
        x = torch.relu(self.norm(self.stem(self.input_norm(x))))
        x = nn.functional.max_pool2d(x, 3, 2, 1)
        x = torch.relu(self.last_norm(self.units(x)))
        return self.fc(x.mean((2, 3)))


class PreActivationUnit(nn.Module):
    """One residual unit: each convolution reads what a BatchNorm and a ReLU give."""

    def __init__(self, channels, out, stride, bottleneck):
        super().__init__()
        sizes = [(out, 3, stride), (out, 3, 1)]
        if bottleneck:
            sizes = [(out // 4, 1, 1), (out // 4, 3, stride), (out, 1, 1)]
        self.norms, self.convs = nn.ModuleList(), nn.ModuleList()
        self.shortcut = None
        if stride != 1 or channels != out:
            self.shortcut = nn.Conv2d(channels, out, 1, stride, bias=False)
        for width, kernel, step in sizes:
            self.norms.append(nn.BatchNorm2d(channels))
            self.convs.append(nn.Conv2d(channels, width, kernel, step, kernel // 2, bias=False))
            channels = width

    def forward(self, x):
        first = y = torch.relu(self.norms[0](x))
        for number, conv in enumerate(self.convs):
            y = conv(torch.relu(self.norms[number](y)) if number else y)
        return y + (x if self.shortcut is None else self.shortcut(first))


# Kernel, stride, channels, expansion and number of blocks of the stages of EfficientNet-Lite0.
LITE0_STAGES = [
    (3, 1, 16, 1, 1),
    (3, 2, 24, 6, 2),
    (5, 2, 40, 6, 2),
    (3, 2, 80, 6, 3),
    (5, 1, 112, 6, 3),
    (5, 2, 192, 6, 4),
    (3, 1, 320, 6, 1),
]


def padded(conv, x, same):
    """Convolve with TensorFlow's SAME padding, computed from the size, or PyTorch's."""
    kernel, stride = conv.kernel_size[0], conv.stride[0]
    if not same:
        return nn.functional.conv2d(x, conv.weight, None, stride, kernel // 2, groups=conv.groups)
    pads = []
    for size in (x.shape[3], x.shape[2]):
        total = max((-(-size // stride) - 1) * stride + kernel - size, 0)
        pads += [total // 2, total - total // 2]
    return conv(nn.functional.pad(x, pads))


class LiteBlock(nn.Module):
    """An inverted residual block with timm's names."""

    def __init__(self, channels, out, kernel, stride, expansion, eps, same):
        super().__init__()
        self.same, self.residual = same, stride == 1 and channels == out
        mid = channels * expansion
        depthwise = nn.Conv2d(mid, mid, kernel, stride, groups=mid, bias=False)
        project = nn.Conv2d(mid, out, 1, bias=False)
        if expansion > 1:
            self.conv_pw, self.bn1 = nn.Conv2d(channels, mid, 1, bias=False), norm(mid, eps)
            self.conv_dw, self.bn2 = depthwise, norm(mid, eps)
            self.conv_pwl, self.bn3 = project, norm(out, eps)
        else:
            self.conv_dw, self.bn1 = depthwise, norm(mid, eps)
            self.conv_pw, self.bn2 = project, norm(out, eps)

    def forward(self, x):
        relu6, y = nn.functional.relu6, x
        if hasattr(self, "conv_pwl"):
            y = relu6(self.bn1(self.conv_pw(y)))
            y = relu6(self.bn2(padded(self.conv_dw, y, self.same)))
            y = self.bn3(self.conv_pwl(y))
        else:
            y = relu6(self.bn1(padded(self.conv_dw, y, self.same)))
            y = self.bn2(self.conv_pw(y))
        return x + y if self.residual else y


def norm(channels, eps):
    return nn.BatchNorm2d(channels, eps=eps)


class Lite0(nn.Module):
    """EfficientNet-Lite0 with timm's names, in TensorFlow's variant or PyTorch's."""

    def __init__(self, tensorflow, num_classes=1000):
        super().__init__()
        self.mean, self.std = ((0.5,) * 3, (0.5,) * 3) if tensorflow else IMAGENET
        eps, self.same = (1e-3, True) if tensorflow else (1e-5, False)
        self.conv_stem, self.bn1 = nn.Conv2d(3, 32, 3, 2, bias=False), norm(32, eps)
        channels, stages = 32, []
        for kernel, first_stride, out, expansion, depth in LITE0_STAGES:
            blocks = []
            for block in range(depth):
                stride = first_stride if block == 0 else 1
                blocks.append(LiteBlock(channels, out, kernel, stride, expansion, eps, self.same))
                channels = out
            stages.append(nn.Sequential(*blocks))
        self.blocks = nn.Sequential(*stages)
        self.conv_head, self.bn2 = nn.Conv2d(320, 1280, 1, bias=False), norm(1280, eps)
        self.classifier = nn.Linear(1280, num_classes)

    def forward(self, x):
        relu6 = nn.functional.relu6
        x = relu6(self.bn1(padded(self.conv_stem, x, self.same)))
        x = relu6(self.bn2(self.conv_head(self.blocks(x))))
        return self.classifier(x.mean((2, 3)))


ARCHITECTURES = {
    "resnet18": lambda: ResNet((2, 2, 2, 2), bottleneck=False),
    "resnet34": lambda: ResNet((3, 4, 6, 3), bottleneck=False),
    "resnet50": lambda: ResNet((3, 4, 6, 3)),
    "resnet101": lambda: ResNet((3, 4, 23, 3)),
    "resnet152": lambda: ResNet((3, 8, 36, 3)),
    "resnext50_32x4d": lambda: ResNet((3, 4, 6, 3), groups=32, base_width=4),
    "resnext101_32x8d": lambda: ResNet((3, 4, 23, 3), groups=32, base_width=8),
    "resnext101_64x4d": lambda: ResNet((3, 4, 23, 3), groups=64, base_width=4),
    "wide_resnet50_2": lambda: ResNet((3, 4, 6, 3), base_width=128),
    "wide_resnet101_2": lambda: ResNet((3, 4, 23, 3), base_width=128),
    "tf_efficientnet_lite0": lambda: Lite0(tensorflow=True),
    "efficientnet_lite0": lambda: Lite0(tensorflow=False),
}


def randomise(network):
    """Give every BatchNorm a scale, shift and statistics of its own."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.weight, 0.5, 1.5)
            nn.init.normal_(module.bias, 0, 0.2)
            nn.init.normal_(module.running_mean, 0, 0.2)
            nn.init.uniform_(module.running_var, 0.5, 2)


def save(state, path):
    if path.endswith(".safetensors"):
        import safetensors.torch

        safetensors.torch.save_file(state, path)
    else:
        torch.save(state, path, _use_new_zipfile_serialization=not path.endswith(".legacy.pth"))


def main():
    architecture, checkpoint, images, logits = sys.argv[1:]
    torch.manual_seed(0)
    network = ARCHITECTURES[architecture]().eval()
    randomise(network)
    save(network.state_dict(), checkpoint)
    mean, std = (torch.tensor(x).reshape(1, 3, 1, 1) * 255 for x in (network.mean, network.std))
    with torch.no_grad():
        x = torch.from_numpy(np.load(images).astype(np.float32))
        np.save(logits, network((x - mean) / std).numpy())


if __name__ == "__main__":
    main()
