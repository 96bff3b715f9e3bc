"""The engine of today's machines: PyTorch, on CPUs, NVIDIA's GPUs and Apple's."""

from common.engines.torch.devices import check, describe, memory_in_use, parse_devices, versions
from common.engines.torch.launcher import launch
from common.engines.torch.memory import allocate
from common.engines.torch.optimizers import optimizers
from common.engines.torch.predictor import Predictor
from common.engines.torch.quantize import quantize
from common.engines.torch.shapes import infer_shapes, layer_shapes
from common.engines.torch.timm_networks import export_onnx, timm_config
from common.engines.torch.trainer import Trainer
from common.engines.torch.workers import Workers
from common.networks.graph import MXNET_VERSION as SYMBOL_VERSION

NAME = "PyTorch"
QUANTIZED = "int8-torch"

__all__ = [
    "NAME",
    "QUANTIZED",
    "SYMBOL_VERSION",
    "Predictor",
    "Trainer",
    "Workers",
    "allocate",
    "check",
    "describe",
    "export_onnx",
    "infer_shapes",
    "launch",
    "layer_shapes",
    "memory_in_use",
    "optimizers",
    "parse_devices",
    "quantize",
    "timm_config",
    "versions",
]
