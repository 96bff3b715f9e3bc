"""Networks of timm that only predict: compiled, they give what they give otherwise."""

import shutil

import numpy as np
import pytest

from common.data.loader import Batch
from common.engines import torch as engine
from tests.conftest import require_precision
from tests.engines.timm_modules import (
    CPU,
    SHAPE,
    images,
    network_of,
    timms_module,
)


@pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "int8"])
def test_a_compiled_network_predicts_the_same(dtype, tmp_path, monkeypatch):
    require_precision("torch", dtype)
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    network, raw = network_of(timms_module("test_convnext"), "test_convnext"), images(2)
    if dtype == "int8":
        network = engine.quantize(network, raw)
    batch, found = Batch(raw, None, None, pad=0, missing=[]), []
    for compiled in (False, True):
        predictor = engine.Predictor([network], [1], CPU, 2, SHAPE, dtype, compiled)
        ((_, probabilities),) = predictor.predict([batch])
        found.append(probabilities)
    np.testing.assert_allclose(*found, rtol=1e-4 if dtype == "float32" else 0.05)
