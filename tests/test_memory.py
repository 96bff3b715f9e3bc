"""The memory of a batch: the loader writes it, MXNet reads it, and nobody copies it."""

import sys

import cv2
import numpy as np
import pytest

from common.data.loader import FileSource, Loader
from common.engines.mxnet.memory import _address, allocate, as_ndarray
from common.engines.mxnet.runtime import mx
from common.training.batches import MadeUpImages


@pytest.fixture
def paths(tmp_path):
    """Twelve photographs of one colour each: 0, 20, 40 ..."""
    for number in range(12):
        cv2.imwrite(str(tmp_path / f"{number:02d}.png"), np.full((8, 8, 3), 20 * number, np.uint8))
    return sorted(map(str, tmp_path.iterdir()))


def load(paths):
    source = FileSource(paths)
    return Loader(source, 4, (3, 8, 8), lambda image, rng: image, threads=2, allocate=allocate)


def test_the_loaders_batches_reach_mxnet_without_a_copy(paths):
    for batch in load(paths):
        ndarray = as_ndarray(batch.images)
        assert _address(ndarray) == batch.images.ctypes.data
        np.testing.assert_array_equal(ndarray.asnumpy(), batch.images)


def test_made_up_images_reach_mxnet_without_a_copy():
    (batch,) = MadeUpImages(4, (3, 8, 8), 5, num_batches=1, allocate=allocate)
    assert _address(as_ndarray(batch.images)) == batch.images.ctypes.data
    np.testing.assert_array_equal(as_ndarray(batch.images).asnumpy(), batch.images)


def test_no_batch_gets_the_memory_of_one_that_mxnet_still_reads(paths):
    """Only MXNet holds the arrays here; three epochs would reuse the memory many times."""
    kept = [(as_ndarray(b.images), b.keys.copy()) for _ in range(3) for b in load(paths)]
    for ndarray, keys in kept:
        expected = np.repeat(20 * keys, 3 * 8 * 8).reshape(4, 3, 8, 8)
        np.testing.assert_array_equal(ndarray.asnumpy(), expected)


def test_no_batch_gets_the_memory_of_one_that_is_still_read_as_an_array(paths):
    kept = [batch for _ in range(3) for batch in load(paths)]
    for batch in kept:
        assert (batch.images[:, 0, 0, 0] == 20 * batch.keys).all()


def test_an_array_of_numpy_keeps_the_memory_until_its_last_view_goes():
    array = allocate((4, 3, 8, 8), np.uint8)
    ndarray = as_ndarray(array)
    used = sys.getrefcount(ndarray)
    view = array[1:]
    del array
    assert sys.getrefcount(ndarray) == used
    del view
    assert sys.getrefcount(ndarray) == used - 1


@pytest.mark.parametrize(
    "view",
    [
        lambda a: a[:2],
        lambda a: a[1:3],
        lambda a: a[::-1],
        lambda a: a[:, ::-1],
        lambda a: a.transpose(0, 1, 3, 2),
        lambda a: a.view(np.int8),
        lambda a: a.reshape(4, 3, 64),
    ],
    ids=["first", "middle", "backwards", "BGR", "transposed", "signed", "reshaped"],
)
def test_a_view_is_copied_as_it_is(view):
    array = allocate((4, 3, 8, 8), np.uint8)
    array[:] = np.random.RandomState(0).randint(0, 128, array.shape)
    seen = view(array)
    ndarray = as_ndarray(seen)
    assert _address(ndarray) != array.ctypes.data
    assert ndarray.dtype == seen.dtype
    np.testing.assert_array_equal(ndarray.asnumpy(), seen)


def test_other_arrays_are_copied():
    array = np.arange(6, dtype=np.uint8).reshape(2, 3)
    ndarray = as_ndarray(array)
    array[:] = 0
    assert ndarray.asnumpy().tolist() == [[0, 1, 2], [3, 4, 5]]
    assert ndarray.context == mx.cpu(0)
