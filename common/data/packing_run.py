"""The files of one packing run: what is packed, what failed, and how they become the result.

While a run works, the records lie in `train.rec.partial` and their index in `train.idx.partial`.
`train.rec.journal.partial` holds the settings of the records and the images that failed, so that
a run can go on where another one stopped. All three are renamed when the last image is done; until
then the files of an earlier run stay as they are, and a run that only packs what had failed takes
all other records over from them.
"""

import hashlib
import json
import logging
import os
from collections import namedtuple
from contextlib import contextmanager, suppress
from dataclasses import asdict

import cv2

from common.base.files import UserError, atomic_open, open_own, require_target
from common.data.class_checks import folders_of_list
from common.data.encoding import is_cut_short
from common.data.recordio import DamagedRecord, RecordFile, map_file, read_record

# After a loss of power the last records may not be on the disk: those of about half a minute.
UNSURE_RECORDS = 10000
# Records are sent to the disk while the next ones are made: otherwise the last step, which waits
# for the disk, would have to write all of them (6 % of a short run's time).
BYTES_TO_THE_DISK = 8 << 20

Failure = namedtuple("Failure", ["index", "path", "reason"])
Journal = namedtuple("Journal", ["settings", "failures", "finished", "takes_over", "folders"])
Summary = namedtuple("Summary", ["rec_path", "packed", "failures", "num_bytes", "was_complete"])


class PackingRun:
    """What a run has packed so far, on the disk and in numbers."""

    def __init__(self, list_path, root, settings):
        prefix = os.path.splitext(list_path)[0]
        self.rec_path, self.idx_path = f"{prefix}.rec", f"{prefix}.idx"
        self.failed_path = f"{prefix}.rec.failed.txt"
        self._journal_path = f"{prefix}.rec.journal"
        self._rec_partial, self._idx_partial = f"{prefix}.rec.partial", f"{prefix}.idx.partial"
        self._journal_partial = f"{prefix}.rec.journal.partial"
        self._renames = [
            (self._journal_partial, self._journal_path),
            (self._idx_partial, self.idx_path),
            (self._rec_partial, self.rec_path),  # the last one: while it is there, a run is begun
        ]
        self._settings = _all_settings(list_path, root, settings)
        self._folders = folders_of_list(list_path)
        self.num_records, self._num_bytes, self.failures = 0, 0, []
        self._sent_to_disk = 0
        self._finished, self._positions = None, {}  # the records that are taken over

    def require_targets(self):
        """Raise `UserError` if no file can be written under the name of one of the results."""
        for path in (self.rec_path, self.idx_path, self.failed_path, self._journal_path):
            require_target(path)

    def is_begun(self):
        """Return whether a run that stopped left its files."""
        return os.path.exists(self._rec_partial)

    def end_renaming(self):
        """Rename the files of a run that was stopped while it renamed them."""
        finished = self._read_journal().finished
        if self.is_begun() and os.path.getsize(self._rec_partial) == finished.get("bytes"):
            self._rename([names for names in self._renames if os.path.exists(names[0])])

    def finished_summary(self):
        """Return the summary of the finished result of the same settings; None without one.

        A warning names what differs in the result of other settings.
        """
        settings, failures, finished, *_ = _read_journal(self._journal_path)
        is_complete = (
            os.path.exists(self.idx_path)
            and os.path.exists(self.rec_path)
            and os.path.getsize(self.rec_path) == finished.get("bytes")
        )
        if not is_complete:
            return None
        difference = self._difference(settings)
        if difference:
            logging.warning("%s: was packed with %s: packing anew", self.rec_path, difference)
            return None
        return Summary(self.rec_path, finished["packed"], failures, finished["bytes"], True)

    def begin(self, takes_over=False):
        """Start with the first image; return its position.

        With `takes_over`, `take_over` returns the finished records, of the same settings.

        Raises:
            UserError: their index is not theirs.
        """
        if takes_over:
            self._open_finished()
        for path in (self._rec_partial, self._idx_partial):  # before the journal is another's
            with suppress(FileNotFoundError):
                os.remove(path)
        self._write_journal()
        for path in (self._idx_partial, self._rec_partial):
            open(path, "wb", opener=open_own).close()
        return 0

    def remove_if_empty(self):
        """Remove the files of a run that has packed nothing: the next one may have another root."""
        if not self.num_records:
            for path in (self._rec_partial, self._idx_partial, self._journal_partial):
                os.remove(path)

    def _open_finished(self):
        self._finished = RecordFile(self.rec_path, self.idx_path)
        self._positions = {key: n for n, key in enumerate(self._finished.keys.tolist())}

    def take_over(self, index):
        """Return (key, framed record) of an image that the finished records hold; None without."""
        if index in self._positions:
            with suppress(DamagedRecord):  # its photograph is packed again
                return index, self._finished.frame(self._positions[index])
        return None

    def reopen(self, entries, is_fixed):
        """Keep what a stopped run packed; return the position of the first image to pack now.

        What comes after a failure of which `is_fixed` is true is packed again, to keep the order.

        Raises:
            UserError: it was begun with another list or other settings.
        """
        settings, failures, _, takes_over, _ = self._read_journal()
        difference = self._difference(settings)
        if difference:
            raise UserError(
                f"{self._rec_partial}: was begun with {difference}; remove it, or leave out "
                "--resume, to pack anew"
            )
        if takes_over and self.finished_summary():
            self._open_finished()
        with open(self._idx_partial, "a+b", opener=open_own) as stream:
            stream.seek(0)
            lines = stream.read().splitlines(keepends=True)
        if lines and not lines[-1].endswith(b"\n"):
            lines.pop()
        failures = [failure for failure in failures if not is_fixed(failure)]
        failed = {failure.index for failure in failures}
        expected = (entry.index for entry in entries if entry.index not in failed)
        offsets = []
        with suppress(ValueError):  # a machine that lost power may leave anything
            for line, index in zip(lines, expected):
                key, offset = map(int, line.split())
                if key != index:
                    break
                offsets.append(offset)
        kept, self._num_bytes = _intact_records(self._rec_partial, offsets)
        position = 0
        if kept:
            last = int(lines[kept - 1].split()[0])
            position = 1 + next(n for n, entry in enumerate(entries) if entry.index == last)
        self.num_records = kept
        done = {entry.index for entry in entries[:position]}
        self.failures = [failure for failure in failures if failure.index in done]
        _cut(self._rec_partial, self._num_bytes)
        _cut(self._idx_partial, sum(map(len, lines[:kept])))
        self._write_journal()
        return position

    @contextmanager
    def writing(self):
        """Open the files of the run for what `add_record` and `add_failure` append."""
        try:
            with _appending(self._rec_partial) as self._rec, _appending(
                self._idx_partial
            ) as self._idx, _appending(self._journal_partial) as self._journal:
                yield
                for stream in (self._rec, self._idx, self._journal):
                    stream.flush()
                    os.fsync(stream.fileno())
        except OSError as error:
            error.filename = error.filename or self.rec_path
            raise

    def add_record(self, key, frame):
        """Append a record and then its index line: for every line there is a record."""
        self._rec.write(frame)
        self._rec.flush()
        self._idx.write(b"%d\t%d\n" % (key, self._num_bytes))
        self._idx.flush()
        self._num_bytes += len(frame)
        self.num_records += 1
        self._start_writing_back()

    def _start_writing_back(self):
        """Ask Linux to start writing what was appended, without waiting for it."""
        waiting = self._num_bytes - self._sent_to_disk
        if waiting < BYTES_TO_THE_DISK or not hasattr(os, "posix_fadvise"):
            return
        os.posix_fadvise(self._rec.fileno(), self._sent_to_disk, waiting, os.POSIX_FADV_DONTNEED)
        self._sent_to_disk = self._num_bytes

    def add_failure(self, failure):
        """Note an image that is left out, before a later one is packed."""
        self._journal.write(_json_line(failure._asdict()))
        self._journal.flush()
        self.failures.append(failure)

    def finish(self):
        """Rename the finished files; return the summary."""
        self._finished, self._positions = None, {}  # Windows removes no file that is open
        self._write_failures()
        finished = {"packed": self.num_records, "bytes": self._num_bytes}
        self._write_journal({"finished": finished})
        self._rename(self._renames)
        return Summary(self.rec_path, self.num_records, self.failures, self._num_bytes, False)

    def _rename(self, names):
        """At any moment each of the files is complete or absent, and `--resume` can continue."""
        with suppress(FileNotFoundError):
            os.remove(self.rec_path)  # an older one, which the new index would not fit
        for partial, path in names:
            os.replace(partial, path)

    def _write_failures(self):
        with suppress(FileNotFoundError):
            os.remove(self.failed_path)  # an older run's
        if self.failures:
            with atomic_open(self.failed_path, "wb") as stream:
                for failure in self.failures:
                    stream.write(_failed_line(failure))

    def _difference(self, settings):
        """Return the first setting in which others differ from those of this run; None if none."""
        for name, value in self._settings.items():
            if settings.get(name) != value:
                return f"another {name} ({settings.get(name)}, not {value})"
        return None

    def _write_journal(self, *last):
        """Write the journal of this run anew: the settings, the failures so far, and `last`."""
        first = {
            "settings": self._settings,
            "takes_over": self._finished is not None,
            "folders": self._folders,
        }
        failures = (failure._asdict() for failure in self.failures)
        with atomic_open(self._journal_partial, "wb") as stream:
            for entry in (first, *failures, *last):
                stream.write(_json_line(entry))

    def _read_journal(self):
        """Return the `Journal` of the run that is begun."""
        if os.path.exists(self._journal_partial):
            return _read_journal(self._journal_partial)
        return _read_journal(self._journal_path)  # renamed already, or of an earlier version


def packed_list(rec_path):
    """Return of which list finished records are: its `digest_of_list`, and its class folders.

    They are None and empty where another tool, or an earlier version, has packed the records.
    """
    settings, _, finished, _, folders = _read_journal(f"{rec_path}.journal")
    with suppress(OSError):
        if os.path.getsize(rec_path) == finished.get("bytes"):
            return settings.get("list"), folders
    return None, {}


def digest_of_list(path):
    """Return the SHA-256 of a list, as text."""
    with open(path, "rb") as stream:
        return hashlib.sha256(stream.read()).hexdigest()


def _read_journal(path):
    """Return a `Journal`; its `finished` is {packed, bytes} where the run has finished.

    Reading ends at the first line that no run writes: the last one may be cut short, and a
    damaged file may hold anything.
    """
    settings, failures, finished, takes_over, folders = {}, [], {}, False, {}
    with suppress(OSError, ValueError, TypeError, AttributeError, RecursionError):
        with open(path, "rb") as stream:
            for line in stream:
                entry = json.loads(line)
                if "settings" in entry:
                    settings = dict(entry["settings"])
                    takes_over = entry.get("takes_over") is True
                    folders = {int(n): str(name) for n, name in entry.get("folders", {}).items()}
                elif "finished" in entry:
                    finished = _of_types(entry["finished"], packed=int, bytes=int)
                else:
                    failure = Failure(**_of_types(entry, index=int, path=str, reason=str))
                    _failed_line(failure)  # `finish` has to write it
                    failures.append(failure)
    return Journal(settings, failures, finished, takes_over, folders)


def _appending(path):
    return open(path, "ab", opener=open_own)


def _cut(path, num_bytes):
    with open(path, "r+b", opener=open_own) as stream:
        stream.truncate(num_bytes)


def _json_line(entry):
    return json.dumps(entry).encode() + b"\n"


def _of_types(entry, **types):
    """Return an object of a journal; raise `TypeError` unless it has these names and types."""
    content = dict(entry)
    if {name: type(value) for name, value in content.items()} != types:
        raise TypeError
    return content


def _failed_line(failure):
    """Return a line of `train.rec.failed.txt`; raise `ValueError` where it cannot be encoded."""
    return "{}\t{}\t{}\n".format(*failure).encode("utf-8", "surrogateescape")


def _intact_records(rec_path, offsets):
    """Return how many of the first records are intact, and where they end, in bytes."""
    data = map_file(rec_path)
    unsure = max(0, len(offsets) - UNSURE_RECORDS)
    end = offsets[unsure] if unsure else 0
    for number in range(unsure, len(offsets)):
        try:
            record, next_offset = read_record(data, offsets[number])
        except DamagedRecord:
            return number, end
        if offsets[number] != end or is_cut_short(record.image):
            return number, end
        end = next_offset
    return len(offsets), end


def _all_settings(list_path, root, settings):
    """Return what the bytes of a record file depend on, except for the images themselves."""
    where = {
        "list": digest_of_list(list_path),
        "root": os.path.abspath(root),
        "cv2": cv2.__version__,
    }
    return {**asdict(settings), **where}
