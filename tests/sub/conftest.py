"""sub.py, as a user calls it, on a tiny network and a few photographs."""

import pytest

from tests.made_up_challenge import SIZE, make_folder, read_csv


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp("sub"))


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path)


@pytest.fixture
def sub(script, engine):
    """Call sub.py in a folder: `sub(folder, "1", "cpu")`; return its CSV as {id: categories}."""

    def call(folder, *arguments, output="out.csv", status=0):
        flags = ["--data-dir", folder, "--model-prefix", folder / "net", "--batch-size", 4]
        flags += ["--crop-size", SIZE, "--output", folder / output, "--engine", engine]
        call.said = script("sub.py", *arguments, *flags, status=status).stderr
        return read_csv(folder / output) if status == 0 else None

    return call
