"""Several processes that train together, one for each device, and what ends one of them."""

import os
import signal
import subprocess
import sys
import time

import numpy as np
import pytest

from common.base.files import ROOT
from common.networks import checkpoint, edits, graph
from common.networks.resnet import build_resnet
from tests.engines.small_trainers import with_weights
from tests.faults.interruption import launch
from tests.test_cluster import LINUX_ALONE, cluster, processes_of

TRAINING = [
    *("fine-tune.py", "--engine", "torch", "--pretrained-model", "zoo", "--model-prefix", "run"),
    *("--image-shape", "3,32,32", "--batch-size", "15", "--mom", "0.9", "--lr-step-epochs", "1"),
    *("--data-nthreads", "1", "--initial-validation", "0", "--keep", "2", "--dropout", "0.3"),
]
TWO = ["--gpus", "cpu:0,cpu:1"]
ENDLESS = ["--num-epochs", "100000"]


@pytest.fixture
def folder(sample, tmp_path):
    """A folder with networks to train; `processes_of` finds what was started in it."""
    checkpoint.save(str(tmp_path / "zoo"), 0, with_weights(build_resnet(10, 9, width=8)))
    checkpoint.save(str(tmp_path / "smooth"), 0, with_weights(smooth_graph()))
    return tmp_path


def smooth_graph():
    """With BatchNorm, and without ReLU, at whose kink rounding grows to a difference."""
    net = graph.Builder()
    body = net.add("BatchNorm", "bn", net.variable("data"), fix_gamma=False)
    body = net.add("Convolution", "conv0", body, kernel=(3, 3), stride=(4, 4), num_filter=8)
    body = net.add("Activation", "tanh", body, act_type="tanh")
    body = net.add("Pooling", None, body, global_pool=True, kernel=(1, 1), pool_type="avg")
    return net.graph(edits.classify(net, body, 9, "fc9"))


def start(folder, sample, *flags):
    prefix = ["--data-dir", sample, "--model-prefix", folder / "run"]  # the last one counts
    return launch(folder, [*TRAINING, *prefix, *flags], start_new_session=True)


def wait_for(path, process):
    deadline = time.monotonic() + 200
    while not path.exists():
        assert time.monotonic() < deadline and process.poll() is None, process.communicate()
        time.sleep(0.1)


def train(folder, sample, *flags):
    process = start(folder, sample, *flags)
    said = process.communicate(timeout=300)[1]
    assert process.returncode == 0, said
    return said


def started_by(launcher, folder):
    """The processes that a launcher has started, by their numbers; the first one comes first."""
    numbers = sorted(set(processes_of(str(folder / "run"))) - {launcher.pid})
    assert len(numbers) == 2
    return numbers


def lines_of(said):
    return [line for line in said.splitlines() if line]


def weights_of(folder, epoch):
    network = checkpoint.load(str(folder / "run"), epoch)
    return {**network.params, **network.stats}


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGTERM, 143), pytest.param(signal.SIGINT, 130, marks=pytest.mark.slow)],
)
def test_who_stops_the_first_process_stops_all(folder, sample, number, status):
    launcher = start(folder, sample, *TWO, *ENDLESS)
    wait_for(folder / "run-0002.params", launcher)  # the first one is certainly complete
    launcher.send_signal(number)
    said = launcher.communicate(timeout=60)[1]
    assert launcher.returncode == status
    *_, before, last = lines_of(said)
    assert "go on with --resume, or --load-epoch" in before
    assert last == f"fine-tune.py: stopped by {'SIGTERM' if status == 143 else 'Ctrl-C'}"
    assert not processes_of(str(folder / "run"))


@pytest.mark.parametrize("victim", [1, pytest.param(0, marks=pytest.mark.slow)])
def test_a_process_that_is_killed_ends_all_and_is_named(folder, sample, victim):
    launcher = start(folder, sample, *TWO, *ENDLESS)
    wait_for(folder / "run-0001.params", launcher)
    os.kill(started_by(launcher, folder)[victim], signal.SIGKILL)
    said = launcher.communicate(timeout=60)[1]
    assert launcher.returncode == 128 + signal.SIGKILL
    expected = f"process {victim} (cpu:{victim}) ended with SIGKILL: all others were stopped"
    assert lines_of(said)[-1] == f"fine-tune.py: {expected}"
    assert "Traceback" not in said
    assert not processes_of(str(folder / "run"))


@LINUX_ALONE
def test_processes_end_with_the_one_that_started_them(folder, sample):
    launcher = start(folder, sample, *TWO, *ENDLESS)
    wait_for(folder / "run-0001.params", launcher)
    launcher.kill()
    launcher.communicate(timeout=60)
    assert not processes_of(str(folder / "run"))


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_hangs_ends_all_within_a_minute_and_is_named(folder, sample, victim):
    launcher = start(folder, sample, *TWO, *ENDLESS)
    wait_for(folder / "run-0001.params", launcher)
    os.kill(started_by(launcher, folder)[victim], signal.SIGSTOP)
    said = launcher.communicate(timeout=60)[1]
    assert launcher.returncode == 2
    last = lines_of(said)[-1]
    assert last.startswith(f"fine-tune.py: process {victim} (cpu:{victim} on ")
    assert last.endswith(
        "has not answered for 30 s: it hangs, or its network is lost; the run ends"
    )
    assert not processes_of(str(folder / "run"))


def test_an_error_of_all_processes_is_one_line(folder, sample):
    launcher = start(folder, sample, *TWO, "--num-classes", "5")
    said = launcher.communicate(timeout=100)[1]
    assert launcher.returncode == 2
    (line,) = lines_of(said)
    assert line.startswith("fine-tune.py: --num-classes 5: ")


def test_several_processes_report_what_a_run_needs_once(folder, sample):
    said = train(folder, sample, *TWO, "--num-epochs", "1", "--dry-run")
    assert said.count("devices: cpu:0, cpu:1") == said.count("dry run: a batch of 15 takes") == 1
    assert not list(folder.glob("run*"))


def test_a_look_at_the_joint_batch_takes_one_process(folder, sample):
    said = train(folder, sample, *TWO, "--num-epochs", "1", "--preview", folder / "seen.png")
    assert "seen.png: 15 images of the first batch" in said and (folder / "seen.png").exists()


def test_a_resumed_run_is_an_uninterrupted_one_with_as_many_processes(folder, sample):
    train(folder, sample, *TWO, "--num-epochs", "2")
    expected = weights_of(folder, 2)
    (folder / "run-0002.params").unlink()
    said = train(folder, sample, *TWO, "--num-epochs", "2", "--resume")
    assert "resuming from" in said and "device(s) so far" not in said
    found = weights_of(folder, 2)
    for name, array in expected.items():
        np.testing.assert_array_equal(found[name], array, err_msg=name)
    (folder / "run-0002.params").unlink()
    said = train(folder, sample, "--gpus", "cpu", "--num-epochs", "2", "--resume")
    assert "run-config.json: trained on 2 device(s) so far, on 1 from here on" in said


def test_torchrun_starts_the_processes_again_and_they_go_on(folder, sample):
    """A worker is killed after the second epoch; the job resumes from there, and ends well."""
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--max-restarts=1"]
    flags = ["--data-dir", sample, "--model-prefix", folder / "run", "--num-epochs", "9"]
    command = [
        *torchrun,
        f"--log-dir={folder}",
        "--nproc-per-node=2",
        os.path.join(ROOT, TRAINING[0]),
        *TRAINING[1:],
    ]
    job = subprocess.Popen(
        [*map(str, [*command, *flags, *TWO, "--resume"])],
        cwd=folder,
        stderr=subprocess.PIPE,
        encoding="utf-8",
    )
    wait_for(folder / "run-0002.params", job)
    os.kill(started_by(job, folder)[1], signal.SIGKILL)
    said = job.communicate(timeout=300)[1]
    assert job.returncode == 0, said
    assert "resuming from" in said
    assert (folder / "run-0009.params").exists()


def test_two_machines_train_as_one_with_the_joint_batch(folder, sample):
    joint = ["--pretrained-model", folder / "smooth", "--num-epochs", "1", "--dropout", "0"]
    flags = ["--data-dir", sample, "--model-prefix", folder / "run", *joint, "--batch-size", "8"]
    worker = [sys.executable, os.path.join(ROOT, TRAINING[0]), *TRAINING[1:], *flags]
    several = ["--kv-store", "dist_sync", "--sync-batch-norm", "--gpus", "cpu"]
    job = cluster("localhost,localhost", "--", *worker, *several)
    said = job.communicate(timeout=300)[1]
    assert job.returncode == 0, said
    assert "Node[0] Epoch[0] Train-accuracy" in said and "Node[1]" not in said
    found = weights_of(folder, 1)
    train(folder, sample, *joint, "--gpus", "cpu", "--batch-size", "16")
    for name, array in weights_of(folder, 1).items():
        np.testing.assert_allclose(found[name], array, rtol=1e-4, atol=1e-4, err_msg=name)


def test_a_machine_that_is_lost_ends_the_job(folder, sample):
    flags = ["--data-dir", sample, *ENDLESS, "--gpus", "cpu", "--kv-store", "dist_sync"]
    worker = [sys.executable, os.path.join(ROOT, TRAINING[0]), *TRAINING[1:], *flags]
    job = cluster(
        *("localhost,localhost", "--", *worker, "--pretrained-model", folder / "zoo"),
        *("--model-prefix", folder / "run"),
    )
    wait_for(folder / "run-0001.params", job)
    launchers = [
        number
        for number, line in processes_of(str(folder / "run")).items()
        if "cluster" not in line and " -u " not in line  # the launchers' own processes are `-u`
    ]
    os.kill(max(launchers), signal.SIGKILL)
    said = job.communicate(timeout=60)[1]
    assert job.returncode == 128 + signal.SIGKILL
    assert "worker 1 on localhost ended with SIGKILL: ending the job" in said
    assert not processes_of(str(folder / "run"))
