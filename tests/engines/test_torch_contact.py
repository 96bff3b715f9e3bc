"""Signs of life between processes: a silent process or a lost launcher ends the others."""

import subprocess
import sys

import pytest

from common.base.files import UserError
from common.engines.torch import contact
from tests.conftest import ROOT

# The first process of two, in a store of its own; the second one's signs of life come from here.
FIRST = """
import os, sys, time
from common.engines.torch import contact
from common.engines.torch.runtime import torch
contact.SILENCE, contact._BETWEEN_BEATS = 2, 0.1
store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
os.environ.update(
    MASTER_ADDR="127.0.0.1", MASTER_PORT=str(store.port), GROUP_RANK="0",
    TORCHELASTIC_RESTART_COUNT="0",
)
other = contact.connect()
other.set("beat 1/name", "1 99999999 process 1 (cpu:1 on other)")
heartbeat = contact.Heartbeat(0, 2, "cpu:0")
for number in range(30):
    if number < 3 or not SILENT:
        other.add("beat 1", 1)
    if SUSPENDED and number == 20:
        os.system(f"(sleep 4; kill -CONT {os.getpid()}) & kill -STOP {os.getpid()}")
    time.sleep(0.1)
if LOST:
    del store, other
    time.sleep(5)
time.sleep(3 if SILENT else 0)
print("goes on")
heartbeat.close()
"""


def run(silent=False, lost=False, suspended=False):
    code = f"SILENT, LOST, SUSPENDED = {silent}, {lost}, {suspended}\n{FIRST}"
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=100)


@pytest.mark.parametrize("suspended", [False, True])
def test_processes_that_give_signs_of_life_go_on(suspended):
    """Also where a batch system has suspended the whole job for a while."""
    done = run(suspended=suspended)
    assert (done.returncode, done.stdout) == (0, "goes on\n"), done.stderr


def test_a_silent_process_ends_the_others_and_is_named():
    done = run(silent=True)
    assert done.returncode == 2
    assert "process 1 (cpu:1 on other) has not answered for 2 s: it hangs, or its" in done.stderr
    assert done.stdout == ""


def test_a_launcher_that_is_gone_ends_its_processes():
    done = run(lost=True)
    assert done.returncode == 2
    assert "lost the connection to the launcher" in done.stderr


def test_a_lost_connection_is_one_line_and_other_errors_stay(monkeypatch):
    monkeypatch.setattr(contact, "SILENCE", -10)
    with pytest.raises(UserError, match=r"lost the connection to another process: .*reset by peer"):
        with contact.until_ended():
            raise RuntimeError("[gloo/transport/tcp/pair.cc] Connection reset by peer")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        with contact.until_ended():
            raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")
