"""timm's own modules with random weights, and the same networks of this project."""

import numpy as np
import pytest

from common.data.loader import Batch
from common.engines import TrainerOptions
from common.engines import torch as engine
from common.engines.torch import timm_networks
from common.engines.torch.runtime import torch
from common.networks.timm_network import TimmNetwork

try:
    import timm
except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another PyTorch
    pytest.skip(f"takes PyTorch and timm ({error})", allow_module_level=True)


# A ConvNeXt, a ViT, an EfficientNetV2 and a RegNet, the smallest that timm has.
NETWORKS = ["test_convnext", "test_vit", "tf_efficientnetv2_b0", "regnety_002"]
SIDE, CLASSES = 64, 6
SHAPE = (3, SIDE, SIDE)
CPU = engine.parse_devices("cpu")


def timms_module(name, num_classes=CLASSES, **arguments):
    """timm's own module with random weights, a head that tells images apart, and statistics."""
    torch.manual_seed(0)
    if timm.get_pretrained_cfg(name).fixed_input_size:
        arguments.setdefault("img_size", SIDE)
    model = timm.create_model(name, num_classes=num_classes, **arguments).eval()
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif key.endswith("running_mean"):
            tensor.normal_(0, 0.1)
    logits = model(normalised(model, images()))
    weight = model.get_classifier().weight
    weight.data /= logits.detach().std()
    return model


def images(count=3, side=SIDE, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (count, 3, side, side), np.uint8)


def normalised(model, raw):
    """Images as timm's own transforms give them to a module."""
    mean, std = (
        torch.tensor(model.pretrained_cfg[key]).reshape(1, 3, 1, 1) for key in ("mean", "std")
    )
    return (torch.from_numpy(raw).float() / 255 - mean) / std


def network_of(model, name):
    """The `TimmNetwork` of timm's module."""
    arrays = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    config = {**timm_networks.timm_config(name), "num_classes": model.num_classes}
    return TimmNetwork.from_config(config, arrays)


def predict(network, raw, dtype="float32", devices=CPU):
    predictor = engine.Predictor([network], [1], devices, len(raw), raw.shape[1:], dtype)
    ((_, probabilities),) = predictor.predict([Batch(raw, None, None, pad=0, missing=[])])
    return probabilities


class FixedRate:
    def rate(self, update):
        return 0.1


def options(**changes):
    return TrainerOptions(
        **{"batch_size": 4, "image_shape": SHAPE, "schedule": FixedRate(), **changes}
    )


def trainer_of(network, devices="cpu", **changes):
    devices = engine.parse_devices(devices)
    workers = engine.Workers("device", devices)
    return engine.Trainer(network, devices, options(**changes), workers)


def batch_of(seed=0):
    labels = np.array([0, 1, 2, 5], np.float32)
    return Batch(images(4, seed=seed), labels, np.arange(4), pad=0, missing=[])
