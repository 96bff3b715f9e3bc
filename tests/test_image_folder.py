"""Folders as people have them: what is listed, what is passed over, and what is said about it."""

import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import unicodedata

import pytest

from common.base.files import UserError
from common.data.classes import read_class_names
from common.data.image_folder import list_images, parse_extensions, split_list
from common.data.recordio import read_list
from tests.conftest import ROOT, limit_file_size

NFC, NFD = (unicodedata.normalize(form, "Salix é") for form in ("NFC", "NFD"))


def make(root, *names):
    """Make empty files of these names below `root`."""
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()


def listed(root, **options):
    """Return the paths that are listed, {folder: label}, and what is reported, a string."""
    lines = []
    options = {"recursive": True, "report": lines.append, **options}
    entries, labels = list_images(str(root), **options)
    assert all(line.startswith(f"{root}: ") and "\n" not in line for line in lines)
    return [entry.path for entry in entries], labels, "\n".join(lines)


def test_nothing_is_said_about_a_clean_tree(tmp_path):
    make(tmp_path, "ant/1.jpg", "ant/2.JPG", "wasps/red/3.png", "wasps/black/4.jpeg")
    paths, labels, report = listed(tmp_path)
    assert paths == ["ant/1.jpg", "ant/2.JPG", "wasps/black/4.jpeg", "wasps/red/3.png"]
    assert (labels, report) == ({"ant": 0, "wasps/black": 1, "wasps/red": 2}, "")


# Hidden files and folders -------------------------------------------------------------------------


def test_hidden_files_and_folders_are_passed_over_and_counted(tmp_path):
    make(tmp_path, "ant/1.jpg", "bee/2.jpg")
    make(tmp_path, "ant/._1.jpg", "ant/.DS_Store", "bee/.thumbnails/2.jpg", "bee/Thumbs.db")
    make(tmp_path, ".ipynb_checkpoints/1.jpg", "__MACOSX/ant/1.jpg", "bee/@eaDir/2.jpg/S.jpg")
    paths, labels, report = listed(tmp_path)
    assert paths == ["ant/1.jpg", "bee/2.jpg"]
    assert labels == {"ant": 0, "bee": 1}
    names = ".ipynb_checkpoints, __MACOSX, ant/.DS_Store, ant/._1.jpg, bee/.thumbnails, …"
    assert report == f"{tmp_path}: hidden files and folders, passed over: 7 ({names})"


def test_hidden_files_are_passed_over_without_recursive_too(tmp_path):
    make(tmp_path, "1.jpg", "._1.jpg")
    paths, _, report = listed(tmp_path, recursive=False)
    assert paths == ["1.jpg"]
    assert "passed over: 1 (._1.jpg)" in report


def test_a_root_whose_own_name_begins_with_a_dot_is_listed(tmp_path):
    make(tmp_path, ".photographs/ant/1.jpg")
    assert listed(tmp_path / ".photographs") == (["ant/1.jpg"], {"ant": 0}, "")
    with pytest.raises(UserError, match=r"holds no file .*, but hidden ones: 1 \(.photographs\)"):
        listed(tmp_path)


# Endings ------------------------------------------------------------------------------------------


def test_other_endings_are_counted_and_folders_left_without_a_photograph_named(tmp_path):
    make(
        tmp_path, "ant/1.jpg", "bee/1.webp", "bee/2.WEBP", "cat/1.tif", "cat/notes", "dog/e/x.t\nt"
    )
    _, labels, report = listed(tmp_path)
    assert labels == {"ant": 0}
    assert report.splitlines() == [
        f"{tmp_path}: files of other endings, passed over: 2 .webp, 1 .tif, 1 without one,"
        " 1 '.t\\nt'; to list those that are images: --exts .jpeg .jpg .png .tif .webp",
        f"{tmp_path}: folders without a photograph: 4 (bee, cat, dog, dog/e)",
    ]


def test_of_many_empty_folders_a_few_are_named(tmp_path):
    make(tmp_path, "ant/1.jpg")
    for number in range(30):
        (tmp_path / f"empty {number:02}").mkdir()
    _, _, report = listed(tmp_path)
    assert "a photograph: 30 (empty 00, empty 01, empty 02, empty 03, empty 04, …)" in report


def test_a_folder_of_other_endings_only_is_an_error_that_names_them(tmp_path):
    make(tmp_path, "bee/1.webp", "bee/2.webp")
    with pytest.raises(UserError, match=r"no file .*, but 2 .webp; .* --exts .*.webp"):
        listed(tmp_path)
    with pytest.raises(UserError, match=r"no file that ends in .*; .*: --recursive"):
        listed(tmp_path, recursive=False)


@pytest.mark.parametrize(
    ("texts", "extensions"),
    [
        ([".JPG"], (".jpg",)),
        (["jpg"], (".jpg",)),
        ([".jpg,.png"], (".jpg", ".png")),
        (["JPG,", "png", ".tif"], (".jpg", ".png", ".tif")),
    ],
)
def test_endings_mean_what_they_say(tmp_path, texts, extensions):
    assert parse_extensions(texts) == extensions
    make(tmp_path, "ant/1.jpg", "ant/2.JPG")
    assert listed(tmp_path, extensions=parse_extensions(texts))[0] == ["ant/1.jpg", "ant/2.JPG"]


def test_no_ending_is_refused():
    with pytest.raises(UserError, match="--exts: names no ending"):
        parse_extensions([",", "."])


# Links --------------------------------------------------------------------------------------------


def test_albums_that_link_to_each_other_are_entered_once_on_a_path(tmp_path):
    make(tmp_path, "a/1.jpg", "a/2.jpg", "b/3.jpg", "b/4.jpg")
    (tmp_path / "a" / "to b").symlink_to("../b")
    (tmp_path / "b" / "to a").symlink_to(tmp_path / "a")
    paths, labels, report = listed(tmp_path)
    assert list(labels) == ["a", "a/to b", "b", "b/to a"]
    assert len(paths) == 8
    assert report.splitlines() == [
        f"{tmp_path}: links to a folder that they lie in, not entered:"
        " 2 (a/to b/to a, b/to a/to b)",
        f"{tmp_path}: one folder is several classes, by links: 2 (a, b/to a); remove all but one",
        f"{tmp_path}: one folder is several classes, by links: 2 (a/to b, b); remove all but one",
    ]


def test_links_to_root_and_to_what_holds_it_are_not_entered(tmp_path):
    make(tmp_path, "photos/ant/1.jpg", "2.jpg")
    for name, target in (("here", "."), ("root", ".."), ("above", "../..")):
        (tmp_path / "photos" / "ant" / name).symlink_to(target)
    paths, _, report = listed(tmp_path / "photos")
    assert paths == ["ant/1.jpg"]
    assert "not entered: 3 (ant/above, ant/here, ant/root)" in report


def test_a_link_out_of_root_that_leads_back_in_is_not_entered_again(tmp_path):
    make(tmp_path, "photos/ant/1.jpg", "disk/2.jpg")
    (tmp_path / "photos" / "disk").symlink_to("../disk")
    (tmp_path / "disk" / "photos").symlink_to("../photos")
    assert listed(tmp_path / "photos")[0] == ["ant/1.jpg", "disk/2.jpg"]


def test_links_to_nothing_and_pipes_are_reported(tmp_path):
    make(tmp_path, "ant/1.jpg")
    (tmp_path / "ant" / "gone.jpg").symlink_to("nowhere.jpg")
    os.mkfifo(tmp_path / "ant" / "pipe.jpg")
    paths, _, report = listed(tmp_path)
    assert paths == ["ant/1.jpg"]
    assert "links to nothing, pipes and the like, passed over: 2 (ant/gone.jpg, ant/pipe" in report


def test_a_folder_that_may_not_be_read_is_reported():
    root = pathlib.Path(tempfile.mkdtemp())
    make(root, "ant/1.jpg", "bee/2.jpg")
    root.chmod(0o755)
    (root / "bee").chmod(0)
    user = os.geteuid()
    try:
        os.seteuid(user or 65534)  # root may read everything, nobody may not
        paths, _, report = listed(root)
        with pytest.raises(PermissionError):
            listed(root / "bee")
    finally:
        os.seteuid(user)
        (root / "bee").chmod(0o755)
        shutil.rmtree(root)
    assert paths == ["ant/1.jpg"]
    assert f"passed over: {root}/bee: permission denied" in report


# Unicode ------------------------------------------------------------------------------------------


def test_folders_that_differ_in_their_unicode_form_only_are_reported(tmp_path):
    make(tmp_path, f"{NFC}/1.jpg", f"{NFD}/2.jpg")
    if len(os.listdir(tmp_path)) == 1:
        pytest.skip("this file system takes both names for one")
    _, labels, report = listed(tmp_path)
    assert labels == {NFD: 0, NFC: 1}  # as MXNet numbers them
    assert report == (
        f"{tmp_path}: 'Salix e\\u0301' and 'Salix \\xe9' differ in their Unicode form only and are"
        " two classes; make them one folder"
    )
    (tmp_path / "c.txt").write_text(f"{NFC}\n", encoding="utf-8")
    _, labels, report = listed(tmp_path, class_file=str(tmp_path / "c.txt"))
    assert set(labels.values()) == {0}
    assert "Unicode" not in report


# Photographs in no folder -------------------------------------------------------------------------


def test_photographs_beside_folders_are_reported(tmp_path):
    make(tmp_path, "1.jpg", "2.jpg", "ant/3.jpg")
    _, labels, report = listed(tmp_path)
    assert labels == {".": 0, "ant": 1}  # as MXNet numbers them
    assert report == (
        f"{tmp_path}: 2 photographs lie in no folder and are a class of their own, label 0; move"
        " them into the folder of their class"
    )


def test_photographs_instead_of_folders_are_reported(tmp_path):
    make(tmp_path, "1.jpg", "2.jpg")
    _, labels, report = listed(tmp_path)
    assert labels == {".": 0}
    assert report.endswith(
        "all 2 photographs lie in no folder and get label 0; make a folder a class"
    )


def test_without_recursive_it_is_said_what_the_labels_are(tmp_path):
    make(tmp_path, "1.jpg", "2.jpg", "ant/3.jpg")
    paths, labels, report = listed(tmp_path, recursive=False)
    assert (paths, labels) == (["1.jpg", "2.jpg"], {})
    assert report.endswith(
        "all 2 photographs get label 0; with --recursive each folder is a label; folders, not"
        " entered: 1 (ant)"
    )


# The class file -----------------------------------------------------------------------------------


def test_a_class_file_numbers_the_folders_of_another_root(tmp_path):
    (tmp_path / "c.txt").write_text("ant\nbee\ncat\ndog\n")
    make(tmp_path, "val/ant/1.jpg", "val/cat/2.jpg", "val/dog/3.jpg")
    _, labels, report = listed(tmp_path / "val", class_file=str(tmp_path / "c.txt"))
    assert labels == {"ant": 0, "cat": 2, "dog": 3}
    assert report.endswith(f"classes of {tmp_path}/c.txt without a photograph: 1 (bee)")


def test_a_folder_that_the_class_file_does_not_name_is_an_error_of_both(tmp_path):
    (tmp_path / "c.txt").write_text("ant\n")
    make(tmp_path, "val/ant/1.jpg", "val/emu/2.jpg", "val/fly/2.jpg")
    message = "c.txt: has no class for the photographs in '.*/val/emu' and in 1 more; "
    with pytest.raises(UserError, match=message):
        listed(tmp_path / "val", class_file=str(tmp_path / "c.txt"))
    make(tmp_path, "flat/1.jpg")
    with pytest.raises(UserError, match=r"c.txt: has no class for .* in '.*/flat'; "):
        listed(tmp_path / "flat", class_file=str(tmp_path / "c.txt"))


def test_one_class_file_belongs_to_all_parts_of_a_list(script, tmp_path):
    make(tmp_path, *(f"train/{name}/{n}.jpg" for name in ("ant", "bee", "cat") for n in range(4)))
    flags = ["--list", "--recursive", "--train-ratio", "0.5", "--test-ratio", "0.25"]
    script("im2rec.py", tmp_path / "mine", tmp_path / "train", *flags, "--chunks", "2")
    assert [path.name for path in tmp_path.glob("*.txt")] == ["mine.classes.txt"]
    assert len(list(tmp_path.glob("*.lst"))) == 6
    make(tmp_path, "val/cat/1.jpg", "val/ant/1.jpg")
    classes = tmp_path / "mine.classes.txt"
    flags = ["--list", "--recursive", "--classes", classes]
    done = script("im2rec.py", tmp_path / "other", tmp_path / "val", *flags)
    assert done.stdout.splitlines()[:2] == ["ant 0", "cat 2"]
    assert "without a photograph: 1 (bee)" in done.stderr
    labels = {entry.path: entry.label for entry in read_list(tmp_path / "other.lst")}
    assert labels == {"ant/1.jpg": 0, "cat/1.jpg": 2}
    assert read_class_names(str(tmp_path / "other.classes.txt")) == ["ant", "bee", "cat"]


def test_a_full_disk_leaves_the_class_file_of_the_older_list(script, tmp_path):
    make(tmp_path, *(f"photos/{name}/{n}.jpg" for name in ("bee", "cat") for n in range(500)))
    command = ["im2rec.py", "--list", "--recursive", str(tmp_path / "x"), str(tmp_path / "photos")]
    script(*command)
    older = {path: path.read_bytes() for path in tmp_path.glob("x.*")}
    make(tmp_path, *(f"photos/ant/{n}.jpg" for n in range(500)))
    done = subprocess.run(
        [sys.executable, *command], cwd=ROOT, stderr=subprocess.PIPE, preexec_fn=limit_file_size
    )
    assert done.returncode == 2 and b"x.lst: the file size limit" in done.stderr
    assert {path: path.read_bytes() for path in tmp_path.glob("x.*")} == older


def test_a_list_without_classes_has_no_class_file_and_says_so_of_an_old_one(script, tmp_path):
    make(tmp_path, "photos/1.jpg")
    command = ["im2rec.py", "--list", tmp_path / "mine", tmp_path / "photos"]
    script(*command)
    assert not list(tmp_path.glob("*.classes.txt"))
    make(tmp_path, "mine.classes.txt")
    assert f"{tmp_path}/mine.classes.txt: would be read as" in script(*command).stderr


@pytest.mark.parametrize("flags", [["--list"], ["--recursive"]])
def test_a_class_file_without_folders_is_refused(script, tmp_path, flags):
    command = ["im2rec.py", *flags, "--classes", "c.txt", tmp_path / "x", tmp_path]
    assert (
        "--classes: has a meaning only with --list --recursive" in script(*command, status=2).stderr
    )


def test_each_image_is_in_one_part_of_a_list():
    parts = split_list(range(20), train_ratio=0.5, test_ratio=0.25, chunks=2)
    assert sorted(entry for part in parts.values() for entry in part) == list(range(20))
