"""The data flags: their defaults and levels, and what is reported before training."""

import json
import shutil

import numpy as np
import pytest

from benchmarks.made_up import encode, make_photograph, write_records
from common.base.files import UserError
from common.data import flags as data_flags
from common.data.augmentation import Augmentation
from common.training.batches import open_batches
from tests.conftest import write_class_names
from tests.data.conftest import NUMBER, first, loaders, parse


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
        (
            "--data-train nowhere.rec",
            "nowhere.rec: not found; make it with: python im2rec.py nowhere ROOT",
        ),
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


def test_the_network_has_as_many_classes_as_the_class_file_names(folder, tmp_path):
    rec = shutil.copy(folder / "train.rec", tmp_path)
    shutil.copy(folder / "train.idx", tmp_path)
    write_class_names(tmp_path / "train.classes.txt", ["ant", "bee", "cat", "dog"])
    assert open_batches(parse(tmp_path, "--data-train", rec)).num_classes == 4
    assert open_batches(parse(tmp_path, "--num-classes", 3)).num_classes == 3
    with pytest.raises(
        UserError, match=r"-classes 5: \S+train\.classes\.txt names 4; give --num-c"
    ):
        open_batches(parse(tmp_path, "--num-classes", 5))


def test_more_classes_than_the_json_names_are_refused(folder, tmp_path):
    for name in ("train.rec", "train.idx"):
        shutil.copy(folder / name, tmp_path)
    categories = [{"id": number, "name": f"species {number}"} for number in range(4)]
    content = {"images": [{"id": 1, "file_name": "a.jpg"}], "categories": categories}
    (tmp_path / "train2019.json").write_text(json.dumps(content))
    assert open_batches(parse(tmp_path, "--num-classes", 4)).num_classes == 4
    with pytest.raises(UserError) as error:
        open_batches(parse(tmp_path, "--num-classes", 5089))
    assert str(error.value) == (
        f"--num-classes 5089: {tmp_path}/train2019.json names 4; give --num-classes 4, or leave the"
        " flag out"
    )


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
