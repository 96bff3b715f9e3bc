"""Devices by the text that a user types, and what the processor can compute with."""

import re

import pytest

from common.base.files import UserError
from common.engines.mxnet import devices
from common.engines.mxnet.runtime import mx


@pytest.mark.parametrize("text", ["", "cpu", "-1", " "])
def test_no_gpu_means_the_cpu(text):
    assert devices.parse_devices(text) == [mx.cpu(0)]


def test_two_cpu_devices_take_the_path_of_many_devices():
    assert devices.parse_devices("cpu:0,cpu:1") == [mx.cpu(0), mx.cpu(1)]


@pytest.mark.skipif(mx.context.num_gpus() > 0, reason="this machine has a GPU")
def test_gpus_that_are_not_there_are_named_with_the_two_ways_on():
    with pytest.raises(UserError) as caught:
        devices.parse_devices("0,1,2,3")
    message = str(caught.value)
    assert message.startswith("--gpus 0,1,2,3: ") and "found 0" in message
    assert "sh setup.sh cu117" in message and "--gpus cpu" in message


@pytest.mark.skipif(mx.context.num_gpus() == 0, reason="needs a GPU")
def test_the_first_gpu_computes():
    (context,) = devices.parse_devices("0")
    assert mx.nd.ones((2,), ctx=context).sum().asscalar() == 2
    free, total = devices.gpu_memory(0)
    assert 0 < free <= total


def test_the_memory_of_this_process_is_told():
    text = devices.memory_in_use([mx.cpu(0)])
    assert re.fullmatch(r"this process at most \d+\.\d GiB", text) and "most 0.0" not in text


@pytest.mark.parametrize("text", ["x", "0,", "0;1", "cpu:0,1", "cpu:", "-2", "1.5"])
def test_what_is_no_list_of_devices_is_refused(text):
    with pytest.raises(UserError, match="not a list of GPUs"):
        devices.parse_devices(text)


def test_a_device_named_twice_is_refused():
    with pytest.raises(UserError, match="GPU cpu:1,cpu:1: a device is named twice"):
        devices.parse_devices("cpu:1,cpu:1", flag="GPU")


@pytest.mark.skipif(mx.__version__ < "1.9", reason="bfloat16 needs MXNet 1.9")
def test_bfloat16_is_supported_where_a_convolution_computes_in_it():
    supported, reason = devices.supports_bfloat16()
    try:
        _convolve_in_bfloat16()
    except mx.MXNetError:
        assert not supported and "AVX-512" in reason
    else:
        assert supported


def _convolve_in_bfloat16():
    from mxnet.contrib.amp.amp import bfloat16

    image = mx.nd.amp_cast(mx.nd.ones((1, 16, 8, 8)), dtype=bfloat16)
    weight = mx.nd.amp_cast(mx.nd.ones((16, 16, 3, 3)), dtype=bfloat16)
    result = mx.nd.Convolution(image, weight, num_filter=16, kernel=(3, 3), no_bias=True)
    assert mx.nd.amp_cast(result, dtype="float32").asnumpy().max() == 16 * 9


@pytest.mark.skipif(mx.__version__ >= "1.7", reason="about older versions of MXNet")
def test_an_old_mxnet_is_named_as_the_reason():
    for supported, reason in (devices.supports_bfloat16(), devices.supports_int8()):
        assert not supported and f"MXNet {mx.__version__} is too old" in reason
