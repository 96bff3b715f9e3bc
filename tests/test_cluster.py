"""One training on several machines, here all of them this one."""

import csv
import os
import signal
import socket
import stat
import subprocess
import sys
import time

import numpy as np
import pytest

from common import engines
from common.base.files import ROOT, UserError
from common.networks import checkpoint, graph
from common.tools.cluster import engine_of
from tests.conftest import only, run_python
from tests.random_networks import with_random_weights

FINE_TUNE = [sys.executable, os.path.join(ROOT, "fine-tune.py")]


@pytest.fixture
def flags(sample, tmp_path, mx):
    """The flags of a short training of a network without BatchNorm, whose statistics are local."""
    net = graph.Builder()
    pixels = net.add("_div_scalar", None, net.variable("data"), scalar=255)
    body = net.add("Convolution", "conv0", pixels, kernel=(3, 3), stride=(4, 4), num_filter=8)
    body = net.add("Pooling", None, body, global_pool=True, kernel=(1, 1), pool_type="avg")
    logits = net.add("FullyConnected", "fc9", net.add("Flatten", None, body), num_hidden=9)
    plain = net.graph(net.add("SoftmaxOutput", "softmax", logits))
    checkpoint.save(str(tmp_path / "plain"), 0, with_random_weights(plain, 64, 3))
    return [
        *("--data-dir", str(sample), "--pretrained-model", str(tmp_path / "plain")),
        *("--image-shape", "3,64,64", "--num-epochs", "2", "--mom", "0.9", "--lr", "0.1"),
        *("--lr-step-epochs", "1", "--data-nthreads", "1", "--gpus", "cpu"),
    ]


def cluster(*arguments, **settings):
    command = ["sh", os.path.join(ROOT, "cluster.sh"), *map(str, arguments)]
    return subprocess.Popen(
        command, stderr=subprocess.PIPE, encoding="utf-8", start_new_session=True, **settings
    )


def processes_of(text):
    """{number: command line} of this machine's processes that hold `text`."""
    if os.path.exists("/proc/self/cmdline"):
        lines = dict(of_proc())
    else:  # not Linux
        listed = subprocess.run(["ps", "-A", "-ww", "-o", "pid=,args="], stdout=subprocess.PIPE)
        pairs = (line.split(None, 1) for line in listed.stdout.decode().splitlines())
        lines = {int(number): "".join(line) for number, *line in pairs}
    lines.pop(os.getpid())
    return {number: line for number, line in lines.items() if text in line}


def of_proc():
    for number in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{number}/cmdline") as stream:
                yield int(number), stream.read().replace("\0", " ")
        except OSError:  # it has ended
            continue


def test_two_workers_train_as_one_with_the_joint_batch(flags, tmp_path):
    one, two = str(tmp_path / "one"), str(tmp_path / "two")
    alone = [*FINE_TUNE, *flags, "--batch-size", "16", "--model-prefix", one]
    subprocess.run(alone, check=True, capture_output=True)
    worker = [*FINE_TUNE, *flags, "--batch-size", 8, "--model-prefix", two]
    job = cluster("localhost,localhost", "--", *worker, "--kv-store", "dist_sync")
    _, said = job.communicate(timeout=200)
    assert job.returncode == 0, said
    assert "Node[1] Epoch[1] Train-accuracy=" in said
    assert "Node[1] Saved checkpoint" not in said
    expected, got = (checkpoint.load(prefix, 2).params for prefix in (one, two))
    for name in expected:
        np.testing.assert_allclose(got[name], expected[name], atol=1e-5, err_msg=name)
    assert not processes_of(two)


@pytest.mark.parametrize("kv_store", ["dist_async", "dist_device_sync"])
def test_the_other_ways_to_share_gradients_end_and_log_their_rates(flags, tmp_path, kv_store):
    prefix = str(tmp_path / kv_store)
    worker = [*FINE_TUNE, *flags, "--batch-size", 8, "--model-prefix", prefix]
    job = cluster("localhost,localhost", "--", *worker, "--kv-store", kv_store)
    _, said = job.communicate(timeout=200)
    assert job.returncode == 0, said
    with open(f"{prefix}-log.csv") as stream:
        rates = [row["lr"] for row in csv.DictReader(stream)]
    assert rates == ["", "0.1", "0.01"]
    assert ("update by MXNet's rule" in said) == (kv_store == "dist_async")
    before, after = checkpoint.load(str(tmp_path / "plain"), 0), checkpoint.load(prefix, 2)
    assert (after.params["conv0_weight"] != before.params["conv0_weight"]).any()
    assert not processes_of(prefix)


LINUX_ALONE = pytest.mark.skipif(
    sys.platform != "linux", reason="only Linux ends the processes of a killed parent"
)


@pytest.mark.parametrize("victim", ["worker", "job", pytest.param("cluster.sh", marks=LINUX_ALONE)])
def test_what_ends_one_process_ends_the_job(flags, tmp_path, victim):
    prefix = str(tmp_path / "long")
    worker = [*FINE_TUNE, *flags, "--batch-size", 8, "--model-prefix", prefix]
    job = cluster(
        "localhost,localhost", "--", *worker, "--kv-store", "dist_sync", "--num-epochs", 5000
    )
    deadline = time.monotonic() + 200
    while not os.path.exists(f"{prefix}-0001.params"):
        assert time.monotonic() < deadline
        time.sleep(0.1)
    if victim == "worker":
        started = processes_of(prefix).items()
        workers = [number for number, line in started if line.startswith(" ".join(FINE_TUNE))]
        os.kill(min(workers), signal.SIGKILL)  # the oldest: no child of a worker
    else:
        job.send_signal(signal.SIGTERM if victim == "job" else signal.SIGKILL)
    _, said = job.communicate(timeout=60)
    if victim == "worker":
        assert job.returncode == 128 + signal.SIGKILL
        assert "cluster.sh: worker" in said
        assert "ended with SIGKILL: ending the job" in said
    elif victim == "job":
        assert job.returncode == 128 + signal.SIGTERM
    assert not processes_of(prefix)


@pytest.mark.parametrize("flag", ["--port", "--root"])
def test_an_address_that_is_not_free_is_one_line(mx, flag):
    with socket.socket() as taken:
        taken.bind(("", 0))
        taken.listen()
        given = taken.getsockname()[1] if flag == "--port" else "no-host.invalid"
        job = cluster(flag, given, "localhost", "--", "true")
        _, said = job.communicate(timeout=60)
    assert job.returncode == 2
    assert said.startswith(f"cluster.py: {flag} {given}: is not free on this machine (")
    assert said.count("\n") == 1


def test_other_hosts_are_reached_over_ssh(tmp_path, mx):
    """A stand-in for ssh shows what would run there, and runs it here."""
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\necho "ssh $4" >&2\nexec sh -c "$5"\n')
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    settings = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    command = ["sh", "-c", "test $DMLC_ROLE = worker && exit 7"]
    job = cluster("--root", "127.0.0.1", "gpu1,gpu2", "--", *command, env=settings)
    _, said = job.communicate(timeout=100)
    assert "ssh gpu1" in said
    assert "ended with status 7: ending the job" in said
    assert job.returncode == 7


def test_pytorch_s_launchers_meet_at_the_first_host(tmp_path):
    ssh = tmp_path / "ssh"
    ssh.write_text('#!/bin/sh\nexec sh -c "$5"\n')
    ssh.chmod(ssh.stat().st_mode | stat.S_IXUSR)
    settings = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    second = 'test "$PET_NNODES $PET_NODE_RANK $PET_MASTER_ADDR" = "2 1 gpu1" && exit 7; sleep 99'
    command = ["sh", "-c", second, "-", "--engine", "torch"]
    job = cluster("me@gpu1,gpu2", "--", *command, env=settings)
    _, said = job.communicate(timeout=100)
    assert "worker 1 on gpu2 ended with status 7: ending the job" in said
    assert job.returncode == 7


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("", "mxnet"),
        ("--engine torch", "torch"),
        ("--recipe vit", "torch"),
        ("--recipe convnext --engine mxnet", "mxnet"),
        ("--recipe winners-2017", "mxnet"),
        ("--pretrained-model timm:convnext_tiny", "torch"),
        ("--pretrained-model weights.pth --architecture convnext_tiny", "torch"),
        ("--pretrained-model {folder}/of-timm", "torch"),
        ("--pretrained-model {folder}/of-mxnet", "mxnet"),
        ("--compile", "torch"),
        ("--tf32", "torch"),
    ],
)
def test_the_job_is_started_for_the_engine_that_its_command_takes(
    tmp_path, monkeypatch, flags, expected
):
    monkeypatch.setattr(engines, "installed", lambda: ["mxnet", "torch"])
    for name in ("of-timm-timm.json", "of-mxnet-symbol.json"):
        (tmp_path / name).write_text("{}")
    command = ["sh", "run.sh", "--kv-store", "dist_sync", *flags.format(folder=tmp_path).split()]
    assert engine_of(command) == expected


@only("torch")
def test_a_run_that_needs_the_other_engine_says_which_flag_to_add(engine, monkeypatch):
    """The flags are in run.sh, where cluster.sh does not read them."""
    monkeypatch.setenv("DMLC_ROLE", "worker")
    loaded = engines.load(engine)
    with pytest.raises(UserError, match=r"add --engine torch to the command of cluster\.sh"):
        loaded.Workers("dist_sync", loaded.parse_devices("cpu"))


@pytest.mark.parametrize("port", [99999, 0, -5])
def test_a_port_that_does_not_exist_ends_in_one_line(port):
    status, _, errors = run_python("-m", "common.cluster", "--port", port, "localhost", "true")
    assert status == 2
    assert errors == f"cluster.py: --port {port}: must be 1 to 65535\n"


def test_a_cluster_without_mxnet_says_so_in_lines_without_a_traceback(stand_in, mx):
    folder = stand_in("mxnet", "raise ModuleNotFoundError(name='mxnet')")
    worker = ["sleep", "100"]
    job = cluster("localhost", "--", *worker, env={**os.environ, "PYTHONPATH": str(folder)})
    _, said = job.communicate(timeout=60)
    assert job.returncode == 2
    # The other process may still speak after the line of cluster.sh.
    *reasons, last = sorted(said.splitlines(), key=lambda line: line.endswith("ending the job"))
    assert any("mxnet is not installed" in line for line in reasons)
    # The other process may have failed in the same way, or be stopped while it starts.
    expected = ("mxnet is not installed", "stopped by SIGTERM")
    assert all(any(words in line for words in expected) for line in reasons), said
    assert last.endswith("ended with status 2: ending the job")


def test_a_distributed_run_without_its_cluster_says_how_to_start_one(script, mx):
    said = script("fine-tune.py", "--kv-store", "dist_sync", status=2).stderr
    assert "is started by cluster.sh" in said


def test_its_help_says_that_it_is_for_trusted_networks():
    command = ["sh", os.path.join(ROOT, "cluster.sh"), "--help"]
    said = subprocess.run(command, capture_output=True, encoding="utf-8").stdout
    assert "On trusted networks only" in said and "unpickle what they are sent" in said
