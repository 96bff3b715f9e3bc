"""What an environment costs, said before it is made."""

from collections import namedtuple

import pytest

from common.setup import SetupError, sizes
from common.setup.installation import announce_torch
from common.setup.interpreters import VERSIONS


@pytest.mark.parametrize("kind", VERSIONS)
def test_every_environment_has_its_cost(kind):
    builds = ["CPU", "CUDA 12", "CUDA 13"] if kind in ("torch", "both") else [None]
    for build in builds:
        download, disk = sizes.cost(kind, build)
        assert 100 < download < disk < 10_000


def test_the_cost_is_said_in_gigabytes_and_minutes():
    assert sizes.describe("cpu") == (
        "about 160 MB to download (1 minute at 10 MB/s) and 550 MB on the disk"
    )
    assert sizes.describe("torch", "CUDA 13") == (
        "about 3.1 GB to download (5 minutes at 10 MB/s) and 6.0 GB on the disk"
    )
    assert sizes.cost("both", "CPU") > sizes.cost("torch", "CPU")


def test_a_disk_that_is_too_small_is_refused_before_anything_is_downloaded(tmp_path, monkeypatch):
    usage = namedtuple("usage", "total used free")
    monkeypatch.setattr(sizes.shutil, "disk_usage", lambda folder: usage(0, 0, 4_600_000_000))
    sizes.require_space(str(tmp_path / ".venv"), "cu117")
    with pytest.raises(SetupError, match=r"about 6.0 GB are needed, and 4.6 GB are free"):
        sizes.require_space(str(tmp_path / ".venv"), "torch", "CUDA 13")


@pytest.mark.parametrize(
    ("build", "has_gpu", "better"),
    [("CUDA 13", False, "CPUs"), ("CPU", True, "CUDA"), ("CPU", False, ""), ("CUDA 12", True, "")],
)
def test_a_build_of_pytorch_that_does_not_fit_is_said_with_the_way_to_another(
    build, has_gpu, better
):
    said = []
    announce_torch(build, has_gpu, said.append)
    assert build in said[0]
    assert len(said) == 1 + bool(better)
    assert not better or (f"PyTorch's index for {better}" in said[1] and "Ctrl-C" in said[1])
