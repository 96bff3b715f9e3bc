"""The two files of an MXNet network, `.params` and `-symbol.json`, checked before MXNet reads them.

MXNet itself crashes on some damaged files, and takes others for whole. What this project writes
carries a checksum, in eight bytes of the header that MXNet leaves 0 and never looks at.
"""

import ctypes
import json
import math
import os
import re
import struct
import zlib

import numpy as np

from common import network, operators
from common.files import UserError, require_file
from common.find_mxnet import mx

_LIST_MAGIC = 0x112
_HEADER = struct.Struct("<QQ")  # magic, checksum or 0
_SEALED = 0x5EA1ED << 32  # begins a checksum, so that none is 0
_V1, _V2, _V3 = 0xF993FAC8, 0xF993FAC9, 0xF993FACA
_DENSE = 0
_MAX_DIMENSIONS = 32

# MXNet's type flags; bfloat16 has no numpy type and is named by its width.
_DTYPES = {
    0: "float32",
    1: "float64",
    2: "float16",
    3: "uint8",
    4: "int32",
    5: "int8",
    6: "int64",
    7: "bool",
    8: "int16",
    9: "uint16",
    10: "uint32",
    11: "uint64",
    12: "bfloat16",
}


def verify(path):
    """Return {name: (shape, dtype name)} of a file of NDArrays, having read its whole structure.

    Takes all formats that MXNet reads, from 2016's on. Every array is dense and complete, every
    name is there, and nothing follows: a file that was cut off or overwritten does not pass. The
    numbers are read only where there is a checksum of them (`seal`).

    Raises:
        UserError: the file is damaged, or none of MXNet's.
    """
    require_file(path, "name a file of network parameters (.params)")
    with open(path, "rb") as stream:
        reader = _Reader(stream, os.path.getsize(path))
        try:
            return reader.read_list()
        except ValueError as error:
            raise UserError(f"{path}: {error}; fetch or make the file again") from None


def seal(path):
    """Write the checksum of a whole file of NDArrays into its header."""
    with open(path, "r+b") as stream:
        checksum = _checksum(stream)
        stream.seek(0)
        stream.write(_HEADER.pack(_LIST_MAGIC, checksum))


def _checksum(stream):
    """Return the CRC-32 of all that follows the header, marked as one: 0.2 s for a ResNet-152."""
    stream.seek(_HEADER.size)
    checksum = 0
    for chunk in iter(lambda: stream.read(1 << 20), b""):
        checksum = zlib.crc32(chunk, checksum)
    return _SEALED | checksum


class _Reader:
    """Walks over a file of NDArrays without reading the numbers."""

    def __init__(self, stream, num_bytes):
        self._stream, self._num_bytes = stream, num_bytes

    def read_list(self):
        """Return {name: (shape, dtype name)}; ValueError says what is wrong."""
        start = self._stream.read(8)
        if start.lstrip()[:1] == b"<":
            raise ValueError("is a web page, not network parameters")
        if start != struct.pack("<Q", _LIST_MAGIC):
            raise ValueError("does not begin as MXNet's parameters do")
        checksum, count = self._unpack("<QQ")
        arrays = [self._read_array(i) for i in range(self._check_count(count, 4))]
        (num_names,) = self._unpack("<Q")
        names = [self._read_name() for _ in range(self._check_count(num_names, 8))]
        if self._stream.tell() != self._num_bytes:
            raise ValueError("is damaged: something follows its end")
        if len(names) != len(arrays) or len(set(names)) != len(names):
            raise ValueError(f"is damaged: {len(arrays)} arrays and {len(set(names))} names")
        if checksum and checksum != _checksum(self._stream):
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
            return (), "float32"  # an array without a shape; nothing follows
        device_type, device_id, type_flag = self._unpack("<iii")
        known_device = device_type in (1, 2, 3, 5, 6) and 0 <= device_id < 256
        if type_flag not in _DTYPES or not known_device:
            raise ValueError(f"is damaged: array {index} is of an unknown type or device")
        if any(size < 0 for size in shape):
            raise ValueError(f"is damaged: array {index} has the shape {shape}")
        dtype = _DTYPES[type_flag]
        itemsize = 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize
        self._skip(math.prod(shape) * itemsize)
        return shape, dtype

    def _read_name(self):
        (length,) = self._unpack("<Q")
        if length > self._left():
            raise ValueError("is cut off")
        try:
            return self._stream.read(length).decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError("is damaged: a name is not UTF-8") from None

    def _unpack(self, form):
        size = struct.calcsize(form)
        data = self._stream.read(size)
        if len(data) != size:
            raise ValueError("is cut off")
        return struct.unpack(form, data)

    def _skip(self, num_bytes):
        if num_bytes > self._left():
            raise ValueError("is cut off")
        self._stream.seek(num_bytes, os.SEEK_CUR)

    def _check_count(self, count, least_bytes):
        if count * least_bytes > self._left():
            raise ValueError("is cut off")
        return count

    def _left(self):
        return self._num_bytes - self._stream.tell()


def load_symbol(path):
    """Return the network that a `-symbol.json` defines, having looked at what its nodes may do.

    Raises:
        UserError: the file is damaged, or has operators that image networks do not need (some of
            MXNet's run code or read files) or that this MXNet does not know.
    """
    require_file(path, "name a network's definition (-symbol.json)")
    with open(path, encoding="utf-8", errors="replace") as stream:
        text = stream.read()
    try:
        _check_graph(json.loads(text))
        _check_seal(text)
    except (ValueError, RecursionError) as error:
        what = "is a web page" if text.lstrip()[:1] == "<" else f"is no network ({error})"
        raise UserError(f"{path}: {what}; fetch or make the file again") from None
    try:
        symbol = mx.sym.load_json(text)
        mx.sym.load_json(symbol.tojson())  # names may hold what MXNet writes but cannot read
        return symbol
    except mx.base.MXNetError as error:
        reason = next((line.strip() for line in str(error).splitlines()[1:] if line.strip()), error)
        raise UserError(f"{path}: MXNet cannot read it ({reason}); fetch it again") from None


_SEALED_SYMBOL = re.compile(r'"crc32": \["str", "([^"]*)"\], ')


def seal_symbol(text):
    """Return MXNet's text of a network with its checksum among the attributes.

    Nothing but `load_symbol` looks at it, and who edits the file takes it out.
    """
    start, attributes, rest = text.rpartition('"attrs": {')
    if not attributes or not rest.startswith('"'):
        return text
    return f'{start}{attributes}"crc32": ["str", "{_crc32(text)}"], {rest}'


def _check_seal(text):
    """Raise ValueError where the text is not the one that was sealed."""
    seal = _SEALED_SYMBOL.search(text)
    if seal and seal.group(1) != _crc32(text.replace(seal.group(), "")):
        raise ValueError("its content is not what was written (CRC-32)")


def _crc32(text):
    return f"{zlib.crc32(text.encode()):08x}"


def _check_graph(graph):
    """Raise ValueError unless `graph` is a graph of image networks' operators in their order."""
    nodes = graph.get("nodes") if isinstance(graph, dict) else None
    if not isinstance(nodes, list) or not nodes or not isinstance(graph.get("heads"), list):
        raise ValueError("it has no nodes and heads")
    known = _known_operators()
    for index, node in enumerate(nodes):
        operator = node.get("op") if isinstance(node, dict) else None
        if not isinstance(operator, str) or not isinstance(node.get("name"), str):
            raise ValueError(f"node {index} has no operator or name")
        if operator != "null" and operator not in operators.OF_IMAGE_NETWORKS:
            raise ValueError(
                f"node {index} is a {ascii(operator)[1:-1][:80]}, which is not among the operators"
                " of image networks (common/operators.py)"
            )
        if operator != "null" and operator not in known:
            raise ValueError(f"node {index} is a {operator}, which this MXNet does not know")
        _check_inputs(node.get("inputs"), index, f"node {index}")
        subgraphs = node.get("subgraphs", [])  # of quantized networks
        if not isinstance(subgraphs, list):
            raise ValueError(f"node {index} holds no list of subgraphs")
        for inner in subgraphs:
            _check_graph(inner)
    _check_inputs(graph["heads"], len(nodes), "heads")


def _check_inputs(inputs, limit, where):
    """Every input is the output of a node before: no cycles, nothing out of range."""
    if not isinstance(inputs, list) or (where == "heads" and not inputs):
        raise ValueError(f"{where} has no inputs")
    for entry in inputs:
        whole = isinstance(entry, list) and all(type(number) is int for number in entry)
        if not whole or len(entry) < 2 or not 0 <= entry[0] < limit or not 0 <= entry[1] < 64:
            raise ValueError(f"{where} takes its input from nowhere")


def _known_operators():
    count, names = ctypes.c_uint(), ctypes.POINTER(ctypes.c_char_p)()
    mx.base.check_call(mx.base._LIB.MXListAllOpNames(ctypes.byref(count), ctypes.byref(names)))
    return {names[i].decode() for i in range(count.value)}


def require_agreement(symbol, shapes, image_sizes=(224, 299, 320), name="the network"):
    """Raise UserError unless `shapes` are those of the parameters of `symbol`.

    Args:
        symbol: a network with the input `data`, (N, 3, H, W).
        shapes: {name: shape} of all arguments and auxiliary states.
        image_sizes: sides that the network may have been made for; one must fit.
        name: what the error begins with: the file of the parameters.
    """
    for size in image_sizes:
        try:
            expected = network.infer_shapes(symbol, (3, size, size))
        except UserError as error:
            mismatch = str(error)
            continue
        mismatch = _first_mismatch(expected, shapes)
        if mismatch is None:
            return
    raise UserError(
        f"{name}: is not of this network ({mismatch}); take both files from the same source"
    )


def _first_mismatch(expected, shapes):
    for key, shape in expected.items():
        if key not in shapes:
            return f"{key} is missing"
        if tuple(shapes[key]) != tuple(shape):
            return f"{key} is of shape {tuple(shapes[key])}, not {tuple(shape)}"
    return None
