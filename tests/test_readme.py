"""The README's commands for one's own photographs, run as they stand."""

import csv
import os
import re
import shlex
import shutil

from common.base.files import ROOT
from common.data.class_table import read_table
from tests.made_up_challenge import paint


def commands_of(section):
    """The commands of a section's first block, each as a list of words, "python" left out."""
    with open(os.path.join(ROOT, "README.md"), encoding="utf-8") as stream:
        text = stream.read().partition(f"### {section}\n")[2]
    block = re.search(r"```\n(.*?)```", text, re.DOTALL).group(1)
    lines = block.replace("\\\n", " ").strip().splitlines()
    assert all(line.startswith("python ") for line in lines)
    return [shlex.split(line)[1:] for line in lines]


def test_from_a_folder_to_named_photographs(script, tiny_network, tmp_path):
    for name in ("ant", "bee", "cat"):
        for i in range(8):
            paint(str(tmp_path / "photographs" / name / f"{i}.jpg"), 10 * ord(name[0]) + i)
    paint(str(tmp_path / "new-photographs" / "x.jpg"), 1)
    (tmp_path / "data").mkdir()
    (tmp_path / "model").mkdir()
    for ending in ("-symbol.json", "-0000.params"):
        shutil.copy(tiny_network + ending, tmp_path / f"model/resnet-152{ending}")

    said = {}
    for words in commands_of("Your own photographs"):
        quick = ["--image-shape", "3,64,64"] if words[0] == "fine-tune.py" else []
        said[words[-1]] = script(*words, *quick, cwd=tmp_path)

    table = read_table(str(tmp_path / "model/mine-classes.csv"))
    assert [category.name for category in table.categories] == ["ant", "bee", "cat"]
    assert re.search(r"^all +5 ", said["data/mine_val.rec"].stdout, re.MULTILINE)  # 5 are scored
    assert "named by number" not in said["data/mine_val.rec"].stderr
    with open(tmp_path / "predictions.csv", encoding="utf-8", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["file"] == "new-photographs/x.jpg"
    assert {row[f"name_{place}"] for place in (1, 2, 3)} == {"ant", "bee", "cat"}
    assert "<figure>" in (tmp_path / "report-predictions.html").read_text(encoding="utf-8")
