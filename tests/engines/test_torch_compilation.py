"""`--compile`: the same numbers from compiled code, or one line of why there is none."""

import shutil

import numpy as np
import pytest

from common import engines
from common.base.files import UserError
from common.data.loader import Batch
from common.engines.choice import choose
from common.engines.torch import compilation, memory
from common.engines.torch.predictor import load
from common.engines.torch.runtime import torch
from common.networks import edits
from common.networks.graph import Builder
from common.training.batches import MadeUpImages
from common.training.schedule import Schedule
from tests.random_networks import with_random_weights

SHAPE, BATCH = (3, 32, 32), 4
CPU = [torch.device("cpu")]
needs_compiler = pytest.mark.skipif(shutil.which("g++") is None, reason="no C++ compiler")


@pytest.fixture(scope="module")
def network():
    """As few layers as possible: the compiler takes seconds for each."""
    net = Builder()
    x = net.add("_div_scalar", "scaled", net.variable("data"), scalar=255)
    x = net.add("Convolution", "conv0", x, kernel=(3, 3), num_filter=8)
    x = net.add("Activation", "relu0", net.add("BatchNorm", "bn0", x), act_type="relu")
    x = net.add("Pooling", "pool0", x, global_pool=True, pool_type="avg", kernel=(1, 1))
    head = net.add("FullyConnected", "fc1", net.add("Flatten", "flat", x), num_hidden=5)
    graph = net.graph(net.add("SoftmaxOutput", "softmax", head))
    return with_random_weights(edits.take_raw_images(graph), 32, seed=1, variance=1)


@pytest.fixture(autouse=True)
def cache(tmp_path_factory, monkeypatch):
    """Compiled code goes to a folder of this test run."""
    folder = tmp_path_factory.getbasetemp() / "inductor"
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(folder))
    return folder


@needs_compiler
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_compiled_network_predicts_the_same(network, cache, dtype):
    engine = engines.load("torch")
    images = np.random.default_rng(0).integers(0, 256, (BATCH, *SHAPE), dtype=np.uint8)
    batch, found = Batch(images, None, None, pad=0, missing=[]), []
    for compiled in (False, True):
        predictor = engine.Predictor([network], [1], CPU, BATCH, SHAPE, dtype, compiled)
        ((_, probabilities),) = predictor.predict([batch])
        found.append(probabilities)
    assert (found[0].max(axis=1) < 0.9).all()  # rounding would not show
    np.testing.assert_allclose(*found, rtol=0.05 if dtype == "bfloat16" else 1e-4)
    assert any(cache.iterdir())  # kept for the next run


@needs_compiler
@pytest.mark.skipif(torch.__version__.startswith("2.4."), reason="they stay variables in 2.4")
def test_the_weights_of_a_compiled_network_are_constants(network):
    module, _ = load(network, "cpu", (BATCH, *SHAPE))
    compilation.compile_for_prediction(module)
    images = torch.ones(BATCH, *SHAPE, dtype=torch.uint8)
    with torch.inference_mode():
        first = module(images).clone()
        for parameter in module.parameters():
            parameter.zero_()
        torch.testing.assert_close(module(images), first)


@needs_compiler
def test_a_compiled_network_trains_the_same(network):
    engine, losses, states = engines.load("torch"), [], []
    batch = next(iter(MadeUpImages(BATCH, SHAPE, 5, allocate=memory.allocate)))
    schedule = Schedule("step", 0.1, 1.0, (), warmup_updates=0, num_updates=0)
    for compiled in (False, True):
        options = engines.TrainerOptions(BATCH, SHAPE, schedule, compiled=compiled)
        trainer = engine.Trainer(network, CPU, options, engine.Workers("device", CPU))
        losses.append([trainer.step(batch, 0.1)() for _ in range(3)])
        losses[-1].append(trainer.evaluate(batch))
        states.append(trainer.state())
    np.testing.assert_allclose(*losses, rtol=1e-3, atol=1e-5)
    for name, array in states[0].stats.items():
        np.testing.assert_allclose(states[1].stats[name], array, rtol=1e-3, atol=1e-4)


def test_all_networks_of_a_large_ensemble_are_compiled(network, monkeypatch):
    """PyTorch compiles the same code eight times, and then leaves it."""
    compiled, compile_with = [], torch.compile

    def count(graph, _inputs):
        compiled.append(graph)
        return graph.forward

    monkeypatch.setattr(torch, "compile", lambda f, **how: compile_with(f, backend=count, **how))
    predictor = engines.load("torch").Predictor(
        [network] * 10, [1] * 10, CPU, BATCH, SHAPE, "float32", compiled=True
    )
    images = np.zeros((BATCH, *SHAPE), np.uint8)
    list(predictor.predict([Batch(images, None, None, pad=0, missing=[])]))
    assert len(compiled) == 10


def test_without_a_compiler_there_is_one_line():
    from torch._inductor import config

    with config.patch({"cpp.cxx": (None, "no-such-compiler")}), pytest.raises(
        UserError, match=r"--compile: needs a C\+\+ compiler"
    ):
        compilation.check(CPU)


def test_apples_gpus_are_refused():
    with pytest.raises(UserError, match="--compile: is for CPUs and NVIDIA's GPUs"):
        compilation.check([torch.device("mps")])


def test_int8_is_refused():
    with pytest.raises(UserError, match="--compile: in int8 is for networks of timm alone"):
        choose("torch", "cpu", "int8", "predict", compiled=True)
