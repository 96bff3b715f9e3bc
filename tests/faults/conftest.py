"""What the fault tests share: the scripts, the four steps, the seed, and the count of cases."""

import functools
import random

import pytest

from tests.faults import steps as all_steps
from tests.faults import workplace


@pytest.fixture(scope="session")
def steps(tmp_path_factory, scripts, sample, tiny_network):
    """Return a step on the sample by its name of `STEPS`; each is made once."""

    @functools.lru_cache(maxsize=None)
    def make(name):
        kind, _, engine = name.partition("-")
        folder = tmp_path_factory.mktemp("step") / kind
        folder.mkdir()
        if kind == "lists":
            return all_steps.make_lists(scripts, sample, folder)
        if kind == "records":
            return all_steps.make_records(scripts, sample, folder)
        if kind == "training":
            return all_steps.make_training(scripts, sample, folder, tiny_network, engine)
        trained = make(f"training-{engine}").finished_folder / "run"
        return all_steps.make_submission(scripts, sample, folder, trained, engine)

    return make


@pytest.fixture(scope="session")
def challenge(tmp_path_factory, scripts):
    """The folder of a small challenge with every kind of file: see `workplace`."""
    folder = tmp_path_factory.mktemp("challenge")
    workplace.make(folder, scripts)
    return folder


@pytest.fixture
def step(steps, name):
    """The step that the test's parameter `name` names."""
    return steps(name)


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
