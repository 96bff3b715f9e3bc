"""sub.py --images: photographs that belong to no challenge get names."""

import argparse
import base64
import csv
import os
import re

import cv2
import numpy as np
import pytest

from common.base.files import UserError
from common.data.annotations import Category
from common.data.class_table import Classes, write_table
from common.data.image import decode, eval_crops
from common.evaluation.named_photographs import (
    SHOWN_ON_PAGE,
    NamedPhotographs,
    check_flags,
    find_photographs,
    format_names,
    write_names,
    write_page,
)
from tests.conftest import require_precision
from tests.made_up_challenge import SIZE, paint, peer_probabilities, save_network

NAMES = ["ant", "bee", "cat", "dog", "Salix <alba> × fragilis", "elk"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Two epochs of a network that knows its six classes, and five photographs in folders."""
    folder = tmp_path_factory.mktemp("own")
    for epoch in (1, 2):
        save_network(str(folder / "net"), epoch)
    write_table(folder / "net-classes.csv", Classes("", [Category(None, n, "") for n in NAMES]))
    for seed, name in enumerate(["a.jpg", "b.png", "deep/c.webp", "deep/er/d.jpg", "e.jpg"]):
        paint(str(folder / "photos" / name), seed)
    return folder


@pytest.fixture
def name_images(folder, script, engine, tmp_path):
    """Call `sub.py --images`; return the rows of its CSV, and keep in `said` what it printed."""

    def call(epoch, device, *arguments, status=0, output=tmp_path / "predictions.csv"):
        flags = ["--model-prefix", folder / "net", "--crop-size", SIZE, "--output", output]
        flags += ["--data-dir", folder, "--engine", engine]
        call.said = script("sub.py", epoch, device, *flags, *arguments, status=status)
        if status == 2:
            return None
        with open(output, encoding="utf-8", newline="") as stream:
            return list(csv.DictReader(stream))

    return call


def views_of(path, count):
    with open(path, "rb") as stream:
        views = eval_crops(decode(stream.read()), SIZE, SIZE, round(SIZE * 360 / 320), count)
    return np.array(views)[..., ::-1].transpose(0, 3, 1, 2)


def test_epochs_views_and_devices_give_the_names_of_a_peer(folder, name_images):
    rows = name_images("1,2", "cpu:0,cpu:1", "--crops", "5", "--images", folder / "photos")
    paths = [f"{folder}/photos/{n}" for n in ("a.jpg", "b.png", "e.jpg", "deep/c.webp")]
    paths.append(f"{folder}/photos/deep/er/d.jpg")
    assert [row["file"] for row in rows] == paths
    for row, path in zip(rows, paths):
        views = views_of(path, 5)
        expected = sum(peer_probabilities(folder / "net", e, views).mean(axis=0) for e in (1, 2))
        best = np.argsort(-expected)[:5]
        assert [row[f"name_{i}"] for i in range(1, 6)] == [NAMES[label] for label in best]
        probabilities = [float(row[f"probability_{i}"]) for i in range(1, 6)]
        np.testing.assert_allclose(probabilities, expected[best] / 2, atol=2e-6)
    table = name_images.said.stdout
    for row in rows:
        assert re.search(rf"^{row['file']} +{row['name_1']} \d+%", table, re.MULTILINE)
    assert "predictions.csv: 5 photographs, 0 not read" in table


def test_what_cannot_be_read_is_named_and_left_out_with_status_1(folder, name_images, tmp_path):
    for name in ("broken.jpg", "page.jpg"):
        (tmp_path / name).write_bytes((folder / "photos/a.jpg").read_bytes()[:300])
    (tmp_path / "notes.txt").write_text("of the journey")
    paint(str(tmp_path / "whole.jpg"), 7)
    rows = name_images(1, "cpu", "--images", tmp_path, status=1)
    assert [row["file"] for row in rows] == [f"{tmp_path}/whole.jpg"]
    assert f"{tmp_path}/broken.jpg: " in name_images.said.stderr
    assert "files of other endings, passed over: 1 .txt" in name_images.said.stderr
    assert "1 photographs, 2 not read" in name_images.said.stdout
    page = (tmp_path / "report-predictions.html").read_text(encoding="utf-8")
    assert page.count("<figure>") == 1 and "<b>2</b>could not be read" in page
    name_images(1, "cpu", "--images", tmp_path / "broken.jpg", status=2)
    assert "broken.jpg: cannot be read, nor can any other photograph" in name_images.said.stderr


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_fewer_bits_name_the_same(folder, name_images, engine, dtype):
    require_precision(engine, dtype)
    expected = name_images(1, "cpu", "--images", folder / "photos")
    rows = name_images(1, "cpu", "--dtype", dtype, "--images", folder / "photos")
    agree = sum(row["name_1"] == other["name_1"] for row, other in zip(rows, expected))
    assert agree >= len(rows) - 1
    if dtype == "int8":
        assert "int8 is calibrated on the photographs of --images" in name_images.said.stderr


def test_unknown_classes_are_named_by_number(folder, name_images):
    os.rename(folder / "net-classes.csv", folder / "away.csv")
    (row,) = name_images(1, "cpu", "--images", folder / "photos/a.jpg")
    os.rename(folder / "away.csv", folder / "net-classes.csv")
    assert row["name_1"].isdigit()
    assert "net-classes.csv: not found; the classes are named by number" in name_images.said.stderr


def test_flags_that_mean_nothing_here_are_refused(script):
    said = script("sub.py", "1", "cpu", "--resume", "--images", "x.jpg", status=2).stderr
    assert re.fullmatch(r"sub\.py: --images: cannot be combined with --resume; .*\n", said)
    none = dict.fromkeys(["data_val", "save_probs", "merge", "export_onnx", "resume"])
    check_flags(argparse.Namespace(set="test", **none))
    others = [{name: "given"} for name in none] + [{"set": "val"}]
    for other in others:
        with pytest.raises(UserError, match="--images: cannot be combined with --"):
            check_flags(argparse.Namespace(**{"set": "test", **none, **other}))


def test_files_and_folders_are_found_each_once(folder):
    photos = str(folder / "photos")
    same = [f"{photos}/deep/c.webp", f"{photos}/./e.jpg"]
    paths = find_photographs([f"{photos}/e.jpg", f"{photos}/deep", *same]).paths
    assert paths == [f"{photos}/{name}" for name in ("e.jpg", "deep/c.webp", "deep/er/d.jpg")]
    with pytest.raises(UserError, match=r"nowhere\.jpg: not found; name photographs, or a folder"):
        find_photographs(["nowhere.jpg"])
    with pytest.raises(UserError, match="holds no file that ends in"):
        find_photographs([os.path.dirname(__file__)])


def named(paths, unread=()):
    ranked = np.tile([4, 0, 1, 2, 3], (len(paths), 1))
    probabilities = np.tile(np.float32([0.5, 0.2, 0.1, 0.1, 0.05]), (len(paths), 1))
    return NamedPhotographs(list(paths), ranked, probabilities, NAMES, list(unread))


def test_every_file_name_is_written_as_it_is(tmp_path):
    names = ["plain.jpg", 'comma, "quoted".jpg', "line\nend.jpg", os.fsdecode(b"latin-\xe9.jpg")]
    write_names(str(tmp_path / "out.csv"), named(names))
    with open(tmp_path / "out.csv", encoding="utf-8", errors="surrogateescape", newline="") as f:
        rows = list(csv.reader(f))
    assert rows[0][:3] == ["file", "name_1", "probability_1"]
    assert [row[0] for row in rows[1:]] == names
    assert rows[1][1:5] == ["Salix <alba> × fragilis", "0.500000", "ant", "0.200000"]


def test_a_terminal_is_not_commanded_by_a_file_name():
    table = format_names(named(["\x1b[2J.jpg", os.fsdecode(b"\xe9.jpg")]))
    assert "\\x1b[2J.jpg" in table and "\\udce9.jpg" in table
    assert "Salix <alba> × fragilis 50%" in table


def test_the_page_shows_the_photographs_and_needs_nothing_but_itself(tmp_path):
    path = str(tmp_path / "<i>.jpg")
    paint(path, 3)
    page = write_page(
        str(tmp_path / "out.csv"),
        f"sub.py {path}",
        named([path] * (SHOWN_ON_PAGE + 100), ["x.jpg"]),
    )
    assert page == str(tmp_path / "report-out.html")
    os.rename(path, tmp_path / "moved.jpg")
    write_page(str(tmp_path / "later.csv"), "sub.py", named([path]))
    assert "&lt;i&gt;.jpg" in (tmp_path / "report-later.html").read_text(encoding="utf-8")
    text = open(page, encoding="utf-8").read()  # noqa: SIM115
    sources = re.findall(r'src="([^"]*)"', text)
    assert all(link.startswith("#") for link in re.findall(r'href="([^"]*)"', text))
    assert len(sources) == SHOWN_ON_PAGE and f"The first {SHOWN_ON_PAGE}" in text
    picture = np.frombuffer(base64.b64decode(sources[0].partition("base64,")[2]), np.uint8)
    assert cv2.imdecode(picture, cv2.IMREAD_COLOR).shape == (64, 80, 3)
    assert "Salix &lt;alba&gt; × fragilis 50%" in text and "&lt;i&gt;.jpg" in text
    assert "<i>" not in text
