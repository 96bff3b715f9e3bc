"""Files whose names are in the other Unicode form than the list or the JSON has them."""

import json
import os
import unicodedata

import pytest

from benchmarks.made_up import encode, make_photograph
from common.data.annotations import find_image
from common.data.recordio import RecordFile
from common.data.unicode_names import composed, find_form

NFC, NFD = (unicodedata.normalize(form, "Salix é/ü.jpg") for form in ("NFC", "NFD"))


@pytest.mark.parametrize(("there", "asked"), [(NFC, NFD), (NFD, NFC), (NFC, NFC), (NFD, NFD)])
def test_a_file_is_found_by_either_form(tmp_path, there, asked):
    (tmp_path / there).parent.mkdir()
    (tmp_path / there).touch()
    found = find_form(str(tmp_path / asked))
    assert os.path.exists(found)
    assert composed(found) == composed(str(tmp_path / asked))
    assert os.path.exists(find_image(str(tmp_path), asked))


def test_folder_and_file_may_be_of_different_forms(tmp_path):
    folder, name = os.path.split(NFD)
    (tmp_path / folder).mkdir()
    (tmp_path / folder / unicodedata.normalize("NFC", name)).touch()
    assert os.path.exists(find_form(str(tmp_path / NFC)))


@pytest.mark.parametrize("name", ["a.jpg", "é.jpg", "Salix é/a.jpg", os.fsdecode(b"\xe9.jpg")])
def test_what_is_nowhere_keeps_its_name(tmp_path, name):
    path = str(tmp_path / name)
    assert find_form(path) == path
    assert find_form(name) == name


def test_photographs_of_a_mac_s_archive_are_checked_packed_and_found(script, tmp_path):
    (tmp_path / "test2017" / NFD).parent.mkdir(parents=True)
    (tmp_path / "test2017" / NFD).write_bytes(encode(make_photograph(0, 24, 32)))
    content = {"images": [{"id": 7, "file_name": NFC}]}
    (tmp_path / "test2017.json").write_text(json.dumps(content))
    script("mx_list.py", "--data-dir", tmp_path, "--sets", "test", "--check")
    assert "1 packed, 0 failed" in script("im2rec.py", tmp_path / "test", tmp_path).stdout
    assert RecordFile(str(tmp_path / "test.rec")).keys.tolist() == [7]
