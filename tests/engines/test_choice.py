"""`--engine auto`: which engine computes, and why."""

import cv2
import numpy as np
import pytest

from benchmarks.made_up import encode, make_photograph, write_records
from common import engines
from common.base.files import UserError
from common.engines import choice
from common.networks import checkpoint, edits
from common.networks.resnet import build_resnet
from tests.conftest import require_precision, run_python
from tests.random_networks import with_random_weights

needs_both = pytest.mark.skipif(
    len(engines.installed()) < 2, reason="takes MXNet and PyTorch in one environment"
)


@pytest.fixture
def processor(monkeypatch):
    """Pretend that the processor has these features; the engines look for themselves."""
    return lambda *flags: monkeypatch.setattr(choice, "cpu_flags", lambda: set(flags))


def chosen(devices="cpu", dtype="float32", work="predict", name="auto", **settings):
    engine, _, reason = choice.choose(name, devices, dtype, work, **settings)
    return engine.NAME, reason


@pytest.mark.parametrize("name", engines.installed())
def test_the_engine_that_is_asked_for_is_taken(name):
    assert chosen(name=name) == (engines.load(name).NAME, "asked for")


@pytest.mark.skipif(len(engines.installed()) != 1, reason="takes exactly one engine")
def test_the_only_engine_is_taken():
    assert chosen() == (
        engines.load(engines.installed()[0]).NAME,
        "the only one that is installed",
    )


@needs_both
@pytest.mark.parametrize(
    ("work", "dtype", "flags", "instructions"),
    [
        ("predict", "float32", {"avx2", "avx512f"}, "avx512f"),
        ("predict", "float32", {"avx512f", "amx_bf16"}, "amx_bf16"),
        ("predict", "bfloat16", {"avx512f", "avx512_bf16"}, "avx512_bf16"),
        ("predict", "bfloat16", {"avx512f", "avx512_bf16", "amx_bf16"}, "amx_bf16"),
        ("predict", "int8", {"avx512f", "avx512_vnni"}, "avx512_vnni"),
        ("predict", "int8", {"avx512f", "avx512_vnni", "amx_bf16", "amx_int8"}, "amx_int8"),
        ("train", "bfloat16", {"avx512f", "avx512_bf16", "amx_bf16"}, "amx_bf16"),
    ],
)
def test_of_both_the_one_that_was_measured_to_be_faster_is_taken(
    processor, work, dtype, flags, instructions
):
    processor(*flags)
    name, reason = chosen(work=work, dtype=dtype)
    assert name == "PyTorch"
    assert reason.endswith(f" times as fast as MXNet in {dtype} with {instructions}")


@needs_both
@pytest.mark.parametrize(
    ("work", "dtype", "flags"),
    [
        ("predict", "float32", {"avx2"}),
        ("predict", "int8", {"avx2", "avx512f"}),
        ("train", "float32", {"avx2", "avx512f", "avx512_bf16", "amx_bf16"}),
        ("train", "bfloat16", {"avx512f", "avx512_bf16"}),
    ],
)
def test_where_they_are_as_fast_it_is_mxnet(processor, work, dtype, flags):
    processor(*flags)
    reason = "both are installed, and PyTorch was not measured to be faster here"
    assert chosen(work=work, dtype=dtype) == ("MXNet", reason)


def test_bfloat16_by_way_of_float32_is_named_as_slow(processor):
    require_precision(engines.installed()[0], "bfloat16")
    slow = "bfloat16 is slower than float32: the processor has no instructions for it (avx512_bf16)"
    processor("avx512f")
    assert chosen(dtype="bfloat16")[1].endswith(f"; {slow}")
    assert slow not in chosen(dtype="float32")[1]
    processor("avx512f", "avx512_bf16")
    assert slow not in chosen(dtype="bfloat16")[1]


@needs_both
def test_what_one_engine_does_not_do_the_other_one_does(processor):
    processor("avx2")
    name, reason = chosen(compiled=True)
    assert name == "PyTorch"
    assert reason == (
        "MXNet does not do it (--compile: MXNet does not compile networks; use --engine torch)"
    )


LACKS_TF32 = {"mxnet": "MXNet has no such setting", "torch": "is for NVIDIA's GPUs"}


@pytest.mark.parametrize("name", engines.installed())
def test_tf32_without_a_gpu_for_it_is_one_line(name):
    with pytest.raises(UserError, match=f"--tf32: {LACKS_TF32[name]}"):
        chosen(name=name, tf32=True)


@needs_both
def test_tf32_without_a_gpu_is_not_advised_with_another_engine(processor):
    processor("avx2")  # where MXNet is preferred
    with pytest.raises(UserError, match="--tf32: is for NVIDIA's GPUs; leave it out"):
        chosen(tf32=True)


@needs_both
@pytest.mark.parametrize(
    ("variable", "name"), [("DMLC_ROLE", "MXNet"), ("TORCHELASTIC_RUN_ID", "PyTorch")]
)
def test_a_launcher_has_its_own_engine(monkeypatch, variable, name):
    monkeypatch.setenv(variable, "1")
    assert chosen() == (name, "its launcher has started this process")


def test_what_no_engine_does_is_one_line():
    with pytest.raises(UserError, match="GPU 7: "):
        chosen("7", flag="GPU")


def test_scripts_name_the_engine_and_the_reason(script, tmp_path):
    name = engines.installed()[0]
    network = with_random_weights(edits.take_raw_images(build_resnet(10, 3, width=8)), 32, seed=0)
    checkpoint.save(str(tmp_path / "net"), 1, network)
    cv2.imwrite(str(tmp_path / "a.png"), np.zeros((40, 40, 3), np.uint8))
    done = script(
        *("sub.py", 1, "cpu", "--images", tmp_path / "a.png", "--model-prefix", tmp_path / "net"),
        *("--crop-size", 32, "--output", tmp_path / "out.csv", "--engine", name),
    )
    assert f"engine: {engines.load(name).NAME}, asked for\n" in done.stderr


@pytest.mark.parametrize("policy", ["", "passive"])
def test_the_log_of_a_training_says_how_its_threads_wait(tmp_path, engine, monkeypatch, policy):
    for name in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT"):  # this process may have set it
        monkeypatch.delenv(name, raising=False)
    photographs = [encode(make_photograph(seed, 32, 32)) for seed in range(4)]
    rec = write_records(tmp_path / "train", photographs, [0, 1, 2, 0])
    network = with_random_weights(edits.take_raw_images(build_resnet(10, 3, width=8)), 32, seed=0)
    checkpoint.save(str(tmp_path / "net"), 0, network)
    _, _, stderr = run_python(
        *("fine-tune.py", "--data-train", rec, "--pretrained-model", tmp_path / "net", "--dry-run"),
        *("--image-shape", "3,32,32", "--batch-size", 2, "--gpus", "cpu", "--engine", engine),
        *("--data-dir", tmp_path, "--model-prefix", tmp_path / "run"),
        **({"OMP_WAIT_POLICY": policy} if policy else {}),
    )
    ours = {"mxnet": "as OpenMP has it by default", "torch": "GOMP_SPINCOUNT=3000"}[engine]
    waiting = f"OMP_WAIT_POLICY={policy}" if policy else ours
    assert f"threads wait for each other: {waiting}\n" in stderr
