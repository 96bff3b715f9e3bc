"""Download a file over HTTP: from several mirrors, resumed if broken off, checked when complete."""

import contextlib
import email.utils
import errno
import hashlib
import http.client
import logging
import os
import time
import urllib.error
import urllib.parse
import urllib.request

from common.base.files import UserError, atomic_open, open_own, replacing, require_own
from common.base.progress import Progress

log = logging.getLogger(__name__)

TIMEOUT_SECONDS = 30  # without a byte, before the connection counts as broken
ATTEMPTS_WITHOUT_PROGRESS = 3
MOST_BYTES = 4 << 30  # four times the largest network of the catalogue, and more
MOST_SECONDS_TO_WAIT = 60  # the longest wait that a busy server may ask for
_BUSY = (408, 425, 429, 500, 502, 503, 504)  # HTTP statuses after which it is worth trying again
_DISK_FAILURES = (errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS)
_CHUNK_BYTES = 1 << 18
_MEGABYTE = 1_000_000


class FetchError(UserError):
    """No mirror delivered the file; `reasons` holds one line for each address."""

    def __init__(self, path, reasons):
        super().__init__(f"{path}: could not be fetched: {'; '.join(reasons)}")
        self.reasons = reasons


def fetch(
    urls, path, check, sha256=None, timeout=TIMEOUT_SECONDS, pause=1.0, most_bytes=MOST_BYTES
):
    """Download `path` from the first of `urls` that delivers the complete file.

    What an interrupted run has received is kept beside `path` (`.tmp-*.part`), and the next run
    continues it. The sha256 of the file is written beside it (`PATH.sha256`). If that is there
    before the file, the file must match it.

    Args:
        urls: http(s) addresses of the same file, the best first.
        check: called with the name of the downloaded file; raises `UserError` if it is not what
            it should be.
        sha256: how the file's sha256 begins (hexadecimal), if it is known.
        timeout: seconds without a byte before the connection counts as broken.
        pause: seconds before the second attempt at one address; doubles with each attempt.
        most_bytes: the size of the largest file that is accepted.

    Raises:
        FetchError: no address delivered a file that passes. What was there before is untouched.
    """
    reasons = []
    pinned = _kept_sha256(path)
    known = (sha256, "its publisher") if sha256 else (pinned, _sha256_name(path))
    with replacing(path) as temporary:
        for number, url in enumerate(urls, start=1):
            part = _part_name(path, url)
            require_own(part)
            try:
                _download(url, part, os.path.basename(path), timeout, pause, most_bytes)
                digest = _check(part, check, *known)
            except (UserError, _MirrorError) as error:
                reasons.append(f"{url}: {_without_name(error, part)}")
                if isinstance(error, _BrokenError) and _size(part):
                    reasons[-1] += f"; the {_size(part)} bytes received are kept for the next run"
                else:
                    _remove(part)
                if number < len(urls):
                    log.warning("%s; asking the next mirror", reasons[-1])
                continue
            if pinned != digest:
                _remove(_sha256_name(path))  # of an older file
            os.replace(part, temporary)
            break
        else:
            raise FetchError(path, reasons)
    for url in urls:
        _remove(_part_name(path, url))  # partial files of other mirrors
    write_sha256(path, digest)


def sha256_of(path):
    """Return the sha256 of a file, hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for chunk in iter(lambda: stream.read(1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def write_sha256(path, digest):
    """Keep the sha256 of `path` beside it, as `sha256sum -c` reads it."""
    with atomic_open(_sha256_name(path)) as stream:
        stream.write(f"{digest}  {os.path.basename(path)}\n")


def verify_sha256(path):
    """Return the sha256 of `path`, or None if none was kept; raise UserError if it has changed."""
    kept = _kept_sha256(path)
    if kept is None:
        return None
    digest = sha256_of(path)
    if kept != digest:
        raise UserError(
            f"{path}: has changed since it was fetched ({_sha256_name(path)} says otherwise);"
            " remove both and fetch it again"
        )
    return digest


def _kept_sha256(path):
    """Return what `PATH.sha256` says; None if it does not exist."""
    try:
        with open(_sha256_name(path), encoding="ascii", errors="replace") as stream:
            return (stream.read().split(maxsplit=1) or ["(empty)"])[0]
    except FileNotFoundError:
        return None


def _sha256_name(path):
    return f"{path}.sha256"


class _MirrorError(Exception):
    """This address does not deliver the file."""


class _BrokenError(_MirrorError):
    """This address delivers no more at present; what was received can be continued later."""


def _part_name(path, url):
    folder, name = os.path.split(os.path.abspath(path))
    # Mirrors may hold different files: a part from one is never continued from another.
    source = hashlib.sha256(url.encode()).hexdigest()[:8]
    return os.path.join(folder, f".tmp-{name}.{source}.part")


def _without_name(error, part):
    return str(error).replace(f"{part}: ", "")


def _remove(path):
    with contextlib.suppress(FileNotFoundError):
        os.remove(path)


def _check(part, check, sha256, source):
    """Return the sha256 of a downloaded file; raise if it is not what it should be."""
    digest = sha256_of(part)
    if sha256 is not None and not digest.startswith(sha256):
        raise _MirrorError(f"is another file: its sha256 is {digest}; {source} says {sha256}")
    check(part)
    return digest


def _download(url, part, title, timeout, pause, most_bytes):
    """Complete `part` from `url`, continuing where it ends; raise `_MirrorError`."""
    validator, fruitless, most = None, 0, _size(part)
    while fruitless < ATTEMPTS_WITHOUT_PROGRESS:
        asked_to_wait = 0
        try:
            validator, complete = _receive(url, part, title, timeout, validator, most_bytes)
            if complete:
                return
            error = "the connection broke"
        except urllib.error.HTTPError as http_error:
            http_error.close()
            error = f"answers {http_error.code} {http_error.reason}"
            asked_to_wait = _retry_after(http_error.headers)
            if asked_to_wait > MOST_SECONDS_TO_WAIT:
                error += f" and asks to come back in {asked_to_wait:.0f} seconds"
            if http_error.code not in _BUSY or asked_to_wait > MOST_SECONDS_TO_WAIT:
                break
        except (OSError, http.client.HTTPException) as network_error:
            if getattr(network_error, "errno", None) in _DISK_FAILURES:
                network_error.filename = part
                raise
            reason = getattr(network_error, "reason", None) or network_error
            error = str(reason) or type(reason).__name__
            if isinstance(network_error, urllib.error.URLError) and validator is None:
                break  # no connection from the start: another try seldom helps
        fruitless = 0 if _size(part) > most else fruitless + 1
        most = max(most, _size(part))
        if fruitless < ATTEMPTS_WITHOUT_PROGRESS:
            seconds = max(pause * 2**fruitless, asked_to_wait)
            log.info("%s: %s; trying again in %.0f s", url, error, seconds)
            time.sleep(seconds)
    raise _BrokenError(error)


def _retry_after(headers):
    """Return how many seconds a busy server asks to wait; its header has seconds or a date."""
    text = headers.get("Retry-After", "").strip()
    if text.isdecimal():
        return float(text)
    try:
        return max(0.0, email.utils.parsedate_to_datetime(text).timestamp() - time.time())
    except (TypeError, ValueError, OverflowError):
        return 0.0


def _receive(url, part, title, timeout, validator, most_bytes):
    """Request what `part` lacks and append it; return (validator, whether `part` is complete).

    The validator (ETag or date) makes a server send the whole file again if it has changed.
    """
    have = _size(part)
    headers = {"User-Agent": "mxnet-inaturalist", "Accept-Encoding": "identity"}
    if have:
        headers["Range"] = f"bytes={have}-"
        if validator:
            headers["If-Range"] = validator
    request = urllib.request.Request(url, headers=headers)
    try:
        response = urllib.request.urlopen(request, timeout=timeout)
    except urllib.error.HTTPError as error:
        if error.code != 416 or not have:
            raise
        # The server has nothing after our last byte: the file is complete, or it has changed.
        complete = error.headers.get("Content-Range", "").endswith(f"/{have}")
        error.close()
        if not complete:
            _remove(part)
        return None, complete
    with response:
        if response.headers.get_content_type() in ("text/html", "application/xhtml+xml"):
            raise _BrokenError("sends a web page instead of the file")
        start, total = _range_of(response, have)
        if total is not None and total > most_bytes:
            raise _MirrorError(f"announces {total} bytes, more than {most_bytes}")
        if start not in (0, have):
            raise _MirrorError(f"sends bytes from {start} on, not from {have} on as requested")
        with open(part, "r+b" if start else "wb", opener=open_own) as stream:
            stream.seek(start)
            _copy(response, stream, start, total, title, most_bytes)
            received = stream.tell()
        validator = response.headers.get("ETag") or response.headers.get("Last-Modified")
        if validator and validator.startswith("W/"):
            validator = None
    return validator, received == total if total is not None else received > 0


def _range_of(response, have):
    """Return (first byte, size of the whole file or None) of an answer."""
    length = response.headers.get("Content-Length")
    length = int(length) if length and length.isdigit() else None
    if response.status != 206:
        return 0, length
    try:
        span, total = response.headers["Content-Range"].split()[1].split("/")
        return int(span.split("-")[0]), int(total)
    except (KeyError, AttributeError, IndexError, ValueError):
        return have, None if length is None else have + length


def _copy(response, stream, start, total, title, most_bytes):
    done, end = start, most_bytes if total is None else total
    with Progress((total or 0) // _MEGABYTE, title, unit="MB") as progress:
        progress.update(start // _MEGABYTE)
        while True:
            try:
                chunk = response.read(_CHUNK_BYTES)
            except http.client.IncompleteRead as error:
                chunk, response = error.partial, None
            if done + len(chunk) > end:
                raise _MirrorError(f"sends more than {end} bytes")
            stream.write(chunk)
            progress.update((done + len(chunk)) // _MEGABYTE - done // _MEGABYTE)
            done += len(chunk)
            if not chunk or response is None:
                return


def _size(path):
    return os.path.getsize(path) if os.path.exists(path) else 0
