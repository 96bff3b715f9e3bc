"""The pickles inside PyTorch's checkpoints: tensors, numbers and containers; nothing is called.

A pickle names classes and functions, and may have any of them called when it is read. The
unpickler here calls only those of `_KNOWN_CALLS`, which are its own. Whatever else a training
script has left in the file (its arguments, counters, dates, schedules) becomes an `Unread`, which
takes what the pickle does to it and runs nothing.
"""

import math
import pickle
from collections import OrderedDict
from typing import ClassVar

import numpy as np

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
    "ComplexFloatStorage": "<c8",
    "ComplexDoubleStorage": "<c16",
}

# They would not be called either, but no training script leaves them in a file: who wrote it meant
# harm, and its weights are not to be trusted.
_HOSTILE_MODULES = ("nt", "os", "posix", "pty", "runpy", "subprocess", "sys")
_HOSTILE_BUILTINS = ("__import__", "compile", "eval", "exec", "open")


class UnreadableError(Exception):
    """Says what is wrong with the file."""


class Storage:
    """An array of numbers in the file, which one or more tensors view."""

    def __init__(self, dtype, key, count):
        self.dtype, self.key, self.count = dtype, key, count
        self.values = None

    @property
    def num_bytes(self):
        """How many bytes of the file it takes."""
        return self.count * (2 if self.dtype == "bfloat16" else np.dtype(self.dtype).itemsize)

    def fill(self, data):
        """Take the numbers from bytes of the file."""
        self.values = np.frombuffer(data, "<u2" if self.dtype == "bfloat16" else self.dtype)


class Tensor:
    """A view of a `Storage`, checked to lie within it."""

    def __init__(self, storage, offset, shape, strides):
        if not isinstance(storage, Storage) or not are_sizes([offset, *shape, *strides]):
            raise UnreadableError("damaged: a tensor without a storage or sizes")
        size = math.prod(shape)
        end = offset + sum((n - 1) * stride for n, stride in zip(shape, strides)) + 1
        # Nothing above the count may be reached, by broadcasting strides of 0 neither.
        if len(shape) != len(strides) or size > storage.count or (size and end > storage.count):
            raise UnreadableError(f"damaged: a tensor of shape {shape} reaches beyond its storage")
        self.storage, self.offset, self.shape, self.strides = storage, offset, shape, strides

    def array(self):
        """Return the tensor as a numpy array of its own."""
        if not math.prod(self.shape):
            return _standard_dtype(np.zeros(self.shape, self.storage.values.dtype), self)
        values = self.storage.values[self.offset :]
        strides = [stride * values.itemsize for stride in self.strides]
        view = np.lib.stride_tricks.as_strided(values, self.shape, strides, writeable=False)
        return _standard_dtype(view, self)


def are_sizes(numbers):
    """Return whether all are whole numbers, 0 to below 2**48."""
    return all(type(number) is int and 0 <= number < 2**48 for number in numbers)


def _standard_dtype(array, tensor):
    if tensor.storage.dtype == "bfloat16":
        return (array.astype(np.uint32) << 16).view(np.float32)
    return array.astype(np.float32 if array.dtype.kind == "f" else array.dtype)


class Unread(dict):
    """Stands for a class or object that is not known here, and for what it would have made.

    It keeps the items of a dict, as weights may lie in a dict of an unknown class.
    """

    __hash__ = object.__hash__

    def __init__(self, name):
        super().__init__()
        self.name = name

    def __eq__(self, other):
        return self is other

    def append(self, _):
        """Take an element of a list."""

    add = append  # of a set


def _rebuild_tensor(storage, offset, shape, strides, *_):
    if isinstance(storage, Unread):
        return storage
    return Tensor(storage, offset, tuple(shape), tuple(strides))


def _rebuild_parameter(tensor, *_):
    return tensor


def _rebuild_from_type(rebuild, _type, arguments, _state):
    """A tensor that was given attributes; PyTorch calls `rebuild`, which the file chooses."""
    return _rebuild_tensor(*arguments) if rebuild is _rebuild_tensor else Unread("a tensor")


_KNOWN_CALLS = {
    ("collections", "OrderedDict"): OrderedDict,
    ("torch", "Size"): tuple,
    ("torch._utils", "_rebuild_tensor"): _rebuild_tensor,
    ("torch._utils", "_rebuild_tensor_v2"): _rebuild_tensor,
    ("torch._utils", "_rebuild_parameter"): _rebuild_parameter,
    ("torch._utils", "_rebuild_parameter_with_state"): _rebuild_parameter,
    ("torch.nn.parameter", "Parameter"): _rebuild_parameter,
    ("torch._tensor", "_rebuild_from_type_v2"): _rebuild_from_type,
}

# What builds numbers, strings and containers, and names classes: find_class decides on those.
_KNOWN_OPCODES = (
    "PROTO FRAME STOP POP POP_MARK MARK DUP GLOBAL STACK_GLOBAL BINPERSID"
    " NONE NEWTRUE NEWFALSE INT BININT BININT1 BININT2 LONG LONG1 FLOAT BINFLOAT"
    " BINSTRING SHORT_BINSTRING UNICODE BINUNICODE SHORT_BINUNICODE BINUNICODE8"
    " BINBYTES SHORT_BINBYTES BINBYTES8"
    " EMPTY_TUPLE TUPLE TUPLE1 TUPLE2 TUPLE3 EMPTY_LIST LIST APPEND APPENDS"
    " EMPTY_DICT DICT SETITEM SETITEMS EMPTY_SET ADDITEMS FROZENSET"
    " PUT BINPUT LONG_BINPUT GET BINGET LONG_BINGET MEMOIZE"
)


# The Python version of the unpickler, not the one in C: its operations can be chosen one by one,
# and its memo is a dict, so that a hostile index takes no memory.
class TensorUnpickler(pickle._Unpickler):
    """Builds tensors, numbers, strings and containers; all else is an `Unread`.

    Args:
        storages: {key: Storage}, filled with those that the pickle's tensors look into.
    """

    def __init__(self, stream, storages):
        super().__init__(stream, encoding="utf-8")
        self._storages = storages

    def find_class(self, module, name):
        """Return what `module.name` means here; nothing is imported."""
        if module == "torch" and name in _STORAGE_DTYPES:
            return _STORAGE_DTYPES[name]
        builtin = module in ("builtins", "__builtin__") and name in _HOSTILE_BUILTINS
        if builtin or module.partition(".")[0] in _HOSTILE_MODULES:
            raise UnreadableError(
                f"holds {module}.{name}, which is neither a tensor nor a container and was not"
                " loaded; it is there to run a command: take the file from another source"
            )
        return _KNOWN_CALLS.get((module, name)) or Unread(f"{module}.{name}")

    def persistent_load(self, identity):
        """Return the storage that a tensor looks into."""
        if identity[0] == "module" or isinstance(identity[1], Unread):
            return Unread("a class or storage")
        kind, dtype, key, _, count, *view = identity
        if kind != "storage" or dtype not in _STORAGE_DTYPES.values() or view not in ([], [None]):
            raise UnreadableError("damaged: a storage of an unknown kind")
        if not isinstance(key, str) or not are_sizes([count]):
            raise UnreadableError("damaged: a storage without a name or size")
        return self._storages.setdefault(key, Storage(dtype, key, count))

    def load_reduce(self):
        arguments, function = self.stack.pop(), self.stack.pop()
        known = any(function is call for call in _KNOWN_CALLS.values())
        self.append(function(*arguments) if known else _made_by(function))

    def load_newobj(self):
        del self.stack[-1]
        self.append(_made_by(self.stack.pop()))

    def load_newobj_ex(self):
        del self.stack[-2:]
        self.append(_made_by(self.stack.pop()))

    def load_build(self):
        # Attributes of an object (a state dict's _metadata): nothing we need, and setting them is
        # a way to run code.
        self.stack.pop()

    dispatch: ClassVar[dict] = {
        ord(getattr(pickle, name)): pickle._Unpickler.dispatch[ord(getattr(pickle, name))]
        for name in _KNOWN_OPCODES.split()
    }
    dispatch[ord(pickle.REDUCE)] = load_reduce
    dispatch[ord(pickle.NEWOBJ)] = load_newobj
    dispatch[ord(pickle.NEWOBJ_EX)] = load_newobj_ex
    dispatch[ord(pickle.BUILD)] = load_build
    # Python's own makes the array before it reads, as long as the file claims.
    dispatch[ord(pickle.BYTEARRAY8)] = dispatch[ord(pickle.BINBYTES8)]


def _made_by(function):
    """What an unknown class or function would have made."""
    return Unread(function.name if isinstance(function, Unread) else "an object")
