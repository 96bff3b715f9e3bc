"""How a script begins and ends: signals, closed streams, one-line errors, the exit status."""

import _thread
import ctypes
import json
import logging
import os
import re
import signal
import sys
import time

from common.base.files import WRITE_FAILURES, UserError, explain_os_error

_NO_MEMORY = re.compile("out of memory|can't allocate memory|Failed to allocate").search
_signal = None  # the number of the signal that has asked the script to stop


class Terminated(KeyboardInterrupt):
    """The process was asked to stop by SIGTERM; handled like Ctrl-C."""


def stop_while_importing():
    """End the process in one line until `run_script` begins: on Ctrl-C, SIGTERM, a missing package.

    Scripts call it before their imports, which take a moment: nothing has begun that could be lost,
    and Python itself would print a traceback.
    """
    sys.excepthook = _explain_missing_package
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, _stop_at_once)
    signal.signal(signal.SIGTERM, _stop_at_once)


def _stop_at_once(number, _):
    os.write(2, _stopped(number).encode())
    os._exit(128 + number)


def _explain_missing_package(kind, error, trace):
    """A `sys.excepthook`: the system's Python has none of the packages of the environment."""
    is_known = issubclass(kind, ModuleNotFoundError) and error.name
    if not is_known or error.name.partition(".")[0] == "common":
        return sys.__excepthook__(kind, error, trace)
    fix = "run sh setup.sh, then .venv/bin/python"
    os._exit(complain(f"{error.name} is not installed in {sys.executable}: {fix}"))


def _stopped(number):
    """Return the line that a script ends with when a signal stops it."""
    if _launcher_reads():
        return ""  # the launcher says it once for all
    if number == signal.SIGTERM:
        return f"{_name()}: stopped by SIGTERM\n"
    return f"\n{_name()}: stopped by Ctrl-C\n"


def _name():
    return os.path.basename(sys.argv[0])


def _launcher_reads():
    """Return the file from which the launcher of several processes (torchrun) reads why one ended.

    It prints the line of the first that failed: the others fail for the same reason, or by it.
    """
    return os.environ.get("TORCHELASTIC_ERROR_FILE")


def run_script(main):
    """Run a script's `main()` and end the process with its exit status.

    A `UserError`, an operating-system error about a named file, and a lack of memory end in one
    line on stderr and status 2; Ctrl-C ends with 130, SIGTERM with 143. Anything else is a bug and
    keeps its traceback.
    """
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # some job runners close it
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115
    # A file name may hold characters that the terminal cannot show, or bytes that are not text.
    sys.stdout.reconfigure(errors="backslashreplace")
    sys.excepthook = sys.__excepthook__
    sys.unraisablehook = _stop_again
    if hasattr(signal, "SIGXFSZ"):  # a file size limit is then an OSError, like a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:  # signals raise only in here
        _raise_on_signals()
        status = main()
        sys.stdout.flush()
        _end_on_signals()
    except BaseException as error:
        _end_on_signals()
        status = _report(error)
        if status is None:
            raise
    if _launcher_reads():
        # Threads of PyTorch's process group may ask for Python while it ends, and then abort the
        # process ("terminate called without an active exception"): seen once in ten runs.
        _end_at_once(status or 0)
    sys.exit(status)


def _end_at_once(status):
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(status)


def _report(error):
    """Print in one line why a script ends; return its exit status, or None where it is a bug."""
    # Code in C, such as matplotlib's, may turn the exception of a signal into another one.
    if isinstance(error, KeyboardInterrupt) or _signal is not None:
        # From here on, arrays that the signal left half constructed complain when they are freed.
        sys.unraisablehook = lambda dropped: None
        number = _signal or signal.SIGINT
        sys.stderr.write(_stopped(number))
        return 128 + number
    if isinstance(error, UserError):
        return complain(error)
    reason = _lack_of_memory(error)
    if reason is not None:
        # MXNet, which has failed to allocate, may free twice while it ends, and abort the process.
        _end_at_once(complain(f"out of memory ({reason}); a smaller batch or image needs less"))
    if isinstance(error, BrokenPipeError):  # `script | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 141
    if isinstance(error, OSError) and (error.filename is not None or error.errno in WRITE_FAILURES):
        return complain(explain_os_error(error))
    return None


def _lack_of_memory(error):
    """Return what an error says of too little memory, in a line; None where it is another one.

    Engines raise errors of their own, a RuntimeError or MXNetError whose text is a stack trace.
    """
    if isinstance(error, MemoryError):
        return str(error) or "the machine has no more"
    lines = filter(_NO_MEMORY, str(error).splitlines())
    return next((line.strip()[:200] for line in lines), None)


def _raise_on_signals():
    signal.signal(signal.SIGTERM, stop)
    if signal.getsignal(signal.SIGINT) in (_stop_at_once, signal.default_int_handler):
        signal.signal(signal.SIGINT, stop)


def _end_on_signals():
    """From here on a signal ends the process at once: everything is written but why it ends."""
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is stop:
        signal.signal(signal.SIGINT, signal.SIG_DFL)


def start_log(rank=0, is_plain=False):
    """Send log lines to stderr, each with its time and the rank of its machine.

    A plain log has lines for people: without the time, and without the rank of the first machine.
    """
    node = f"Node[{rank}] " if rank or not is_plain else ""
    time = "" if is_plain else "%(asctime)-15s "
    logging.basicConfig(level=logging.INFO, format=f"{time}{node}%(message)s", force=True)


def be_quiet():
    """Show warnings and errors alone: no other log lines, no progress, nothing on stdout."""
    from common.base import progress  # here: the set-up has no tqdm yet

    logging.getLogger().setLevel(logging.WARNING)
    progress.hide()
    sys.stdout = open(  # noqa: SIM115
        os.devnull, "w", encoding="utf-8", errors="backslashreplace"
    )


def stop(number, frame=None):
    """Raise what a signal raises: `Terminated`, or Ctrl-C's KeyboardInterrupt."""
    global _signal
    _signal = number
    while frame is not None:
        if frame.f_code is _stop_again.__code__:  # Python drops what is raised there, too
            return _send_soon(number)
        frame = frame.f_back
    raise Terminated if number == signal.SIGTERM else KeyboardInterrupt


def _stop_again(dropped):
    """The `sys.unraisablehook` of a script: keeps a signal whose exception Python drops.

    For example, a signal that arrives while an array is freed raises in `__del__`.
    """
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        number = signal.SIGTERM if issubclass(dropped.exc_type, Terminated) else signal.SIGINT
        _send_soon(number)
    else:
        sys.__unraisablehook__(dropped)


def _send_soon(number):
    """Send this process a signal from another thread, in a moment.

    `threading` would wait for the thread, and holds a lock that a signal's handler may want.
    """

    def send():
        time.sleep(0.01)
        os.kill(os.getpid(), number)

    _thread.start_new_thread(send, ())


# Text quoted from a damaged or hostile file must not control the terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) != "\n"}


def complain(message):
    """Print a script's last line, which says why it ends; return the exit status for it."""
    line = f"{_name()}: {message}".translate(_CONTROLS) + "\n"
    path = _launcher_reads()
    if path:
        more = {"py_callstack": line, "timestamp": str(int(time.time()))}
        with open(path, "w", encoding="utf-8") as stream:
            json.dump({"message": {"message": line, "extraInfo": more}}, stream)
    else:
        # One write: print() makes two, between which another process of the terminal may write.
        sys.stderr.write(line)
    return 2


def end_with_parent():
    """Have Linux kill this process when the one that started it is killed and cannot end it."""
    if sys.platform == "linux":
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of <sys/prctl.h>
        ctypes.CDLL(None).prctl(set_parent_death_signal, signal.SIGKILL)
