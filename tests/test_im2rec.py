"""im2rec.py as a user calls it, with MXNet's own tool as the expectation."""

import glob
import os
import shutil
import struct
import zlib
from importlib.util import find_spec

import cv2
import numpy as np
import pytest

from common.base.files import exclusive_lock
from common.data.recordio import RecordFile, read_list
from tests.conftest import run_python, with_orientation

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
# skimage is here for its photographs, without what it needs to be imported
PHOTOGRAPHS = os.path.join(os.path.dirname(find_spec("skimage").origin), "data")
LONG_NAME = "Plantae/Salix × fragilis é 柳/" + "long name " * 15 + ".JPG"


def bomb():
    """Return a PNG of a few bytes that says it is 60,000 x 60,000 pixels."""

    def chunk(name, content):
        check = struct.pack(">I", zlib.crc32(name + content))
        return struct.pack(">I", len(content)) + name + content + check

    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 2, 0, 0, 0)
    pixels = zlib.compress(bytes(1000))
    signature = b"\x89PNG\r\n\x1a\n"
    return signature + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


@pytest.fixture(scope="module")
def photographs(tmp_path_factory):
    """A folder of photographs of every kind that users have."""
    folder = tmp_path_factory.mktemp("photographs")
    cat = cv2.imread(os.path.join(PHOTOGRAPHS, "chelsea.png"))[:120, :157]
    jpeg = cv2.imencode(".jpg", cat)[1].tobytes()
    alpha = np.dstack([cat, np.arange(120 * 157, dtype=np.uint8).reshape(120, 157)])
    files = {
        "Aves/wide.jpg": jpeg,
        "Aves/tall.jpeg": cv2.imencode(".jpg", cat.transpose(1, 0, 2))[1].tobytes(),
        "Aves/square.jpg": cv2.imencode(".jpg", cat[:, :120])[1].tobytes(),
        "Aves/rotated.jpg": with_orientation(jpeg, 6),
        "Aves/mirrored.jpg": with_orientation(jpeg, 2),
        "Plantae/grey.jpg": cv2.imencode(".jpg", cat[:, :, 0])[1].tobytes(),
        "Plantae/grey.png": cv2.imencode(".png", cat[:, :, 1])[1].tobytes(),
        "Plantae/alpha.png": cv2.imencode(".png", alpha)[1].tobytes(),
        "Plantae/deep.png": cv2.imencode(".png", cat.astype(np.uint16) * 257)[1].tobytes(),
        "Plantae/behind the end.jpg": jpeg + b"more",
        "one pixel.png": cv2.imencode(".png", cat[:1, :1])[1].tobytes(),
        "notes.txt": b"no photograph",
        LONG_NAME: jpeg,
    }
    for name, content in files.items():
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    (folder / "linked").symlink_to(folder / "Aves")
    return folder


@pytest.fixture
def lines(photographs):
    """The lines of a list of all photographs: keys in no order, float labels, several labels."""
    names = sorted(
        os.path.relpath(os.path.join(folder, name), photographs)
        for folder, _, files in os.walk(photographs)
        for name in files
        if name != "notes.txt"
    )
    labels = ["3.000000", "0.1\t7\t-2.5", "12", "1e3\t0"]
    return [f"{(7 * n + 3) % 100}\t{labels[n % 4]}\t{name}\n" for n, name in enumerate(names)]


@pytest.fixture
def ours(tmp_path, lines):
    """The prefix of `train.lst`, a list of all photographs."""
    (tmp_path / "train.lst").write_text("".join(lines), encoding="utf-8")
    return tmp_path / "train"


def bytes_of(prefix):
    """Return the bytes of `PREFIX.rec` and `PREFIX.idx`."""
    return tuple(prefix.with_suffix(suffix).read_bytes() for suffix in (".rec", ".idx"))


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


LIST_FLAGS = [
    "",
    "--recursive",
    "--recursive --no-shuffle",
    "--recursive --exts .png",
    "--recursive --train-ratio 0.6",
    "--recursive --train-ratio 0.5 --test-ratio 0.2",
    "--recursive --train-ratio 0.7 --test-ratio 0.3 --chunks 3",
    "--recursive --chunks 5",
]


@pytest.mark.parametrize("flags", LIST_FLAGS)
def test_lists_are_those_of_mxnet_s_tool(script, peer, tmp_path, photographs, capsys, flags):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").mkdir()
    out = script("im2rec.py", tmp_path / "a/x", photographs, "--list", *flags.split()).stdout
    peer(tmp_path / "b/x", photographs, "--list", *flags.split())
    mine = {path.name: path.read_bytes() for path in (tmp_path / "a").iterdir()}
    classes = mine.pop("x.classes.txt", b"").decode().splitlines()  # which MXNet does not write
    assert mine == {path.name: path.read_bytes() for path in (tmp_path / "b").iterdir()}
    assert mine
    labels = capsys.readouterr().out  # which folder is which label
    assert labels in out
    assert labels.splitlines() == [f"{name} {label}" for label, name in enumerate(classes)]


def test_names_that_the_terminal_cannot_show_are_listed_and_packed(tmp_path, photographs):
    def im2rec(*arguments):
        return run_python("im2rec.py", *arguments, PYTHONIOENCODING="ascii")

    for name in (b"\xe9t\xe9/a.jpg", "柳/b.jpg".encode()):  # Latin-1, UTF-8
        path = os.path.join(os.fsencode(tmp_path), name)
        os.mkdir(os.path.dirname(path))
        shutil.copy(photographs / "Aves/wide.jpg", path)
    status, out, _ = im2rec("--list", "--recursive", tmp_path / "x", tmp_path)
    assert status == 0
    assert out.startswith("\\u67f3 0\n\\udce9t\\udce9 1\n")
    assert im2rec(tmp_path / "x", tmp_path)[0] == 0
    with open(tmp_path / "x.lst", "ab") as stream:
        stream.write(b"7\t0\tg\xe8ne.jpg\n")
    status, _, error = im2rec(tmp_path / "x", tmp_path)
    assert status == 1
    assert "not packed: g\\udce8ne.jpg: no such file" in error


def test_a_name_that_a_list_cannot_carry_is_said_and_no_line_of_a_list(script, tmp_path):
    folder = tmp_path / "photographs" / "x\n7\t0\t.."
    folder.mkdir(parents=True)
    (folder / "secret.jpg").touch()
    arguments = ["--list", "--recursive", tmp_path / "train", tmp_path / "photographs"]
    error = script("im2rec.py", *arguments, status=2).stderr
    assert "the name 'x\\n7\\t0\\t../secret.jpg' holds a tab, a newline" in error
    assert error.count("\n") == 1
    assert not (tmp_path / "train.lst").exists()


def test_folders_that_lead_back_into_themselves_are_listed_once(script, tmp_path):
    (tmp_path / "birds").mkdir()
    (tmp_path / "birds" / "a.jpg").touch()
    for name, target in (("up", ".."), ("here", "."), ("fish", "../fish")):
        (tmp_path / "birds" / name).symlink_to(target)
    (tmp_path / "fish").mkdir()
    (tmp_path / "fish" / "b.jpg").touch()
    script("im2rec.py", "--list", "--recursive", tmp_path / "train", tmp_path / "birds")
    assert {entry.path for entry in read_list(tmp_path / "train.lst")} == {"a.jpg", "fish/b.jpg"}


def test_a_rotated_photograph_stands_upright(script, ours, photographs):
    (ours.parent / "train.lst").write_text("0\t0\tAves/rotated.jpg\n1\t0\tAves/wide.jpg\n")
    script("im2rec.py", ours, photographs)
    records = RecordFile(str(ours) + ".rec")
    rotated, wide = (
        cv2.imdecode(np.frombuffer(records.read(n).image, np.uint8), 1) for n in (0, 1)
    )
    assert (rotated.shape, wide.shape) == ((157, 120, 3), (120, 157, 3))


@pytest.fixture
def damaged(ours, photographs):
    """A list of two good photographs among bad ones; returns its prefix and the root."""
    root = ours.parent
    jpeg = (photographs / "Aves/wide.jpg").read_bytes()
    thumbnail = b"\xff\xe1\x00\x06\xff\xd8\xff\xd9"  # an end marker within the EXIF
    files = {
        "good.jpg": jpeg,
        "empty.jpg": b"",
        "page.jpg": b"<html>404</html>",
        "half.jpg": jpeg[: len(jpeg) // 2],
        "no end.jpg": jpeg[:-2],
        "half with thumbnail.jpg": jpeg[:2] + thumbnail + jpeg[2 : len(jpeg) // 2],
        "half.png": (photographs / "Plantae/alpha.png").read_bytes()[:-500],
        "bomb.png": bomb(),
        "good too.jpg": jpeg,
    }
    for name, content in files.items():
        (root / name).write_bytes(content)
    (root / "folder.jpg").mkdir()
    os.mkfifo(root / "pipe.jpg")
    names = [*files, "folder.jpg", "pipe.jpg", "missing.jpg"]
    (root / "train.lst").write_text("".join(f"{n}\t1\t{name}\n" for n, name in enumerate(names)))
    return ours, root


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


def test_two_runs_do_not_write_one_file(script, ours, photographs):
    with exclusive_lock(f"{ours}.rec", "writing it"):
        for arguments in ([ours, photographs], ["--reindex", ours]):
            error = script("im2rec.py", *arguments, status=2).stderr
            assert "train.rec: another run is writing it" in error


def test_verify_finds_a_finished_file_good(script, ours, photographs):
    script("im2rec.py", "--pack-label", ours, photographs)
    out = script("im2rec.py", "--verify", "--decode", "--num-thread", 2, ours).stdout
    assert out == f"{ours}.rec: 12 records, all good\n"


def test_verify_takes_what_packing_named_as_failed_for_known(script, damaged):
    prefix, root = damaged
    script("im2rec.py", prefix, root, status=1)
    assert "2 records, all good" in script("im2rec.py", "--verify", prefix).stdout
    os.remove(f"{prefix}.rec.failed.txt")
    out = script("im2rec.py", "--verify", prefix, status=1).stdout
    assert "10  is in the list, has no record: 1, 2, 3, 4, 5\n" in out


def test_verify_names_each_fault(script, ours, photographs):
    script("im2rec.py", ours, photographs)
    records = RecordFile(f"{ours}.rec")
    keys, offsets = records.keys.tolist(), records.offsets.tolist()
    patches = {
        0: (0, b"junk"),  # the magic number
        2: (12, struct.pack("<f", 99)),  # the label
        4: (16, struct.pack("<Q", 5000)),  # the key
        6: (200, bytes(300)),  # pixels
    }
    with open(f"{ours}.rec", "r+b") as stream:
        for position, (offset, patch) in patches.items():
            stream.seek(offsets[position] + offset)
            stream.write(patch)
        end = offsets[9] - 8  # cut its last bytes, padding and end marker
        stream.seek(end)
        stream.write(bytes(8))
    out = script("im2rec.py", "--verify", "--decode", ours, status=1).stdout
    assert (
        f"1  cannot be read: no record at its offset, or the file is cut short: {keys[0]}\n" in out
    )
    assert f"1  label is not the list's: {keys[2]}\n" in out
    assert f"1  the index names another record: {keys[4]}\n" in out
    assert f"1  image cannot be decoded: {keys[6]}\n" in out
    assert f"1  image is cut short: its end marker is missing: {keys[8]}\n" in out


def test_verify_finds_a_file_and_a_list_that_differ(script, ours, lines, photographs):
    script("im2rec.py", ours, photographs)
    first, *others = lines
    with open(f"{ours}.lst", "w", encoding="utf-8") as stream:
        stream.writelines([*others, "77\t0\tnew.jpg\n"])
    out = script("im2rec.py", "--verify", ours, status=1).stdout
    assert f"1  is not in the list: {first.split()[0]}\n" in out
    assert "1  is in the list, has no record: 77\n" in out
    with open(f"{ours}.rec", "ab") as stream:
        stream.write(b"tail")
    assert "bytes behind the last record" in script("im2rec.py", "--verify", ours, status=1).stdout


def test_verify_finds_an_index_that_leaves_out_and_repeats(script, ours, photographs):
    script("im2rec.py", ours, photographs)
    with open(f"{ours}.idx") as stream:
        lines = stream.readlines()
    keys = [line.split()[0] for line in lines]
    with open(f"{ours}.idx", "w") as stream:
        stream.writelines([*lines[:3], *lines[4:], lines[7]])
    out = script("im2rec.py", "--verify", ours, status=1).stdout
    assert f"1  is in the list, has no record: {keys[3]}\n" in out
    assert f"  the record before it is not in the index: {keys[4]}, {keys[7]}\n" in out
    assert f"1  key occurs twice: {keys[7]}\n" in out


def test_reindex_makes_the_index_anew(script, ours, photographs):
    script("im2rec.py", "--pack-label", ours, photographs)
    packed = bytes_of(ours)
    os.remove(f"{ours}.idx")
    assert "12 records" in script("im2rec.py", "--reindex", f"{ours}.rec").stdout
    assert bytes_of(ours) == packed


def test_packing_does_without_mxnet(stand_in, ours, photographs):
    folder = stand_in("mxnet", "raise SystemExit('MXNet was imported')")
    for arguments in (["--num-thread", 2, ours, photographs], ["--verify", "--decode", ours]):
        status, _, error = run_python("im2rec.py", *arguments, PYTHONPATH=folder)
        assert status == 0, error
