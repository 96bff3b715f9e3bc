"""The log as TensorBoard reads it: event files, one for each epoch, written without TensorBoard.

A file holds records (length, its checksum, data, its checksum), and the data is an `Event` of
TensorBoard's event.proto. TensorBoard reads the files of a folder in the order of their names.
"""

import functools
import math
import os
import re
import struct
import time

from common.base.files import atomic_open

_NAME = "events.out.tfevents.{:08d}.{}"


def write_epoch(folder, name, epoch, row):
    """Write the numbers of an epoch's row of the log, as curves of the run called `name`.

    `val_loss` becomes `loss/val`, `loss` becomes `loss/train`, and so on.
    """
    values = b"".join(
        _field(1, _value(tag_of(column), float(text)))
        for column, text in row.items()
        if column != "epoch" and text and math.isfinite(float(text))
    )
    events = [_field(3, b"brain.Event:2"), _number(2, epoch) + _field(5, values)]
    seconds = struct.pack("<Bd", 1 << 3 | 1, time.time())
    with atomic_open(os.path.join(folder, _NAME.format(epoch, name)), "wb") as stream:
        stream.write(b"".join(_record(seconds + event) for event in events))


def forget_after(folder, name, epoch):
    """Remove the files of later epochs, which are trained again."""
    for found in os.listdir(folder):
        match = re.fullmatch(r"events\.out\.tfevents\.(\d{8})\.(.*)", found)
        if match and match.group(2) == name and int(match.group(1)) > epoch:
            os.remove(os.path.join(folder, found))


def tag_of(column):
    """Return the name of the curve of a column of the log."""
    if column in ("lr", "images_per_second", "seconds"):
        return column
    return f"{column[4:]}/val" if column.startswith("val_") else f"{column}/train"


def _value(tag, number):
    return _field(1, tag.encode()) + struct.pack("<Bf", 2 << 3 | 5, number)


def _field(number, data):
    """Return bytes as a field of a message of Protocol Buffers."""
    return _varint(number << 3 | 2) + _varint(len(data)) + data


def _number(number, value):
    return _varint(number << 3) + _varint(value)


def _varint(value):
    encoded = bytearray()
    while value > 127:
        encoded.append(value & 127 | 128)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def _record(data):
    length = struct.pack("<Q", len(data))
    return b"".join([length, _masked_checksum(length), data, _masked_checksum(data)])


def _masked_checksum(data):
    checksum = crc32c(data)
    rotated = checksum >> 15 | checksum << 17
    return struct.pack("<I", rotated + 0xA282EAD8 & 0xFFFFFFFF)


def crc32c(data):
    """Return the CRC-32C of bytes (RFC 3720, appendix B.4)."""
    table, checksum = _crc_table(), 0xFFFFFFFF
    for byte in data:
        checksum = table[(checksum ^ byte) & 255] ^ checksum >> 8
    return checksum ^ 0xFFFFFFFF


@functools.lru_cache(maxsize=None)
def _crc_table():
    table = []
    for value in range(256):
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
        table.append(value)
    return table
