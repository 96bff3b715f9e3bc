"""im2rec.py packs as MXNet's own tool does, and names what it cannot pack."""

import glob
import os
import shutil

import cv2
import numpy as np
import pytest

from common.base.files import exclusive_lock
from common.data.recordio import RecordFile
from tests.conftest import run_python
from tests.im2rec.conftest import bytes_of

FLAGS = [
    "",
    "--num-thread 2",
    "--resize 48 --quality 95 --num-thread 2",
    "--resize 200 --quality 30",
    "--center-crop",
    "--center-crop --resize 33 --num-thread 2",
    "--color 0 --resize 48",
    "--color -1 --resize 48",
    "--color -1 --encoding .png",
    "--encoding .png --quality 3 --center-crop",
    "--pack-label --resize 48",
    "--pack-label --pass-through --num-thread 2",
    "--pass-through",
]


@pytest.mark.parametrize("flags", FLAGS)
def test_records_and_index_are_those_of_mxnet_s_tool(script, peer, ours, photographs, flags):
    script("im2rec.py", *flags.split(), ours, photographs)
    packed = bytes_of(ours)
    peer(*flags.split(), ours, photographs)
    assert bytes_of(ours) == packed
    assert len(RecordFile(str(ours) + ".rec")) == 12


def test_a_rotated_photograph_stands_upright(script, ours, photographs):
    (ours.parent / "train.lst").write_text("0\t0\tAves/rotated.jpg\n1\t0\tAves/wide.jpg\n")
    script("im2rec.py", ours, photographs)
    records = RecordFile(str(ours) + ".rec")
    rotated, wide = (
        cv2.imdecode(np.frombuffer(records.read(n).image, np.uint8), 1) for n in (0, 1)
    )
    assert (rotated.shape, wide.shape) == ((157, 120, 3), (120, 157, 3))


@pytest.mark.parametrize("flags", [[], ["--num-thread", "3"], ["--pass-through"]])
def test_a_damaged_photograph_is_named_and_skipped(script, damaged, flags):
    prefix, root = damaged
    done = script("im2rec.py", *flags, prefix, root, status=1)
    assert RecordFile(f"{prefix}.rec").keys.tolist() == [0, 8]
    failed = (root / "train.rec.failed.txt").read_text().splitlines()
    assert [int(line.split("\t")[0]) for line in failed] == sorted({*range(1, 12)} - {8})
    assert failed[0] == "1\tempty.jpg\tis empty"
    assert failed[2] == "3\thalf.jpg\tis cut short: its end marker is missing"
    assert failed[-2] == "10\tpipe.jpg\tis a pipe or a device, not a file"
    assert failed[-1] == "11\tmissing.jpg\tno such file or directory"
    assert f"2 packed, {len(failed)} failed, " in done.stdout
    assert "not packed: page.jpg: is a web page (HTML), not a photograph" in done.stderr


@pytest.mark.parametrize("path", ["../secret.jpg", "a/../../secret.jpg", "{outside}"])
def test_a_path_that_leads_out_of_root_takes_a_flag(script, tmp_path, photographs, path):
    secret = tmp_path / "secret.jpg"
    shutil.copy(photographs / "Aves/wide.jpg", secret)
    root = tmp_path / "root"
    (root / "a").mkdir(parents=True)
    path = path.format(outside=secret)
    (root / "train.lst").write_text(f"3\t0\t{path}\n")
    error = script("im2rec.py", root / "train", root, status=2).stderr
    assert f"train.lst: image 3: {path!r} leads out of ROOT {root}" in error
    assert not (root / "train.rec").exists()
    script("im2rec.py", "--allow-outside", root / "train", root)
    script("im2rec.py", root / "train", tmp_path / "root" / "a", status=2)


def test_dots_and_absolute_paths_within_root_are_packed(script, tmp_path, photographs):
    shutil.copy(photographs / "Aves/wide.jpg", tmp_path / "a.jpg")
    paths = ["a.jpg", "b/../a.jpg", str(tmp_path / "a.jpg"), "a..jpg"]
    (tmp_path / "b").mkdir()
    shutil.copy(tmp_path / "a.jpg", tmp_path / "a..jpg")
    lines = [f"{number}\t0\t{path}\n" for number, path in enumerate(paths)]
    (tmp_path / "train.lst").write_text("".join(lines))
    assert "4 packed, 0 failed" in script("im2rec.py", tmp_path / "train", tmp_path).stdout


def test_strict_ends_at_the_first_one(script, damaged):
    prefix, root = damaged
    error = script("im2rec.py", "--strict", prefix, root, status=2).stderr
    assert error.splitlines()[-1] == f"im2rec.py: {root}/empty.jpg: is empty (--strict)"
    assert not os.path.exists(f"{prefix}.rec")
    error = script("im2rec.py", "--strict", "--resume", prefix, root, status=2).stderr
    assert f"{root}/empty.jpg: is empty (--strict)" in error


def test_the_failures_of_an_earlier_run_are_forgotten(script, damaged):
    prefix, root = damaged
    script("im2rec.py", prefix, root, status=1)
    (root / "train.lst").write_text("0\t1\tgood.jpg\n")
    script("im2rec.py", prefix, root)
    assert not os.path.exists(f"{prefix}.rec.failed.txt")


def test_a_wrong_root_is_named(script, ours, photographs, tmp_path):
    error = script("im2rec.py", ours, photographs / "Aves", status=2).stderr.splitlines()[-1]
    assert f"none of the first 12 images of {ours}.lst can be packed" in error
    assert not glob.glob(f"{ours}*.partial")
    error = script("im2rec.py", ours, tmp_path / "nowhere", status=2).stderr
    assert f"{tmp_path}/nowhere: not a folder; ROOT holds the images" in error
    assert not os.path.exists(f"{ours}.rec")


def test_only_the_list_that_is_named_is_packed(script, ours, photographs):
    (ours.parent / "train_small.lst").write_text("0\t0\tAves/wide.jpg\n")
    script("im2rec.py", f"{ours}.lst", photographs)
    assert not (ours.parent / "train_small.rec").exists()
    error = script("im2rec.py", str(ours)[:-2], photographs, status=2).stderr
    assert "tra.lst: not found; name one of" in error
    assert "train_small.lst" in error


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["PREFIX"], "ROOT is missing"),
        (["PREFIX", "ROOT", "--resize", "-1"], "--resize -1: must be 0 to 65500"),
        (["PREFIX", "ROOT", "--quality", "101"], "--quality 101: must be 0 to 100"),
        (["PREFIX", "ROOT", "--num-thread", "0"], "--num-thread: 0: must be 1 or more"),
        (["PREFIX", "ROOT", "--list", "--train-ratio", "1.5"], "1.5: must be from 0 to 1"),
        (["PREFIX", "ROOT", "--list", "--train-ratio", ".7", "--test-ratio", ".7"], "more than 1"),
        (["PREFIX", "ROOT", "--list", "--exts", ".gif"], "holds no file that ends in .gif"),
    ],
)
def test_a_wrong_flag_is_one_line(script, ours, photographs, arguments, message):
    names = {"PREFIX": ours, "ROOT": photographs}
    error = script("im2rec.py", *[names.get(a, a) for a in arguments], status=2).stderr
    assert message in error.splitlines()[-1]


def test_a_bad_line_of_the_list_is_named(script, ours, photographs):
    (ours.parent / "train.lst").write_text("0\t0\tAves/wide.jpg\n1 0 Aves/tall.jpg\n")
    error = script("im2rec.py", ours, photographs, status=2).stderr
    assert error == f"im2rec.py: {ours}.lst:2: not INDEX<tab>LABEL<tab>PATH: '1 0 Aves/tall.jpg'\n"


@pytest.mark.parametrize("suffix", [".rec", ".idx", ".rec.failed.txt", ".rec.journal"])
def test_a_folder_with_the_name_of_a_result_is_found_before_anything_is_packed(
    script, ours, photographs, suffix
):
    os.mkdir(f"{ours}{suffix}")
    error = script("im2rec.py", ours, photographs, status=2).stderr
    fix = "is a folder; remove it or choose another name for the file"
    assert error == f"im2rec.py: {ours}{suffix}: {fix}\n"
    assert {path.name for path in ours.parent.iterdir()} == {"train.lst", f"train{suffix}"}


def test_two_runs_do_not_write_one_file(script, ours, photographs):
    with exclusive_lock(f"{ours}.rec", "writing it"):
        for arguments in ([ours, photographs], ["--reindex", ours]):
            error = script("im2rec.py", *arguments, status=2).stderr
            assert "train.rec: another run is writing it" in error


def test_packing_does_without_mxnet(stand_in, ours, photographs):
    folder = stand_in("mxnet", "raise SystemExit('MXNet was imported')")
    for arguments in (["--num-thread", 2, ours, photographs], ["--verify", "--decode", ours]):
        status, _, error = run_python("im2rec.py", *arguments, PYTHONPATH=folder)
        assert status == 0, error
