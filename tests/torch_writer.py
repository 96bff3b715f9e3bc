"""Writes PyTorch's file formats without PyTorch, for the tests."""

import io
import json
import pickle
import struct
import zipfile
from collections import OrderedDict

import numpy as np


class Tensor:
    """Pickles as PyTorch's tensor does: a view of a storage that lies elsewhere in the file."""

    def __init__(self, array, key, storage="FloatStorage", shape=None, strides=None, offset=0):
        self.array, self.identity = array, ("storage", storage, key, "cpu", array.size)
        self.shape = array.shape if shape is None else shape
        default = [int(np.prod(self.shape[i + 1 :])) for i in range(len(self.shape))]
        self.strides = tuple(default) if strides is None else strides
        self.offset = offset


class Global:
    """Pickles as a class or function that need not be there: `Global("torch", "device")`."""

    def __init__(self, module, name):
        self.names = module, name


class Call:
    """Pickles as what `function`, a `Global` or another `Call`, is to return for arguments."""

    def __init__(self, function, *arguments):
        self.function, self.arguments = function, arguments


class Pickler(pickle._Pickler):
    """Writes the names of PyTorch's functions without having them."""

    def __init__(self, stream, protocol=2):
        super().__init__(stream, protocol)
        self.storages = {}

    def save(self, obj, save_persistent_id=True):
        if isinstance(obj, Global):
            return self.write("c{}\n{}\n".format(*obj.names).encode())
        if isinstance(obj, Call):
            self.save(obj.function)
            super().save(obj.arguments)
            return self.write(pickle.REDUCE)
        if not isinstance(obj, Tensor):
            return super().save(obj, save_persistent_id)
        kind, storage, *rest = obj.identity
        self.storages[rest[0]] = obj.array
        self.write(b"ctorch._utils\n_rebuild_tensor_v2\n((")
        super().save(kind)
        self.write(b"ctorch\n" + storage.encode() + b"\n")
        for part in rest:
            super().save(part)
        self.write(pickle.TUPLE + pickle.BINPERSID)
        for part in (obj.offset, tuple(obj.shape), tuple(obj.strides), False, OrderedDict()):
            super().save(part)
        self.write(pickle.TUPLE + pickle.REDUCE)
        return None


def save_zip(path, content, protocol=2):
    """As torch.save has written since 1.6."""
    stream = io.BytesIO()
    pickler = Pickler(stream, protocol)
    pickler.dump(content)
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", stream.getvalue())
        archive.writestr("archive/byteorder", "little")
        for key, array in pickler.storages.items():
            archive.writestr(f"archive/data/{key}", array.tobytes())
        archive.writestr("archive/version", "3\n")
    return str(path)


def save_legacy(path, content, protocol=2):
    """As torch.save wrote before 1.6."""
    with open(path, "wb") as stream:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}):
            pickle.dump(part, stream, protocol)
        pickler = Pickler(stream, protocol)
        pickler.dump(content)
        pickle.dump(sorted(pickler.storages), stream, protocol)
        for _, array in sorted(pickler.storages.items()):
            stream.write(struct.pack("<q", array.size) + array.tobytes())
    return str(path)


def save_safetensors(path, arrays, types=None):
    header, body = {"__metadata__": {"format": "pt"}}, b""
    for name, array in arrays.items():
        span = [len(body), len(body) + array.nbytes]
        dtype = (types or {}).get(name, "F32")
        header[name] = {"dtype": dtype, "shape": list(array.shape), "data_offsets": span}
        body += array.tobytes()
    text = json.dumps(header).encode()
    with open(path, "wb") as stream:
        stream.write(struct.pack("<Q", len(text)) + text + body)
    return str(path)


def resnet_state(units, num_classes=1000):
    """Return the state dict of torchvision's bottleneck ResNet, random: {name: Tensor}."""
    random, state = np.random.RandomState(0), OrderedDict()

    def add(name, array):
        state[name] = Tensor(np.asarray(array, np.float32), str(len(state)))

    def convolution(conv, norm, channels, filters, kernel):
        scale = np.sqrt(2 / (channels * kernel * kernel))
        weight = random.standard_normal((filters, channels, kernel, kernel)) * scale
        add(f"{conv}.weight", weight)
        for part, value in (("weight", 1), ("bias", 0), ("running_mean", 0), ("running_var", 1)):
            add(f"{norm}.{part}", np.full(filters, value))

    convolution("conv1", "bn1", 3, 64, 7)
    channels = 64
    for stage, num_units in enumerate(units):
        width = 64 * 2**stage
        for unit in range(num_units):
            key = f"layer{stage + 1}.{unit}"
            if unit == 0:
                convolution(f"{key}.downsample.0", f"{key}.downsample.1", channels, 4 * width, 1)
            convolution(f"{key}.conv1", f"{key}.bn1", channels, width, 1)
            convolution(f"{key}.conv2", f"{key}.bn2", width, width, 3)
            convolution(f"{key}.conv3", f"{key}.bn3", width, 4 * width, 1)
            channels = 4 * width
    add("fc.weight", random.standard_normal((num_classes, channels)) * 0.01)
    add("fc.bias", np.zeros(num_classes))
    return state
