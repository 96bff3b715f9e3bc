"""Files of arrays in MXNet's format, `.params` and `.states`: read with full checks, and written.

What this project writes carries a checksum, in eight bytes of the header that MXNet leaves 0 and
does not read.
"""

import math
import os
import struct
import zlib

import numpy as np

from common.base.files import UserError, replacing, require_file

# As MXNet hands bfloat16 to numpy, which has no such type: `.view(np.uint16)` gives the bits.
BFLOAT16 = np.dtype([("bfloat16", "<u2")])

_LIST_MAGIC = 0x112
_HEADER = struct.Struct("<QQ")  # magic, checksum or 0
_SEALED = 0x5EA1ED << 32  # the beginning of every checksum, so that none is 0
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DENSE = 0
_CPU = (1, 0)  # the device that an array was on
_MAX_DIMENSIONS = 32

# MXNet's type flags.
_DTYPES = {
    0: np.dtype("<f4"),
    1: np.dtype("<f8"),
    2: np.dtype("<f2"),
    3: np.dtype("u1"),
    4: np.dtype("<i4"),
    5: np.dtype("i1"),
    6: np.dtype("<i8"),
    7: np.dtype("?"),
    8: np.dtype("<i2"),
    9: np.dtype("<u2"),
    10: np.dtype("<u4"),
    11: np.dtype("<u8"),
    12: BFLOAT16,
}
_TYPE_FLAGS = {dtype: flag for flag, dtype in _DTYPES.items()}


def read(path):
    """Return `{name: numpy array}` of a file of arrays; bfloat16 as `BFLOAT16`.

    Takes all formats that MXNet reads, from 2016's on. Every array is dense and complete, every
    name is there, and nothing follows: a file that was cut off or overwritten does not pass.

    Raises:
        UserError: the file is damaged, or not one of MXNet's.
    """
    require_file(path, "name a file of network parameters (.params)")
    with open(path, "rb") as stream:
        try:
            return _Reader(stream, os.fstat(stream.fileno()).st_size).read_list()
        except ValueError as error:
            raise UserError(f"{path}: {error}; fetch or make the file again") from None


def write(path, arrays):
    """Write `{name: numpy array}` as MXNet does, and the checksum.

    MXNet writes arrays without dimensions in a form that cannot be read again. Here they are
    written as its newer `npx` functions write them.

    Raises:
        OSError: e.g. the disk is full; a file that had this name stays.
        ValueError: MXNet has no arrays of this type.
    """
    with replacing(path) as temporary:
        with open(temporary, "wb") as stream:
            _Writer(stream).write_list(arrays)


def _as_stored(name, array):
    array = np.asarray(array)
    array = np.asarray(array, array.dtype.newbyteorder("<"), order="C")
    if array.dtype not in _TYPE_FLAGS:
        raise ValueError(f"{name}: MXNet has no arrays of the type {array.dtype}")
    return array


class _Reader:
    """Reads a file of arrays from beginning to end, and computes its checksum on the way."""

    def __init__(self, stream, num_bytes):
        self._stream, self._left = stream, num_bytes
        self._checksum = 0

    def read_list(self):
        """Return {name: array}; a ValueError says what is wrong."""
        start = self._take(8, at_most=True)
        if start.lstrip()[:1] == b"<":
            raise ValueError("is a web page, not network parameters")
        if start != struct.pack("<Q", _LIST_MAGIC):
            raise ValueError("does not begin as MXNet's parameters do")
        (checksum,) = self._unpack("<Q")
        self._checksum = 0  # of all that follows
        arrays = [self._read_array(i) for i in range(self._read_count(least_bytes=4))]
        names = [self._read_name() for _ in range(self._read_count(least_bytes=8))]
        if self._left:
            raise ValueError("is damaged: something follows its end")
        if len(names) != len(arrays) or len(set(names)) != len(names):
            raise ValueError(f"is damaged: {len(arrays)} arrays and {len(set(names))} names")
        if checksum and checksum != _SEALED | self._checksum:
            raise ValueError("is damaged: its content is not what was written (CRC-32)")
        return dict(zip(names, arrays))

    def _read_array(self, index):
        (magic,) = self._unpack("<I")
        if magic in (_V2, _V3):
            (storage,) = self._unpack("<i")
            if storage != _DENSE:
                raise ValueError(f"is damaged: array {index} is of an unknown storage type")
        if magic in (_V1, _V2, _V3):
            (num_dimensions,) = self._unpack("<i")
            dimension = "q"
        else:  # the format of 2016: no magic number, and 32 bits a dimension
            num_dimensions, dimension = magic, "I"
        if not 0 <= num_dimensions <= _MAX_DIMENSIONS:
            raise ValueError(f"is damaged: array {index} has {num_dimensions} dimensions")
        shape = self._unpack(f"<{num_dimensions}{dimension}")
        if num_dimensions == 0 and magic != _V3:
            return np.zeros((), np.float32)  # an array without a shape; nothing follows
        device_type, device_id, type_flag = self._unpack("<iii")
        known_device = device_type in (1, 2, 3, 5, 6) and 0 <= device_id < 256
        if type_flag not in _DTYPES or not known_device:
            raise ValueError(f"is damaged: array {index} is of an unknown type or device")
        if any(not 0 <= size < 2**31 for size in shape):
            raise ValueError(f"is damaged: array {index} has the shape {shape}")
        return self._read_numbers(shape, _DTYPES[type_flag])

    def _read_numbers(self, shape, dtype):
        """Return an array, whose numbers come next, read right into its memory."""
        if math.prod(shape) * dtype.itemsize > self._left:
            raise ValueError("is cut off")
        array = np.empty(shape, dtype)
        numbers = _bytes_of(array)
        if self._stream.readinto(numbers) != len(numbers):
            raise ValueError("is cut off")
        self._count(numbers)
        return array

    def _read_name(self):
        (length,) = self._unpack("<Q")
        try:
            return self._take(length).decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("is damaged: a name is not UTF-8") from None

    def _read_count(self, least_bytes):
        (count,) = self._unpack("<Q")
        if count * least_bytes > self._left:
            raise ValueError("is cut off")
        return count

    def _unpack(self, form):
        return struct.unpack(form, self._take(struct.calcsize(form)))

    def _take(self, num_bytes, at_most=False):
        if num_bytes > self._left and not at_most:
            raise ValueError("is cut off")
        data = self._stream.read(num_bytes)
        if len(data) != num_bytes and not at_most:
            raise ValueError("is cut off")
        self._count(data)
        return data

    def _count(self, data):
        self._left -= len(data)
        self._checksum = zlib.crc32(data, self._checksum)


class _Writer:
    """Writes a file of arrays, and finally its checksum."""

    def __init__(self, stream):
        self._stream, self._checksum = stream, 0

    def write_list(self, arrays):
        """Write {name: array}."""
        self._stream.write(_HEADER.pack(_LIST_MAGIC, 0))
        self._pack("<Q", len(arrays))
        for name, array in arrays.items():
            self._write_array(_as_stored(name, array))
        self._pack("<Q", len(arrays))
        for name in arrays:
            encoded = name.encode("utf-8")
            self._pack("<Q", len(encoded))
            self._put(encoded)
        self._stream.seek(0)
        self._stream.write(_HEADER.pack(_LIST_MAGIC, _SEALED | self._checksum))

    def _write_array(self, array):
        magic = _V2 if array.ndim else _V3
        self._pack(f"<Iii{array.ndim}q", magic, _DENSE, array.ndim, *array.shape)
        self._pack("<iii", *_CPU, _TYPE_FLAGS[array.dtype])
        self._put(_bytes_of(array))

    def _pack(self, form, *values):
        self._put(struct.pack(form, *values))

    def _put(self, data):
        self._stream.write(data)
        self._checksum = zlib.crc32(data, self._checksum)


def _bytes_of(array):
    """Return the bytes of a contiguous array, without a copy of them."""
    return memoryview(array.reshape(-1).view(np.uint8))
