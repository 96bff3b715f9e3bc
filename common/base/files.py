"""Files that appear only when they are complete, and errors that a user can fix."""

import contextlib
import errno
import os
import stat

try:
    import fcntl
except ImportError:  # Windows: no advisory locks, everything else is the same
    fcntl = None

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
DATA_DIR = os.path.join(ROOT, "data")
MODEL_DIR = os.path.join(ROOT, "model")
MODEL_PREFIX = os.path.join(MODEL_DIR, "iNat-resnet-152")  # as in run.sh

# Why a file could not be written, and what the user can do about it.
WRITE_FAILURES = {
    errno.ENOSPC: "the disk is full; free some space and run the same command again",
    errno.EDQUOT: "the disk quota is used up; free some space and run the same command again",
    errno.EFBIG: "the file size limit (ulimit -f) is reached; raise it and run the command again",
    errno.EROFS: "the file system is read-only; choose a folder that can be written",
}

# Open no link, and do not wait at a pipe.
_PLAIN_ONLY = getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)


class UserError(Exception):
    """An error that a user can fix: one line that names the file or flag, and the fix."""


def explain_os_error(error):
    """Say in one line what an `OSError` means: `data/train.rec: permission denied`."""
    reason = WRITE_FAILURES.get(error.errno) or (error.strerror or str(error)).lower()
    return f"{error.filename}: {reason}" if error.filename else reason


def require_file(path, fix):
    """Return `path`; raise `UserError` with it and the fix if it is not a readable file.

    Pipes and devices are refused: reading one may never end.
    """
    try:
        mode = os.stat(path).st_mode
    except OSError as error:
        if os.path.islink(path):
            raise UserError(f"{path}: is a link that leads nowhere; {fix}") from None
        if isinstance(error, (FileNotFoundError, NotADirectoryError)):
            raise UserError(f"{path}: not found; {fix}") from None
        raise
    if stat.S_ISDIR(mode):
        raise UserError(f"{path}: is a folder, not a file; {fix}")
    if not stat.S_ISREG(mode):
        raise UserError(f"{path}: is a pipe or a device, not a file; {fix}")
    if not os.access(path, os.R_OK):
        raise UserError(f"{path}: no permission to read it; change that with chmod u+r")
    return path


def read_at_once(path, most_bytes):
    """Return the bytes of a small file; refuse pipes and devices, which may never end.

    Raises:
        ValueError: it is not a file, or has more than `most_bytes`; the text says so in one line.
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
    return os.open(path, flags | getattr(os, "O_NONBLOCK", 0))  # else a pipe waits for its writer


def require_target(path):
    """Raise `UserError` if no file can be written under this name.

    Every writer checks this. Long work should check it before it starts.
    """
    if os.path.isdir(path):
        raise UserError(f"{path}: is a folder; remove it or choose another name for the file")
    if not os.path.isdir(os.path.dirname(os.path.abspath(path))):
        raise UserError(f"{path}: its folder does not exist; make it first")


def open_own(path, flags):
    """Open a file that only this project's runs write (an `opener` of `open()`); follow no link.

    Temporary files, locks and partial files have predictable names. Through a link with such a
    name, another file would be locked, truncated or overwritten.

    Raises:
        UserError: what has this name is not a plain file, or has a second name.
    """
    try:
        # Truncated only when it is known to be a plain file.
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
    """Raise `UserError` if a link, a pipe or a device has the name of a file of our own."""
    with contextlib.suppress(FileNotFoundError):
        _refuse_unless_plain(path, os.lstat(path))


def _refuse_unless_plain(path, status):
    if stat.S_ISLNK(status.st_mode) or (stat.S_ISREG(status.st_mode) and status.st_nlink > 1):
        raise UserError(f"{path}: is a link, and the file behind it would be changed; remove it")
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISDIR(status.st_mode):
        raise UserError(f"{path}: is a pipe or a device, not a file; remove it")


@contextlib.contextmanager
def replacing(path):
    """Yield a temporary name beside `path`, which is renamed to `path` if the block succeeds.

    For writers that take a file name (`np.savez`, `cv2.imwrite`). The temporary name keeps the
    suffix of `path`. It is the same in every run, so the next run overwrites what a killed one
    left. It is locked: a second run that writes the same file gets a `UserError`. If the block
    fails, the temporary file is removed and `path` stays as it was. Writers that can should open
    the name with `opener=open_own`; for all others it is a plain file when the block begins.

    Raises:
        UserError: another process is writing `path`, its folder does not exist, or a link has the
            temporary name.
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
def exclusive_lock(path, what):
    """Hold the lock of `path` while the block runs: only one run at a time can.

    The lock ends with the process that holds it, however the process ends.

    Raises:
        UserError: another run holds it; `what` says in the message what that run is doing.
    """
    folder, name = os.path.split(os.path.abspath(path))
    lock = os.path.join(folder, f".tmp-{name}.lock")
    descriptor = _lock(lock, path, what)
    try:
        yield
    finally:
        with contextlib.suppress(FileNotFoundError):  # without locks, another run may have
            os.remove(lock)
        os.close(descriptor)


@contextlib.contextmanager
def atomic_open(path, mode="w"):
    """Open `path` for writing (`"w"` is UTF-8 text, `"wb"` bytes); it appears when it is complete.

    Raises:
        UserError: as `replacing`.
    """
    text = {} if "b" in mode else {"encoding": "utf-8", "newline": "\n"}
    with replacing(path) as temporary:
        with open(temporary, mode, opener=open_own, **text) as stream:
            yield stream


def write_together(contents):
    """Write files, `{path: bytes}`, which belong together: all are on the disk before any appears.

    They are locked as one: of two runs, none writes some of them and the other one the rest.

    Raises:
        UserError: as `replacing`.
    """
    with contextlib.ExitStack() as stack:
        for path in contents:
            stack.enter_context(exclusive_lock(path, "writing it"))
        streams = [stack.enter_context(atomic_open(path, "wb")) for path in contents]
        for stream, (path, content) in zip(streams, contents.items()):
            try:
                stream.write(content)
                stream.flush()
            except OSError as error:
                error.filename = path
                raise


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
        except OSError:  # some network file systems have no locks: go on without
            return descriptor
        # Between open and flock the file may have been renamed away by the run that held it.
        try:
            if os.path.samestat(os.fstat(descriptor), os.lstat(temporary)):
                return descriptor
        except FileNotFoundError:
            pass
        os.close(descriptor)
