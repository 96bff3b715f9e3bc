"""Links in the place of the files that packing writes."""

import os
import shutil

import pytest

from common.base.files import UserError
from common.data.encoding import Settings
from common.data.packing import pack_list
from common.data.packing_run import PackingRun
from common.data.recordio import RecordFile


@pytest.fixture
def one_photograph(tmp_path, photographs):
    """A folder with the list of one photograph, whose packing has begun, and a precious file."""
    shutil.copy(photographs / "0.jpg", tmp_path)
    (tmp_path / "train.lst").write_text("0\t0\t0.jpg\n")
    (tmp_path / "precious").write_bytes(b"precious")
    PackingRun(str(tmp_path / "train.lst"), str(tmp_path), Settings()).begin()
    return tmp_path


@pytest.mark.parametrize(
    "name",
    [
        *("train.rec.partial", "train.idx.partial"),
        *("train.rec.journal", "train.rec.journal.partial"),
    ],
)
def test_a_link_in_the_place_of_an_earlier_part_is_removed(one_photograph, name):
    (one_photograph / name).unlink(missing_ok=True)
    (one_photograph / name).symlink_to("precious")
    pack_list(str(one_photograph / "train.lst"), str(one_photograph))
    assert RecordFile(str(one_photograph / "train.rec")).keys.tolist() == [0]
    assert (one_photograph / "precious").read_bytes() == b"precious"


@pytest.mark.parametrize("name", ["train.rec.partial", "train.idx.partial"])
def test_a_link_is_not_taken_for_the_part_to_go_on_with(one_photograph, name):
    os.remove(one_photograph / name)
    (one_photograph / name).symlink_to("precious")
    with pytest.raises(UserError, match=f"{name}: is a link"):
        pack_list(str(one_photograph / "train.lst"), str(one_photograph), resume=True)
    assert (one_photograph / "precious").read_bytes() == b"precious"


def test_a_link_that_is_planted_while_records_are_packed_is_not_followed(one_photograph):
    run = PackingRun(str(one_photograph / "train.lst"), str(one_photograph), Settings())
    os.remove(one_photograph / "train.rec.journal.partial")
    (one_photograph / "train.rec.journal.partial").symlink_to("precious")
    with pytest.raises(UserError, match=r"journal\.partial: is a link"), run.writing():
        pass
    assert (one_photograph / "precious").read_bytes() == b"precious"


def test_records_that_are_a_link_are_not_changed_behind_it(one_photograph, photographs):
    """A user may have put the records on another disk; the link to them is replaced."""
    with open(one_photograph / "train.lst", "a") as stream:
        stream.write("1\t0\t1.jpg\n")
    assert len(pack_list(str(one_photograph / "train.lst"), str(one_photograph)).failures) == 1
    os.rename(one_photograph / "train.rec", one_photograph / "elsewhere.rec")
    (one_photograph / "train.rec").symlink_to("elsewhere.rec")
    before = (one_photograph / "elsewhere.rec").read_bytes()
    shutil.copy(photographs / "1.jpg", one_photograph)
    pack_list(str(one_photograph / "train.lst"), str(one_photograph), resume=True)
    assert RecordFile(str(one_photograph / "train.rec")).keys.tolist() == [0, 1]
    assert (one_photograph / "elsewhere.rec").read_bytes() == before
