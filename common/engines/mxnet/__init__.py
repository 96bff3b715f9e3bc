"""The engine of the 2017 baseline: MXNet, 1.5.0 and 1.9.1."""

from common.engines.mxnet.devices import (
    check,
    describe,
    memory_in_use,
    parse_devices,
    versions,
)
from common.engines.mxnet.memory import allocate
from common.engines.mxnet.optimizers import optimizers
from common.engines.mxnet.precision import SYMBOL_VERSION
from common.engines.mxnet.predictor import Predictor
from common.engines.mxnet.quantize import quantize
from common.engines.mxnet.shapes import infer_shapes, layer_shapes
from common.engines.mxnet.trainer import Trainer
from common.engines.mxnet.workers import Workers

NAME = "MXNet"
QUANTIZED = "int8"

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
    "infer_shapes",
    "layer_shapes",
    "memory_in_use",
    "optimizers",
    "parse_devices",
    "quantize",
    "versions",
]
