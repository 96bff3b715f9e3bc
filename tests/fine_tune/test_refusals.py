"""Training that cannot begin: what is said, in one line."""

import os
import re
import subprocess
from types import SimpleNamespace

import pytest

from common.base.files import ROOT, UserError
from common.training import fit
from tests.conftest import only
from tests.fine_tune.conftest import THIS_VENV


def test_a_run_that_would_fill_the_disk_is_refused_before_it_begins(script, flags, tmp_path):
    flags += ["--num-epochs", 10**9]
    said = script("fine-tune.py", *flags, status=2).stderr
    assert re.search(r"1000000000 checkpoints need \d+\.\d\d GB, .* free some space, or", said)
    assert os.listdir(tmp_path) == []
    said = script("fine-tune.py", *flags, "--keep", 2, "--dry-run").stderr
    assert "4 checkpoints need" in said


def test_the_disk_must_hold_the_moving_averages_too(script, flags):
    def needed(*more):
        said = script("fine-tune.py", *flags, "--num-epochs", 2000, "--dry-run", *more).stderr
        return float(re.search(r"2000 checkpoints need (\d+\.\d\d) GB", said).group(1))

    assert needed("--mom", "0", "--ema", "0.9") == pytest.approx(2 * needed("--mom", "0"), rel=0.1)


def test_run_sh_without_its_gpus_says_what_there_is(engine):
    no_gpus = {**os.environ, **THIS_VENV, "CUDA_VISIBLE_DEVICES": ""}
    command = ["sh", "run.sh", "--engine", engine]
    done = subprocess.run(command, cwd=ROOT, env=no_gpus, capture_output=True, encoding="utf-8")
    assert done.returncode == 2
    (line,) = [line for line in done.stderr.splitlines() if line]
    assert "--gpus 0,1,2,3" in line
    assert "run on the CPU with --gpus cpu" in line


def test_missing_records_name_the_step_that_makes_them(script, flags, tmp_path):
    said = script("fine-tune.py", *flags, "--data-dir", tmp_path, status=2).stderr
    assert "train.rec" in said
    assert "gen_rec.sh" in said


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (("--batch-size", "1000"), "--batch-size 1000"),
        (("--num-classes", "3"), "--num-classes 3"),
        (("--lr-step-epochs", "2,1"), "epochs must increase"),
        (("--gpus", "9"), "--gpus 9"),
        (("--freeze", "conv9"), "matches no parameter"),
        (("--layer-before-fullc", "pool9"), "its last ones are: .*pool1"),
        (("--pretrained-model", "model/nothing"), "model/nothing"),
        (("--model-prefix", "no/such/folder/net"), "there is no folder"),
        (("--image-shape", "3,64"), "--image-shape"),
        (("--ema", "1.5"), "--ema 1.5"),
        (("--kv-store", "nccl"), "--kv-store nccl: is for GPUs"),
        (("--kv-store", "dist_sink"), "--kv-store: invalid choice"),
        (("--kv-store", "local", "--gc-type", "2bit"), "--gc-type 2bit: is not for"),
        (("--top-k", "0"), "--top-k 0: not whole numbers from 1 on"),
        (("--loss-scale", "0"), "--loss-scale and --gc-threshold must be more than 0"),
        (("--head-lr-mult", "-1"), "--head-lr-mult -1.0: must be 0 or more"),
    ],
)
def test_a_wrong_flag_is_one_line(script, flags, wrong, message, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    said = script("fine-tune.py", *flags, *wrong, status=2).stderr
    last = said.splitlines()[-1]
    assert last.startswith("fine-tune.py: ")
    assert re.search(message, last), said


@pytest.mark.parametrize(("ending", "more"), [("", ()), ("-ema", ("--ema", "0.9"))])
def test_the_pretrained_network_is_not_overwritten(script, flags, tmp_path, ending, more):
    script("fine-tune.py", *flags, "--num-epochs", 1)
    for path in tmp_path.glob("run-*"):
        path.rename(tmp_path / path.name.replace("run-", f"net{ending}-"))
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    (tmp_path / "link").symlink_to(tmp_path)
    flags += ["--pretrained-model", tmp_path / f"link/net{ending}", "--model-prefix"]
    said = script("fine-tune.py", *flags, tmp_path / "net", *more, status=2).stderr.splitlines()[-1]
    assert f"--model-prefix {tmp_path}/net: would overwrite --pretrained-model {tmp_path}" in said
    (tmp_path / "link").unlink()
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


@only("mxnet")
def test_float16_is_refused_on_a_cpu(script, flags):
    said = script("fine-tune.py", *flags, "--dtype", "float16", status=2).stderr
    assert said.splitlines()[-1].startswith("fine-tune.py: --dtype float16: is for GPUs")


def test_a_variant_goes_to_the_pretrained_file(script, flags, tmp_path):
    said = script("fine-tune.py", *flags, "--variant", "efficientnet_lite0", status=2).stderr
    assert "--variant efficientnet_lite0: is for PyTorch files" in said


@pytest.mark.parametrize(("train", "val"), [(2, 3), (3, 1)])
def test_other_records_than_the_first_machines_are_named(train, val):
    run = fit.Run.__new__(fit.Run)  # the checks before anything is loaded
    run.workers = SimpleNamespace(rank=1, is_joint=True, agree=lambda own: 3)
    run.data = SimpleNamespace(train=range(train), val=range(val))
    with pytest.raises(UserError, match=r"worker 1 has [12] batches of .*, the first worker 3; c"):
        run._require_same_data()
