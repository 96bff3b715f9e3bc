"""The data flags: what the network is fed with them, and what is reported before it is."""

import argparse
import contextlib
import re
import threading

import cv2
import numpy as np
import pytest

from benchmarks.made_up import encode, make_photograph, write_records
from common.base.files import UserError
from common.data import flags as data_flags
from common.data.augmentation import Augmentation
from common.networks import edits
from common.networks.graph import Builder
from common.training.batches import open_batches
from common.training.preview import measure_reading, preview

NUMBER = 10
LABELS = [number % 3 for number in range(NUMBER)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A data folder with train.rec and val.rec, and a few photographs in each."""
    folder = tmp_path_factory.mktemp("data")
    encoded = [encode(make_photograph(seed, 96, 128)) for seed in range(NUMBER)]
    write_records(folder / "train", encoded, LABELS)
    write_records(folder / "val", encoded, LABELS)
    return folder


def parse(folder, *flags, level=None):
    parser = argparse.ArgumentParser()
    data_flags.add_data_args(parser)
    data_flags.add_data_aug_args(parser)
    if level is not None:
        data_flags.set_data_aug_level(parser, level)
    parser.add_argument("--batch-size", type=int, default=4)
    return parser.parse_args(
        ["--data-dir", str(folder), "--image-shape", "3,64,64", *map(str, flags)]
    )


def loaders(folder, *flags):
    data = open_batches(parse(folder, *flags))
    return data.train, data.val


def first(loader):
    """The first batch of an epoch."""
    with contextlib.closing(iter(loader)) as batches:
        return next(batches)


# What the network is fed --------------------------------------------------------------------------


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


# Flags --------------------------------------------------------------------------------------------


def test_the_defaults_are_those_of_2017(folder):
    args = parse(folder)
    assert data_flags.augmentation_of(args, 360) == Augmentation()
    assert parse(folder, "--image-shape", "3,320,320").fill_value == 255


@pytest.mark.parametrize(
    "flags",
    [
        "--random-resized-crop 0",
        "--random-resized-crop 0 --resize 90",
        "--random-resized-crop 0 --random-crop 0",
        "--random-resized-crop 0 --min-crop-size 20 --max-crop-size 60",
        "--random-resized-crop 0 --max-random-aspect-ratio 0.25",
        "--max-random-area 0.5",
        "--min-random-area 0.8",
        "--max-random-aspect-ratio 1.1 --min-random-aspect-ratio 0.9",
        "--random-mirror 0",
        "--pad-size 8",
        "--pad-size 8 --fill-value 0",
        "--max-random-rotate-angle 20",
        "--max-random-rotate-angle 360",
        "--max-random-shear-ratio 0.2",
        "--max-random-scale 1.5",
        "--min-random-scale 0.5",
        "--max-random-h 30",
        "--max-random-s 30",
        "--max-random-l 30",
        "--brightness 0",
        "--contrast 0",
        "--saturation 0",
        "--pca-noise 0",
        "--rand-augment 2,9",
        "--random-erasing 1",
        "--seed 1",
        "--class-balance 1",
        "--data-aug-level 0",
        "--data-aug-level 1",
        "--data-aug-level 2",
        "--data-aug-level 3",
    ],
)
def test_every_flag_changes_what_the_network_sees(folder, flags):
    usual, changed = loaders(folder)[0], loaders(folder, *flags.split())[0]
    assert (first(usual).images != first(changed).images).any()


def test_levels_are_sets_of_flags_and_what_is_typed_counts(folder):
    nothing = parse(folder, "--data-aug-level", 0)
    assert nothing.random_resized_crop == nothing.random_mirror == nothing.brightness == 0
    typed = parse(folder, "--brightness", 0.2, "--data-aug-level", 3, "--max-random-h", 9)
    assert (typed.brightness, typed.max_random_h, typed.max_random_s) == (0.2, 9, 50)
    assert parse(folder, level=2).max_random_h == 36


@pytest.mark.parametrize("order", [1, -1])
def test_a_typed_flag_counts_before_and_behind_the_level_though_it_is_the_default(folder, order):
    flags = ["--random-resized-crop 1", "--data-aug-level 2", "--brightness 0.4"]
    args = parse(folder, *" ".join(flags[::order]).split())
    assert (args.random_resized_crop, args.brightness) == (1, 0.4)
    assert (args.max_random_s, args.contrast) == (50, 0)


@pytest.mark.parametrize(
    ("flags", "idle"),
    [
        ("--resize 90", ["--resize 90"]),
        ("--min-crop-size 20 --max-crop-size 60", ["--min-crop-size 20", "--max-crop-size 60"]),
        ("--random-resized-crop 0 --min-random-area 0.5", ["--min-random-area 0.5"]),
        ("--random-resized-crop 0 --resize 90 --random-crop 0", []),
        ("--min-random-area 0.5 --random-mirror 0", []),
    ],
)
def test_a_flag_that_has_nothing_to_do_is_named(folder, caplog, flags, idle):
    loaders(folder, *flags.split())
    assert [text.split(":")[0] for text in caplog.messages] == idle


@pytest.mark.parametrize(
    ("flags", "ratio", "stretch"),
    [
        ("", (3 / 4, 4 / 3), (1, 1)),
        ("--max-random-aspect-ratio 0.25", (0.75, 1.25), (1, 1)),
        ("--max-random-aspect-ratio 1.5", (1 / 1.5, 1.5), (1, 1)),
        ("--min-random-aspect-ratio 0.5", (0.5, 1), (1, 1)),
        ("--min-random-aspect-ratio 0.9 --max-random-aspect-ratio 1.2", (0.9, 1.2), (1, 1)),
        ("--random-resized-crop 0", (1, 1), (1, 1)),
        ("--random-resized-crop 0 --max-random-aspect-ratio 0.25", (1, 1), (0.75, 1.25)),
    ],
)
def test_an_aspect_ratio_is_a_distance_from_1_where_no_least_one_is_given(
    folder, flags, ratio, stretch
):
    settings = data_flags.augmentation_of(parse(folder, *flags.split()), 72)
    assert settings.aspect_ratio == pytest.approx(ratio)
    assert settings.stretch == pytest.approx(stretch)


def test_level_0_is_the_validation_preset(folder):
    pixels = [{}, {}]
    for loader, seen in zip(loaders(folder, "--data-aug-level", 0), pixels):
        for batch in loader:
            seen.update(zip(batch.keys.tolist(), batch.images))
    for key in range(NUMBER):
        np.testing.assert_array_equal(pixels[0][key], pixels[1][key])


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ("--image-shape 320", "must be 3,HEIGHT,WIDTH"),
        ("--image-shape 1,32,32", "must be 3,HEIGHT,WIDTH"),
        ("--data-nthreads 0", "--data-nthreads 0: must be 1"),
        ("--min-random-area 0", "--min-random-area 0"),
        ("--min-random-area 0.9 --max-random-area 0.5", "no larger than"),
        ("--max-random-area 2", "at most 1"),
        (f"--seed {2**64}", "must be 0 to 18446744073709551615"),
        ("--max-random-rotate-angle 361", "must be 0 to 360"),
        ("--max-random-aspect-ratio 0.5 --min-random-aspect-ratio 0.9", "--max-random-aspect"),
        ("--rgb-mean 1,2", "three numbers"),
        ("--rgb-std 0", "must not be 0"),
        ("--class-balance 2", "--class-balance 2.0: must be 0 to 1"),
        ("--random-erasing 2", "--random-erasing 2.0: must be 0 to 1"),
        ("--rand-augment 9", "--rand-augment 9: must be N,M"),
        ("--rand-augment 0,9", "--rand-augment 0,9: must be N,M"),
        ("--rand-augment 2,11", "--rand-augment 2,11: must be N,M, N operations of magnitude M, 0"),
        ("--num-classes 2", "holds labels up to 2; leave the flag out, or give --num-classes 3"),
        ("--data-train nowhere.rec", "nowhere.rec: not found; make it with: sh gen_rec.sh"),
    ],
)
def test_flags_that_cannot_be_are_refused_in_words(folder, flags, words):
    with pytest.raises(UserError, match=words):
        loaders(folder, *flags.split())


# What the records hold ----------------------------------------------------------------------------


def test_classes_and_examples_default_to_what_the_records_hold(folder, caplog):
    args = parse(folder)
    data = open_batches(args)
    assert data.num_classes == args.num_classes == 3
    assert data.train.source.num_classes == data.val.source.num_classes == 3
    assert args.num_examples == NUMBER
    assert not caplog.records


def test_a_contradiction_is_a_warning_before_training(folder, caplog):
    args = parse(folder, "--num-classes", 5089, "--num-examples", 579184)
    assert open_batches(args).num_classes == 5089 and args.num_examples == NUMBER
    assert "the records hold labels 0 to 2 only" in caplog.text
    assert f"{folder / 'train.rec'} holds 10 images" in caplog.text


def test_labels_that_are_no_classes_are_refused(folder, tmp_path):
    image = encode(make_photograph(0, 64, 64))
    for label in (-1, 0.5, float("nan")):
        rec = write_records(tmp_path / "odd", [image, image], [0, label])
        with pytest.raises(UserError, match=r"odd\.rec: holds labels that are not classes"):
            loaders(folder, "--data-train", rec)
    rec = write_records(tmp_path / "odd", [image, image], [0, 2_000_000])
    with pytest.raises(
        UserError, match=r"odd\.rec: holds the label 2000000, which no data set has"
    ):
        loaders(folder, "--data-train", rec)


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


@pytest.mark.parametrize("name", ["sheet", "sheet.pdf"])
def test_a_preview_of_no_kind_of_image_is_refused(folder, tmp_path, name):
    train, _ = loaders(folder)
    with pytest.raises(UserError, match="must end in"):
        preview(train, str(tmp_path / name))
