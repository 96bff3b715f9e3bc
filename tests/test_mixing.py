"""Mixup and CutMix: pairs of images, their soft labels, and the same batches for a seed."""

import numpy as np
import pytest

from benchmarks.made_up import encode, make_photograph, write_records
from common.data.image import eval_image
from common.data.loader import Batch, Loader, RecordSource
from common.data.mixing import Mixing, blend, swap_boxes

CLASSES, SIZE = 5, 48


def make_batch(seed=0, size=6):
    rng = np.random.default_rng(seed)
    images = rng.integers(0, 256, (size, 3, SIZE, SIZE), np.uint8)
    labels = rng.integers(0, CLASSES, size).astype(np.float32)
    return Batch(images, labels, np.arange(size), pad=0, missing=[])


def mix(batch, seed=0, **how):
    Mixing(CLASSES, **how).mix(batch, np.random.default_rng(seed))
    return batch


class NumpysDraws:
    """The interface of a generator with the global numbers of numpy, which timm draws."""

    beta = staticmethod(np.random.beta)
    random = staticmethod(np.random.rand)

    @staticmethod
    def integers(high):
        return np.random.randint(0, high)


@pytest.mark.parametrize("smoothing", [0.0, 0.1])
@pytest.mark.parametrize("how", [(0.8, 0.0), (0.0, 1.0), (0.8, 1.0)], ids=str)
def test_images_and_labels_are_timms(how, smoothing):
    timm = pytest.importorskip("timm.data.mixup")
    torch = pytest.importorskip("torch")
    # timm's share is spread over all classes, with the true one.
    its_smoothing = smoothing * CLASSES / (CLASSES - 1)
    peer = timm.Mixup(*how, label_smoothing=its_smoothing, num_classes=CLASSES)
    for seed in range(12):
        batch = make_batch(seed)
        images = torch.from_numpy(batch.images.astype(np.float32))
        labels = torch.from_numpy(batch.labels).long()
        np.random.seed(seed)
        its_images, its_labels = peer(images, labels)
        np.random.seed(seed)
        np.random.rand()  # whether timm mixes at all: always
        Mixing(CLASSES, *how, smoothing).mix(batch, NumpysDraws)
        assert abs(batch.images - its_images.numpy()).max() <= 0.501
        np.testing.assert_allclose(batch.soft_labels, its_labels.numpy(), atol=1e-6)


def test_mixup_blends_each_image_with_its_partner():
    batch, before = make_batch(), make_batch()
    share = 0.25
    blend(batch.images, share)
    expected = share * before.images + (1 - share) * before.images[::-1]
    assert abs(batch.images - expected).max() <= 0.5


def test_the_middle_of_an_odd_batch_has_itself_for_a_partner():
    batch, before = make_batch(size=5), make_batch(size=5)
    mix(batch, mixup=1.0)
    np.testing.assert_array_equal(batch.images[2], before.images[2])
    assert (batch.images[1] != before.images[1]).any()


def test_cutmix_exchanges_a_box_of_the_share_that_the_labels_say():
    rng = np.random.default_rng(0)
    for seed in range(30):
        batch, before = make_batch(seed), make_batch(seed)
        share = swap_boxes(batch.images, rng.beta(1, 1), rng)
        stays, goes = (batch.images == other for other in (before.images, before.images[::-1]))
        assert (stays | goes).all()
        swapped = ~stays.all(axis=(0, 1))  # noise: hardly two pixels are equal
        rows, columns = swapped.any(axis=1).sum(), swapped.any(axis=0).sum()
        assert swapped.sum() == rows * columns == round((1 - share) * SIZE**2)


@pytest.mark.parametrize("how", [{"mixup": 0.8}, {"cutmix": 1.0}])
def test_labels_are_shares_and_the_larger_one_counts_in_the_log(how):
    own = []
    for seed in range(40):
        batch, before = make_batch(seed, size=4), make_batch(seed, size=4)
        before.labels[:] = batch.labels[:] = [0, 1, 2, 3]
        mix(batch, seed, **how)
        assert batch.soft_labels.dtype == np.float32 and batch.soft_labels.shape == (4, CLASSES)
        assert batch.targets is batch.soft_labels and before.targets is before.labels
        np.testing.assert_allclose(batch.soft_labels.sum(axis=1), 1, rtol=1e-6)
        np.testing.assert_array_equal(batch.soft_labels.argmax(axis=1), batch.labels)
        own.append(batch.soft_labels[0, 0])
    assert min(own) < 0.3 and max(own) > 0.7 and {0, 3} == {*batch.labels[[0, 3]].astype(int)}


def test_smoothing_gives_the_other_classes_what_the_flag_says():
    batch = make_batch()
    batch.labels[:] = 2
    mix(batch, mixup=0.2, smoothing=0.1)
    np.testing.assert_allclose(batch.soft_labels[0], [0.025, 0.025, 0.9, 0.025, 0.025], rtol=1e-6)


# In the loader ------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def rec(tmp_path_factory):
    encoded = [encode(make_photograph(seed, 64, 80)) for seed in range(21)]
    labels = [number % CLASSES for number in range(21)]
    return write_records(tmp_path_factory.mktemp("records") / "train", encoded, labels)


def epoch_of(rec, epoch=0, **options):
    options = {"mixing": Mixing(CLASSES, 0.8, 1.0), "seed": 3, **options}
    loader = Loader(RecordSource(rec), 8, (3, SIZE, SIZE), _evaluate, shuffle=True, **options)
    loader.set_epoch(epoch)
    batches = list(loader)
    loader.close()
    return batches


def _evaluate(image, rng):
    return eval_image(image, SIZE, SIZE, 54)


def test_one_and_eight_threads_give_identical_batches(rec):
    for one, eight in zip(epoch_of(rec, threads=1), epoch_of(rec, threads=8)):
        np.testing.assert_array_equal(one.images, eight.images)
        np.testing.assert_array_equal(one.soft_labels, eight.soft_labels)
        np.testing.assert_array_equal(one.labels, eight.labels)


def test_every_batch_epoch_seed_and_machine_draws_its_own_shares(rec):
    variants = [{}, {"epoch": 1}, {"seed": 4}, {"part_index": 1, "num_parts": 2}]
    batches = [batch for how in variants for batch in epoch_of(rec, **how)]
    shares = [np.unique(batch.soft_labels)[1] for batch in batches]  # behind 0
    assert len(batches) == 11 and len(set(shares)) == 11


def test_the_images_are_those_of_an_epoch_without_mixing(rec):
    for mixed, plain in zip(epoch_of(rec), epoch_of(rec, mixing=None)):
        assert mixed.keys.tolist() == plain.keys.tolist()
        assert plain.soft_labels is None
        own = (mixed.images == plain.images) | (mixed.images == plain.images[::-1])
        between = (mixed.images > plain.images) != (mixed.images > plain.images[::-1])
        assert (own | between).all() and not (mixed.images == plain.images).all()
