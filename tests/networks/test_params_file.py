"""Files of arrays: the same bytes as MXNet's, read by each other; damage is found."""

import os
import struct
import zlib

import numpy as np
import pytest

from common.base.files import UserError
from common.networks import params_file
from common.networks.params_file import BFLOAT16
from tests.conftest import ROOT, limit_file_size

ARRAYS = {
    "arg:weight": np.arange(12, dtype=np.float32).reshape(3, 4),
    "arg:small": np.array([1, 2, 3], np.uint8),
    "aux:half": np.ones((2, 2, 2), np.float16),
}
DTYPES = ["float32", "float16", "float64", "uint8", "int8", "int32", "int64"]
IN_BFLOAT16 = np.array([[0x3F80, 0x4020], [0x4040, 0xC080]], np.uint16).view(BFLOAT16)


@pytest.fixture
def path(tmp_path):
    """A file of three arrays, with a checksum."""
    params_file.write(str(tmp_path / "net.params"), ARRAYS)
    return tmp_path / "net.params"


def without_checksum(data):
    return data[:8] + bytes(8) + data[16:]


def assert_equal(ours, theirs):
    assert list(ours) == list(theirs)
    for name, array in theirs.items():
        assert (ours[name].dtype, ours[name].shape) == (array.dtype, array.shape)
        np.testing.assert_array_equal(ours[name], array)


def test_what_is_written_is_read(path):
    assert_equal(params_file.read(str(path)), ARRAYS)
    params_file.write(str(path), {})
    assert params_file.read(str(path)) == {}


@pytest.mark.parametrize("dtype", DTYPES)
def test_the_file_is_mxnets_byte_for_byte_and_each_reads_the_others(mx, path, tmp_path, dtype):
    arrays = {
        "arg:é": np.arange(12).reshape(3, 4).astype(dtype),
        "aux:of four": np.arange(16).reshape(2, 2, 2, 2).astype(dtype),
        "state:none/0": np.zeros((0, 3), dtype),
    }
    theirs = str(tmp_path / "theirs.params")
    mx.nd.save(theirs, {name: mx.nd.array(a, dtype=dtype) for name, a in arrays.items()})
    params_file.write(str(path), arrays)
    with open(theirs, "rb") as stream:
        assert stream.read() == without_checksum(path.read_bytes())
    assert_equal(params_file.read(theirs), arrays)
    loaded = mx.nd.load(str(path))
    assert_equal({name: array.asnumpy() for name, array in loaded.items()}, arrays)


def test_bfloat16_is_mxnets_byte_for_byte(mx, path, tmp_path):
    if not mx.__version__.startswith("1.9"):
        pytest.skip("this MXNet has no bfloat16")
    theirs = str(tmp_path / "theirs.params")
    mx.nd.save(theirs, {"w": mx.nd.array([[1, 2.5], [3, -4]]).astype(BFLOAT16)})
    params_file.write(str(path), {"w": IN_BFLOAT16})
    with open(theirs, "rb") as stream:
        assert stream.read() == without_checksum(path.read_bytes())
    loaded = mx.nd.load(str(path))["w"]
    np.testing.assert_array_equal(loaded.astype("float32").asnumpy(), [[1, 2.5], [3, -4]])


def test_the_file_is_mxnets_with_a_checksum(mx, path, tmp_path):
    theirs = tmp_path / "theirs.params"
    mx.nd.save(str(theirs), {n: mx.nd.array(a, dtype=a.dtype) for n, a in ARRAYS.items()})
    data = theirs.read_bytes()
    checksum = struct.pack("<Q", 0x5EA1ED << 32 | zlib.crc32(data[16:]))
    assert path.read_bytes() == data[:8] + checksum + data[16:]


@pytest.mark.parametrize("dtype", ["bool", "int16", "uint16", "uint32", "uint64", BFLOAT16])
def test_types_that_mxnet_cannot_make_are_read_too(path, dtype):
    array = np.zeros((2, 3), dtype)
    array[1, 2] = 1
    params_file.write(str(path), {"a": array})
    assert_equal(params_file.read(str(path)), {"a": array})


def test_arrays_may_be_views_of_others_and_of_any_byte_order(path):
    array = np.arange(12, dtype=">f4").reshape(3, 4)
    params_file.write(str(path), {"a": array.T, "b": array[::2, 1:], "c": np.float64(3)})
    read = params_file.read(str(path))
    assert_equal(
        read, {"a": array.T.astype("<f4"), "b": array[::2, 1:].astype("<f4"), "c": np.array(3.0)}
    )


def test_a_type_that_no_file_holds_is_refused(path):
    before = path.read_bytes()
    with pytest.raises(ValueError, match="a: MXNet has no arrays of the type complex128"):
        params_file.write(str(path), {"a": np.zeros(3, complex)})
    assert path.read_bytes() == before


@pytest.mark.parametrize("magic", [None, 0xF993FAC8])
def test_files_of_2016_and_2017_are_read_as_mxnet_reads_them(mx, path, magic):
    size = "q" if magic else "I"
    start = b"" if magic is None else struct.pack("<I", magic)
    array = start + struct.pack(f"<I2{size}", 2, 2, 3) + struct.pack("<iii", 1, 0, 0)
    data, name = np.arange(6, dtype="<f4").tobytes(), struct.pack("<QQ", 1, 5) + b"arg:w"
    path.write_bytes(struct.pack("<QQQ", 0x112, 0, 1) + array + data + name)
    read = params_file.read(str(path))
    assert_equal(read, {"arg:w": np.arange(6, dtype=np.float32).reshape(2, 3)})
    assert_equal(read, {n: array.asnumpy() for n, array in mx.nd.load(str(path)).items()})


@pytest.mark.parametrize("writer", ["mxnet-1.5.0", "mxnet-1.9.1"])
def test_a_file_that_an_mxnet_wrote_is_read_as_mxnet_reads_it(mx, writer):
    name = os.path.join(ROOT, "tests", "faults", "old", f"{writer}-0001.params")
    read = params_file.read(name)
    assert {key.partition(":")[0] for key in read} == {"arg", "aux"}
    assert_equal(read, {n: array.asnumpy() for n, array in mx.nd.load(name).items()})


def test_a_file_cut_off_anywhere_is_refused(path):
    whole = without_checksum(path.read_bytes())
    for length in range(len(whole)):
        path.write_bytes(whole[:length])
        with pytest.raises(UserError, match=r"net\.params: (is cut off|does not begin)"):
            params_file.read(str(path))


def test_any_flipped_bit_is_found_by_the_checksum(path):
    whole = path.read_bytes()
    for position in range(len(whole)):
        flipped = bytearray(whole)
        flipped[position] ^= 1
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=r"net\.params: is (damaged|cut off|no)|does not begin"):
            params_file.read(str(path))


def test_a_flipped_byte_in_a_header_is_refused_without_a_checksum(path):
    whole = without_checksum(path.read_bytes())
    for position in range(24 + 4 + 4 + 4 + 16 + 4):  # the list's header and the first array's
        flipped = bytearray(whole)
        flipped[position] ^= 0xFF
        path.write_bytes(flipped)
        with pytest.raises(UserError, match=r"net\.params: .* again"):
            params_file.read(str(path))


def test_whatever_bytes_there_are_without_a_checksum_they_are_read_or_refused(path):
    whole, random = without_checksum(path.read_bytes()), np.random.RandomState(0)
    for _ in range(300):
        damaged = bytearray(whole)
        for position in random.randint(16, len(whole), random.randint(1, 4)):
            damaged[position] = random.choice([0, 1, 255, random.randint(256)])
        path.write_bytes(damaged)
        try:
            params_file.read(str(path))
        except UserError as error:
            assert str(error).startswith(str(path))


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"<html>404</html>", "is a web page, not network parameters"),
        (b"", "does not begin as MXNet's parameters do"),
        (struct.pack("<QQQ", 0x112, 0, 2**62), "is cut off"),
        (struct.pack("<QQQIii", 0x112, 0, 1, 0xF993FAC9, 1, 0) + bytes(8), "unknown storage type"),
        (struct.pack("<QQQI", 0x112, 0, 1, 0) + bytes(8), "is damaged: 1 arrays and 0 names"),
        (
            struct.pack("<QQQIii2qiii", 0x112, 0, 1, 0xF993FAC9, 0, 2, 0, 2**40, 1, 0, 0),
            r"is damaged: array 0 has the shape \(0, 1099511627776\)",
        ),
    ],
)
def test_what_is_none_is_called_by_its_name(path, content, reason):
    path.write_bytes(content)
    with pytest.raises(UserError, match=f"net.params: .*{reason}; fetch or make the file again"):
        params_file.read(str(path))


def test_something_behind_the_end_is_refused(path):
    path.write_bytes(path.read_bytes() + b"x")
    with pytest.raises(UserError, match="something follows its end"):
        params_file.read(str(path))


def test_the_checksum_lies_where_mxnet_does_not_look(path):
    data = path.read_bytes()
    assert struct.unpack("<Q", data[8:16])[0] == 0x5EA1ED << 32 | zlib.crc32(data[16:])


def test_a_full_disk_is_named_and_leaves_the_older_file(python, path):
    before = path.read_bytes()
    done = python(
        f"""
        import numpy as np
        from common.networks import params_file
        from common.base.script import run_script
        run_script(lambda: params_file.write({str(path)!r}, {{"a": np.ones(10_000)}}))
        """,
        preexec_fn=limit_file_size,
    )
    assert done.returncode == 2
    assert f"{path}: the file size limit (ulimit -f) is reached" in done.stderr
    assert "Traceback" not in done.stderr
    assert path.read_bytes() == before


def test_reading_takes_the_memory_of_one_copy(python, path):
    params_file.write(str(path), {"a": np.zeros(50_000_000, np.uint8)})
    done = python(
        f"""
        import resource
        from common.networks import params_file
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        params_file.read({str(path)!r})
        print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
        """
    )
    assert int(done.stdout) * 1024 < 60_000_000
