"""A side of a comparison: a process of its own, which works on request.

Settings that an import fixes (the number of threads), and peers that need another Python (PyTorch),
can thus take turns without a restart. Standard library only: both Pythons import this module.
"""

import json
import os
import subprocess
import sys
import tempfile
import time

from common.base.files import ROOT, UserError

# Set by common/engines/mxnet/runtime.py; a child process would inherit them.
_OURS = (
    *("OMP_NUM_THREADS", "GOMP_SPINCOUNT"),
    *("MXNET_CPU_PARALLEL_SIZE", "MXNET_CPU_PARALLEL_COPY_SIZE"),
)

# What limits oneDNN's vector instructions: in MXNet's version, in PyTorch's.
ONEDNN_LIMITS = ("DNNL_MAX_CPU_ISA", "ONEDNN_MAX_CPU_ISA")


def plain_environment():
    """Return the environment with MXNet's own defaults, for a process to be measured."""
    return {name: value for name, value in os.environ.items() if name not in _OURS}


class Side:
    """Starts a process that calls `serve`, and has it work.

    Attributes:
        versions: `{title: version}` of what it computes with, beside our own.
        losses: of all batches that it trained.

    Raises:
        UserError: the process has ended; it quotes its last line on stderr.
    """

    def __init__(self, name, command):
        self._name, self.losses = name, []
        self._stderr = tempfile.TemporaryFile()  # noqa: SIM115 (close() closes it)
        self._process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=plain_environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._stderr,
            encoding="utf-8",
        )
        self.versions = self._answer()["versions"]  # when it is ready

    def __call__(self):
        """Have it work; return how many images that were."""
        self._process.stdin.write("\n")
        self._process.stdin.flush()
        answer = self._answer()
        self.losses += answer["losses"]
        return answer["images"]

    def _answer(self):
        line = self._process.stdout.readline()
        if line:
            return json.loads(line)
        self._process.wait()
        self._stderr.seek(0)
        words = self._stderr.read().decode(errors="replace").strip()
        raise UserError(f"{self._name}: {words.splitlines()[-1] if words else 'ended'}")

    def close(self):
        """End the process."""
        self._process.stdin.close()
        self._process.wait()
        self._stderr.close()


def rate(side, seconds):
    """Return the units per second of a side that works for so many seconds, at least once."""
    start, count = time.perf_counter(), 0
    while not count or time.perf_counter() - start < seconds:
        count += side()
    return count / (time.perf_counter() - start)


def rates_and_close(side, rounds, seconds):
    """Return the `rate` of each round, after one turn that does not count; end the side."""
    try:
        side()
        return [rate(side, seconds) for _ in range(rounds)]
    finally:
        side.close()


def serve(work, versions=None):
    """In the process: report that it is ready, then work for each line of standard input.

    Args:
        work: returns (images, losses).
        versions: `{title: version}`.
    """
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what a library prints must not mix with the answers
    print(json.dumps({"versions": versions or {}}), file=answers, flush=True)
    for _ in sys.stdin:
        images, losses = work()
        print(json.dumps({"images": images, "losses": losses}), file=answers, flush=True)


def start_torch_sides(wanted):
    """Start sides that compute with PyTorch; print which are left out, and why.

    Args:
        wanted: `{name: arguments of benchmarks/torch_peer.py}`.

    Returns:
        `{name: Side}`; empty where the environment variable TORCH_PYTHON names no Python.
    """
    python = os.environ.get("TORCH_PYTHON")
    if not python:
        print("PyTorch is left out: set TORCH_PYTHON=/path/to/python to one that has it")
        return {}
    # As our own processes set it (common/engines/torch/runtime.py).
    peer = ["env", "GOMP_SPINCOUNT=3000", python, "-m", "benchmarks.torch_peer"]
    return start_sides({name: [*peer, *arguments] for name, arguments in wanted.items()})


def torch_network_flags(network):
    """Return the flags of benchmarks/torch_peer.py for `resnet-152` or `timm:NAME`."""
    kind, _, name = network.partition(":")
    if name:
        return ["--timm", name]
    return ["--pre-activation", "--layers", kind.partition("-")[2]]


def start_sides(commands):
    """Start the sides of `{name: command}`; print which are left out, and why.

    Returns:
        `{name: Side}`.
    """
    sides = {}
    for name, command in commands.items():
        try:
            sides[name] = Side(name, [*map(str, command)])
        except UserError as error:
            print(f"left out: {error}", flush=True)
    return sides


def close_all(sides):
    """End the processes of `{name: Side}`; return the versions that they named."""
    versions = {}
    for side in sides.values():
        versions.update(side.versions)
        side.close()
    return versions
