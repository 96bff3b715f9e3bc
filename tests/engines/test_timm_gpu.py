"""Networks of timm on a GPU, compared with the same on the CPU; skipped where there is none."""

import numpy as np
import pytest

from common.engines import torch as engine
from common.engines.torch.runtime import torch
from tests.engines.timm_modules import (
    NETWORKS,
    batch_of,
    images,
    network_of,
    predict,
    timms_module,
    trainer_of,
)

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

GPU = "0"
RATE = 5e-4


@pytest.mark.parametrize("name", NETWORKS)
@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.1), ("float16", 0.02)]
)
def test_prediction_is_that_of_the_cpu(name, dtype, tolerance):
    network = network_of(timms_module(name), name)
    expected = predict(network, images())
    assert (expected.max(axis=1) < 0.99).all()
    got = predict(network, images(), dtype, engine.parse_devices(GPU))
    np.testing.assert_allclose(got, expected, atol=tolerance)


# Batch norms of four images go other ways in bfloat16.
@pytest.mark.parametrize(
    ("name", "dtype", "tolerance"),
    [
        *((name, "float32", 0.02) for name in NETWORKS),
        ("test_convnext", "bfloat16", 0.1),
        ("test_vit", "bfloat16", 0.1),
    ],
)
def test_training_is_that_of_the_cpu(name, dtype, tolerance):
    """Eight updates: the later ones are recorded."""
    network, losses = network_of(timms_module(name), name), []
    for place, precision in (("cpu", "float32"), (GPU, dtype)):
        trainer = trainer_of(network, place, dtype=precision)
        losses.append([loss_of(trainer, batch_of()) for _ in range(8)])
    np.testing.assert_allclose(losses[1], losses[0], rtol=tolerance)
    assert losses[1][-1] < losses[1][0]


def loss_of(trainer, batch):
    """Train with a batch; return its loss before the update."""
    probabilities = trainer.step(batch, RATE)()
    return -np.log(probabilities[np.arange(len(batch.labels)), batch.labels.astype(int)]).mean()
