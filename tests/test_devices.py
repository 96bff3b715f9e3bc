"""Devices by the text that a user types, and what the processor can compute with."""

import importlib
import re

import pytest

from common.base.files import UserError
from tests.conftest import only, run_python


@pytest.fixture
def devices(engine):
    """The module of an engine's devices."""
    return importlib.import_module(f"common.engines.{engine}.devices")


def named(devices):
    """Devices as text: "cpu:1"."""
    return [re.sub(r"\((\d+)\)", r":\1", str(device)) for device in devices]


@pytest.mark.parametrize("text", ["", "cpu", "-1", " "])
def test_no_gpu_means_the_cpu(devices, text):
    found = devices.parse_devices(text)
    assert named(found) == ["cpu:0"]
    assert not devices.has_gpu(found)


def test_two_cpu_devices_take_the_path_of_many_devices(devices):
    assert named(devices.parse_devices("cpu:0,cpu:1")) == ["cpu:0", "cpu:1"]


WITH_A_GPU_BUILD = {"mxnet": "sh setup.sh cu117", "torch": "pip install torch"}


def test_gpus_that_are_not_there_are_named_with_the_ways_on(devices, engine):
    if devices.num_gpus():
        pytest.skip("this machine has a GPU")
    with pytest.raises(UserError) as caught:
        devices.parse_devices("0,1,2,3")
    message = str(caught.value)
    assert message.startswith("--gpus 0,1,2,3: ") and "found 0" in message
    assert "--gpus cpu" in message
    assert WITH_A_GPU_BUILD[engine] in message or "sees no GPU" in message


def test_the_first_gpu_computes(devices, engine):
    if not devices.num_gpus():
        pytest.skip("needs a GPU")
    (device,) = found = devices.parse_devices("0")
    assert devices.has_gpu(found)
    if engine == "mxnet":
        from common.engines.mxnet.runtime import mx

        assert mx.nd.ones((2,), ctx=device).sum().asscalar() == 2
        free, total = devices.gpu_memory(0)
    else:
        from common.engines.torch.runtime import torch

        assert torch.ones(2, device=device).sum().item() == 2
        free, total = devices.gpu_memory(device)
    assert 0 < free <= total


@only("torch")
def test_waiting_threads_do_not_spin_for_long(engine, monkeypatch):
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)  # this process has set it
    code = "from common import engines; engines.load('torch'); import os"
    code += "; print(os.environ.get('GOMP_SPINCOUNT'))"
    assert run_python("-c", code)[1] == "3000\n"
    assert run_python("-c", code, GOMP_SPINCOUNT="7")[1] == "7\n"
    assert run_python("-c", code, OMP_WAIT_POLICY="active")[1] == "None\n"


def test_the_memory_of_this_process_is_reported(devices):
    text = devices.memory_in_use(devices.parse_devices("cpu"))
    assert re.fullmatch(r"this process at most \d+\.\d GiB", text) and "most 0.0" not in text


@pytest.mark.parametrize("text", ["x", "0,", "0;1", "cpu:0,1", "cpu:", "-2", "1.5"])
def test_what_is_no_list_of_devices_is_refused(devices, text):
    with pytest.raises(UserError, match="not a list of GPUs"):
        devices.parse_devices(text)


def test_a_device_named_twice_is_refused(devices):
    with pytest.raises(UserError, match="GPU cpu:1,cpu:1: a device is named twice"):
        devices.parse_devices("cpu:1,cpu:1", flag="GPU")


@only("mxnet")
def test_bfloat16_is_supported_where_a_convolution_computes_in_it(devices, mx):
    if mx.__version__ < "1.9":
        pytest.skip("bfloat16 needs MXNet 1.9")
    supported, reason = devices.supports_bfloat16()
    try:
        _convolve_in_bfloat16(mx)
    except mx.MXNetError:
        assert not supported and "AVX-512" in reason
    else:
        assert supported


def _convolve_in_bfloat16(mx):
    from mxnet.contrib.amp.amp import bfloat16

    image = mx.nd.amp_cast(mx.nd.ones((1, 16, 8, 8)), dtype=bfloat16)
    weight = mx.nd.amp_cast(mx.nd.ones((16, 16, 3, 3)), dtype=bfloat16)
    result = mx.nd.Convolution(image, weight, num_filter=16, kernel=(3, 3), no_bias=True)
    assert mx.nd.amp_cast(result, dtype="float32").asnumpy().max() == 16 * 9


@only("mxnet")
def test_an_old_mxnet_is_named_as_the_reason(devices, mx):
    if mx.__version__ >= "1.7":
        pytest.skip("about older versions of MXNet")
    for supported, reason in (devices.supports_bfloat16(), devices.supports_int8()):
        assert not supported and f"MXNet {mx.__version__} is too old" in reason
