"""Malicious input: nothing outside the folders is touched, and no code is run.

Each payload would create a file named `pwned`. What Python opens and starts is watched.
"""

import json
import os
import pickle
import shutil
import struct
import subprocess
import zipfile
import zlib

import cv2
import numpy as np
import pytest

from common.base.files import ROOT
from common.data.recordio import frame_record, pack_record
from common.networks import symbol_file
from tests.faults import workplace
from tests.faults.workplace import PREDICT, TRAIN

LISTS = ["mx_list.py", "--data-dir", "."]
PACK = ["im2rec.py", "train", "."]
SUBMIT = ["sub.py", "1", "cpu", *PREDICT]
FINE_TUNE = ["fine-tune.py", *TRAIN, "--num-epochs", "1", "--lr-step-epochs", ""]
ODD_NAMES = [
    "$(touch pwned).jpg",
    "`touch pwned`.jpg",
    "; touch pwned; .jpg",
    "| touch pwned #.jpg",
    "-rf.jpg",
    "--help",
    "'\"\\.jpg",
    "%s{}.jpg",
    "~root.jpg",
    "....jpg",
    "× é 柳.jpg",
]


@pytest.fixture
def folder(challenge, tmp_path):
    """A new copy of the challenge; beside it is a file that must not be touched."""
    shutil.copy(challenge / "test2017" / "test1.jpg", tmp_path / "secret.jpg")
    return workplace.copy(challenge, tmp_path / "data")


@pytest.fixture
def run(folder, scripts):
    """Run a script in the folder, and check the rules that apply to every run."""

    def call(*command, status=2, **limits):
        before = workplace.contents(folder.parent)
        done = scripts(folder, *command, watched=True, **limits)
        assert done.status == status, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        assert done.memory < 1 << 30
        inside = os.path.join(folder, "")
        beside = [path for path in done.opened if path.startswith(str(folder.parent))]
        assert [path for path in beside if not path.startswith(inside)] == []
        assert "/etc/passwd" not in done.opened
        assert [command for command, _ in done.started if os.path.basename(command) != "git"] == []
        after = workplace.contents(folder.parent)
        assert not [path for path in after if os.path.basename(path) == "pwned"]
        if status == 2:
            assert after == before
            (complaint,) = [x for x in done.stderr.splitlines() if x.startswith(f"{command[0]}: ")]
            assert complaint.isprintable()
            return complaint
        return done.stderr

    return call


# --- Names of photographs ------------------------------------------------------------------------


def rename(folder, set_name, position, name):
    """Give a photograph another name in the JSON of its set."""
    path = folder / f"{set_name}2017.json"
    content = json.loads(path.read_text())
    content["images"][position]["file_name"] = name
    path.write_text(json.dumps(content))


@pytest.mark.parametrize(
    "name",
    [
        *("../secret.jpg", "a/../../secret.jpg", "/etc/passwd", "//etc/passwd", "..", "..\\x.jpg"),
        *("C:\\x.jpg", "a\nb.jpg", "a\rb.jpg", "a\tb.jpg", "a\0b.jpg", "\x1b[2J.jpg", "\u2028.jpg"),
        *("\ud800.jpg", " a.jpg", "a.jpg ", "", None, 7, ["a.jpg"]),
    ],
    ids=repr,
)
def test_a_name_in_the_json_that_leads_elsewhere_is_refused(folder, run, name, cases):
    cases(2)
    for set_name, command in (("train", LISTS), ("test", SUBMIT)):
        whole = (folder / f"{set_name}2017.json").read_bytes()
        rename(folder, set_name, 1, name)
        assert f"{set_name}2017.json: image" in run(*command)
        (folder / f"{set_name}2017.json").write_bytes(whole)


@pytest.mark.parametrize(
    "path",
    ["../secret.jpg", "a/../../secret.jpg", "{outside}/secret.jpg", "/etc/passwd", "\x1b[2J.jpg"],
)
def test_a_path_in_a_list_that_leads_elsewhere_is_refused(folder, run, path):
    path = path.format(outside=folder.parent)
    with open(folder / "train.lst", "a", encoding="utf-8") as stream:
        stream.write(f"77\t0\t{path}\n")
    assert "train.lst" in run(*PACK)


def test_names_that_a_shell_would_run_are_names(folder, run, cases):
    cases(4 * len(ODD_NAMES))
    for number, name in enumerate(ODD_NAMES):
        for set_name, place in (("train", "train_val_images"), ("test", "test2017")):
            path = folder / place / name
            shutil.copy(folder / "test2017" / f"test{number % 3}.jpg", path)
            content = json.loads((folder / f"{set_name}2017.json").read_text())
            content["images"].append({"id": 900 + number, "file_name": f"{place}/{name}"})
            if set_name == "train":
                annotation = {"id": 900, "image_id": 900 + number, "category_id": 22}
                content["annotations"].append(annotation)
            (folder / f"{set_name}2017.json").write_text(json.dumps(content))
    run(*LISTS, "--check", status=0)
    run(*PACK, status=0)
    run("im2rec.py", "--verify", "--decode", "train", status=0)
    run(*SUBMIT, status=0)
    rows = dict(line.split(",") for line in (folder / "out.csv").read_text().splitlines())
    for number in range(len(ODD_NAMES)):
        assert rows[str(900 + number)] == rows[str(19 + number % 3)]


@pytest.mark.parametrize(
    "name", ["$(touch pwned)", "; touch pwned", "-x", "a b", "new\nline", "'\""]
)
def test_gen_rec_takes_any_name_of_a_folder(challenge, tmp_path, name):
    folder = workplace.copy(challenge, tmp_path / name)
    for made in folder.glob("*.rec*"):
        made.unlink()
    script = os.path.join(ROOT, "gen_rec.sh")
    done = subprocess.run(["sh", script, name], cwd=tmp_path, capture_output=True, encoding="utf-8")
    assert done.returncode == 0, done.stderr
    assert len((folder / "train.idx").read_text().splitlines()) == workplace.SETS["train"]
    assert os.listdir(tmp_path) == [name]


def test_a_folder_of_odd_names_is_listed_and_packed(folder, run, cases):
    cases(len(ODD_NAMES))
    (folder / "birds").mkdir()
    names = [name for name in ODD_NAMES if os.path.splitext(name)[1]]
    for name in names:
        shutil.copy(folder / "test2017" / "test1.jpg", folder / "birds" / name)
    run("im2rec.py", "mine", "birds", "--list", status=0)
    run("im2rec.py", "mine", "birds", status=0)
    assert len((folder / "mine.idx").read_text().splitlines()) == len(names)


def test_a_list_is_not_written_by_the_names_of_files(folder, run):
    (folder / "birds" / "x\n7\t0\t..").mkdir(parents=True)
    (folder / "birds" / "x\n7\t0\t.." / "secret.jpg").touch()
    assert "a list cannot carry" in run("im2rec.py", "mine", "birds", "--list", "--recursive")


@pytest.mark.parametrize("text", ["<script>alert(1)</script>", "$\\frac$", "\x1b[2J", "a" * 10**5])
def test_the_name_of_a_category_is_text_in_the_report(folder, run, text):
    content = json.loads((folder / "train2017.json").read_text())
    for category in content["categories"]:
        category.update(name=text, supercategory=text)
    (folder / "train2017.json").write_text(json.dumps(content))
    run(*SUBMIT, "--set", "val", status=0)
    page = (folder / "report-out.html").read_text(encoding="utf-8")
    assert page.count("<script") == 1 and "<script>alert" not in page  # the page has its own
    assert "\x1b" not in page


# --- Files that would run code -------------------------------------------------------------------


class Payload:
    """An object that runs a command when it is unpickled."""

    def __reduce__(self):
        return os.system, ("touch pwned",)


def write_zip(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("archive/data.pkl", pickle.dumps({"weight": Payload()}, protocol=2))


def write_legacy(path):
    with open(path, "wb") as stream:
        for part in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, Payload(), []):
            pickle.dump(part, stream, protocol=2)


def write_pickle(path):
    with open(path, "wb") as stream:
        pickle.dump(Payload(), stream)


def write_npz(path):
    arrays = {name: np.array([Payload()], object) for name in ("ids", "labels", "classes")}
    np.savez(path, probabilities=np.zeros((1, 1), np.float16), **arrays)


@pytest.mark.parametrize(
    ("write", "path", "command"),
    [
        (write_zip, "evil.pth", [*FINE_TUNE, "--pretrained-model", "evil.pth"]),
        (write_legacy, "evil.pt", [*FINE_TUNE, "--pretrained-model", "evil.pt"]),
        (write_pickle, "zoo-0000.params", [*FINE_TUNE, "--pretrained-model", "zoo"]),
        (write_pickle, "run-0002.states", [*FINE_TUNE, "--num-epochs", "3", "--load-epoch", "2"]),
        (write_pickle, "run-0001.params", SUBMIT),
        (write_npz, "a.npz", ["sub.py", "--merge", "a.npz", "b.npz"]),
        (write_pickle, "a.npz", ["sub.py", "--merge", "a.npz", "b.npz"]),
    ],
)
def test_a_pickle_that_runs_a_command_is_not_read(folder, run, write, path, command):
    write(str(folder / path))
    assert path in run(*command)


@pytest.mark.parametrize(
    "operator", ["Custom", "_CustomFunction", "_Native", "_NDArray", "_cvimread"]
)
@pytest.mark.parametrize("place", ["graph", "subgraph"])
def test_an_operator_that_runs_code_or_reads_files_is_refused(folder, run, operator, place, cases):
    cases(2)
    for name, command in (("zoo", [*FINE_TUNE, "--pretrained-model", "zoo"]), ("run", SUBMIT)):
        path = folder / f"{name}-symbol.json"
        graph = json.loads(path.read_text())
        del graph["attrs"]["crc32"]
        attributes = {"op_type": "evil", "filename": "/etc/passwd", "info": "1"}
        node = {"op": operator, "name": "evil", "attrs": attributes, "inputs": [[0, 0, 0]]}
        if place == "graph":
            graph["nodes"][-1] = node
        else:
            graph["nodes"][-1]["subgraphs"] = [{"nodes": [node], "heads": [[0, 0, 0]]}]
            node["inputs"] = []
        path.write_text(symbol_file.seal(json.dumps(graph)))
        complaint = run(*command)
        assert f"{name}-symbol.json" in complaint and operator in complaint


# --- Images that claim to be large, and files without an end -------------------------------------


def png(width, height, pixels=bytes(1000)):
    """Return a PNG of one bit per pixel that claims a size which its bytes need not hold."""

    def chunk(kind, content):
        check = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + check

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 1, 0, 0, 0, 0))
    body = chunk(b"IDAT", zlib.compress(pixels, 9))
    return b"\x89PNG\r\n\x1a\n" + header + body + chunk(b"IEND", b"")


def jpeg(width, height, padding=0):
    """Return a JPEG of a few pixels that claims another size, with bytes after its end."""
    data = bytearray(cv2.imencode(".jpg", np.zeros((16, 16, 3), np.uint8))[1].tobytes())
    start = data.index(b"\xff\xc0") + 5
    data[start : start + 4] = struct.pack(">HH", height, width)
    return bytes(data) + bytes(padding)


BOMBS = {
    "PNG of 60,000 x 60,000": lambda: png(60_000, 60_000),
    "JPEG of 60,000 x 60,000": lambda: jpeg(60_000, 60_000),
    "JPEG that its bytes could hold": lambda: jpeg(60_000, 60_000, padding=8_000_000),
    "JPEG of 30,000 x 30,000": lambda: jpeg(30_000, 30_000, padding=2_000_000),
    "PNG that is whole": lambda: png(20_000, 20_000, bytes(20_000 * 2_501)),
    "PNG of one line": lambda: png(2**31 - 1, 1),
    "bitmap": lambda: b"BM" + struct.pack("<IIIIiiHHIIIIII", 54, 0, 54, 40, 60_000, 60_000, 1, 24,
                                          *(0,) * 6),
    "pixmap": lambda: b"P6 60000 60000 255\n",
}  # fmt: skip


QUICK = ["PNG of 60,000 x 60,000", "JPEG of 60,000 x 60,000"]


@pytest.mark.parametrize(
    "bomb", [*QUICK, *(pytest.param(b, marks=pytest.mark.slow) for b in BOMBS if b not in QUICK)]
)
def test_an_image_that_claims_to_be_huge_is_named_and_passed_over(folder, run, bomb, cases):
    cases(3)
    data = BOMBS[bomb]()
    photograph = folder / "train_val_images" / "Group 0" / "train2.jpg"
    photograph.write_bytes(data)
    assert "not packed: train_val_images/Group 0/train2.jpg: " in run(*PACK, status=1)
    (folder / "test2017" / "test1.jpg").write_bytes(data)
    assert "test1.jpg: " in run(*SUBMIT, status=0)
    add_record(folder / "train", 77, data)
    (folder / "val.rec").unlink()
    said = run(*FINE_TUNE, "--pretrained-model", "zoo", status=0)
    assert "train.rec: record 77: " in said and "its neighbour takes its place" in said


def add_record(prefix, key, image):
    """Append a record of any bytes."""
    with open(f"{prefix}.rec", "ab") as records, open(f"{prefix}.idx", "a") as index:
        index.write(f"{key}\t{records.tell()}\n")
        records.write(frame_record(pack_record(key, 2.0, image)))


@pytest.mark.parametrize(
    ("path", "command"),
    [
        ("train2017.json", LISTS),
        ("train.lst", PACK),
        ("train.rec", [*FINE_TUNE, "--pretrained-model", "zoo"]),
        ("train.idx", [*FINE_TUNE, "--pretrained-model", "zoo"]),
        ("zoo-symbol.json", [*FINE_TUNE, "--pretrained-model", "zoo"]),
        ("zoo-0000.params", [*FINE_TUNE, "--pretrained-model", "zoo"]),
        ("zip.pth", [*FINE_TUNE, "--pretrained-model", "zip.pth"]),
        ("run-config.json", ["sub.py", "1", "cpu", "--data-dir", ".", "--model-prefix", "run"]),
        ("a.npz", ["sub.py", "--merge", "a.npz", "b.npz"]),
    ],
)
def test_a_pipe_and_a_device_are_not_waited_for(folder, run, path, command, cases):
    cases(2)
    (folder / path).unlink()
    os.mkfifo(folder / path)
    assert f"{path}: is a pipe or a device" in run(*command, seconds=20)
    (folder / path).unlink()
    (folder / path).symlink_to("/dev/zero")
    assert f"{path}: is a pipe or a device" in run(*command, seconds=20)


def test_a_photograph_that_is_a_pipe_a_device_or_without_an_end_is_passed_over(folder, run, cases):
    cases(6)
    for number, name in ((0, "train_val_images/Group 0/train{}.jpg"), (0, "test2017/test{}.jpg")):
        paths = [folder / name.format(number + n) for n in (0, 2, 4)]
        for path in paths:
            path.unlink()
        os.mkfifo(paths[0])
        paths[1].symlink_to("/dev/zero")
        with open(paths[2], "wb") as stream:
            stream.truncate(1 << 40)
    said = run(*PACK, status=1, seconds=20)
    assert said.count("is a pipe or a device") == 2 and "has 1099511627776 bytes" in said
    said = run(*SUBMIT, status=0, seconds=20)
    assert said.count("is a pipe or a device") == 2 and "3 images could not be read" in said


def test_text_that_is_deep_or_long_is_one_line(folder, run, cases):
    bombs = ["[" * 10**6, '{"images": [{"id": ' + "9" * 10**6 + ', "file_name": "a.jpg"}]}']
    cases(len(bombs))
    for bomb in bombs:
        (folder / "train2017.json").write_text(bomb)
        assert len(run(*LISTS)) < 500
        (folder / "zoo-symbol.json").write_text(bomb)
        assert len(run(*FINE_TUNE, "--pretrained-model", "zoo")) < 500


@pytest.mark.slow
@pytest.mark.parametrize(
    ("path", "member", "command"),
    [
        ("a.npz", "labels.npy", ["sub.py", "--merge", "a.npz", "b.npz"]),
        ("zip.pth", "archive/byteorder", [*FINE_TUNE, "--pretrained-model", "zip.pth"]),
    ],
)
def test_a_zip_bomb_is_not_unpacked(folder, run, path, member, command):
    with zipfile.ZipFile(folder / path) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
    with zipfile.ZipFile(folder / path, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for name in members.keys() - {member}:
            archive.writestr(name, members[name], zipfile.ZIP_STORED)
        with archive.open(member, "w") as stream:
            header = {"descr": "<i8", "fortran_order": False, "shape": (1 << 27,)}
            np.lib.format.write_array_header_1_0(stream, header)
            for _ in range(1 << 10):
                stream.write(bytes(1 << 20))
    assert os.path.getsize(folder / path) < 8 << 20
    assert f"{path}: " in run(*command)
