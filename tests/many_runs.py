"""Run the scripts hundreds of times, each in a fork of a process that has imported the engines.

Starting Python with MXNet or PyTorch takes more than a second, a fork a hundredth of that. A child
becomes the script: it has its own flags, environment, working directory, stdout, stderr and exit
status, and ends as Python ends. The parent has computed nothing before it forks, so no thread of an
engine is lost. What Python and OpenMP read when they start (`PYTHONPATH`, `OMP_NUM_THREADS`) is the
parent's.
"""

import gc
import importlib
import json
import os
import resource
import runpy
import signal
import subprocess
import sys
import time
from collections import namedtuple

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
sys.path[0] = ROOT  # this file is also the program that forks

from common import engines  # noqa: E402
from tests.faults import interruption  # noqa: E402

# status is None if the run took too long and was killed. memory is the peak in bytes, beyond what
# the import of PyTorch takes. Of a watched run, opened are the files that Python opened, and
# started the commands that it started.
Done = namedtuple("Done", ["status", "stdout", "stderr", "memory", "seconds", "opened", "started"])

# Python's audit events: https://docs.python.org/3/library/audit_events.html
_STARTS = ("subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.spawn", "pty.spawn")

_ENVIRONMENT = {
    # Nothing is downloaded here: no host has this name.
    "http_proxy": "http://no.invalid",
    "https_proxy": "no.invalid",
    "CUDA_VISIBLE_DEVICES": "",  # as on a machine without a GPU
}


class Scripts:
    """The scripts as a user calls them: `scripts(folder, "im2rec.py", "train", ".")`."""

    def __init__(self, folder):
        self._streams = [os.path.join(str(folder), name) for name in ("stdout", "stderr")]
        self._events = os.path.join(str(folder), "events")
        self._server = subprocess.Popen(
            [sys.executable, os.path.abspath(__file__)],
            cwd=ROOT,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            encoding="utf-8",
            env={**os.environ, **_ENVIRONMENT},
        )

    def __call__(
        self, folder, name, *arguments, seconds=60, limit=8 << 30, fault=None, watched=False
    ):
        """Run `name` (a script, or a module with dots) in `folder`, for `seconds` at most.

        `limit` is the memory that it may ask for, in bytes. `fault` is what happens to the run
        (`tests/faults/interruption.py`). Of a `watched` run, what it opened and started is noted.
        """
        case = {
            "folder": str(folder),
            "command": list(map(str, [name, *arguments])),
            "environment": {**os.environ, **_ENVIRONMENT},
            "streams": self._streams,
            "events": self._events if watched else None,
            "seconds": seconds,
            "limit": limit,
            "fault": fault or {},
        }
        self._server.stdin.write(json.dumps(case) + "\n")
        self._server.stdin.flush()
        status, memory, taken = json.loads(self._server.stdout.readline())
        texts = []
        for path in self._streams:
            with open(path, encoding="utf-8", errors="replace") as stream:
                texts.append(stream.read())
        if not watched:
            return Done(status, *texts, memory, taken, None, None)
        with open(self._events, encoding="utf-8") as stream:
            events = [json.loads(line) for line in stream]
        opened = [what for kind, what in events if kind == "open"]
        started = [what for kind, what in events if kind in _STARTS]
        return Done(status, *texts, memory, taken, opened, started)

    def close(self):
        """End the process that forks."""
        self._server.stdin.close()
        self._server.wait()


def serve():
    """Run the cases of stdin, one line of JSON each; a child returns its case."""
    imported = import_what_scripts_need()
    while True:
        line = sys.stdin.readline()
        if not line:
            return None
        case = json.loads(line)
        start = time.monotonic()
        child = os.fork()
        if child == 0:
            return case
        status, peak = wait(child, case["seconds"], interruption.Signal(child, case))
        print(json.dumps([status, peak - imported, time.monotonic() - start]), flush=True)


def resident_memory():
    """Return the memory of this process, in bytes."""
    with open("/proc/self/statm", encoding="ascii") as stream:
        return int(stream.read().split()[1]) * resource.getpagesize()


def import_what_scripts_need():
    """Return how many bytes PyTorch takes; its builds with CUDA alone take half a gigabyte."""
    os.environ["MPLBACKEND"] = "agg"
    import matplotlib.pyplot  # noqa: F401

    taken = 0
    for name in engines.installed():
        before = resident_memory()
        importlib.import_module(f"common.engines.{name}.runtime")
        taken = resident_memory() - before if name == "torch" else 0
    gc.freeze()  # else each child would traverse all imported objects at its end: 0.3 s
    return taken


def wait(child, seconds, stop):
    """Return (exit status, peak memory in bytes); a child that takes too long is killed."""
    end = time.monotonic() + seconds
    while True:
        done, status, usage = os.wait4(child, os.WNOHANG)
        if done:
            break
        if time.monotonic() > end:
            os.kill(child, signal.SIGKILL)
            return None, os.wait4(child, 0)[2].ru_maxrss * 1024
        time.sleep(stop.send_when_due())
    code = os.WEXITSTATUS(status) if os.WIFEXITED(status) else -os.WTERMSIG(status)
    return code, usage.ru_maxrss * 1024


def watch(path):
    """Log to a file what Python opens and starts from now on."""
    events = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)

    def note(event, arguments):
        if (event == "open" and isinstance(arguments[0], (str, bytes))) or event in _STARTS:
            what = os.path.abspath(os.fsdecode(arguments[0])) if event == "open" else arguments[:2]
            os.write(events, json.dumps([event, what], default=repr).encode() + b"\n")

    sys.addaudithook(note)


def run(case):
    """Become the script."""
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    for number, path in enumerate(case["streams"], start=1):
        os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
    os.chdir(case["folder"])
    os.environ.clear()
    os.environ.update(case["environment"])
    resource.setrlimit(resource.RLIMIT_AS, (case["limit"], case["limit"]))
    interruption.prepare(case)
    if case["events"]:
        watch(case["events"])
    sys.argv = case["command"]
    if sys.argv[0].endswith(".py"):
        sys.argv[0] = os.path.join(ROOT, sys.argv[0])
        sys.path[0] = os.path.dirname(sys.argv[0])
        runpy.run_path(sys.argv[0], run_name="__main__")
    else:
        runpy.run_module(sys.argv[0], run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    asked = serve()
    if asked is not None:
        run(asked)
