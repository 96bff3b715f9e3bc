"""How a script begins and ends: signals, closed streams, one line for an error, the exit status."""

import os
import signal
import sys
import threading

from common.files import WRITE_FAILURES, UserError, explain_os_error


class Terminated(KeyboardInterrupt):
    """The process was asked to end (SIGTERM), as Ctrl-C asks."""


def run_script(main):
    """Run a script's `main()` and leave the process with its exit status.

    A `UserError`, an operating-system error about a named file, and a lack of memory end in one
    line on stderr and status 2; Ctrl-C ends with 130, SIGTERM with 143. Anything else is a bug and
    keeps its traceback.
    """
    name = os.path.basename(sys.argv[0])
    for stream in ("stdout", "stderr"):
        if getattr(sys, stream) is None:  # closed, as some job runners leave it
            setattr(sys, stream, open(os.devnull, "w"))  # noqa: SIM115
    # A file name may be of other letters than the terminal's, or no letters at all.
    sys.stdout.reconfigure(errors="backslashreplace")
    signal.signal(signal.SIGTERM, _terminate)
    sys.unraisablehook = _stop_again
    if hasattr(signal, "SIGXFSZ"):  # so that a file size limit is an OSError, as a full disk is
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    try:
        status = main()
        sys.stdout.flush()
    except UserError as error:
        status = _complain(name, error)
    except KeyboardInterrupt as request:
        # An array that was half made when the signal came complains when it is freed, from here on.
        sys.unraisablehook = lambda dropped: None
        if isinstance(request, Terminated):
            print(f"{name}: stopped by SIGTERM", file=sys.stderr)
            status = 143
        else:
            print(f"\n{name}: stopped by Ctrl-C", file=sys.stderr)
            status = 130
    except MemoryError as error:
        reason = str(error) or "the machine gives no more"
        status = _complain(name, f"out of memory ({reason}); a smaller batch or image needs less")
    except BrokenPipeError:  # `script | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    except OSError as error:
        if error.filename is None and error.errno not in WRITE_FAILURES:
            raise
        status = _complain(name, explain_os_error(error))
    # All is written: what still comes ends the process at once, not in the midst of Python's end.
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
    sys.exit(status)


def _terminate(*_):
    raise Terminated


def _stop_again(dropped):
    """The `sys.unraisablehook` of a script: where Python drops an exception, a signal is not lost.

    One that arrives while an array is freed, say, raises in `__del__`, which passes nothing on.
    """
    if issubclass(dropped.exc_type, KeyboardInterrupt):
        number = signal.SIGTERM if issubclass(dropped.exc_type, Terminated) else signal.SIGINT
        threading.Timer(0.01, os.kill, (os.getpid(), number)).start()
    else:
        sys.__unraisablehook__(dropped)


# What a damaged or hostile file makes us quote shall not command the terminal.
_CONTROLS = {code: f"\\x{code:02x}" for code in (*range(32), *range(127, 160)) if chr(code) != "\n"}


def _complain(name, message):
    print(f"{name}: {message}".translate(_CONTROLS), file=sys.stderr)
    return 2
