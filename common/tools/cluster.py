"""One training run on several machines: its processes start together and end together.

    sh cluster.sh HOST,HOST,... -- COMMAND

Starts on every host a worker: COMMAND, with --kv-store dist_sync among its flags. A host named
localhost is this machine, and may be named several times. If one process fails, all are ended.
Ctrl-C and SIGTERM are passed on. With --engine torch, or a network of timm, in COMMAND the workers
are PyTorch's launchers (torchrun), which meet at the first host. With MXNet its scheduler runs on
this machine, and a server beside every worker. Only the flags of COMMAND are read: where run.sh
names a network of timm, add --engine torch.

On trusted networks only: neither MXNet nor PyTorch encrypts anything or checks anybody's identity,
and MXNet's servers unpickle what they are sent (the optimizer): whoever reaches their ports can run
code on them.
"""

import argparse
import errno
import os
import shlex
import signal
import socket
import subprocess
import sys
import time

from common import engines
from common.base.files import ROOT, UserError
from common.base.help import Parser, check_ranges, whole
from common.base.script import Terminated, end_with_parent
from common.networks import timm_pretrained
from common.training import recipes

_SERVE = "from common.base.script import run_script; from common.tools.cluster import serve;"
SERVER = [sys.executable, "-c", f"{_SERVE} run_script(serve)"]
SECONDS_TO_END = 15  # between a request to stop and SIGKILL


def main():
    """Run the job; return 0, or the exit status of the first process that failed."""
    args = parse_args()
    engine, port = engine_of(args.command), args.port or free_port()
    job = Job(args.hosts.split(","), args.command, engine, port, args.root)
    if engine != "torch":  # the first host of PyTorch may be another machine
        require_free(args.root or "", port)
    try:
        job.start()
        return job.watch()
    except KeyboardInterrupt as request:
        job.end(signal.SIGTERM if isinstance(request, Terminated) else signal.SIGINT)
        raise
    finally:
        job.end(signal.SIGTERM)


def parse_args():
    """Read the command line; what follows `--` is the worker's command."""
    parser = Parser(
        prog="sh cluster.sh",
        description=__doc__,
        usage="sh cluster.sh [--port PORT] [--root ADDRESS] HOST,HOST,... -- COMMAND",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("hosts", help="machines, separated by commas: localhost, or names for ssh")
    parser.add_argument("command", nargs=argparse.REMAINDER, help="what each worker runs")
    parser.add_argument(
        "--port",
        type=whole,
        help="port where the workers meet, 1 to 65535 (default: one that is free here)",
    )
    parser.add_argument(
        "--root",
        help="address where they meet, of this machine (MXNet; default: on its network) or of the"
        " first host (PyTorch; default: its name)",
    )
    args = parser.parse_args()
    check_ranges(args, {"port": (1, 65535)})
    if args.command[:1] == ["--"]:
        del args.command[0]
    if not args.command or not all(args.hosts.split(",")):
        raise UserError("name hosts and a command: sh cluster.sh HOST,HOST -- sh run.sh ...")
    return args


def engine_of(command):
    """Return the name of the engine that a training command will take on this machine."""
    parser = Parser(add_help=False, allow_abbrev=False)
    engines.add_engine_arg(parser)
    recipes.add_recipe_arg(parser)
    parser.add_argument("--pretrained-model", default="")
    parser.add_argument("--architecture")
    recipes.take_recipe(parser, command)
    args, _ = parser.parse_known_args(command)
    if args.engine != "auto":
        return args.engine
    of_timm = timm_pretrained.is_meant(args.pretrained_model, args.architecture)
    if of_timm or args.compile or args.tf32:  # MXNet has none of these
        return "torch"
    return next(iter(engines.installed()), "mxnet")


def serve():
    """Be MXNet's scheduler or server, by $DMLC_ROLE: MXNet becomes that while it is imported."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)  # MXNet's C++ code calls no handler of Python's
    engines.load("mxnet")


def free_port():
    """Return a TCP port that is free at the moment."""
    with socket.socket() as probe:
        probe.bind(("", 0))
        return probe.getsockname()[1]


def require_free(address, port):
    """Raise `UserError` unless a server of this machine can have an address and a port."""
    try:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind((address, port))
    except OSError as error:
        flag = "--port" if error.errno in (errno.EADDRINUSE, errno.EACCES) else "--root"
        given = port if flag == "--port" else address
        raise UserError(
            f"{flag} {given}: is not free on this machine ({error.strerror}); name another"
        ) from None


class Job:
    """The processes of a training run: a worker on each host, and what MXNet's workers need."""

    def __init__(self, hosts, command, engine, port, root=None):
        self.hosts, self.command, self.engine = hosts, command, engine
        if root is None:
            root = self._default_root()
        self.helpers, self.workers = {}, {}
        if engine == "torch":  # the variables of torchrun's flags
            self.environment = {
                "PET_NNODES": str(len(hosts)),
                "PET_MASTER_ADDR": root,
                "PET_MASTER_PORT": str(port),
            }
            return
        self.environment = {
            "DMLC_PS_ROOT_URI": root,
            "DMLC_PS_ROOT_PORT": str(port),
            "DMLC_NUM_WORKER": str(len(hosts)),
            "DMLC_NUM_SERVER": str(len(hosts)),
        }
        if root == "127.0.0.1":  # else ps-lite takes the first network interface
            self.environment["DMLC_INTERFACE"] = "lo"

    def _default_root(self):
        if set(self.hosts) == {"localhost"}:
            return "127.0.0.1"
        if self.engine == "torch" and self.hosts[0] != "localhost":
            return self.hosts[0].rpartition("@")[2]
        return own_address()

    def start(self):
        """Start all processes."""
        if self.engine != "torch":
            self._start_helpers()
        for number, host in enumerate(self.hosts):
            is_torch = self.engine == "torch"
            own = {"PET_NODE_RANK": str(number)} if is_torch else {"DMLC_ROLE": "worker"}
            self.workers[f"worker {number} on {host}"] = self._start(host, self.command, own)

    def _start_helpers(self):
        """Start MXNet's scheduler and servers."""
        self.helpers["scheduler"] = self._start("localhost", SERVER, {"DMLC_ROLE": "scheduler"})
        for number, host in enumerate(self.hosts):
            server = self._start(host, SERVER, {"DMLC_ROLE": "server"})
            self.helpers[f"server {number} on {host}"] = server

    def _start(self, host, command, own):
        environment = {**self.environment, **own}
        if host == "localhost":
            return subprocess.Popen(
                command,
                env={**os.environ, **environment},
                cwd=ROOT,
                start_new_session=True,
                preexec_fn=end_with_parent,
            )
        if command is SERVER:  # the other machine's interpreter may have another path
            command = [os.path.join(ROOT, ".venv", "bin", "python"), *SERVER[1:]]
        settings = [f"{name}={value}" for name, value in environment.items()]
        remote = f"cd {shlex.quote(ROOT)} && exec {shlex.join(['env', *settings, *command])}"
        # A terminal (-tt) on the other side: when ssh ends, so does what it runs there.
        ssh = ["ssh", "-tt", "-o", "BatchMode=yes", host, remote]
        return subprocess.Popen(
            ssh, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=end_with_parent
        )

    def watch(self):
        """Wait for the workers; report the first process that fails, and return its status."""
        running = dict(self.workers)
        while running:
            for name, process in list({**running, **self.helpers}.items()):
                status = process.poll()
                if status is None:
                    continue
                if status != 0:
                    how = f"status {status}" if status > 0 else signal.Signals(-status).name
                    print(f"cluster.sh: {name} ended with {how}: ending the job", file=sys.stderr)
                    return status if status > 0 else 128 - status
                running.pop(name, None)
            time.sleep(0.2)
        for process in self.helpers.values():  # they end by themselves when all workers have
            try:
                process.wait(SECONDS_TO_END)
            except subprocess.TimeoutExpired:
                break
        return 0

    def end(self, request):
        """Ask the workers to stop, wait a while, then kill whatever still runs."""
        processes = [*self.workers.values(), *self.helpers.values()]
        send(self.workers.values(), request)
        deadline = time.monotonic() + SECONDS_TO_END
        while any(p.poll() is None for p in self.workers.values()) and time.monotonic() < deadline:
            time.sleep(0.1)
        send(processes, signal.SIGKILL)
        for process in processes:
            process.wait()


def send(processes, number):
    """Send a signal to the whole process group of each process that still runs."""
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, number)


def own_address():
    """Return this machine's address on its network, as other hosts reach it."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        try:
            probe.connect(("192.0.2.1", 9))  # an address for documentation; nothing is sent
        except OSError:
            raise UserError("this machine has no network; give its address with --root") from None
        return probe.getsockname()[0]
