"""Contact between the processes of a run: one that is silent, or gone, ends the others."""

import atexit
import contextlib
import datetime
import os
import signal
import socket
import threading
import time

from common.base import script
from common.base.files import UserError
from common.engines.torch.runtime import reason_of, torch

SILENCE = 30  # seconds without a sign of life after which a process counts as lost
_BETWEEN_BEATS = 2
_KILL = getattr(signal, "SIGKILL", signal.SIGTERM)  # Windows has one kind of end
_LOST = ("gloo", "nccl", "connection", "socket")  # words of torch.distributed's errors


@contextlib.contextmanager
def until_ended():
    """Turn the error of a lost connection into one line.

    The launcher knows which process has died, and ends this one within a second; `Heartbeat` ends
    it where a machine or the network is lost. Only where neither does, the line is raised.

    Raises:
        UserError: the connection to another process is lost.
    """
    try:
        yield
    except RuntimeError as error:
        if not any(word in str(error).lower() for word in _LOST):
            raise
        time.sleep(SILENCE + 10)
        raise UserError(f"lost the connection to another process: {reason_of(error)}") from None


def connect(is_host=False):
    """Return a connection to the store of this run, where processes find each other.

    Its names are those of one attempt: PyTorch itself would read, after a restart, the addresses
    of the processes that have ended.

    Args:
        is_host: whether the store is in this process; the launcher's is the usual one.
    """
    address, port = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
    limit = datetime.timedelta(seconds=2 * SILENCE)
    store = torch.distributed.TCPStore(
        address, port, is_master=is_host, timeout=limit, wait_for_workers=False, multi_tenant=True
    )
    attempt = os.environ["TORCHELASTIC_RESTART_COUNT"]
    return torch.distributed.PrefixStore(f"attempt {attempt}", store)


class Heartbeat:
    """Gives signs of life, and ends this process where another one gives none.

    The signs are counters in the store of the launcher. They come from a thread: a process that
    writes a large checkpoint is alive, one that is stopped, or cut off, is not.
    """

    def __init__(self, rank, size, device):
        """Begin; all processes of `size` do."""
        self._rank, self._machine = rank, os.environ["GROUP_RANK"]
        self._store = connect()  # another one than the process group's, which waits for answers
        self._keys = [f"beat {number}" for number in range(size)]
        self._counts, self._heard = [0] * size, {}  # when each one's counter last grew
        self._answered = time.monotonic()  # when the store last did
        name = f"process {rank} ({device} on {socket.gethostname()})"
        self._store.set(f"{self._keys[rank]}/name", f"{self._machine} {os.getpid()} {name}")
        self._closed = threading.Event()
        self._threads = [
            threading.Thread(target=work, daemon=True) for work in (self._beat, self._watch)
        ]
        for thread in self._threads:
            thread.start()
        atexit.register(self.close)

    def close(self):
        """Stop: from here on processes end."""
        self._closed.set()
        for thread in self._threads:  # PyTorch's code must not run while Python ends
            thread.join(_BETWEEN_BEATS)

    def _beat(self):
        while not self._closed.is_set():
            try:
                self._store.add(self._keys[self._rank], 1)
                self._listen()
            except RuntimeError as error:
                if not self._closed.is_set():
                    self._end(f"lost the connection to the launcher: {reason_of(error)}")
            self._closed.wait(_BETWEEN_BEATS)

    def _listen(self):
        for rank, key in enumerate(self._keys):
            count = self._store.add(key, 0)
            if count != self._counts[rank]:
                self._counts[rank], self._heard[rank] = count, time.monotonic()
        self._answered = time.monotonic()

    def _watch(self):
        last = time.monotonic()
        while not self._closed.wait(1):
            before, last = last, time.monotonic()
            if last - before > 1 + _BETWEEN_BEATS:  # this process was suspended: it heard nobody
                self._answered, self._heard = last, dict.fromkeys(self._heard, last)
            if last - self._answered > SILENCE:
                self._end(f"the launcher has not answered for {SILENCE} s; is the network lost?")
            heard = dict(self._heard)
            silent = [rank for rank in heard if self._answered - heard[rank] > SILENCE]
            if silent:
                self._end_with(silent, speaks=self._rank == min(set(heard) - set(silent)))

    def _end_with(self, silent, speaks):
        """End the silent processes of this machine, and this one if it `speaks` for the others."""
        names = []
        for rank in silent:
            machine, number, name = (
                self._store.get(f"{self._keys[rank]}/name").decode().split(" ", 2)
            )
            names.append((machine, int(number), name))
        if speaks:
            reason = f"has not answered for {SILENCE} s: it hangs, or its network is lost"
            self._say(f"{', '.join(name for _, _, name in names)} {reason}")
        for machine, number, _ in names:
            if machine == self._machine:
                with contextlib.suppress(ProcessLookupError):
                    os.kill(number, _KILL)
        if speaks:
            os._exit(2)

    def _end(self, reason):
        self._say(reason)
        os._exit(2)

    def _say(self, reason):
        script.complain(f"{reason}; the run ends")
