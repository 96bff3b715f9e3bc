"""The README and the pages of docs/: links, commands, flags, and one example run as it stands."""

import csv
import functools
import glob
import os
import re
import runpy
import shlex
import shutil
import sys

import pytest

from common.base.files import ROOT, UserError
from common.data.class_table import read_table
from common.tools import modelzoo
from tests.conftest import run_python
from tests.made_up_challenge import paint

PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "data/README.md", "model/README.md"]
PAGES += sorted(os.path.relpath(page, ROOT) for page in glob.glob(f"{ROOT}/docs/*.md"))

# Whose flags a shell script takes; those of the others are in the comment at their top.
PASSED_ON = {"run.sh": ["fine-tune.py"], "cluster.sh": ["-m", "common.cluster"]}
SCRIPTS = ["mx_list.py", "im2rec.py", "fine-tune.py", "sub.py"]
FLAGS_OF_TESTS = {"--faults-seed"}  # tests/run.sh passes them to pytest
# Where a file may lie of which a page gives only the last part of the path.
FOLDERS = ["", "common", "common/engines/*", "tests", "tests/engines", "tests/faults", "data"]
OF_MXNET = {"tools/im2rec.py", "tools/parse_log.py"}


def read(page):
    with open(os.path.join(ROOT, page), encoding="utf-8") as stream:
        return stream.read()


def split_code(text):
    """Return a page's prose, and its code: the commands of blocks, one a line, and spans."""
    blocks = re.findall(r"^```\w*\n(.*?)^```$", text, re.DOTALL | re.MULTILINE)
    blocks += re.findall(r"^    (?=sh |python ).*\n", text, re.MULTILINE)
    text = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    lines = [line for block in blocks for line in block.replace("\\\n", " ").splitlines()]
    return re.sub(r"`[^`]*`", "", text), lines + re.findall(r"`([^`]*)`", text)


def headings_of(text):
    """The anchors that GitHub gives to a page's headings."""
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)
    headings = re.findall(r"^#+ (.*)", prose, re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES)
def test_a_link_leads_to_a_file_and_a_heading_that_exist(page):
    text = read(page)
    prose, _ = split_code(text)
    links = re.findall(r"\]\(([^)\s]+)\)", prose) + re.findall(r'(?:src|href)="([^"]+)"', prose)
    for link in links:
        if link.startswith("https://"):
            continue
        path, _, heading = link.partition("#")
        target = os.path.normpath(os.path.join(os.path.dirname(page), path)) if path else page
        assert os.path.exists(os.path.join(ROOT, target)), link
        assert not heading or heading in headings_of(read(target)), link


def commands_in(line):
    """The commands of a line of code or a message: (script or module, its next words)."""
    words = line.partition("  #")[0].replace("`", "").split()
    begins = [
        i
        for i, (previous, word) in enumerate(zip(["", *words], words))
        if word.rstrip(":") in SCRIPTS
        or (previous == "sh" and word.endswith(".sh"))
        or (previous.endswith("python") and word.endswith(".py"))
        or (previous == "-m" and re.fullmatch(r"(common|benchmarks)\.\w+", word))
    ]
    for begin, end in zip(begins, [*begins[1:], len(words)]):
        yield words[begin].rstrip(":;,"), words[begin + 1 : end]


def flags_in(words):
    return {
        match.group() for match in (re.match(r"--[a-z][a-z0-9-]*", word) for word in words) if match
    }


@functools.lru_cache(maxsize=None)
def known_flags(*command):
    status, text, errors = run_python(*command, "--help")
    assert status == 0, errors
    return flags_in(re.split(r"[\s\[]+", text))


def flags_of(script, words):
    """The flags that a script takes, as its --help lists them."""
    if script in PASSED_ON:
        return known_flags(*PASSED_ON[script])
    if script.endswith(".sh"):
        return flags_in(read(script).split()) | FLAGS_OF_TESTS
    if script.endswith(".py"):
        return known_flags(script)
    # A command of the module, such as `info`, has flags of its own.
    command = [word for word in words[:1] if script == "common.modelzoo" and word.isalpha()]
    return known_flags("-m", script, *map(str.lower, command))


def file_of(script):
    if script.endswith((".py", ".sh")):
        return script
    path = script.replace(".", "/")
    return f"{path}/__main__.py" if os.path.isdir(os.path.join(ROOT, path)) else f"{path}.py"


@pytest.mark.parametrize("page", PAGES)
def test_a_command_names_a_script_and_flags_that_exist(page):
    _, code = split_code(read(page))
    for line in code:
        for script, words in commands_in(line):
            assert os.path.exists(os.path.join(ROOT, file_of(script))), line
            if flags_in(words):
                assert flags_in(words) - flags_of(script, words) == set(), line


# The comparison names flags of other tools.
@pytest.mark.parametrize("page", sorted(set(PAGES) - {"docs/comparison.md"}))
def test_a_flag_that_is_named_alone_belongs_to_a_script(page):
    known = {flag for script in SCRIPTS for flag in known_flags(script)}
    for command in ("info", "import"):
        known |= known_flags("-m", "common.modelzoo", command)
    _, code = split_code(read(page))
    for span in code:
        if span.startswith("--"):
            assert flags_in(span.split()[:1]) - known == set(), span


def refusal_of(script, words, monkeypatch):
    """Return what argparse says against the flags of a command, or None."""
    if script in PASSED_ON:
        script = PASSED_ON[script][0]
    monkeypatch.setattr(sys, "argv", [script, *words])
    try:
        if script == "common.modelzoo":
            modelzoo._parser().parse_args(words)
        elif script in SCRIPTS:
            runpy.run_path(os.path.join(ROOT, script))["parse_args"]()
    except UserError as error:  # some also look for files and devices, which are not here
        return str(error) if str(error).endswith("; see --help") else None


@pytest.mark.parametrize("page", PAGES)
def test_a_command_has_values_that_its_script_takes(page, monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    _, code = split_code(read(page))
    for line in code:
        for script, words in commands_in(line):
            if re.match(r"(\w+=\S+ )*(\S*python|sh|torchrun) ", line) and "--help" not in words:
                refused = refusal_of(script, words, monkeypatch)
                # A sentence names a command without all of its arguments.
                assert not refused or " required" in refused or " needed" in refused, line


def test_a_value_that_a_script_does_not_take_is_found(monkeypatch):
    for script, words in (
        ("run.sh", ["--recipe", "winners-2016"]),
        ("sub.py", ["21", "0", "--crops", "11"]),
        ("mx_list.py", ["val"]),
        ("common.modelzoo", ["draw", "NAME"]),
    ):
        assert "see --help" in refusal_of(script, words, monkeypatch), script


@pytest.mark.parametrize("page", sorted(set(PAGES) - {"docs/comparison.md"}))
def test_a_file_of_the_repository_that_is_named_exists(page):
    _, code = split_code(read(page))
    text = " ".join(code)
    named = set(re.findall(r"(?<![\w./*])(?:[\w-]+/)*[\w*…-]+\.(?:py|sh)\b", text))
    in_a_folder = r"(?<![\w./])(?:common|tests|benchmarks|requirements)/[\w*/.…-]*"
    named |= set(re.findall(in_a_folder, text))
    for path in named - OF_MXNET:
        pattern = re.sub("…|NAME|MODULE", "*", path)
        assert any(glob.glob(os.path.join(ROOT, folder, pattern)) for folder in FOLDERS), path


def test_the_tests_that_the_page_on_faults_names_exist():
    written = "".join(
        read(path) for path in glob.glob(f"{ROOT}/tests/**/test_*.py", recursive=True)
    )
    tests = re.findall(r"def (test_\w+)", written)
    _, code = split_code(read("docs/faults.md"))
    named = {span.strip("…") for span in code if re.fullmatch("…[a-z0-9_]+…?", span)}
    assert len(named) > 30
    for name in named:
        assert any(name in test for test in tests), name


def test_a_flag_that_a_script_does_not_have_is_found():
    ((script, words),) = commands_in("sh run.sh --resume --no-such-flag 3  # --a-comment")
    assert flags_in(words) - flags_of(script, words) == {"--no-such-flag"}
    ((script, words),) = commands_in("python -m common.modelzoo info NAME --plot x --name y")
    assert flags_in(words) - flags_of(script, words) == {"--name"}


def commands_of(page, section):
    """The commands of a section's first block, each as a list of words, "python" left out."""
    text = read(page).partition(f"## {section}\n")[2]
    block = re.search(r"```\n(.*?)```", text, re.DOTALL).group(1)
    lines = block.replace("\\\n", " ").strip().splitlines()
    assert all(line.startswith("python ") for line in lines)
    return [shlex.split(line)[1:] for line in lines]


def test_the_readme_and_the_page_on_training_show_the_same_commands():
    of_readme, of_training = (
        commands_of(page, "Your own photographs") for page in ("README.md", "docs/training.md")
    )
    assert of_readme == of_training


def test_from_a_folder_to_named_photographs(script, engine, tiny_network, tmp_path):
    for name in ("ant", "bee", "cat"):
        for i in range(8):
            paint(str(tmp_path / "photographs" / name / f"{i}.jpg"), 10 * ord(name[0]) + i)
    paint(str(tmp_path / "new-photographs" / "x.jpg"), 1)
    (tmp_path / "data").mkdir()
    (tmp_path / "model").mkdir()
    for ending in ("-symbol.json", "-0000.params"):
        shutil.copy(tiny_network + ending, tmp_path / f"model/efficientnet-lite0{ending}")

    said = {}
    for words in commands_of("README.md", "Your own photographs"):
        quick = ["--image-shape", "3,64,64"] if words[0] == "fine-tune.py" else []
        chosen = [] if words[0] == "im2rec.py" else ["--engine", engine]
        said[words[-1]] = script(*words, *quick, *chosen, cwd=tmp_path)

    table = read_table(str(tmp_path / "model/mine-classes.csv"))
    assert [category.name for category in table.categories] == ["ant", "bee", "cat"]
    assert re.search(r"^all +5 ", said["data/mine_val.rec"].stdout, re.MULTILINE)  # 5 are scored
    assert "named by number" not in said["data/mine_val.rec"].stderr
    with open(tmp_path / "predictions.csv", encoding="utf-8", newline="") as stream:
        (row,) = csv.DictReader(stream)
    assert row["file"] == "new-photographs/x.jpg"
    assert {row[f"name_{place}"] for place in (1, 2, 3)} == {"ant", "bee", "cat"}
    assert "<figure>" in (tmp_path / "report-predictions.html").read_text(encoding="utf-8")
