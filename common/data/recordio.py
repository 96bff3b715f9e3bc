"""Lists (.lst), records (.rec) and their index (.idx), byte for byte as MXNet writes them.

A list is a line an image: `INDEX<tab>LABEL[<tab>LABEL...]<tab>PATH`. A record file is records one
after another, each in parts of `magic, flag and length, bytes, zeros up to a multiple of 4`; one
part unless the magic number itself occurs in the bytes. A record is a header (number of extra
labels, label, key, 0), the extra labels, the encoded image. The index is `KEY<tab>OFFSET` lines.
(dmlc-core's `recordio.h`, MXNet's `python/mxnet/recordio.py`.)
"""

import mmap
import os
import re
import struct
from collections import namedtuple

import numpy as np

from common.base.files import UserError, atomic_open, require_file
from common.data.commands import list_command, pack_command

ListEntry = namedtuple("ListEntry", ["index", "label", "path"])
Record = namedtuple("Record", ["key", "label", "image"])

MAGIC = 0xCED7230A
_MAGIC_BYTES = struct.pack("<I", MAGIC)
_PART = struct.Struct("<II")  # magic; flag in the upper 3 bits, length in the lower 29
_WHOLE, _FIRST, _MIDDLE, _LAST = range(4)  # the flags of a part
_HEADER = struct.Struct("<IfQQ")  # number of extra labels, label, key, 0
MAX_RECORD_BYTES = (1 << 29) - 1
MAX_KEY = (1 << 63) - 1  # readers keep keys in an int64


# Tabs separate the columns, and readers strip white space around them. A control character would
# end a line, or reach a terminal in a message. Bytes that are not UTF-8 are read as surrogates.
_WRITABLE_NAME = re.compile(
    r"(?!\s)[^\0-\x1f\x7f-\x9f\u2028\u2029\ud800-\udc7f\udd00-\udfff]+(?<!\s)"
).fullmatch


def is_writable_name(name):
    """Return whether a list can carry a file name."""
    return _WRITABLE_NAME(name) is not None


class DamagedRecord(ValueError):  # noqa: N818 (reads as what it is: except DamagedRecord)
    """One record that cannot be read; the others can."""


def read_list(path):
    """Read a `.lst` into `ListEntry(index, label, path)`; several labels are a tuple of floats.

    Raises:
        UserError: names the file and the line.
    """
    require_file(path, f"make it with: {list_command(path)}")
    entries, lines = [], {}
    with open(path, encoding="utf-8-sig", errors="surrogateescape") as stream:
        for number, line in enumerate(stream, 1):
            if not line.strip():
                continue
            columns = [column.strip() for column in line.strip().split("\t")]
            try:
                index, *labels, name = columns
                index, labels = int(index), tuple(map(float, labels))
                struct.pack(f"<{len(labels)}f", *labels)  # as the records keep them
                if not labels or not 0 <= index <= MAX_KEY or not is_writable_name(name):
                    raise ValueError
            except (ValueError, OverflowError):
                raise UserError(
                    f"{path}:{number}: not INDEX<tab>LABEL<tab>PATH: {line.strip()[:80]!r}"
                ) from None
            if lines.setdefault(index, number) != number:
                raise UserError(
                    f"{path}:{number}: index {index} is that of line {lines[index]} already; "
                    "number the lines anew"
                )
            entries.append(ListEntry(index, labels if len(labels) > 1 else labels[0], name))
    if not entries:
        raise UserError(f"{path}: lists no image; make it with: {list_command(path)}")
    return entries


def format_list(entries):
    """Return `entries` as the bytes of a list, as MXNet's tool writes it: labels as `%f`, UTF-8."""
    lines = []
    for index, label, name in entries:
        labels = label if isinstance(label, tuple) else (label,)
        lines.append("\t".join([str(index), *(f"{value:f}" for value in labels), name]))
    return "".join(f"{line}\n" for line in lines).encode("utf-8", "surrogateescape")


def pack_record(key, label, image):
    """Return the bytes of a record: header, labels, encoded image (`mx.recordio.pack`).

    A number goes into the header; a sequence of labels is kept as float32 behind it.
    """
    if np.ndim(label) == 0:
        return _HEADER.pack(0, label, key, 0) + image
    labels = np.asarray(label, dtype="<f4")
    return _HEADER.pack(labels.size, 0, key, 0) + labels.tobytes() + image


def unpack_record(data):
    """Return `Record(key, label, image)` of a record's bytes; `image` is a view, not a copy.

    Raises:
        DamagedRecord: too short for its header and labels.
    """
    if len(data) < _HEADER.size:
        raise DamagedRecord(f"{len(data)} bytes are too few for a record's header")
    num_labels, label, key, _ = _HEADER.unpack_from(data)
    start = _HEADER.size + 4 * num_labels
    if len(data) < start:
        raise DamagedRecord(f"{len(data)} bytes are too few for {num_labels} labels")
    if num_labels:
        labels = np.frombuffer(data, "<f4", num_labels, _HEADER.size)
    else:
        labels = np.array([label], dtype=np.float32)
    return Record(key, labels, memoryview(data)[start:])


def frame_record(data):
    """Return `data` as it is stored in the `.rec`: magic, length, bytes, zeros up to 4.

    Where the magic number occurs at a multiple of 4, it is left out and the record is cut there,
    so that a reader can find the next record after damage.
    """
    if len(data) > MAX_RECORD_BYTES:
        raise ValueError(f"a record of {len(data)} bytes; RecordIO holds less than 2^29")
    # Word by word: 4 us for 160 kB, where a search byte by byte takes 235.
    words = np.frombuffer(data, "<u4", len(data) // 4)
    cuts = (4 * np.flatnonzero(words == MAGIC)).tolist()
    starts, ends = [0] + [cut + 4 for cut in cuts], [*cuts, len(data)]
    frame = []
    for number, (start, end) in enumerate(zip(starts, ends)):
        if not cuts:
            flag = _WHOLE
        elif number == len(cuts):
            flag = _LAST
        else:
            flag = _MIDDLE if number else _FIRST
        frame += [_PART.pack(MAGIC, flag << 29 | end - start), data[start:end]]
    frame.append(bytes(-len(data) % 4))
    return b"".join(frame)


class RecordFile:
    """Random access to the records of a `.rec`, memory-mapped: `read(position)` from any thread.

    Attributes:
        path: of the `.rec`.
        keys: int64, (N,), in the order of the file.
        offsets: int64, (N,), where each record begins.
    """

    def __init__(self, rec_path, idx_path=None):
        """Open `rec_path`, by its `.idx` (beside it where not named), else by scanning it.

        Raises:
            UserError: missing, empty, not a RecordIO file, or an index of another file.
        """
        self.path = rec_path
        require_file(rec_path, f"make it with: {pack_command(rec_path)}")
        self._view = map_file(rec_path)
        if not len(self._view):
            raise UserError(f"{rec_path}: is empty; make it with: {pack_command(rec_path)}")
        if self._view[:4] != _MAGIC_BYTES:
            raise UserError(
                f"{rec_path}: is not a RecordIO file; make it with: {pack_command(rec_path)}"
            )
        beside = os.path.splitext(rec_path)[0] + ".idx"
        if idx_path is None and os.path.lexists(beside):
            idx_path = beside
        if idx_path is None:
            self.keys, self.offsets = index_records(rec_path)
        else:
            self.keys, self.offsets = self._read_index(idx_path)

    def __len__(self):
        return len(self.keys)

    def read(self, position):
        """Return `Record(key, label, image)` of the record at `position`, 0 to N - 1.

        `label` is float32, (L,); `image` a memoryview of the encoded bytes.

        Raises:
            DamagedRecord: a `ValueError` that names the file and the record.
        """
        record, _ = self._read(position)
        return record

    def frame(self, position):
        """Return the record at `position` as it is stored, from magic to zeros; a memoryview.

        Raises:
            DamagedRecord: as `read`.
        """
        _, end = self._read(position)
        return self._view[self.offsets[position] : end]

    def _read(self, position):
        """Return the record at `position`, and where the next begins."""
        key = self.keys[position]
        try:
            record, end = read_record(self._view, int(self.offsets[position]))
            if record.key != key:
                raise DamagedRecord(f"has the key {record.key}, and the index says otherwise")
        except DamagedRecord as error:
            raise DamagedRecord(f"{self.path}: record {key}: {error}") from None
        return record, end

    def _read_index(self, idx_path):
        keys, offsets = read_index(idx_path, self.path)
        fix = f"make it anew with: python im2rec.py --reindex {self.path}"
        last = int(offsets.argmax())
        try:
            if offsets.min() < 0:
                raise DamagedRecord
            record, end = read_record(self._view, int(offsets[last]))
            belongs = record.key == keys[last] and end == len(self._view)
            belongs = belongs and len(np.unique(offsets)) == len(offsets)
        except DamagedRecord:
            belongs = False
        if not belongs:
            raise UserError(
                f"{idx_path}: is not the index of {self.path}, or that file is cut short; {fix}"
            )
        return keys, offsets


def map_file(path):
    """Return the bytes of a file as a memoryview, which are read when they are used."""
    with open(path, "rb") as stream:
        if not os.fstat(stream.fileno()).st_size:
            return memoryview(b"")  # which cannot be mapped
        return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))


def read_index(idx_path, rec_path):
    """Return the keys and the offsets of an `.idx`, int64, (N,) each.

    Raises:
        UserError: missing or malformed.
    """
    fix = f"make it anew with: python im2rec.py --reindex {rec_path}"
    require_file(idx_path, fix)
    try:
        with open(idx_path, "rb") as stream:
            numbers = np.array(list(map(int, stream.read().split())), dtype=np.int64)
        keys, offsets = numbers.reshape(-1, 2).T.copy()
    except (ValueError, OverflowError):
        raise UserError(f"{idx_path}: not lines of KEY<tab>OFFSET; {fix}") from None
    if not len(keys):
        raise UserError(f"{idx_path}: is empty; {fix}")
    return keys, offsets


def write_index(idx_path, keys, offsets):
    """Write an `.idx` as MXNet does."""
    with atomic_open(idx_path, "wb") as stream:
        for key, offset in zip(keys, offsets):
            stream.write(b"%d\t%d\n" % (key, offset))


def index_records(rec_path):
    """Return the keys and the offsets of a `.rec`, int64, (N,) each, by scanning it.

    Raises:
        UserError: missing, empty or damaged.
    """
    require_file(rec_path, f"make it with: {pack_command(rec_path)}")
    data = map_file(rec_path)
    if not len(data):
        raise UserError(f"{rec_path}: is empty; make it with: {pack_command(rec_path)}")
    keys, offsets, offset = [], [], 0
    try:
        while offset < len(data):
            record, end = read_record(data, offset)
            keys.append(record.key)
            offsets.append(offset)
            offset = end
        return np.array(keys, dtype=np.int64), np.array(offsets, dtype=np.int64)
    except (DamagedRecord, OverflowError) as error:
        raise UserError(f"{rec_path}: is damaged: {error}; pack it again") from None


def read_record(data, offset):
    """Return the record that begins at `offset` of a `.rec`'s bytes, and where the next begins.

    Raises:
        DamagedRecord: no record begins there, or the bytes end within it.
    """
    start = offset
    parts, expected, flag = [], (_WHOLE, _FIRST), None
    while flag not in (_WHOLE, _LAST):
        if offset < 0 or offset + _PART.size > len(data):
            raise DamagedRecord(f"the file ends within the record at byte {start}")
        magic, word = _PART.unpack_from(data, offset)
        flag, begin = word >> 29, offset + _PART.size
        end = begin + (word & MAX_RECORD_BYTES)
        if magic != MAGIC or flag not in expected:
            raise DamagedRecord(f"no record begins at byte {start}")
        offset = end + -end % 4
        if offset > len(data):
            raise DamagedRecord(f"the file ends within the record at byte {start}")
        parts.append(data[begin:end])
        expected = (_MIDDLE, _LAST)
    return unpack_record(parts[0] if len(parts) == 1 else _MAGIC_BYTES.join(parts)), offset
