"""A virtual environment that is replaced as a whole, however the run that makes it ends.

The new one is made and tried beside the present one, as FOLDER.new, and then takes its name. A run
may be killed at any moment: FOLDER is the old environment or the new one, and the next run removes
the rest, or goes on with a new one that is complete. Between the two renamings, for microseconds,
both lie complete beside the name, and the next run gives it to one of them.
"""

import contextlib
import glob
import os
import shutil
import signal
import subprocess
import sys
import zlib
from dataclasses import dataclass, replace

from common.base.files import ROOT, atomic_open, open_own, replacing
from common.setup import SetupError
from common.setup.packages import DISK_FULL, is_disk_full, start

try:
    import fcntl
except ImportError:  # Windows: nothing prevents two runs at once
    fcntl = None

_STAMP = "setup-stamp"
_BIN, _PYTHON = ("Scripts", "python.exe") if os.name == "nt" else ("bin", "python")


@dataclass(frozen=True)
class Stamp:
    """What an environment was made from; a line of text in it.

    It is written when everything is installed (state: installed), and again when the engines have
    computed something (works). A folder without it is never used.
    """

    kind: str
    requirements: str
    python: str
    state: str = "installed"

    def __str__(self):
        return f"{self.kind} {self.requirements} {self.python} {self.state}"

    def has(self, kind, python):
        """Return whether this is of a kind, today's requirements/, and a Python (None: any)."""
        wanted = (kind, sum_of_requirements(kind))
        return (self.kind, self.requirements) == wanted and python in (None, self.python)


def sum_of_requirements(kind):
    """Return a checksum of requirements/KIND.txt and of the files that it includes."""
    path = os.path.join(ROOT, "requirements", f"{kind}.txt")
    return f"{zlib.crc32(_with_included(path)):08x}"


def _with_included(path):
    with open(path, "rb") as stream:
        lines = stream.read().splitlines(keepends=True)
    included = [line.split()[1] for line in lines if line.startswith(b"-r ")]
    folder = os.path.dirname(path)
    return b"".join(
        lines + [_with_included(os.path.join(folder, os.fsdecode(name))) for name in included]
    )


class Environment:
    """The environment in a folder, and what a run keeps beside it."""

    def __init__(self, folder):
        self.shown = folder.rstrip(os.sep)  # as the user named it
        self.folder = os.path.abspath(folder)
        self.new = f"{self.folder}.new"
        self._old = f"{self.folder}.old"
        self._trash = f"{self.folder}.discard"  # nothing of this name is ever used

    @property
    def stamp(self):
        """The `Stamp` of the environment; None where there is none that is complete."""
        return _read_stamp(self.folder)

    @property
    def new_stamp(self):
        """The `Stamp` of a new one that has not taken its place yet, or None."""
        return _read_stamp(self.new)

    @property
    def interpreter(self):
        """The path of the Python that the environment was made with, or None."""
        with contextlib.suppress(OSError):
            with open(os.path.join(self.folder, "pyvenv.cfg"), encoding="utf-8") as stream:
                for line in stream:
                    if line.startswith("home = "):
                        home = line[len("home = ") :].strip()
                        return os.path.join(home, _PYTHON if os.name == "nt" else "python3")
        return None

    def find_foreign(self):
        """Return the first of its folders that is there and that setup.sh did not make, or None."""
        for folder in (self.folder, self.new, self._old):
            if os.path.lexists(folder) and not _is_ours(folder):
                return folder
        return None

    def is_tidy(self):
        """Return whether no run has left anything beside the environment."""
        return not any(map(os.path.lexists, (self.new, self._old, self._trash)))

    def recover(self):
        """Clean up after a run that was stopped or killed.

        A new environment that is complete is kept: it can still be tried and take its place.
        """
        _remove(self._trash)
        with contextlib.suppress(OSError):
            os.rmdir(self.folder)  # made by someone, and nothing in it yet
        is_free = _is_ours(self.folder) or not os.path.lexists(self.folder)
        if self.stamp is None and is_free and _read_stamp(self._old):
            self._discard(self.folder)
            os.rename(self._old, self.folder)
        self._discard(self._old)
        if self.new_stamp is None:
            self._discard(self.new)

    def begin(self, interpreter):
        """Make a new, bare environment beside the present one, with the Python of a path."""
        self.drop_new()
        os.mkdir(self._trash)
        _write_stamp(self._trash, "unfinished")  # from now on it is known as ours
        os.rename(self._trash, self.new)
        status, errors = self._make_bare(interpreter)
        if status == 0:
            return
        sys.stderr.write(errors)
        if is_disk_full(errors):
            raise SetupError(DISK_FULL)
        raise SetupError(
            f"{interpreter} -m venv fails as above; name another interpreter: PYTHON=… sh setup.sh"
        )

    def _make_bare(self, interpreter):
        """Have Python's venv make the new environment; return its status and what it said."""
        command = [interpreter, "-m", "venv", "--prompt", os.path.basename(self.folder), self.new]
        # A session of its own: the pip that it starts does not hold our lock, and must end with it.
        process, before = None, _mask_signals(signal.SIG_BLOCK, {signal.SIGINT, signal.SIGTERM})
        try:
            process = start(command, stderr=subprocess.PIPE, start_new_session=True)
            _mask_signals(signal.SIG_SETMASK, before)  # what came meanwhile raises here
            _, errors = process.communicate()
        except BaseException:
            if process is not None and hasattr(os, "killpg"):
                os.killpg(process.pid, signal.SIGKILL)
                process.wait()
            raise
        finally:
            _mask_signals(signal.SIG_SETMASK, before)
        return process.returncode, errors

    def complete(self, stamp):
        """Note that everything is installed in the new one."""
        _write_stamp(self.new, stamp)

    def take_place(self):
        """Give the new environment the name of the present one, which is removed."""
        _rename_in_scripts(self.new, self.folder)
        if os.path.lexists(self.folder):
            os.rename(self.folder, self._old)
        os.rename(self.new, self.folder)
        self._discard(self._old)

    def note_that_it_works(self):
        """Note in the stamp that the engines have computed something."""
        _write_stamp(self.folder, replace(self.stamp, state="works"))

    def drop_new(self):
        """Remove the new environment."""
        self._discard(self.new)

    def _discard(self, folder):
        """Remove a folder of ours; rename it first: an interruption may leave a part of it."""
        if _is_ours(folder):
            _remove(self._trash)
            os.rename(folder, self._trash)
            _remove(self._trash)


def python_of(folder):
    """Return the path of the Python of the environment in a folder."""
    return os.path.join(folder, _BIN, _PYTHON)


def _is_ours(folder):
    return os.path.exists(os.path.join(folder, _STAMP))


def _read_stamp(folder):
    try:
        with open(os.path.join(folder, _STAMP), encoding="utf-8") as stream:
            words = stream.read().split()
    except OSError:
        return None
    is_whole = len(words) == 4 and os.access(python_of(folder), os.X_OK)
    return Stamp(*words) if is_whole else None


def _write_stamp(folder, stamp):
    with atomic_open(os.path.join(folder, _STAMP)) as stream:
        stream.write(f"{stamp}\n")


def _remove(path):
    if os.path.islink(path):
        os.remove(path)
    elif os.path.lexists(path):
        shutil.rmtree(path)


def _rename_in_scripts(new, folder):
    """Write the final name of an environment into its scripts, which hold their own path."""
    # With the folder's own: that may be named like an environment, too.
    before, after = (os.fsencode(os.sep + os.sep.join(_last_two(path))) for path in (new, folder))
    paths = glob.glob(os.path.join(glob.escape(new), _BIN, "*"))
    for path in [*paths, os.path.join(new, "pyvenv.cfg")]:
        if os.path.islink(path) or not os.path.isfile(path):
            continue
        with open(path, "rb") as stream:
            content = stream.read()
        if before in content and b"\0" not in content:  # a zero: it is a program, not a script
            with replacing(path) as temporary:
                shutil.copy(path, temporary)  # with its permissions
                with open(temporary, "wb") as stream:
                    stream.write(content.replace(before, after))


def _mask_signals(how, signals):
    """Change which signals wait; return which did before. Windows has no such thing."""
    return signal.pthread_sigmask(how, signals) if hasattr(signal, "pthread_sigmask") else signals


def _last_two(path):
    folder, name = os.path.split(os.path.abspath(path))
    return filter(None, (os.path.basename(folder), name))


@contextlib.contextmanager
def only_run(path, say):
    """Hold the lock of a path while the block runs; wait as long as another run holds it.

    demo.sh and tests/run.sh both call setup.sh. What `run` starts holds the lock, too:
    a pip that outlives its killed run does not write where the next run does.
    """
    descriptor = _lock(path, say)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):  # without locks, another run may have
            os.remove(path)
        os.close(descriptor)


def _lock(path, say):
    while True:
        descriptor = _open_lock(path)
        if fcntl is None:
            return descriptor
        os.set_inheritable(descriptor, True)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("waiting for another run of setup.sh")
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        except OSError:  # some network file systems have no locks: go on without
            return descriptor
        with contextlib.suppress(FileNotFoundError):  # the run before has removed the file
            if os.path.samestat(os.fstat(descriptor), os.lstat(path)):
                return descriptor
        os.close(descriptor)


def _open_lock(path):
    try:
        return open_own(path, os.O_RDWR | os.O_CREAT)
    except OSError as error:
        raise SetupError(
            f"{os.path.dirname(path)}: cannot be written ({error.strerror.lower()}); name another"
            " folder: VENV=/path/of/it sh setup.sh"
        ) from None
