"""PyTorch on a GPU, compared with the same on the CPU; skipped where there is none."""

import csv

import numpy as np
import pytest

from common.base.files import UserError
from common.data.loader import Batch
from common.engines import TrainerOptions
from common.engines import torch as engine
from common.engines.torch.memory import allocate, copy_to
from common.engines.torch.recording import recorded
from common.engines.torch.runtime import torch
from common.networks import checkpoint, edits
from common.networks.resnet import build_resnet
from common.training.schedule import Schedule
from tests.conftest import run_python
from tests.random_networks import for_raw_images, with_random_weights

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")

SHAPE, CLASSES, BATCH = (3, 64, 64), 9, 16
RATE = 0.02
GPU = "0"


@pytest.fixture(scope="module")
def network():
    graph = edits.take_raw_images(build_resnet(10, CLASSES, width=16))
    found = for_raw_images(with_random_weights(graph, 64, seed=7, variance=2))
    found.params["fc1_weight"] /= 4  # so that probabilities are neither 0 nor 1
    return found


def make_batch(number):
    random = np.random.default_rng(number)
    images = allocate((BATCH, *SHAPE), np.uint8)
    images[:] = random.integers(0, 256, images.shape)
    labels = random.integers(0, CLASSES, BATCH).astype(np.float32)
    return Batch(images, labels, np.arange(BATCH), 0, [])


def train(network, place, dtype="float32", updates=8, **settings):
    """Return the losses of some updates, and the trainer."""
    devices = engine.parse_devices(place)
    schedule = Schedule("step", RATE, 0.1, (), 0, 100)
    settings = {"optimizer_settings": {"momentum": 0.9, "wd": 1e-4}, **settings}
    options = TrainerOptions(BATCH, SHAPE, schedule, dtype, **settings)
    trainer = engine.Trainer(network, devices, options, engine.Workers("device", devices))
    losses = []
    for number in range(updates):
        batch = make_batch(number % 2)
        probabilities = trainer.step(batch, RATE)()
        truth = probabilities[np.arange(BATCH), batch.labels.astype(int)]
        losses.append(float(-np.log(truth).mean()))
    trainer.synchronize()
    return np.array(losses), trainer


def predict(network, place, dtype="float32", compiled=False):
    predictor = engine.Predictor(
        [network], [1], engine.parse_devices(place), BATCH, SHAPE, dtype, compiled
    )
    return np.concatenate([found for _, found in predictor.predict(map(make_batch, range(5)))])


def test_training_ends_where_the_cpu_ends(network):
    (on_cpu, expected), (on_gpu, got) = (train(network, place) for place in ("cpu", GPU))
    np.testing.assert_allclose(on_gpu, on_cpu, rtol=1e-2)
    assert on_gpu[-1] < on_gpu[0]
    expected, got = expected.state(), got.state()
    for kind in ("params", "stats"):
        begun, theirs, ours = (
            np.concatenate([getattr(arrays, kind)[n].ravel() for n in getattr(expected, kind)])
            for arrays in (network, expected, got)
        )
        assert np.linalg.norm(ours - theirs) < 0.05 * np.linalg.norm(theirs - begun), kind


def test_one_update_is_that_of_the_cpu(network):
    (_, expected), (_, got) = (train(network, place, updates=1) for place in ("cpu", GPU))
    expected, got = expected.state(), got.state()
    for name, array in expected.params.items():
        np.testing.assert_allclose(got.params[name], array, atol=1e-4, err_msg=name)
    for name, array in expected.stats.items():
        # cuDNN's variance is the unbiased one: at most 16 * 2 * 2 numbers are in a mean.
        np.testing.assert_allclose(got.stats[name], array, rtol=2e-2, atol=1e-4, err_msg=name)


@pytest.mark.parametrize(("dtype", "scale"), [("bfloat16", 1.0), ("float16", 128.0)])
def test_low_precision_trains_alike(network, dtype, scale):
    exact, _ = train(network, GPU)
    losses, trainer = train(network, GPU, dtype, loss_scale=scale)
    np.testing.assert_allclose(losses, exact, rtol=0.1)
    assert {array.dtype.name for array in trainer.state().params.values()} == {"float32"}


def test_a_compiled_network_trains_alike(network):
    exact, _ = train(network, GPU, updates=3)
    losses, _ = train(network, GPU, updates=3, compiled=True)
    np.testing.assert_allclose(losses, exact, rtol=1e-2)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [("float32", 1e-3), ("bfloat16", 0.1), ("float16", 0.02)]
)
def test_prediction_is_that_of_the_cpu(network, dtype, tolerance):
    expected = predict(network, "cpu")
    assert (expected.max(axis=1) < 0.99).all()
    np.testing.assert_allclose(predict(network, GPU, dtype), expected, atol=tolerance)


def test_a_compiled_network_predicts_alike(network):
    np.testing.assert_allclose(predict(network, GPU, compiled=True), predict(network, "cpu"), 1e-3)


def test_memory_of_images_is_pinned_and_not_reused_too_early():
    device = torch.device("cuda", 0)
    assert torch.from_numpy(allocate((4,), np.uint8)).is_pinned()
    busy = torch.randn(4096, 4096, device=device)
    sums, expected = [], []
    for number in range(50):
        array = allocate((64, 3, 128, 128), np.uint8)
        array[:] = number
        expected.append(number * array.size)
        busy = busy @ busy / 4096  # the GPU falls behind
        sums.append(copy_to(array, device).sum(dtype=torch.int64))
        del array
    assert [total.item() for total in sums] == expected


def test_what_is_recorded_draws_new_random_numbers_each_time():
    draw = recorded(lambda x: torch.nn.functional.dropout(x, 0.5), torch.device("cuda", 0))
    ones, drawn = torch.ones(1000, device="cuda"), []
    for seed in range(8):
        torch.manual_seed(seed % 4)
        drawn.append([draw(ones).cpu().numpy().copy() for _ in range(2)])
    for first, second in drawn:
        assert (first != second).any() and 0.3 < (first > 0).mean() < 0.7
    np.testing.assert_array_equal(drawn[0], drawn[4])  # not recorded yet, and recorded
    np.testing.assert_array_equal(drawn[1], drawn[5])


def test_what_waits_for_the_gpu_is_not_recorded(caplog):
    caplog.set_level("INFO")
    scaled = recorded(lambda x: x * x.sum().item(), torch.device("cuda", 0))
    for number in range(1, 7):
        x = torch.full((4,), float(number), device="cuda")
        assert scaled(x).tolist() == [4.0 * number**2] * 4
    assert "kernel by kernel, not recorded: " in caplog.text


def test_tf32_is_off_until_it_is_asked_for(monkeypatch):
    for part in (torch.backends.cuda.matmul, torch.backends.cudnn):
        monkeypatch.setattr(part, "allow_tf32", False)
    one = torch.randn(512, 512, device="cuda")
    exact = one.double() @ one.double()

    def error():
        return ((one @ one - exact).norm() / exact.norm()).item()

    assert error() < 1e-5
    engine.check("float32", engine.parse_devices(GPU), tf32=True)
    assert 1e-5 < error() < 1e-2
    with pytest.raises(UserError, match="--tf32: is for --dtype float32, not float16"):
        engine.check("float16", engine.parse_devices(GPU), tf32=True)


def test_a_gpu_that_is_not_there_is_one_line():
    with pytest.raises(UserError, match=r"--gpus 0,77: this machine has \d+ GPU\(s\)"):
        engine.parse_devices("0,77")
    with pytest.raises(UserError, match="--dtype int8: is for CPUs"):
        engine.check("int8", engine.parse_devices(GPU))


def test_the_steps_run_on_a_gpu_and_go_on_on_the_cpu(tmp_path, network):
    """Train, dry-run, resume on the CPU, and submit on the GPU, from records."""
    from benchmarks.made_up import encode, make_photograph, write_records

    images = [encode(make_photograph(number, 80, 96)) for number in range(CLASSES)]
    for name, times in (("train", 8), ("val", 2), ("test", 1)):
        labels = [*range(CLASSES)] * times
        write_records(str(tmp_path / name), images * times, labels)
    checkpoint.save(str(tmp_path / "begun"), 0, network)
    prefix = tmp_path / "net"
    flags = [
        *("--data-dir", tmp_path, "--pretrained-model", tmp_path / "begun"),
        *("--model-prefix", prefix, "--image-shape", "3,64,64", "--batch-size", BATCH),
        *("--engine", "torch", "--lr", RATE, "--mom", "0.9", "--lr-step-epochs", "9"),
        *("--data-aug-level", "0", "--wd", "0"),
    ]

    def step(*command):
        status, _, errors = run_python(*command)
        assert status == 0 and "Traceback" not in errors, errors
        return errors

    dry = step("fine-tune.py", *flags, "--gpus", GPU, "--dry-run")
    assert "memory: GPU 0 " in dry and "devices: cuda:0" in dry
    step("fine-tune.py", *flags, "--gpus", GPU, "--num-epochs", 6, "--dtype", "bfloat16")
    resumed = step("fine-tune.py", *flags, "--gpus", "cpu", "--num-epochs", 7, "--resume")
    assert "resuming from" in resumed
    with open(f"{prefix}-log.csv") as stream:
        losses = [float(row["val_loss"]) for row in csv.DictReader(stream)]
    assert losses[-1] < losses[0] / 2
    places = ["--engine", "torch", "--data-dir", tmp_path, "--model-prefix", prefix]
    found = {}
    for place in ("cpu", GPU):
        out = tmp_path / f"{place}.npz"
        step("sub.py", 7, place, *places, "--set", "val", "--batch-size", 8, "--save-probs", out)
        found[place] = np.load(out)["probabilities"].astype(float)
    np.testing.assert_allclose(found[GPU], found["cpu"], atol=2e-3)
    assert "GPU 0" in run_python("-m", "common.doctor")[1]
