"""How a run is interrupted: by a signal at some moment, before it changes a file, or by a limit.

A fault is a dictionary that is sent to the process that forks (`tests/many_runs.py`).
"""

import os
import resource
import runpy
import signal
import subprocess
import sys
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))


def at_moment(number, seconds, path=None):
    """Send a signal this many seconds after the start, or after `path` has appeared."""
    return {"signal": int(number), "seconds": seconds, "path": path}


def before_change(number):
    """Kill the run just before its n-th opening for writing, renaming or removal of a file."""
    return {"change": number}


def full_before_change(number, ballast, left=0):
    """Fill the disk except for `left` bytes with a file `ballast`, before the n-th such change."""
    return {"change": number, "ballast": str(ballast), "left": left}


def at_file_size(num_bytes):
    """Let no file grow beyond this many bytes, as `ulimit -f` does."""
    return {"file_size": num_bytes}


def launch(folder, command, **options):
    """Start a script in a folder as a process of its own; return its `subprocess.Popen`."""
    # As in the forks: more threads sum in another order, and the weights are compared.
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    name, *arguments = map(str, command)
    program = [sys.executable, os.path.join(ROOT, name), *arguments]
    return subprocess.Popen(
        program, cwd=folder, env=environment, stderr=subprocess.PIPE, encoding="utf-8", **options
    )


def freeze(folder, path, command):
    """Start a script, and stop it (SIGSTOP) as it is about to open `path` for writing.

    Returns its `subprocess.Popen`, which the caller has to kill.
    """
    process = launch(folder, ["tests/faults/interruption.py", path, *command])
    _, status = os.waitpid(process.pid, os.WUNTRACED)
    assert os.WIFSTOPPED(status), status
    return process


class Signal:
    """The signal of `at_moment`, for a running child."""

    def __init__(self, child, case):
        fault = case["fault"]
        self._child, self._number = child, fault.get("signal")
        self._seconds = fault.get("seconds")
        self._path = fault.get("path") and os.path.join(case["folder"], fault["path"])
        self._start = None if self._path else time.monotonic()

    def send_when_due(self):
        """Send it if it is due; return the seconds until the next look."""
        if self._number is None:
            return 0.002
        if self._start is None and os.path.lexists(self._path):
            self._start = time.monotonic()
        if self._start is not None and time.monotonic() - self._start >= self._seconds:
            os.kill(self._child, self._number)
            self._number = None
        return 0.0002


def prepare(case):
    """Do in the child what the fault requires, before its script begins."""
    fault = case["fault"]
    if "change" in fault:
        count = [0]

        def strike(path):
            count[0] += path.startswith(os.path.realpath(case["folder"]))
            if count[0] == fault["change"]:
                count[0] += 1  # once
                if "ballast" in fault:
                    fill_disk(fault["ballast"], fault["left"])
                else:
                    os.kill(os.getpid(), signal.SIGKILL)

        _before_each_change(strike)
    if "file_size" in fault:
        resource.setrlimit(resource.RLIMIT_FSIZE, (fault["file_size"],) * 2)


def fill_disk(ballast, left=0):
    """Write a file that takes all free space of its disk except `left` bytes."""
    with open(ballast, "wb") as stream:
        disk = os.fstatvfs(stream.fileno())
        stream.write(bytes(max(0, disk.f_bavail * disk.f_frsize - left)))


def _before_each_change(function):
    """Call `function(path)` before a file is opened for writing, renamed, removed or truncated.

    `open()` with an opener is heard twice and counts once. Truncating an open file does not count.
    """
    opened = [None]

    def hear(event, arguments):
        if event == "open":
            path, mode, flags = arguments
            changes = isinstance(path, str) and flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            changes = changes and not (mode is None and path == opened[0])
            opened[0] = None if mode is None else path
        else:
            changes = event in ("os.rename", "os.remove", "os.truncate")
        if changes and not isinstance(arguments[0], int):
            function(os.path.abspath(arguments[0]))

    sys.addaudithook(hear)


def _freeze_before(frozen_path):
    def stop(path):
        if path == frozen_path:
            os.kill(os.getpid(), signal.SIGSTOP)

    _before_each_change(stop)


if __name__ == "__main__":
    _, path, *sys.argv = sys.argv
    _freeze_before(os.path.abspath(path))
    sys.path.insert(0, ROOT)
    sys.argv[0] = os.path.join(ROOT, sys.argv[0])
    runpy.run_path(sys.argv[0], run_name="__main__")
