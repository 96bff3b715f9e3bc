"""PyTorch checkpoints (`.pth`, `.pt`, `.safetensors`) read into numpy arrays, without PyTorch.

A `.pth` is a pickle, and a pickle may run any command when it is read. The reader here knows
tensors and containers only: everything else in the file is refused by name and never called.
"""

import errno
import json
import math
import os
import pickle
import zipfile
from collections import OrderedDict
from typing import ClassVar

import numpy as np

from common.files import UserError, require_file

_LEGACY_START = pickle.dumps(0x1950A86A20F9469CFC6C, protocol=2)
_LEGACY_PROTOCOL = 1001

# bfloat16 is read as uint16: the upper half of a float32.
_STORAGE_DTYPES = {
    "DoubleStorage": "<f8",
    "FloatStorage": "<f4",
    "HalfStorage": "<f2",
    "BFloat16Storage": "bfloat16",
    "LongStorage": "<i8",
    "IntStorage": "<i4",
    "ShortStorage": "<i2",
    "CharStorage": "<i1",
    "ByteStorage": "<u1",
    "BoolStorage": "?",
}
_SAFETENSORS_DTYPES = {
    "F64": "<f8",
    "F32": "<f4",
    "F16": "<f2",
    "BF16": "bfloat16",
    "I64": "<i8",
    "I32": "<i4",
    "I16": "<i2",
    "I8": "<i1",
    "U8": "<u1",
    "BOOL": "?",
}
# Where training scripts keep the weights among other things; averaged weights come first.
_STATE_DICT_KEYS = ("state_dict_ema", "model_ema", "state_dict", "model_state_dict", "model", "net")


def read_state_dict(path):
    """Return the tensors of a PyTorch checkpoint: {name: numpy array}, in the file's order.

    Reads both formats of `torch.save` (zip, and the older one) and safetensors. Floating-point
    tensors of every width become float32; a leading `module.` of the names is dropped.

    Raises:
        UserError: the file is damaged, is of another kind, or holds more than tensors.
    """
    require_file(path, "name a PyTorch checkpoint (.pth, .pt or .safetensors)")
    try:
        with open(path, "rb") as stream:
            start = stream.read(len(_LEGACY_START))
            stream.seek(0)
            if start == _LEGACY_START:
                state = _read_legacy(stream)
            elif start[:4] == b"PK\x03\x04":
                state = _read_zip(stream)
            elif start[8:9] == b"{":
                state = _read_safetensors(stream)
            else:
                raise _UnreadableError(_describe_stranger(start))
    except Exception as error:  # whatever a damaged pickle raises: IndexError, KeyError, ...
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the disk; a damaged zip seeks to nowhere, which is EINVAL
        reason = str(error)
        if not isinstance(error, _UnreadableError):
            reason = f"damaged ({type(error).__name__}: {reason[:100]}); download it again"
        raise UserError(f"{path}: {reason}") from error
    return {name[7:] if name.startswith("module.") else name: state[name] for name in state}


class _UnreadableError(Exception):
    """Says what is wrong with the file."""


def _describe_stranger(start):
    if start.lstrip()[:1] == b"<":
        return "is a web page, not a checkpoint; download the file itself"
    return "is no PyTorch checkpoint (zip, legacy or safetensors); export a state_dict"


class _Storage:
    """A run of numbers in the file, that one or more tensors look into."""

    def __init__(self, dtype, key, count):
        self.dtype, self.key, self.count = dtype, key, count
        self.values = None

    @property
    def num_bytes(self):
        return self.count * _itemsize(self.dtype)


class _Tensor:
    """A view of a `_Storage`, checked to lie within it."""

    def __init__(self, storage, offset, shape, strides):
        if not isinstance(storage, _Storage) or not _are_sizes([offset, *shape, *strides]):
            raise _UnreadableError("damaged: a tensor without a storage or sizes")
        size = math.prod(shape)
        end = offset + sum((n - 1) * stride for n, stride in zip(shape, strides)) + 1
        # Nothing above the count may be reached, by broadcasting strides of 0 neither.
        if len(shape) != len(strides) or size > storage.count or (size and end > storage.count):
            raise _UnreadableError(f"damaged: a tensor of shape {shape} reaches beyond its storage")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self):
        """Return the tensor as a numpy array of its own."""
        if not math.prod(self.shape):
            return _standard_dtype(np.zeros(self.shape, self.storage.values.dtype), self)
        values = self.storage.values[self.offset :]
        strides = [stride * values.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(values, self.shape, strides, writeable=False)
        return _standard_dtype(view, self)


def _are_sizes(numbers):
    return all(type(number) is int and 0 <= number < 2**48 for number in numbers)


def _itemsize(dtype):
    return 2 if dtype == "bfloat16" else np.dtype(dtype).itemsize


def _from_bytes(dtype, buffer):
    return np.frombuffer(buffer, "<u2" if dtype == "bfloat16" else dtype)


def _standard_dtype(array, tensor):
    if tensor.storage.dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32 if array.dtype.kind == "f" else array.dtype)


def _rebuild_tensor(storage, offset, shape, strides, *_):
    return _Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_):
    return tensor


_KNOWN_CALLS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch.nn.parameter", "Parameter"): _rebuild_parameter,
}

_KNOWN_OPCODES = (
    "PROTO STOP POP POP_MARK MARK DUP GLOBAL REDUCE BUILD BINPERSID"
    " NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT"
    " BINSTRING SHORT_BINSTRING UNICODE BINUNICODE"
    " EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS"
    " EMPTY_DICT DICT SETITEM SETITEMS PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET"
)


# The Python version of the unpickler, not the one in C: its operations can be chosen one by one,
# and its memo is a dict, so that a hostile index takes no memory.
class _TensorUnpickler(pickle._Unpickler):
    """Builds tensors, numbers, strings, lists, tuples and dicts, and refuses the rest."""

    def __init__(self, stream, storages):
        super().__init__(stream, encoding="utf-8")
        self._storages = storages

    def find_class(self, module, name):
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        if (module, name) not in _KNOWN_CALLS:
            raise _UnreadableError(
                f"holds {module}.{name}, which is neither a tensor nor a container and was not"
                " loaded; save the network's state_dict() alone, or a .safetensors file"
            )
        return _KNOWN_CALLS[module, name]

    def persistent_load(self, identity):
        kind, dtype, key, _, count, *view = identity
        if kind != "storage" or dtype not in _STORAGE_DTYPES.values() or view not in ([], [None]):
            raise _UnreadableError("damaged: a storage of an unknown kind")
        if not isinstance(key, str) or not _are_sizes([count]):
            raise _UnreadableError("damaged: a storage without a name or size")
        return self._storages.setdefault(key, _Storage(dtype, key, count))

    def load_build(self):
        # Attributes of a container (a state dict's _metadata) or parameter: nothing we need, and
        # setting them is a way to run code.
        self.stack.pop()

    dispatch: ClassVar[dict] = {
        ord(getattr(pickle, name)): pickle._Unpickler.dispatch[ord(getattr(pickle, name))]
        for name in _KNOWN_OPCODES.split()
    }
    dispatch[ord(pickle.BUILD)] = load_build


def _read_legacy(stream):
    """Read what `torch.save` wrote before 1.6: pickles, then the storages one after another."""
    header = {}
    _TensorUnpickler(stream, header).load()
    if _TensorUnpickler(stream, header).load() != _LEGACY_PROTOCOL:
        raise _UnreadableError("damaged: not the legacy protocol 1001")
    if not _TensorUnpickler(stream, header).load().get("little_endian", True):
        raise _UnreadableError("was written on a big-endian machine; save it again on this one")
    storages = {}
    content = _TensorUnpickler(stream, storages).load()
    num_bytes_left = os.fstat(stream.fileno()).st_size - stream.tell()
    for key in _TensorUnpickler(stream, storages).load():
        storage = storages[key]
        count = int.from_bytes(stream.read(8), "little")
        if count != storage.count or storage.num_bytes > num_bytes_left:
            raise _UnreadableError("is cut off or damaged; download it again")
        storage.values = _from_bytes(storage.dtype, _read_exactly(stream, storage.num_bytes))
    return _arrays_of(content, storages)


def _read_zip(stream):
    """Read what `torch.save` has written since 1.6: `NAME/data.pkl`, `NAME/data/KEY`."""
    try:
        archive = zipfile.ZipFile(stream)
        names = archive.namelist()
    except zipfile.BadZipFile:
        raise _UnreadableError(
            "is cut off or damaged (a zip without its end); download it again"
        ) from None
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise _UnreadableError("is compressed, and torch.save compresses nothing; save it by that")
    if any(name.endswith("/constants.pkl") for name in names):
        raise _UnreadableError("is a TorchScript program; save its state_dict() with torch.save")
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise _UnreadableError("is a zip archive, but no PyTorch checkpoint")
    folder = pickles[0][: -len("data.pkl")]
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise _UnreadableError("was written on a big-endian machine; save it again on this one")
    storages = {}
    try:
        with archive.open(pickles[0]) as pickled:
            content = _TensorUnpickler(pickled, storages).load()
        for storage in storages.values():
            member = archive.getinfo(f"{folder}data/{storage.key}")
            if member.file_size != storage.num_bytes:
                raise _UnreadableError("damaged: a storage of another size than its tensors say")
            storage.values = _from_bytes(storage.dtype, archive.read(member))  # checks the CRC
    except zipfile.BadZipFile as error:
        raise _UnreadableError(f"damaged ({error}); download it again") from error
    return _arrays_of(content, storages)


def _read_safetensors(stream):
    """Read safetensors: the length of a JSON header, the header, the numbers."""
    num_bytes = os.fstat(stream.fileno()).st_size
    header_bytes = int.from_bytes(stream.read(8), "little")
    if header_bytes > num_bytes - 8:
        raise _UnreadableError("is cut off or damaged; download it again")
    header = json.loads(stream.read(header_bytes).decode("utf-8"))
    header.pop("__metadata__", None)
    body = stream.read()
    state = {}
    for name, entry in header.items():
        dtype, (begin, end) = _SAFETENSORS_DTYPES.get(entry["dtype"]), entry["data_offsets"]
        if dtype is None:
            raise _UnreadableError(
                f"{name} is of type {entry['dtype']}, which no network here uses"
            )
        if not _are_sizes([begin, end, *entry["shape"]]) or end > len(body):
            raise _UnreadableError("is cut off or damaged; download it again")
        count = math.prod(entry["shape"])
        storage = _Storage(dtype, name, count)
        if end - begin != storage.num_bytes:
            raise _UnreadableError(f"damaged: {name} is of another size than its shape says")
        storage.values = _from_bytes(dtype, memoryview(body)[begin:end])
        strides = [math.prod(entry["shape"][i + 1 :]) for i in range(len(entry["shape"]))]
        state[name] = _Tensor(storage, 0, tuple(entry["shape"]), tuple(strides)).array()
    return state


def _read_exactly(stream, num_bytes):
    data = stream.read(num_bytes)
    if len(data) != num_bytes:
        raise _UnreadableError("is cut off; download it again")
    return data


def _arrays_of(content, storages):
    """Return {name: array} of the state dict in `content`, itself or under a usual key."""
    if any(storage.values is None for storage in storages.values()):
        raise _UnreadableError("is cut off or damaged: numbers are missing; download it again")
    for candidate in [content, *(_under(content, key) for key in _STATE_DICT_KEYS)]:
        if isinstance(candidate, dict):
            tensors = {k: v for k, v in candidate.items() if isinstance(v, _Tensor)}
            if tensors and all(isinstance(name, str) for name in tensors):
                return {name: tensor.array() for name, tensor in tensors.items()}
    raise _UnreadableError("holds no state dict; save the network's state_dict()")


def _under(content, key):
    return content.get(key) if isinstance(content, dict) else None
