"""PyTorch checkpoints (`.pth`, `.pt`, `.safetensors`) read into numpy arrays, without PyTorch.

A `.pth` is a pickle, and a pickle may run any command when it is read: `torch_pickle.py` reads it
without calling anything. `torch_weights.py` finds the weights in what was read.
"""

import errno
import json
import logging
import math
import os
import pickle
import zipfile

from common.base.files import UserError, require_file
from common.networks import torch_weights
from common.networks.torch_pickle import (
    Storage,
    Tensor,
    TensorUnpickler,
    UnreadableError,
    are_sizes,
)

# The older format begins with a pickle of this number.
_LEGACY_MAGIC = (0x1950A86A20F9469CFC6C).to_bytes(10, "little")
_LEGACY_PROTOCOL = 1001

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

# How other files begin that users name in place of a checkpoint.
_STRANGERS = (
    (b"<", "is a web page, not a checkpoint; download the file itself"),
    (b"version https://git-lfs", "is a pointer of Git LFS, not the file itself; run: git lfs pull"),
    (b"\x12\x01\0\0\0\0\0\0", "holds MXNet's parameters; name the prefix of its two files"),
    (b"\x1f\x8b", "is compressed; unpack it (gunzip, or tar -xzf), and name the file inside"),
    (b"\x89HDF", "is an HDF5 file, as Keras writes them; export the network as ONNX"),
    (b"\x80", "is a pickle of another program than PyTorch; save the state_dict by torch.save"),
)

log = logging.getLogger(__name__)


def read_state_dict(path):
    """Return the weights of a PyTorch checkpoint: {name: numpy array}, in the file's order.

    Reads both formats of `torch.save` (zip, and the older one) and safetensors. The weights may
    be among other things that a training script keeps, and their names may have prefixes
    (`common/networks/torch_weights.py`). Floating-point tensors of every width become float32.

    Raises:
        UserError: the file is damaged, is of another kind, or holds no weights.
    """
    state, left_out = _read(path, torch_weights.find)
    if left_out:
        log.info("%s: not part of the network and left out: %s", path, ", ".join(left_out))
    return state


def read_tensors(path):
    """Return all tensors of a safetensors file by their own names, as `read_state_dict` does.

    Raises:
        UserError: the file is damaged, or of another kind.
    """
    return _read(path, lambda tensors: (tensors, []))[0]


def _read(path, find):
    """Return ({name: array}, names of what was left out) of what `find` finds in a file."""
    require_file(path, "name a PyTorch checkpoint (.pth, .pt or .safetensors)")
    try:
        with open(path, "rb") as stream:
            tensors, left_out = find(_read_content(stream))
        return {name: tensor.array() for name, tensor in tensors.items()}, left_out
    except Exception as error:  # whatever a damaged pickle raises: IndexError, KeyError, ...
        if isinstance(error, OSError) and error.errno not in (None, errno.EINVAL):
            raise  # the disk; a damaged zip seeks to nowhere, which is EINVAL
        reason = str(error)
        if not isinstance(error, UnreadableError):
            reason = f"damaged ({type(error).__name__}: {reason[:100]}); download it again"
        raise UserError(f"{path}: {reason}") from error


def _read_content(stream):
    """Return what the file holds: containers, and `Tensor`s that are filled."""
    start = stream.read(32)
    stream.seek(0)
    if start.startswith(pickle.PROTO) and _LEGACY_MAGIC in start:
        return _read_legacy(stream)
    if start[:4] == b"PK\x03\x04":
        return _read_zip(stream)
    if start[8:9] == b"{":
        return _read_safetensors(stream)
    start = start.lstrip()
    reason = next((what for magic, what in _STRANGERS if start.startswith(magic)), None)
    raise UnreadableError(
        reason or "is not a PyTorch checkpoint (zip, legacy or safetensors); export a state_dict"
    )


def _read_legacy(stream):
    """Read what `torch.save` wrote before 1.6: pickles, then the storages one after another."""
    header = {}
    TensorUnpickler(stream, header).load()
    if TensorUnpickler(stream, header).load() != _LEGACY_PROTOCOL:
        raise UnreadableError("damaged: not the legacy protocol 1001")
    if not TensorUnpickler(stream, header).load().get("little_endian", True):
        raise UnreadableError("was written on a big-endian machine; save it again on this one")
    storages = {}
    content = TensorUnpickler(stream, storages).load()
    num_bytes_left = os.fstat(stream.fileno()).st_size - stream.tell()
    for key in TensorUnpickler(stream, storages).load():
        storage = storages[key]
        count = int.from_bytes(stream.read(8), "little")
        if count != storage.count or storage.num_bytes > num_bytes_left:
            raise UnreadableError("is cut off or damaged; download it again")
        storage.fill(_read_exactly(stream, storage.num_bytes))
    return _whole(content, storages)


def _read_zip(stream):
    """Read what `torch.save` has written since 1.6: `NAME/data.pkl`, `NAME/data/KEY`."""
    try:
        archive = zipfile.ZipFile(stream)
        names = archive.namelist()
    except zipfile.BadZipFile:
        raise UnreadableError(
            "is cut off or damaged (a zip without its end); download it again"
        ) from None
    if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
        raise UnreadableError(
            "is compressed, which torch.save does not do; save it with torch.save"
        )
    if any(name.endswith("/constants.pkl") for name in names):
        raise UnreadableError("is a TorchScript program; save its state_dict() with torch.save")
    pickles = [name for name in names if name.endswith("/data.pkl")]
    if len(pickles) != 1:
        raise UnreadableError("is a zip archive, but not a PyTorch checkpoint; export a state_dict")
    folder = pickles[0][: -len("data.pkl")]
    if f"{folder}byteorder" in names and archive.read(f"{folder}byteorder") != b"little":
        raise UnreadableError("was written on a big-endian machine; save it again on this one")
    storages = {}
    try:
        with archive.open(pickles[0]) as pickled:
            content = TensorUnpickler(pickled, storages).load()
        for storage in storages.values():
            member = archive.getinfo(f"{folder}data/{storage.key}")
            if member.file_size != storage.num_bytes:
                raise UnreadableError("damaged: a storage of another size than its tensors say")
            storage.fill(archive.read(member))  # checks the CRC
    except zipfile.BadZipFile as error:
        raise UnreadableError(f"damaged ({error}); download it again") from error
    return _whole(content, storages)


def _read_safetensors(stream):
    """Read safetensors: the length of a JSON header, the header, the numbers."""
    num_bytes = os.fstat(stream.fileno()).st_size
    header_bytes = int.from_bytes(stream.read(8), "little")
    if header_bytes > num_bytes - 8:
        raise UnreadableError("is cut off or damaged; download it again")
    header = json.loads(stream.read(header_bytes).decode("utf-8"))
    header.pop("__metadata__", None)
    body = stream.read()
    state = {}
    for name, entry in header.items():
        dtype, (begin, end) = _SAFETENSORS_DTYPES.get(entry["dtype"]), entry["data_offsets"]
        if dtype is None:
            raise UnreadableError(f"{name} is of type {entry['dtype']}, which no network here uses")
        if not are_sizes([begin, end, *entry["shape"]]) or end > len(body):
            raise UnreadableError("is cut off or damaged; download it again")
        count = math.prod(entry["shape"])
        storage = Storage(dtype, name, count)
        if end - begin != storage.num_bytes:
            raise UnreadableError(f"damaged: {name} is of another size than its shape says")
        storage.fill(memoryview(body)[begin:end])
        strides = [math.prod(entry["shape"][i + 1 :]) for i in range(len(entry["shape"]))]
        state[name] = Tensor(storage, 0, tuple(entry["shape"]), tuple(strides))
    return state


def _read_exactly(stream, num_bytes):
    data = stream.read(num_bytes)
    if len(data) != num_bytes:
        raise UnreadableError("is cut off; download it again")
    return data


def _whole(content, storages):
    if any(storage.values is None for storage in storages.values()):
        raise UnreadableError("is cut off or damaged: numbers are missing; download it again")
    return content
