"""The report of the machine, `python -m common.doctor`: what there is, and what to do next."""

import os
import sys

import numpy
import pytest

from common import engines
from common.setup.machine import Gpu, Machine
from common.tools import doctor
from tests.conftest import run_python

needs_engine = pytest.mark.skipif(not engines.installed(), reason="no engine is installed")


def test_the_report_says_what_there_is(script, tmp_path, mx):
    (tmp_path / "train2017.json").write_text('{"images": [{"file_name": "a"}, {"file_name": "b"}]}')
    (tmp_path / "net-symbol.json").write_text("{}")
    for epoch in (0, 1, 2, 7):
        (tmp_path / f"net-{epoch:04d}.params").write_bytes(b"")
    folders = ["--data-dir", tmp_path, "--model-dir", tmp_path]
    output = script("common.doctor", *folders).stdout
    for expected in (
        f"numpy {numpy.__version__}",
        f"MXNet       {mx.__version__}",
        "GiB free",
        "train2017.json: 2 images",
        "net, epochs 0 to 2, 7",
        f"Next        python mx_list.py --data-dir {tmp_path}",
    ):
        assert expected in output


def test_a_run_of_a_network_of_timm_is_found(tmp_path):
    (tmp_path / "run-timm.json").write_text("{}")
    for epoch in (1, 2):
        (tmp_path / f"run-{epoch:04d}.safetensors").write_bytes(b"")
    networks = doctor.find_networks(str(tmp_path))
    assert networks == {str(tmp_path / "run"): [1, 2]}
    step = doctor.next_step(doctor.DATA_DIR, {"train.json", "train.lst", "train.rec"}, networks)
    assert step == f"python sub.py EPOCH GPU --model-prefix {tmp_path}/run"


def test_the_next_step_names_the_network_that_was_trained_last(tmp_path):
    data = {"train.json", "train.lst", "train.rec"}
    for number, name in enumerate(("new", "old", "new-0001-int8", "new-0001-int8-torch")):
        (tmp_path / f"{name}-symbol.json").write_text("{}")
        weights = tmp_path / f"{name}-000{1 - number // 2}.params"
        weights.write_bytes(b"")
        os.utime(weights, (0, 1000 - number))
    networks = doctor.find_networks(str(tmp_path))
    assert list(networks) == [f"{tmp_path}/new", f"{tmp_path}/old"]
    step = doctor.next_step(str(tmp_path), data, networks)
    assert step == f"python sub.py EPOCH GPU --data-dir {tmp_path} --model-prefix {tmp_path}/new"
    assert doctor.next_step(doctor.DATA_DIR, data, {"model/iNat-resnet-152": [0, 8]}) == (
        "python sub.py EPOCH GPU"
    )


def test_the_next_step_of_own_photographs_is_not_the_challenge_s(tmp_path):
    for name in ("mine_train.rec", "mine_val.rec"):
        (tmp_path / name).write_bytes(b"")
    data = doctor.find_data(str(tmp_path))
    assert list(data) == ["mine_train.rec", "mine_val.rec"]
    assert doctor.next_step(str(tmp_path), set(data), {"model/pretrained": [0]}).startswith(
        "train on"
    )
    assert doctor.next_step(str(tmp_path), set(data), {"model/mine": [8]}) == (
        "python sub.py EPOCH GPU --model-prefix model/mine --images PHOTOGRAPHS"
    )


@needs_engine
@pytest.mark.parametrize(
    ("command", "line"),
    [
        ("echo Tesla T4, 535.104.05, 15360 MiB", "Tesla T4, 535.104.05, 15360 MiB"),
        ("echo NVIDIA-SMI has failed >&2; exit 9", "NVIDIA-SMI has failed"),
    ],
)
def test_the_report_repeats_what_nvidia_smi_says(script, tmp_path, monkeypatch, command, line):
    (tmp_path / "nvidia-smi").write_text(f"#!/bin/sh\n{command}\n")
    (tmp_path / "nvidia-smi").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")
    assert f"\nnvidia-smi  {line}\n" in script("common.doctor").stdout


@needs_engine
def test_the_report_goes_on_over_what_is_broken(script, tmp_path):
    (tmp_path / "train2017.json").write_text('{"images": [{"file_name": "a"')
    (tmp_path / "train.lst").mkdir()
    (tmp_path / "train.rec").write_bytes(b"no record")
    (tmp_path / "val.rec").write_bytes(b"")
    (tmp_path / "val.idx").write_bytes(b"")
    (tmp_path / "net-symbol.json").write_bytes(b"\xff")
    (tmp_path / "net-\u00b2.params").write_bytes(b"")  # a digit, and no number
    folders = ["--data-dir", tmp_path, "--model-dir", tmp_path]
    output = script("common.doctor", *folders).stdout
    assert "\nNext " in output
    for expected in (
        "train2017.json: 1 images",
        "train.lst: cannot be read (is a directory)",
        "train.rec: no train.idx beside it",
        "val.rec: 0 records",
        "net, no weights",
    ):
        assert expected in output


@pytest.mark.skipif(sys.version_info >= (3, 13), reason="MXNet is refused before it is loaded")
def test_the_report_ends_with_the_reason_where_no_engine_starts(stand_in):
    stand_in("torch", "raise ModuleNotFoundError(name='torch')")
    folder = stand_in("mxnet", "import ctypes\nctypes.CDLL('libgomp.so.99')")
    status, output, errors = run_python("-m", "common.doctor", PYTHONPATH=folder)
    assert status == 2 and "numpy" in output and "Disk" in output
    assert errors.startswith("doctor.py: libgomp.so") and errors.count("\n") == 1


@needs_engine
def test_the_report_says_of_both_engines_what_they_can_do_or_why_they_are_missing():
    status, output, _ = run_python("-m", "common.doctor")
    assert status == 0
    for name, title in (("mxnet", "MXNet"), ("torch", "PyTorch")):
        (line,) = (line for line in output.splitlines() if line.startswith(f"{title} "))
        assert ("not installed" in line) == (name not in engines.installed())
    assert output.count("\nbfloat16 ") == len(engines.installed())


HERE = Machine("Linux", "x86_64")
HOPPER = Machine("Linux", "x86_64", [Gpu(9.0, (580, 65), "NVIDIA H100")], True)


@pytest.mark.parametrize(
    ("name", "here", "python", "text"),
    [
        ("mxnet", HERE, (3, 12), "sh setup.sh both"),
        ("torch", HERE, (3, 12), "sh setup.sh both"),
        ("mxnet", HERE, (3, 13), "this is Python 3.13, and both engines in one environment need"),
        ("mxnet", HERE, (3, 13), "VENV=.venv-2 sh setup.sh cpu"),
        ("torch", HERE, (3, 8), "VENV=.venv-2 sh setup.sh torch"),
        ("mxnet", HOPPER, (3, 12), "not installed: no MXNet wheel has code for NVIDIA H100"),
        ("mxnet", Machine("Darwin", "arm64"), (3, 12), "MXNet has no wheel for macOS on Arm"),
    ],
)
def test_the_reason_why_an_engine_is_missing_comes_with_the_command(name, here, python, text):
    assert text in doctor.why_missing(name, here, python)


@pytest.mark.parametrize(
    ("data", "networks", "command"),
    [
        ("", {}, "sh demo.sh"),
        ("train.json", {}, "python mx_list.py"),
        ("train.json train.lst val.json", {}, "python mx_list.py"),
        ("train.json train.lst", {}, "sh gen_rec.sh data"),
        ("train.json train.lst train.rec", {}, "get a pretrained network"),
        ("train.json train.lst train.rec", {"resnet-152": [0]}, "sh run.sh"),
        ("train.json train.lst train.rec", {"resnet-152": [0, 1]}, "python sub.py EPOCH GPU"),
    ],
)
def test_the_next_step_follows_from_what_is_there(data, networks, command):
    step = doctor.next_step(doctor.DATA_DIR, set(data.split()), networks)
    assert command in step


def test_the_next_step_can_be_pasted():
    step = doctor.next_step("/my data", {"train.json", "train.lst"}, {})
    assert step == "sh gen_rec.sh '/my data'"
