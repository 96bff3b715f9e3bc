"""Every kind of file, damaged in every way, through every script that reads it.

A run is right if it gives the result of the undamaged file; or if it prints one line that names the
file, exits with status 2 and writes nothing; or if it skips a photograph or record and names it, as
docs/faults.md says. All else is silently wrong, with one exception: damage may produce another
valid file, e.g. with another digit in a list, another letter in a name, or other pixels in a JPEG.
Formats with a checksum (.params, .states, -symbol.json, .npz, newer .pth, PNG) or a second copy
(.idx, .journal) reveal this. The other formats cannot. For those the right result is that of the
present content, and `says` determines it by other means: Python's json, OpenCV, MXNet's own reader.
"""

import csv
import io
import json
import os
from collections import namedtuple

import cv2
import numpy as np
import pytest

from common import engines
from tests.conftest import require_engine
from tests.faults import workplace
from tests.faults.damage import DAMAGES, flip_byte, flip_early_byte, scramble_block
from tests.faults.workplace import PREDICT, TRAIN

# What is damaged, the command that reads it, and a function that returns whether the result is that
# of the file's present content. `case` is a Case.
Reader = namedtuple("Reader", ["path", "command", "says"], defaults=[lambda case: False])
Case = namedtuple("Case", ["folder", "reader", "whole", "scripts"])

PHOTOGRAPH = "train_val_images/Group 0/train2.jpg"
PNG = "train_val_images/Group 1/train3.png"
NO_SIZE = [flag for flag in PREDICT if flag not in ("--crop-size", workplace.SIZE)]
FRESH = ["fine-tune.py", *TRAIN, "--num-epochs", "1", "--lr-step-epochs", ""]
ON = ["fine-tune.py", *TRAIN, "--num-epochs", "3", "--lr-step-epochs", ""]


# --- The present content of a file, by other means -----------------------------------------------


def lists_of_the_json(case):
    """Return whether each list holds what Python's json reads."""
    for name in workplace.SETS:
        content = json.loads((case.folder / f"{name}2017.json").read_text(encoding="utf-8"))
        rank = {c: i for i, c in enumerate(sorted(c["id"] for c in content["categories"]))}
        label = {a["image_id"]: rank[a["category_id"]] for a in content.get("annotations", [])}
        lines = [
            f"{image['id']}\t{label.get(image['id'], 0):f}\t{image['file_name']}"
            for image in content["images"]
        ]
        listed = (case.folder / f"{name}.lst").read_text("utf-8").splitlines()
        if name == "test":  # its photographs are found in test2017/ with and without that name
            lines, listed = (
                [line.replace("test2017/", "") for line in part] for part in (lines, listed)
            )
        if sorted(lines) != sorted(listed):
            return False
    return True


def rows_of_the_json(case):
    """Return whether the CSV has the usual row for each photograph of the JSON."""
    rows = [dict(csv.reader(io.StringIO(text.decode()))) for text in
            (case.whole["out.csv"], (case.folder / "out.csv").read_bytes())]  # fmt: skip
    row_of = {
        image["file_name"]: rows[0][str(image["id"])]
        for image in json.loads(case.whole["test2017.json"])["images"]
    }
    images = json.loads((case.folder / "test2017.json").read_text(encoding="utf-8"))["images"]
    return rows[1].keys() == {"id", *(str(image["id"]) for image in images)} and all(
        rows[1][str(image["id"])] == row_of[image["file_name"]]
        for image in images
        if os.path.exists(case.folder / image["file_name"])  # missing photographs are named
    )


def records_of(folder, name):
    """Return [(key, label, image)] as MXNet reads them."""
    from common.engines.mxnet.runtime import mx

    reader = mx.recordio.MXIndexedRecordIO(f"{folder}/{name}.idx", f"{folder}/{name}.rec", "r")
    unpacked = [mx.recordio.unpack(reader.read_idx(key)) for key in reader.keys]
    return [(header.id, float(header.label), image) for header, image in unpacked]


def records_of_the_list(case):
    """Return whether MXNet reads from train.rec what the list and the photographs hold."""
    lines = (case.folder / "train.lst").read_text(encoding="utf-8").splitlines()
    expected = []
    for index, label, path in (line.split("\t") for line in lines):
        with open(case.folder / path, "rb") as stream:
            image = stream.read()
        if "--pass-through" not in case.reader.command:
            image = cv2.imdecode(np.frombuffer(image, np.uint8), 1)
            image = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes()
        expected.append((int(index), float(label), image))
    return records_of(case.folder, "train") == expected


def readable_records(case):
    """Return whether MXNet and OpenCV read a photograph with the listed label in each record."""
    name = case.reader.path[: -len(".rec")]
    if not os.path.lexists(case.folder / case.reader.path):
        return name == "val"  # without records sub.py reads the photographs, as its --help says
    lines = (line.split("\t") for line in (case.folder / f"{name}.lst").read_text().splitlines())
    listed = {int(index): float(label) for index, label, _ in lines}
    return all(
        listed.get(key) == label and cv2.imdecode(np.frombuffer(image, np.uint8), 1) is not None
        for key, label, image in records_of(case.folder, name)
    )


def index_of_the_records(case):
    """Return whether the index has the keys that MXNet reads from the records in turn."""
    from common.engines.mxnet.runtime import mx

    reader, lines = mx.recordio.MXRecordIO(f"{case.folder}/train.rec", "r"), []
    offset, record = reader.tell(), reader.read()
    while record is not None:
        lines.append(f"{mx.recordio.unpack(record)[0].id}\t{offset}\n")
        offset, record = reader.tell(), reader.read()
    return (case.folder / "train.idx").read_text() == "".join(lines)


def row_of_the_pixels(case):
    """Return whether the CSV is that of the pixels that OpenCV reads, written as a new PNG."""
    path, output = str(case.folder / case.reader.path), case.folder / "out.csv"
    pixels, said = cv2.imread(path), output.read_bytes()
    if pixels is None:
        return False
    with open(path, "wb") as stream:
        stream.write(cv2.imencode(".png", pixels)[1].tobytes())
    case.scripts(case.folder, *case.reader.command)
    return output.read_bytes() == said


def size_of_the_config(case):
    """Return whether the CSV is that of the size in the file, given as a flag."""
    path, said = case.folder / "run-config.json", (case.folder / "out.csv").read_bytes()
    size = "320"  # as --help says
    if os.path.lexists(path):
        size = json.loads(path.read_text("utf-8"))["flags"]["image_shape"].split(",")[-1]
    case.scripts(case.folder, *case.reader.command, "--crop-size", size)
    return (case.folder / "out.csv").read_bytes() == said


def weights_of_the_run(case):
    """Return whether only the log differs: the weights do not depend on it."""
    return (case.folder / "run-0003.params").read_bytes() == case.whole["run-0003.params"]


def numbers_of_the_file(case):
    """Return whether no more numbers differ in the imported network than bytes in the file."""
    from common.engines.mxnet.runtime import mx

    now = np.frombuffer((case.folder / case.reader.path).read_bytes(), np.uint8)
    was = np.frombuffer(case.whole[case.reader.path], np.uint8)
    (case.folder / "whole.params").write_bytes(case.whole["x-0000.params"])
    before, after = (mx.nd.load(f"{case.folder}/{name}.params") for name in ("whole", "x-0000"))
    differ = sum(
        int((before[name].asnumpy() != array.asnumpy()).sum()) for name, array in after.items()
    )
    return now.size == was.size and 0 < differ <= int((now != was).sum())


READ_WITH_MXNET = (
    records_of_the_list,
    readable_records,
    index_of_the_records,
    numbers_of_the_file,
)

READERS = [
    Reader("train2017.json", ["mx_list.py", "--data-dir", "."], lists_of_the_json),
    Reader("test2017.json", ["mx_list.py", "--data-dir", "."], lists_of_the_json),
    Reader("train2017.json", ["sub.py", "1", "cpu", *PREDICT]),
    Reader("test2017.json", ["sub.py", "1", "cpu", *PREDICT], rows_of_the_json),
    Reader("val2017.json", ["sub.py", "1", "cpu", "--set", "val", *PREDICT]),
    Reader("train.lst", ["im2rec.py", "train", "."], records_of_the_list),
    Reader("train.lst", ["im2rec.py", "--verify", "train"]),
    Reader("train.lst", ["sub.py", "1", "cpu", *PREDICT]),
    Reader("train.lst", [*FRESH, "--pretrained-model", "zoo"]),
    Reader("train.idx", [*FRESH, "--pretrained-model", "zoo"]),
    Reader("train.idx", ["im2rec.py", "--verify", "train"]),
    Reader("train.rec", [*FRESH, "--pretrained-model", "zoo"], readable_records),
    Reader("train.rec", ["im2rec.py", "--verify", "--decode", "train"], readable_records),
    Reader("train.rec", ["im2rec.py", "--reindex", "train"], index_of_the_records),
    Reader("val.rec", ["sub.py", "1", "cpu", "--set", "val", *PREDICT], readable_records),
    Reader("val.idx", ["sub.py", "1", "cpu", "--set", "val", *PREDICT]),
    Reader("train.rec.journal", ["im2rec.py", "--resume", "train", "."]),
    Reader(PHOTOGRAPH, ["im2rec.py", "train", "."], records_of_the_list),
    Reader(PNG, ["im2rec.py", "train", "."]),
    Reader(PNG, ["im2rec.py", "--pass-through", "train", "."], records_of_the_list),
    Reader("test2017/test1.jpg", ["sub.py", "1", "cpu", *PREDICT], row_of_the_pixels),
    Reader("test2017/test3.png", ["sub.py", "1", "cpu", *PREDICT]),
    Reader("zoo-0000.params", ["common.modelzoo", "verify", "zoo"]),
    Reader("run-classes.csv", ["sub.py", "1", "cpu", *PREDICT]),
    Reader("run-log.csv", [*ON, "--load-epoch", "2", "--keep", "1"], weights_of_the_run),
    Reader("run-config.json", ["sub.py", "1", "cpu", *NO_SIZE], size_of_the_config),
    Reader("a.npz", ["sub.py", "--merge", "a.npz", "b.npz", "--output", "out.csv"]),
    *(
        Reader(path, ["common.modelzoo", "import", path, "--name", "x", "--model-dir", "."], says)
        for path, says in (
            ("zip.pth", lambda case: False),
            ("legacy.pth", numbers_of_the_file),
            ("net.safetensors", numbers_of_the_file),
        )
    ),
    *(
        Reader(path, [*command, "--engine", engine])
        for engine in engines.installed()
        for path, command in (
            ("zoo-symbol.json", [*FRESH, "--pretrained-model", "zoo"]),
            ("zoo-0000.params", [*FRESH, "--pretrained-model", "zoo"]),
            ("run-symbol.json", ["sub.py", "1", "cpu", *PREDICT]),
            ("run-0001.params", ["sub.py", "1", "cpu", *PREDICT]),
            ("run-0002.params", [*ON, "--load-epoch", "2"]),
            ("run-0002.states", [*ON, "--load-epoch", "2"]),
            ("run-0002.params", [*ON, "--resume"]),
            ("run-0002.states", [*ON, "--resume"]),
            ("zip.pth", [*FRESH, "--pretrained-model", "zip.pth"]),
        )
    ),
]


# --- Trying it -----------------------------------------------------------------------------------


def result(folder):
    """Return what can be compared of a run's files: no times, no pictures."""
    found = workplace.contents(folder)
    for name in [name for name in found if name.endswith(("-curves.png", "-config.json"))]:
        del found[name]
    for name in [name for name in found if name.endswith("-log.csv")]:
        lines = found[name].splitlines()
        found[name] = b"\n".join(line.rsplit(b",", 2)[0] for line in lines)  # without the seconds
    return found


@pytest.fixture(scope="module")
def prepare(challenge, tmp_path_factory):
    """Make a new folder for a case; return it."""
    place = tmp_path_factory.mktemp("damaged") / "case"

    def copy(reader):
        workplace.copy(challenge, place)
        if reader.command[0] == "fine-tune.py":
            (place / "val.rec").unlink()  # validation and its curves take most of the time
        return place

    return copy


@pytest.fixture(scope="module")
def whole_results(prepare, scripts):
    """Return what a reader's command leaves if nothing is damaged; each command runs once."""
    known = {}

    def run(reader):
        command = tuple(reader.command)
        if command not in known:
            folder = prepare(reader)
            done = scripts(folder, *command)
            assert done.status == 0, done.stderr
            known[command] = result(folder)
        return known[command]

    return run


def fault(case, done, before, after):
    """Return what is wrong with how a run ended, or None."""
    script, name = case.reader.command[0], os.path.basename(case.reader.path)
    said = done.stderr + done.stdout
    if name.endswith(".idx") and name not in said:  # nobody knows which of the two is damaged
        name = name.replace(".idx", ".rec")
    if done.status is None or done.status < 0:
        return "hangs" if done.status is None else f"dies of signal {-done.status}"
    if "Traceback" in done.stderr or done.status not in (0, 1, 2):
        return "fails"
    if done.memory > 1 << 30:
        return f"takes {done.memory >> 20} MB"
    if done.status and name not in said and "train.rec against its .idx and .lst" not in said:
        return "does not name the file"
    if done.status == 2:
        lines = [line for line in done.stderr.splitlines() if line.startswith(f"{script}: ")]
        if script == "common.modelzoo":  # `verify` reports it for each network
            lines = [line for line in done.stderr.splitlines() if name in line]
        if len(lines) != 1:
            return "complains in more lines than one"
        # Training finds damaged photographs on the way, and has begun by then.
        written = {key for key in after if after[key] != before.get(key)} - {"run-log.csv"}
        return "complains, and writes" if written or before.keys() - after.keys() else None
    results = (after.keys() | case.whole.keys()) - {case.reader.path}
    same = all(after.get(key) == case.whole.get(key) for key in results)
    passed_over = done.status == 1 or name in said
    return None if same or passed_over or case.reader.says(case) else "is silently wrong"


def try_damages(reader, damages, rng, prepare, whole_results, scripts):
    """Return what went wrong when a script read the file with each of the damages."""
    if reader.says in READ_WITH_MXNET:
        require_engine("mxnet")
    whole, faults = whole_results(reader), []
    for damage in damages:
        folder = prepare(reader)
        path = reader.path
        damage(str(folder / path), rng)
        before = result(folder)
        done = scripts(folder, *reader.command)
        after = result(folder)
        case = Case(folder, reader, whole, scripts)
        wrong = fault(case, done, before, after)
        if wrong:
            faults.append((damage.__name__, wrong, done.status, done.stderr[-400:]))
    return faults


def name_of(reader):
    named = ("--resume", "--verify", "--set", *engines.ENGINES)
    flags = [flag for flag in reader.command[1:] if flag in named]
    return " ".join([reader.path, "by", reader.command[0], *flags])


@pytest.mark.parametrize("reader", READERS, ids=name_of)
def test_a_damaged_file_is_named_or_does_no_harm(reader, seeded, prepare, whole_results, scripts):
    damage = seeded.choice(DAMAGES)
    assert try_damages(reader, [damage], seeded, prepare, whole_results, scripts) == []


@pytest.mark.slow
@pytest.mark.parametrize("reader", READERS, ids=name_of)
def test_every_damage_is_named_or_does_no_harm(
    reader, seeded, prepare, whole_results, scripts, cases
):
    damages = [*DAMAGES, flip_byte, flip_byte, flip_early_byte, scramble_block]
    cases(len(damages))
    assert try_damages(reader, damages, seeded, prepare, whole_results, scripts) == []
