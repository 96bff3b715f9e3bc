"""gen_rec.sh, and what the shell scripts of the steps have in common."""

import os
import shutil
import subprocess

import cv2
import numpy as np
import pytest

from common.base.files import ROOT
from common.data.recordio import RecordFile


def run_gen_rec(*arguments, cwd=ROOT, env=None):
    command = ["sh", os.path.join(ROOT, "gen_rec.sh"), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, encoding="utf-8", cwd=cwd, env=env)


def test_gen_rec_packs_val_and_train_though_some_of_val_fail(prefix, photographs):
    folder = prefix.parent
    for number in range(20):
        shutil.copy(photographs / f"{number}.jpg", folder)
    (folder / "val.lst").write_text("0\t0\t0.jpg\n1\t0\tmissing.jpg\n")
    (folder / "train.lst").write_text("0\t0\t1.jpg\n1\t0\t2.jpg\n")
    done = run_gen_rec(".", cwd=folder)
    assert done.returncode == 1
    assert "val.rec: 1 packed, 1 failed" in done.stdout
    assert "train.rec: 2 packed, 0 failed" in done.stdout
    image = RecordFile(str(folder / "train.rec")).read(0).image
    assert cv2.imdecode(np.frombuffer(image, np.uint8), 1).shape == (512, 682, 3)
    (folder / "val.lst").write_text("0\t0\t0.jpg\n")
    assert run_gen_rec(folder).returncode == 0


def test_gen_rec_takes_one_folder(tmp_path):
    done = run_gen_rec(tmp_path, "--resize", "64")
    assert done.returncode == 2
    assert done.stderr.startswith("gen_rec.sh: --resize: it takes one folder; edit the settings")


def test_gen_rec_names_the_step_that_makes_a_missing_list(tmp_path):
    done = run_gen_rec(tmp_path)
    assert done.returncode == 2
    assert done.stderr == (
        f"im2rec.py: {tmp_path}/val.lst: not found; make it with:"
        f" python mx_list.py --data-dir {tmp_path}\n"
    )


@pytest.mark.parametrize(("cores", "threads"), [(3, 3), (64, 20)])
def test_gen_rec_takes_no_more_threads_than_there_are_cores(tmp_path, cores, threads):
    programs = {"bin/getconf": f"echo {cores}", "venv/bin/python": 'echo "$@"'}
    for name, line in programs.items():
        path = tmp_path / name
        path.parent.mkdir(parents=True)
        path.write_text(f"#!/bin/sh\n{line}\n")
        path.chmod(0o755)
    environment = {
        "PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}",
        "VENV": str(tmp_path / "venv"),
    }
    done = run_gen_rec(tmp_path, env={**os.environ, **environment})
    first, second = done.stdout.splitlines()
    assert f"--num-thread {threads} " in first and first.endswith(f"{tmp_path}/val {tmp_path}")
    assert f"--num-thread {threads} " in second and second.endswith(f"{tmp_path}/train {tmp_path}")


@pytest.mark.parametrize("script", ["gen_rec.sh", "run.sh"])
def test_an_environment_that_is_named_and_not_there_is_one_line(script, tmp_path):
    environment = {**os.environ, "VENV": str(tmp_path / "venv")}
    done = subprocess.run(["sh", script], env=environment, cwd=ROOT, capture_output=True, text=True)
    python = tmp_path / "venv" / "bin" / "python"
    fix = f"make the environment: VENV={tmp_path / 'venv'} sh setup.sh"
    assert (done.returncode, done.stderr) == (2, f"{python}: not found: {fix}\n")


@pytest.mark.parametrize("script", ["gen_rec.sh", "run.sh", "cluster.sh"])
def test_settings_of_the_shell_and_of_python_lead_nowhere_else(script, tmp_path):
    """With CDPATH, cd may print where it goes; with PYTHONSAFEPATH, common/ is not found."""
    here, name = os.path.split(ROOT)
    environment = {**os.environ, "CDPATH": f"{here}:{tmp_path}", "PYTHONSAFEPATH": "1"}
    command = ["sh", os.path.join(name, script), "--help"]
    if script == "gen_rec.sh":
        command[-1] = str(tmp_path)
    done = subprocess.run(command, env=environment, cwd=here, capture_output=True, text=True)
    if script == "gen_rec.sh":
        assert f"{tmp_path}/val.lst: not found" in done.stderr
    else:
        assert done.returncode == 0 and "usage: " in done.stdout
