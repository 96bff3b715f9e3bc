"""Small networks of well-known kinds, written as ONNX by PyTorch's exporters.

    python tests/networks/torch_exports.py KIND OPSET NETWORK.onnx

Run by a Python that has torch. From opset 18 on it takes the newer exporter, dynamo's.
"""

import sys

import torch
from torch import nn


def conv(channels, out, kernel=3, stride=1, groups=1, act=nn.ReLU):
    layer = nn.Conv2d(channels, out, kernel, stride, kernel // 2, groups=groups, bias=False)
    return nn.Sequential(layer, nn.BatchNorm2d(out), act())


class Residual(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.body = conv(3, 8, 7, 2), nn.Sequential(conv(8, 8), conv(8, 8))
        self.pool = nn.MaxPool2d(3, 2, 1)

    def forward(self, x):
        x = self.pool(self.stem(x))
        return torch.relu(self.body(x) + x).mean((2, 3))


class Excited(nn.Module):
    """MobileNetV3 and EfficientNet: inverted residuals, squeeze-and-excitation."""

    def __init__(self, act, gate):
        super().__init__()
        self.expand = nn.Sequential(conv(3, 8, 1, act=act), conv(8, 8, 5, 2, 8, act))
        self.squeeze = nn.Sequential(
            nn.AdaptiveAvgPool2d(1), nn.Conv2d(8, 4, 1), nn.ReLU(), nn.Conv2d(4, 8, 1), gate()
        )
        self.project = conv(8, 8, 1, act=nn.ReLU6)

    def forward(self, x):
        x = self.expand(x)
        return torch.flatten(
            nn.functional.adaptive_avg_pool2d(self.project(self.squeeze(x) * x), 1), 1
        )


class Inception(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.one = (
            nn.Sequential(conv(3, 6), nn.MaxPool2d(3, 2, ceil_mode=True)),
            conv(6, 3, 1),
        )
        self.three, self.pool = conv(6, 3), nn.Sequential(nn.AvgPool2d(3, 1, 1), conv(6, 2, 1))

    def forward(self, x):
        colours = [x[:, i : i + 1] * (0.5 + i) + 0.1 for i in range(3)]
        x = self.stem(torch.cat(colours, 1))
        x = torch.cat([self.one(x), self.three(x), self.pool(x)], 1)
        return nn.functional.avg_pool2d(x, 2, ceil_mode=True, count_include_pad=False).mean((2, 3))


class Dense(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Conv2d(3, 6, 3, padding=1)
        self.first = nn.Sequential(nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3, padding=1))

    def forward(self, x):
        x = self.stem(x)
        x = nn.functional.avg_pool2d(torch.cat([x, self.first(x)], 1), 2)
        return nn.functional.adaptive_avg_pool2d(x, (1, 1)).view(x.size(0), -1)


class Shuffle(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem, self.branch = conv(3, 8, 3, 2), conv(4, 4)

    def forward(self, x):
        left, right = self.stem(x).chunk(2, dim=1)
        x = torch.cat([left, self.branch(right)], 1)
        count, channels, height, width = x.size()
        x = x.view(count, 2, channels // 2, height, width).transpose(1, 2).contiguous()
        return x.view(count, channels, height, width).mean([2, 3])


KINDS = {
    "resnet": Residual,
    "mobilenet": lambda: Excited(nn.Hardswish, nn.Hardsigmoid),
    "efficientnet": lambda: Excited(nn.SiLU, nn.Sigmoid),
    "inception": Inception,
    "densenet": Dense,
    "shufflenet": Shuffle,
}


def main():
    kind, opset, path = sys.argv[1], int(sys.argv[2]), sys.argv[3]
    torch.manual_seed(0)
    body = KINDS[kind]().eval()
    for module in body.modules():
        if isinstance(module, nn.BatchNorm2d):
            nn.init.uniform_(module.running_var, 0.5, 2)
            nn.init.normal_(module.running_mean, 0, 0.2)
    image = torch.randn(1, 3, 33, 33)
    network = nn.Sequential(body, nn.Linear(body(image).shape[1], 5)).eval()
    nn.init.normal_(network[1].weight)
    torch.onnx.export(network, (image,), path, opset_version=opset, dynamo=opset >= 18)


if __name__ == "__main__":
    main()
