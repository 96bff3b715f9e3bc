"""PyTorch's devices by the text that a user types, its settings, and how it is missed."""

import os
import re
import subprocess
import sys

import pytest

from common.base.files import UserError
from common.engines import torch as engine
from common.engines.torch import runtime
from common.engines.torch.runtime import torch
from tests.conftest import ROOT

CPU = torch.device("cpu", 0)


@pytest.mark.skipif(torch.backends.mps.is_available(), reason="this machine has an Apple GPU")
def test_an_apple_gpu_that_is_not_there_is_an_error():
    with pytest.raises(UserError, match=r"^GPU mps: .*or run on the CPU with GPU cpu"):
        engine.parse_devices("mps", flag="GPU")


def test_apples_gpu_is_one():
    with pytest.raises(UserError, match="not a list of GPUs"):
        engine.parse_devices("mps,mps")


def test_the_engine_describes_itself():
    described = engine.describe()
    assert described["PyTorch"].startswith(torch.__version__)
    assert engine.versions()["torch"] == torch.__version__
    for dtype in ("bfloat16", "float16", "int8"):
        assert re.match("yes: .|no: .", described[dtype])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_a_processor_without_a_format_is_an_error_that_says_so(dtype, monkeypatch):
    asked = "_is_mkldnn_bf16_supported" if dtype == "bfloat16" else "_is_mkldnn_fp16_supported"
    monkeypatch.setattr(torch.ops.mkldnn, asked, lambda: False)
    with pytest.raises(UserError, match=f"--dtype {dtype}: this processor lacks .*use --dtype"):
        engine.check(dtype, [CPU])
    monkeypatch.setattr(torch.ops.mkldnn, asked, lambda: True)
    engine.check(dtype, [CPU])
    engine.check("float32", [CPU])


def test_float32_is_not_shortened_on_gpus():
    assert not torch.backends.cuda.matmul.allow_tf32
    assert not torch.backends.cudnn.allow_tf32


def test_an_old_pytorch_is_refused_in_one_line():
    runtime._check_version("2.13.0+cpu")
    with pytest.raises(UserError, match=r"PyTorch 1\.13\.1 is too old, .*: pip install 'torch>="):
        runtime._check_version("1.13.1")


MISSING = """
import sys
sys.modules["torch"] = None
from common.base.files import UserError
try:
    import common.engines.torch
except UserError as error:
    print(error)
"""

FAULTS = """
import resource
from common.engines.torch.runtime import torch
from common.base.memory import keep_freed_memory
keep_freed_memory()  # as a loader asks, later
def work():
    for megabytes in (100, 40, 200):
        torch.ones(megabytes << 18)
work()
before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
work()
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""


def run(code):
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.strip()


def test_a_missing_pytorch_is_one_line():
    reason, fix = run(MISSING).split(": ")
    assert reason == f"PyTorch is not installed in {sys.executable}"
    assert fix == "run sh setup.sh torch (or both), then .venv/bin/python"


@pytest.mark.skipif(not os.path.exists("/proc/self/maps"), reason="glibc on Linux")
def test_memory_that_was_freed_is_used_again_without_the_kernel():
    assert int(run(FAULTS)) < 100  # 87,000 otherwise
