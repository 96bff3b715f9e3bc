"""The profile of feeding computes what the loader does, step by step."""

import numpy as np
import pytest

from benchmarks import tables
from benchmarks.feeding import ours
from benchmarks.feeding_profile import SIZE, STEPS, measure
from benchmarks.made_up import encode, make_photograph, write_records
from common.data.image import write_planes
from common.data.loader import RecordSource, random_numbers


@pytest.fixture(scope="module")
def rec(tmp_path_factory):
    encoded = [encode(make_photograph(seed, 256, 340)) for seed in range(48)]
    return write_records(str(tmp_path_factory.mktemp("records") / "x"), encoded, [0, 1] * 24)


@pytest.mark.parametrize("preset", ["training", "validation"])
def test_the_steps_give_the_pixels_of_the_loader(rec, preset):
    loader = ours(rec, preset, threads=1)
    (batch,) = loader
    loader.close()
    keys = batch.keys.tolist()
    image, planes = RecordSource(rec).read(keys[5])[0], np.empty((3, SIZE, SIZE), np.uint8)
    rng = random_numbers(0, 0, 5)
    for work in STEPS[preset].values():
        image = work(image, rng)
    write_planes(image, planes)
    np.testing.assert_array_equal(planes, batch.images[5])


def test_the_table_holds_every_step_and_its_share(rec):
    profiles = {preset: measure(rec, preset, rounds=1) for preset in STEPS}
    table = tables.feeding_profile_table({"feeding_profile": {"milliseconds": profiles}}, [])
    cells = [line.split(" | ") for line in table.splitlines()]
    assert [row[0][2:] for row in cells[2:]] == [*profiles["training"], "all"]
    assert cells[2 + [*profiles["training"]].index("colours")][3:] == ["", " |"]
    assert profiles["training"]["decoding the JPEG"] > profiles["training"]["reading the record"]
