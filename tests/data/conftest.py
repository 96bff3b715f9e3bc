"""A data folder of a few photographs, and the data flags read as fine-tune.py reads them."""

import argparse
import contextlib

import pytest

from benchmarks.made_up import encode, make_photograph, write_records
from common.data import flags as data_flags
from common.training.batches import open_batches

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
