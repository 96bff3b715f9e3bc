"""Batches: in order for a seed, whatever the threads, and past damaged photographs."""

import functools
import io
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from benchmarks.made_up import encode, make_photograph, write_records
from common.base.files import UserError
from common.data.augmentation import Augmentation, train_image
from common.data.image import decode, eval_crops, eval_image
from common.data.loader import FileSource, Loader, RecordSource, random_numbers
from common.data.recordio import ListEntry, format_list
from common.data.sampling import part_positions

NUMBER, SIZE = 21, 48
LABELS = [number % 4 for number in range(NUMBER)]


@pytest.fixture(scope="module")
def encoded():
    return [encode(make_photograph(seed, 64, 80)) for seed in range(NUMBER)]


@pytest.fixture(scope="module")
def rec(encoded, tmp_path_factory):
    return write_records(tmp_path_factory.mktemp("records") / "train", encoded, LABELS)


def train(image, rng):
    return train_image(image, SIZE, SIZE, Augmentation(), rng)


def evaluate(image, rng):
    return eval_image(image, SIZE, SIZE, 54)


def train_strongly(image, rng):
    settings = Augmentation(rand_augment=(2, 9), random_erasing=0.5)
    return train_image(image, SIZE, SIZE, settings, rng)


def load(source, transform=evaluate, batch_size=4, **options):
    return Loader(source, batch_size, (3, SIZE, SIZE), transform, **options)


def keys(loader):
    """The keys of an epoch, without padding."""
    batches = [batch.keys[: len(batch.keys) - batch.pad] for batch in loader]
    return np.concatenate(batches).tolist()


# Several processes ------------------------------------------------------------------------------


def test_processes_that_share_batches_read_together_what_one_reads(rec):
    alone = load(RecordSource(rec), train, shuffle=True, seed=3)
    shares = [load(RecordSource(rec), train, shuffle=True, seed=3, share=(i, 3)) for i in range(3)]
    assert [loader.batch_size for loader in shares] == [4, 4, 4]
    for whole, *parts in zip(alone, *shares):
        assert [len(part.labels) for part in parts] == [2, 1, 1]
        for name in ("images", "labels", "keys"):
            joined = np.concatenate([getattr(part, name) for part in parts])
            np.testing.assert_array_equal(joined, getattr(whole, name))
        assert sum(part.pad for part in parts) == whole.pad
        own = [part.keys[: len(part.keys) - part.pad] for part in parts]
        np.testing.assert_array_equal(np.concatenate(own), whole.keys[: 4 - whole.pad])
    assert whole.pad == 3  # 21 images in batches of four


# Order --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("transform", [train, train_strongly])
def test_one_and_eight_threads_give_identical_batches(rec, transform):
    epochs = [
        list(load(RecordSource(rec), transform, shuffle=True, seed=3, threads=threads))
        for threads in (1, 8)
    ]
    assert len(epochs[0]) == 6
    for one, eight in zip(*epochs):
        np.testing.assert_array_equal(one.images, eight.images)
        assert one.keys.tolist() == eight.keys.tolist()
        assert one.labels.tolist() == [LABELS[key] for key in one.keys]


def test_every_epoch_has_its_own_order_and_its_own_crops(rec):
    loader = load(RecordSource(rec), train, shuffle=True)
    orders, views = [], []
    for epoch in (0, 1, 0):
        loader.set_epoch(epoch)
        batches = list(loader)
        orders.append(np.concatenate([batch.keys for batch in batches]).tolist())
        views.append(
            {key: batch.images[i] for batch in batches for i, key in enumerate(batch.keys)}
        )
    assert orders[0] == orders[2] != orders[1] and sorted(orders[1][:NUMBER]) == [*range(NUMBER)]
    assert (views[0][5] == views[2][5]).all() and (views[0][5] != views[1][5]).any()


def test_every_place_of_an_epoch_has_its_own_crop_of_one_and_the_same_image(encoded, tmp_path):
    rec = write_records(tmp_path / "same", encoded[:1] * 40, [0] * 40)
    batches = list(load(RecordSource(rec), train, batch_size=8))
    assert len({image.tobytes() for batch in batches for image in batch.images}) == 40


def test_another_seed_gives_another_order(rec):
    orders = [keys(load(RecordSource(rec), shuffle=True, seed=seed)) for seed in (0, 1)]
    assert orders[0] != orders[1]


def test_the_last_short_batch_is_padded_and_says_so(rec):
    *whole, last = load(RecordSource(rec))
    assert [batch.pad for batch in whole] == [0] * 5
    assert last.pad == 3 and last.keys.tolist() == [20, 0, 1, 2]


def test_pixels_are_those_of_the_image_functions_as_rgb_planes(rec, encoded):
    batch = next(iter(load(RecordSource(rec))))
    assert batch.images.dtype == np.uint8 and batch.images.shape == (4, 3, SIZE, SIZE)
    for key, planes in zip(batch.keys, batch.images):
        expected = evaluate(decode(encoded[key]), None)[:, :, ::-1].transpose(2, 0, 1)
        np.testing.assert_array_equal(planes, expected)


def test_files_give_what_records_give(rec, encoded, tmp_path):
    paths = [tmp_path / f"{number}.jpg" for number in range(NUMBER)]
    for path, data in zip(paths, encoded):
        path.write_bytes(data)
    files = FileSource(map(str, paths), LABELS)
    for one, other in zip(load(RecordSource(rec)), load(files)):
        np.testing.assert_array_equal(one.images, other.images)
        assert one.labels.tolist() == other.labels.tolist()
        assert one.keys.tolist() == other.keys.tolist()


def test_a_loader_can_make_several_views_of_an_image(rec):
    crops = functools.partial(_crops, num_crops=5)
    batch = next(iter(load(RecordSource(rec), crops, num_views=5)))
    preset = next(iter(load(RecordSource(rec))))
    assert batch.images.shape == (4, 5, 3, SIZE, SIZE)
    np.testing.assert_array_equal(batch.images[:, 0], preset.images)


def _crops(image, rng, num_crops):
    return eval_crops(image, SIZE, SIZE, 54, num_crops)


# Parts --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("num_parts", [1, 2, 3, 4])
def test_parts_have_equally_many_batches_and_together_every_image_once(rec, num_parts):
    loaders = [
        load(RecordSource(rec), shuffle=True, part_index=part, num_parts=num_parts)
        for part in range(num_parts)
    ]
    assert len({len(loader) for loader in loaders}) == 1
    assert sorted(key for loader in loaders for key in keys(loader)) == [*range(NUMBER)]


def test_padding_comes_last_and_may_be_a_whole_batch():
    positions, num_own = part_positions(5, 2, part_index=3, num_parts=4)
    assert positions.tolist() == [3, 7] and num_own == 1
    assert part_positions(11, 5, 1, 2)[1] == 5 and len(part_positions(11, 5, 1, 2)[0]) == 10


# Damage -------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(encoded, tmp_path):
    """Records 3 and 10 are damaged: one is cut short, the other is no image."""
    images = list(encoded)
    images[3], images[10] = images[3][: len(images[3]) // 2], b"<html>404</html>"
    return write_records(tmp_path / "damaged", images, LABELS)


def test_a_damaged_photograph_is_named_and_its_neighbour_takes_its_place(damaged, caplog):
    loader = load(RecordSource(damaged), max_bad_images=0.1)
    read = [key for batch in loader for key in batch.keys]
    assert read[:5] == [0, 1, 2, 4, 4] and read[9:12] == [9, 11, 11]
    assert sorted(loader.bad) == [3, 10]
    assert f"{damaged}: record 3: is cut short" in caplog.text
    list(loader)
    assert len(caplog.records) == 2  # named once, not every epoch


def test_odd_photographs_go_through_and_what_is_replaced_is_named(encoded, tmp_path, caplog):
    photo = make_photograph(0, 64, 80)
    cmyk = io.BytesIO()
    Image.fromarray(photo).convert("CMYK").save(cmyk, "JPEG")
    kinds = {
        "whole": encoded[0],
        "damaged": encoded[0][:100] + bytes(300) + encoded[0][400:],
        "truncated": encoded[0][: len(encoded[0]) // 2],
        "PNG": encode(photo, ".png"),
        "grey": encode(photo[:, :, 0]),
        "CMYK": cmyk.getvalue(),
        "1x1": encode(photo[:1, :1]),
        "wide": encode(np.tile(photo, (1, 150, 1))),
    }
    rec = write_records(tmp_path / "odd", kinds.values(), range(len(kinds)))
    for transform in (train, evaluate):
        loader = load(RecordSource(rec), transform, max_bad_images=0.25)
        images = np.concatenate([batch.images for batch in loader])
        assert images.std(axis=(2, 3)).any(axis=1).tolist() == [n != 6 for n in range(8)]
        assert keys(loader) == [0, 3, 3, 3, 4, 5, 6, 7]
    assert (
        "record 1: is not an image that cv2 can read, or is damaged; its neighbour" in caplog.text
    )
    assert "record 2: is cut short: its end marker is missing; its neighbour" in caplog.text


def test_a_file_of_another_kind_is_named_for_what_it_is(encoded, tmp_path, caplog):
    page = tmp_path / "page.jpg"
    page.write_bytes(b"<!DOCTYPE html><title>404 Not Found</title>")
    photo = tmp_path / "photo.jpg"
    photo.write_bytes(encoded[0])
    list(load(FileSource([str(page), str(photo)])))
    message = "page.jpg: is a web page (HTML), not a photograph; download it again; its neighbour"
    assert message in caplog.text


def test_too_many_damaged_photographs_stop_the_run_with_a_list(damaged):
    with pytest.raises(UserError, match=r"2 of 21 .*--max-bad-images allows 1") as error:
        list(load(RecordSource(damaged)))
    assert "record 3: is cut short" in str(error.value) and "record 10" in str(error.value)


@pytest.mark.parametrize("count", [1, 3])
def test_photographs_none_of_which_can_be_read_are_no_black_images(tmp_path, count):
    rec = write_records(tmp_path / "x", [b"<html>404</html>"] * count, range(count))
    message = f"{count} of {count} images cannot be read, and none takes their place; fix them:"
    with pytest.raises(UserError, match=message) as error:
        list(load(RecordSource(rec), max_bad_images=1))
    assert "record 0: is a web page" in str(error.value)


def test_every_seed_gives_numbers_of_its_own():
    seeds = (0, 1, 2**62, 2**63, 2**63 + 1000, 2**64 - 5, 2**64 - 1)
    drawn = {random_numbers(seed, 0, 0).integers(2**62) for seed in seeds}
    assert len(drawn) == len(seeds)


def test_without_replacement_a_damaged_photograph_is_reported_missing(damaged):
    loader = load(RecordSource(damaged), replace_bad=False, max_bad_images=1)
    batches = list(loader)
    assert [batch.missing for batch in batches] == [[3], [], [2], [], [], []]
    assert batches[2].keys[2] == 10 and not batches[2].images[2].any()


def test_a_damaged_record_is_passed_over_too(rec, tmp_path):
    data = bytearray(Path(rec).read_bytes())
    index = Path(rec).with_suffix(".idx").read_text()
    offset = int(index.splitlines()[5].split()[1])
    data[offset : offset + 24] = bytes(24)  # its frame and its header
    path = tmp_path / "broken.rec"
    path.write_bytes(data)
    (tmp_path / "broken.idx").write_text(index)
    loader = load(RecordSource(str(path)))
    assert keys(loader)[4:7] == [4, 6, 6] and list(loader.bad) == [5]
    assert max(loader.source.labels()) == max(LABELS)


def test_a_record_whose_label_is_no_class_is_passed_over(encoded, tmp_path):
    rec = write_records(tmp_path / "train", encoded[:4], [0, 900, 2, -1])
    source = RecordSource(rec)
    source.num_classes = 3
    loader = load(source, max_bad_images=0.5)
    (batch,) = loader
    assert batch.keys.tolist() == [0, 2, 2, 0] and batch.labels.tolist() == [0, 2, 2, 0]
    assert loader.bad == {1: "has the label 900, of 3 classes", 3: "has the label -1, of 3 classes"}


def test_a_missing_file_is_missing(encoded, tmp_path):
    (tmp_path / "a.jpg").write_bytes(encoded[0])
    source = FileSource([str(tmp_path / "a.jpg"), str(tmp_path / "b.jpg")], keys=[7, 8])
    (batch,) = load(source, batch_size=2, replace_bad=False)
    assert batch.missing == [1] and batch.keys.tolist() == [7, 8]


# Labels and threads -------------------------------------------------------------------------------


def test_labels_are_read_from_the_headers_alone(rec, encoded, tmp_path):
    assert RecordSource(rec).labels().tolist() == LABELS
    packed = write_records(tmp_path / "packed", encoded[:3], [[5.0], 6, [7.0]])
    assert RecordSource(packed).labels().tolist() == [5, 6, 7]
    several = write_records(tmp_path / "several", encoded[:3], [[5.0, 1.0], 6, 7])
    with pytest.raises(UserError, match=r"several labels each; pack it without --pack-label"):
        RecordSource(several).labels()


def test_a_list_beside_the_records_is_believed_only_where_it_agrees(encoded, tmp_path):
    rec = write_records(tmp_path / "train", encoded[:3], [5, 6, 7])
    for listed, expected in (([5, 6, 7], [5, 6, 7]), ([5, 6, 8], [5, 6, 7])):
        entries = [ListEntry(key, label, "x.jpg") for key, label in enumerate(listed)]
        (tmp_path / "train.lst").write_bytes(format_list(entries))
        assert RecordSource(rec).labels().tolist() == expected
    for edited in ("0 5 x.jpg\n", "0\t5\tx.jpg\n" * 2, "0\t5\tx.jpg\n", ""):
        (tmp_path / "train.lst").write_text(edited)
        assert RecordSource(rec).labels().tolist() == [5, 6, 7]


def test_a_label_that_contradicts_the_list_is_told(encoded, tmp_path, monkeypatch, caplog):
    rec = write_records(tmp_path / "train", encoded[:4], [5, 6, 7, 8])
    entries = [ListEntry(key, label, "x.jpg") for key, label in enumerate([5, 9, 7, 8])]
    (tmp_path / "train.lst").write_bytes(format_list(entries))
    RecordSource(rec).labels()
    assert "train.rec: record 1: has the label 6, and in its list 9" in caplog.text
    monkeypatch.setattr("common.data.loader.SAMPLED_LABELS", 2)  # the first and the last agree
    source = RecordSource(rec)
    assert source.labels().tolist() == [5, 9, 7, 8]
    with pytest.raises(ValueError, match="has the label 6, and in its list 9"):
        source.read(1)
    assert source.read(2)[1] == 7


def test_a_mistake_in_a_transform_reaches_the_caller(rec):
    with pytest.raises(ZeroDivisionError):
        list(load(RecordSource(rec), lambda image, rng: 1 // 0))


def test_only_so_many_batches_are_decoded_ahead(rec):
    decoded = []
    loader = load(
        RecordSource(rec), lambda image, rng: decoded.append(1) or evaluate(image, rng),
        batch_size=1, batches_ahead=2,
    )  # fmt: skip
    batches = iter(loader)
    next(batches)
    while len(decoded) < 3:
        time.sleep(0.01)
    time.sleep(0.3)
    assert len(decoded) == 3
    batches.close()


@pytest.mark.parametrize("ending", ["break", "raise SystemExit('stopped')"])
def test_a_run_that_leaves_in_the_middle_of_an_epoch_ends_at_once(rec, ending):
    code = f"""
    import sys, time
    from common.data.loader import Loader, RecordSource
    def slow(image, rng):
        time.sleep(0.05)
        return image[:48, :48]
    loader = Loader(RecordSource({rec!r}), 4, (3, 48, 48), slow, threads=2, batches_ahead=500)
    for batch in loader:
        print(time.monotonic(), flush=True)
        {ending}
    """
    command = [sys.executable, "-c", textwrap.dedent(code)]
    done = subprocess.run(command, timeout=120, capture_output=True, text=True)
    assert "Traceback" not in done.stderr
    assert time.monotonic() - float(done.stdout) < 10  # one clock for all processes
