"""Files that appear only when whole, and errors that a user can mend."""

import contextlib
import errno
import os
import stat

try:
    import fcntl
except ImportError:  # Windows: no advisory locks, everything else is the same
    fcntl = None

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
DATA_DIR = os.path.join(ROOT, "data")
MODEL_DIR = os.path.join(ROOT, "model")

# What an operating system says when a file could not be written, and how a user mends it.
WRITE_FAILURES = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EFBIG: "the file size limit (ulimit -f) is reached; raise it and run the command again",
    errno.EROFS: "the file system is read-only; choose a folder that can be written",
}

# Open no link, and do not wait at a pipe.
_PLAIN_ONLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class UserError(Exception):
    """Something that a user can mend: one line that names the file or flag, and the mend."""


def explain_os_error(error):
    """Say in one line what an `OSError` means: `data/train.rec: permission denied`."""
    reason = WRITE_FAILURES.get(error.errno) or (error.strerror or str(error)).lower()
    return f"{error.filename}: {reason}" if error.filename else reason


def require_file(path, mend):
    """Return `path`, or raise `UserError` naming it and the mend where it is no readable file.

    Pipes and devices are none: reading one may never end.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if os.path.islink(path):
            raise UserError(f"{path}: is a link that leads nowhere; {mend}") from None
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise UserError(f"{path}: not found; {mend}") from None
        raise
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: is a folder, not a file; {mend}")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: is a pipe or a device, not a file; {mend}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: may not be read; change its permissions (chmod u+r)")
    return path


def read_at_once(path, most_bytes):
    """Return the bytes of a file that is to be small; pipes and devices, which may never end, no.

    Raises:
        ValueError: it is no file, or of more than `most_bytes`; says so in one line.
        OSError: it cannot be read.
    """
    with open(path, "rb", opener=_open_without_waiting) as stream:
        status = os.fstat(stream.fileno())
        if not stat.S_ISREG(status.st_mode):
            raise ValueError("is a pipe or a device, not a file")
        if status.st_size > most_bytes:
            raise ValueError(f"has {status.st_size} bytes, more than {most_bytes}")
        return stream.read(status.st_size)


def _open_without_waiting(path, flags):
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # a pipe waits for its writer


def require_target(path):
    """Raise `UserError` where no file could be written under this name.

    Whoever writes checks it; before long work it is worth checking earlier.
    """
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder; remove it or choose another name for the file")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise UserError(f"{path}: its folder does not exist; make it first")


def open_own(path, flags):
    """Open a name that only this project's runs write, as `opener` of `open()`; follow no link.

    Temporary files, locks and parts of files have names that can be foreseen. Through a link that
    lies there, another file would be locked, emptied or written.

    Raises:
        UserError: something else than a plain file of one name lies there.
    """
    try:
        # Emptied only when it is known to be a plain file.
        descriptor = os.open(path, (flags & ~os.O_TRUNC) | _PLAIN_ONLY, 0o666)
    except OSError:
        require_own(path)
        raise
    try:
        require_own(path)
        _refuse_unless_plain(path, os.fstat(descriptor))
        if flags & os.O_TRUNC:
            os.ftruncate(descriptor, 0)
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def require_own(path):
    """Raise `UserError` where a link, a pipe or a device has the name of a file of our own."""
    with contextlib.suppress(FileNotFoundError):
        _refuse_unless_plain(path, os.lstat(path))


def _refuse_unless_plain(path, status):
    if stat.S_ISLNK(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink > 1):
        raise UserError(f"{path}: is a link, and the file behind it would be changed; remove it")
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path}: is a pipe or a device, not a file; remove it")


@contextlib.contextmanager
def replacing(path):
    """Yield a temporary name beside `path`, renamed to `path` where the block ends well.

    For writers that take a file name (`mx.nd.save`, `cv2.imwrite`). The name keeps the suffix of
    `path`, is the same in every run, so that what a killed run left is overwritten by the next,
    and is locked: a second run that writes the same file gets a `UserError`. A failing block
    removes the temporary file and leaves `path` as it was. Writers that can, open the name with
    `opener=open_own`; for all others it is a plain file when the block begins.

    Raises:
        UserError: another process is writing `path`, its folder does not exist, or a link lies
            under the temporary name.
    """
    require_target(path)
    folder, name = os.path.split(os.path.abspath(path))
    temporary = os.path.join(folder, f".tmp-{name}")
    lock = _lock(temporary, path)
    try:
        yield temporary
        with open(temporary, "rb") as written:
            os.fsync(written.fileno())
        os.replace(temporary, path)
    except BaseException as error:
        with contextlib.suppress(OSError):
            os.remove(temporary)
        if isinstance(error, OSError) and error.filename in (None, temporary):
            error.filename = path  # the user knows the target, not its temporary name
        raise
    finally:
        os.close(lock)


@contextlib.contextmanager
def held(path, what):
    """Hold the lock file `path` while the block runs: one run at a time may.

    The lock ends with the process that holds it, however that ends.

    Raises:
        UserError: another run holds it; `what` says in the message what it is doing.
    """
    folder, name = os.path.split(os.path.abspath(path))
    lock = os.path.join(folder, f".tmp-{name}.lock")
    descriptor = _lock(lock, path, what)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):  # where there are no locks, another run did
            os.remove(lock)
        os.close(descriptor)


@contextlib.contextmanager
def atomic_open(path, mode="w"):
    """Open `path` for writing (`"w"` is UTF-8 text, `"wb"` bytes); it appears when whole.

    Raises:
        UserError: as `replacing`.
    """
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    with replacing(path) as temporary:
        with open(temporary, mode, opener=open_own, **text) as stream:
            yield stream


def _lock(temporary, path, what="writing it"):
    """Create and lock the temporary file; return its descriptor (closing it unlocks).

    The lock lives in the file itself, so a crashed run leaves none behind.
    """
    while True:
        try:
            descriptor = open_own(temporary, os.O_RDWR | os.O_CREAT)
        except FileNotFoundError:
            raise UserError(f"{path}: its folder does not exist; make it first") from None
        except OSError as error:
            error.filename = path
            raise
        if fcntl is None:
            return descriptor
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(descriptor)
            raise UserError(f"{path}: another run is {what}; wait for it or stop it") from None
        except OSError:  # a file system without locks, as some of a cluster's: go without
            return descriptor
        # Between open and flock the file may have been renamed away by the run that held it.
        try:
            if os.path.samestat(os.fstat(descriptor), os.lstat(temporary)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)
