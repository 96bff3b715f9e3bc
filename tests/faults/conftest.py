"""What the fault tests share: the scripts, the four steps, the seed, and the count of cases."""

import random

import pytest

from tests.faults import steps as all_steps
from tests.faults import workplace


@pytest.fixture(scope="session")
def scripts(scripts, mx):
    """Those of all tests; without MXNet the faults are skipped."""
    return scripts


@pytest.fixture(scope="session")
def steps(tmp_path_factory, scripts, sample, tiny_network):
    """The four steps on the sample: `{name: Step}`."""
    places = {name: tmp_path_factory.mktemp("step") / name for name in all_steps.STEPS}
    for place in places.values():
        place.mkdir()
    trained = f"{places['training']}-finished/run"
    return {
        "lists": all_steps.make_lists(scripts, sample, places["lists"]),
        "records": all_steps.make_records(scripts, sample, places["records"]),
        "training": all_steps.make_training(scripts, sample, places["training"], tiny_network),
        "submission": all_steps.make_submission(scripts, sample, places["submission"], trained),
    }


@pytest.fixture(scope="session")
def challenge(tmp_path_factory, scripts):
    """The folder of a small challenge with every kind of file: see `workplace`."""
    folder = tmp_path_factory.mktemp("challenge")
    workplace.make(folder, scripts)
    return folder


@pytest.fixture
def step(steps, name):
    """The step that the test's parameter `name` names."""
    return steps[name]


@pytest.fixture
def cases(request):
    """Say how many cases a test tries, if there is more than one: `cases(25)`."""

    def count(number):
        request.node.user_properties.append(("cases", number))

    return count


@pytest.fixture
def seeded(request, pytestconfig):
    """A `random.Random` seeded by the test's name and `--faults-seed`: reproducible moments."""
    return random.Random(f"{pytestconfig.getoption('--faults-seed')} {request.node.nodeid}")
