"""The data flags: the batches that the network is fed with."""

import re
import threading

import cv2
import numpy as np
import pytest

from benchmarks.made_up import encode, make_photograph, write_records
from common.base.files import UserError
from common.data import flags as data_flags
from common.networks import edits
from common.networks.graph import Builder
from common.training.batches import open_batches
from common.training.preview import measure_reading, preview
from tests.data.conftest import LABELS, NUMBER, first, loaders, parse


def test_validation_pixels_are_those_of_mxnets_record_iterator(tmp_path, mx):
    encoded = [encode(make_photograph(seed, 512, 683)) for seed in range(4)]
    rec = write_records(tmp_path / "val", encoded, range(4))
    _, val = loaders(tmp_path, "--data-train", rec, "--image-shape", "3,320,320")
    theirs = mx.io.ImageRecordIter(
        path_imgrec=rec, data_shape=(3, 320, 320), batch_size=4, resize=360
    )
    ours, peer = first(val), theirs.next()
    difference = abs(ours.images - peer.data[0].asnumpy())
    assert difference.mean() < 0.5 and difference.max() <= 1
    assert ours.labels.tolist() == peer.label[0].asnumpy().tolist()


@pytest.mark.parametrize(
    ("flags", "peer_flags"),
    [
        ("--resize 340", {"resize": 340}),
        ("--pad-size 40 --resize 300", {"pad": 40, "resize": 300}),
        ("--pad-size 40 --resize 300 --fill-value 9", {"pad": 40, "resize": 300, "fill_value": 9}),
        (
            "--min-crop-size 200 --max-crop-size 200",
            {"resize": 360, "min_crop_size": 200, "max_crop_size": 200},
        ),
        (
            "--min-random-scale 1.2 --max-random-scale 1.2",
            {"resize": 360, "min_random_scale": 1.2, "max_random_scale": 1.2},
        ),
        # MXNet says width to height, too, and stretches the other way round
        (
            "--min-random-aspect-ratio 1.25 --max-random-aspect-ratio 1.25",
            {"resize": 360, "min_aspect_ratio": 0.8, "max_aspect_ratio": 0.8},
        ),
    ],
)
def test_shapes_that_leave_nothing_to_chance_are_those_of_mxnets_record_iterator(
    tmp_path, flags, peer_flags, mx
):
    encoded = [encode(make_photograph(seed, 512, 683)) for seed in range(4)]
    rec = write_records(tmp_path / "train", encoded, range(4))
    flags = f"--image-shape 3,320,320 --data-aug-level 0 {flags}".split()
    ours = first(loaders(tmp_path, *flags)[0])
    theirs = mx.io.ImageRecordIter(
        path_imgrec=rec, data_shape=(3, 320, 320), batch_size=4, **peer_flags
    ).next()
    in_order = ours.images[np.argsort(ours.keys)]
    difference = abs(in_order - theirs.data[0].asnumpy())
    assert difference.mean() < 0.2 and difference.max() <= 3


def test_batches_are_uint8_and_say_how_far_they_are_padded(folder):
    train, val = loaders(folder)
    assert train.batch_size == 4 and train.image_shape == (3, 64, 64)
    for loader in (train, val):
        batches = list(loader)
        assert [batch.pad for batch in batches] == [0, 0, 2] and len(loader) == 3
        assert all(batch.images.dtype == np.uint8 for batch in batches)
        for batch in batches:
            assert batch.images.shape == (4, 3, 64, 64)
            assert batch.labels.tolist() == [LABELS[key] for key in batch.keys]


def test_no_batch_is_overwritten_by_a_later_one(folder):
    train, _ = loaders(folder, "--batches-ahead", 1)
    kept = list(train)
    for batch, again in zip(kept, train):
        np.testing.assert_array_equal(batch.images, again.images)


def test_images_are_decoded_into_mxnets_memory_and_stay_there(folder, mx):
    from common.engines.mxnet import memory

    args = parse(folder, "--batches-ahead", 1)
    kept = list(open_batches(args, allocate=memory.allocate).train)
    ndarrays = [memory.as_ndarray(batch.images) for batch in kept]
    for batch, ndarray, again in zip(kept, ndarrays, loaders(folder)[0]):
        np.testing.assert_array_equal(ndarray.asnumpy(), again.images)
        batch.images[:] = 7
        assert (ndarray.asnumpy() == 7).all()  # the same memory


def test_set_epoch_goes_to_any_epoch(folder):
    train, _ = loaders(folder)
    epochs = []
    for epoch in range(3):
        train.set_epoch(epoch)
        epochs.append(np.concatenate([batch.keys for batch in train]).tolist())
    assert epochs[0] != epochs[1] != epochs[2]
    train.set_epoch(1)
    assert np.concatenate([batch.keys for batch in train]).tolist() == epochs[1]


def test_an_epoch_can_be_left_and_begun_again(folder):
    train, _ = loaders(folder)
    keys = first(train).keys.tolist()
    assert first(train).keys.tolist() == keys
    train.close()


def test_machines_train_on_parts_and_each_validates_on_all(folder):
    parts = [open_batches(parse(folder), rank, 2) for rank in range(2)]
    seen = [[key for batch in part.train for key in batch.keys[: 4 - batch.pad]] for part in parts]
    assert sorted(seen[0] + seen[1]) == [*range(NUMBER)]
    assert [len(part.val) for part in parts] == [3, 3]


def test_where_machines_count_together_each_validates_on_its_part(folder):
    parts = [open_batches(parse(folder), rank, 2, validates_part=True).val for rank in range(2)]
    seen = [[key for batch in part for key in batch.keys[: 4 - batch.pad]] for part in parts]
    (alone,) = [open_batches(parse(folder)).val]
    everything = [key for batch in alone for key in batch.keys[: 4 - batch.pad]]
    assert sorted(seen[0] + seen[1]) == sorted(everything)


def test_processes_of_a_machine_share_its_threads_and_batches(folder):
    args = parse(folder, "--data-nthreads", 5, "--benchmark", 0)
    shares = [open_batches(args, share=(number, 2)) for number in range(2)]
    assert [data.train._pool._max_workers for data in shares] == [2, 2]
    assert [first(data.train).images.shape[0] for data in shares] == [2, 2]
    noise = open_batches(parse(folder, "--benchmark", 1, "--num-classes", 7), share=(1, 3)).train
    assert len(first(noise).labels) == 1 and noise.batch_size == 4


def test_made_up_images_have_the_same_interface(folder):
    data = open_batches(parse(folder, "--benchmark", 1, "--num-classes", 7))
    noise = data.train
    assert data.val is None and data.num_classes == 7
    noise.set_epoch(0)
    batch = first(noise)
    assert batch.images.shape == (noise.batch_size, *noise.image_shape) == (4, 3, 64, 64)
    assert batch.images.dtype == np.uint8 and batch.labels.max() < 7
    assert sum(1 for _ in noise) == len(noise)
    data.close()


def test_mean_and_deviation_become_part_of_the_network(folder, mx):
    from common.engines.mxnet.precision import to_symbol

    def normalize(network, *flags):
        args = parse(folder, *flags)
        mean, std = (
            data_flags.parse_colors(flag, text)
            for flag, text in (("--rgb-mean", args.rgb_mean), ("--rgb-std", args.rgb_std))
        )
        return edits.normalize_input(network, mean, std)

    builder = Builder()
    network = builder.graph(builder.add("Flatten", "flatten", builder.variable("data")))
    assert normalize(network) is network
    normalized = normalize(network, "--rgb-mean", "123,116,103", "--rgb-std", "58,57,56")
    images = np.random.default_rng(0).integers(0, 256, (2, 3, 4, 4)).astype(np.uint8)
    executor = to_symbol(normalized).bind(mx.cpu(), {"data": mx.nd.array(images, dtype="uint8")})
    expected = mx.image.color_normalize(
        mx.nd.array(images.transpose(0, 2, 3, 1)),
        mx.nd.array([123, 116, 103]),
        mx.nd.array([58, 57, 56]),
    ).asnumpy()
    output = executor.forward()[0].asnumpy().reshape(images.shape)
    np.testing.assert_allclose(output, expected.transpose(0, 3, 1, 2), rtol=1e-5)


def test_an_image_shape_may_be_no_square(folder):
    for loader in loaders(folder, "--image-shape", "3,48,96"):
        assert loader.image_shape == (3, 48, 96)
        assert first(loader).images.shape == (4, 3, 48, 96)


def test_an_index_elsewhere_chooses_the_records(folder, tmp_path):
    lines = (folder / "train.idx").read_text().splitlines(keepends=True)
    (tmp_path / "some.idx").write_text("".join(lines[6:]))
    some = tmp_path / "some.idx"
    train, val = loaders(folder, "--data-train-idx", some, "--data-val-idx", some)
    assert {key for batch in train for key in batch.keys} == {6, 7, 8, 9}
    assert [batch.keys.tolist() for batch in val] == [[6, 7, 8, 9]]


@pytest.mark.parametrize("which", [0, 1])
def test_fast_decoding_gives_almost_the_same_pixels_in_training_and_validation(tmp_path, which):
    encoded = [encode(make_photograph(seed, 512, 683)) for seed in range(4)]
    rec = write_records(tmp_path / "val", encoded, range(4))
    exact, fast = (
        first(loaders(tmp_path, "--data-train", rec, "--fast-decode", on)[which]) for on in (0, 1)
    )
    difference = abs(exact.images.astype(int) - fast.images)
    assert 0 < difference.mean() < 4


def test_as_many_threads_decode_and_as_many_batches_wait_as_the_flags_say(folder):
    for number, least in ((1, 1), (3, 2)):  # an idle one may take what would be the third's
        before = set(threading.enumerate())
        train, _ = loaders(folder, "--data-nthreads", number, "--image-shape", "3,1500,1500")
        first(train)
        assert least <= len(set(threading.enumerate()) - before) <= number
        train.close()
    assert loaders(folder, "--batches-ahead", 7)[0].batches_ahead == 7


def test_the_share_of_bad_images_is_a_flag(tmp_path):
    encoded = [encode(make_photograph(seed, 96, 128)) for seed in range(NUMBER)]
    encoded[3], encoded[7] = encoded[3][:500], b""
    write_records(tmp_path / "train", encoded, LABELS)
    train, _ = loaders(tmp_path, "--max-bad-images", 0.2)
    assert sorted({key for batch in train for key in batch.keys}) == [0, 1, 2, 4, 5, 6, 8, 9]
    with pytest.raises(UserError, match=r"2 of 10 .*\n.*record 3: is cut short.*\n.*7: is empty"):
        list(loaders(tmp_path)[0])


def test_validation_may_be_missing(folder, tmp_path, caplog):
    rec = folder / "train.rec"
    _, val = loaders(tmp_path, "--data-train", rec)
    assert val is None and "val.rec: not found; training runs without" in caplog.text


# Looking at it ------------------------------------------------------------------------------------


def test_reading_alone_is_measured(folder, caplog):
    caplog.set_level("INFO")
    train, _ = loaders(folder)
    measure_reading(train)
    assert re.search(r"reading alone: \d+\.\d images/s \(12 images\)", caplog.text)


def test_a_preview_shows_the_batch_with_its_labels(folder, tmp_path):
    train, _ = loaders(folder, "--data-aug-level", 0, "--image-shape", "3,160,160")
    preview(train, str(tmp_path / "sheet.png"))
    sheet = cv2.imread(str(tmp_path / "sheet.png"))
    image = first(train).images[0]
    np.testing.assert_array_equal(sheet[4:164, 4:164, ::-1], image.transpose(1, 2, 0))
    assert (sheet[166:184, :40] < 50).any()  # the label


@pytest.mark.parametrize("name", ["sheet", "sheet.pdf", "sheet.exr", "sheet.pbm", ".png"])
def test_a_preview_of_no_kind_of_image_is_refused(folder, tmp_path, name):
    train, _ = loaders(folder)
    with pytest.raises(UserError, match="must end in"):
        preview(train, str(tmp_path / name))
