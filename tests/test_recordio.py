"""Lists, records and indices: MXNet reads ours, we read MXNet's."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from common.base.files import UserError
from common.data.recordio import (
    DamagedRecord,
    ListEntry,
    RecordFile,
    format_list,
    frame_record,
    pack_record,
    read_list,
    write_index,
)

MAGIC = b"\x0a\x23\xd7\xce"
ITEMS = [(7, 2.0, b"first"), (3, (1.0, 0.5, 9.0), b""), (12, 0.0, b"abcd" + MAGIC + b"xyz" + MAGIC)]


@pytest.fixture
def rec_path(tmp_path):
    """The path of a train.rec with its index, which holds `ITEMS`."""
    frames = [frame_record(pack_record(*item)) for item in ITEMS]
    (tmp_path / "train.rec").write_bytes(b"".join(frames))
    offsets = [0, len(frames[0]), len(frames[0]) + len(frames[1])]
    write_index(tmp_path / "train.idx", [key for key, _, _ in ITEMS], offsets)
    return str(tmp_path / "train.rec")


@pytest.fixture(scope="session")
def write_with_mxnet(mx):
    """Write `(key, label, image)` records as MXNet does; return the path of the .rec."""

    def write(folder, items=ITEMS):
        rec_path = str(folder / "mxnet.rec")
        writer = mx.recordio.MXIndexedRecordIO(str(folder / "mxnet.idx"), rec_path, "w")
        for key, label, image in items:
            header = mx.recordio.IRHeader(0, label, key, 0)
            writer.write_idx(key, mx.recordio.pack(header, image))
        writer.close()
        return rec_path

    return write


def test_a_list_comes_back_as_it_was_written(tmp_path):
    entries = [
        ListEntry(5, 3.0, "Aves/Anas × platyrhynchos/ä b.jpg"),
        ListEntry(0, (1.5, 2.0), "x.jpg"),
    ]
    path = tmp_path / "train.lst"
    path.write_bytes(format_list(entries))
    assert read_list(path) == entries
    assert path.read_bytes().startswith("5\t3.000000\tAves/Anas × platy".encode())


@pytest.mark.parametrize(
    "line",
    [
        "1\ta.jpg",
        "x\t0\ta.jpg",
        "1\tbird\ta.jpg",
        "-1\t0\ta.jpg",
        "1\t1e99\ta.jpg",
        "1 0 a",
        "1\t0\ta\x1b[31m.jpg",
    ],
)
def test_a_bad_line_of_a_list_is_named(tmp_path, line):
    path = tmp_path / "train.lst"
    path.write_text(f"0\t0\tgood.jpg\n\n{line}\n")
    with pytest.raises(UserError, match=r"train.lst:3: not INDEX<tab>LABEL<tab>PATH"):
        read_list(path)


def test_an_index_that_occurs_twice_is_named_with_both_lines(tmp_path):
    path = tmp_path / "train.lst"
    path.write_text("4\t0\ta.jpg\n5\t0\tb.jpg\n4\t1\tc.jpg\n")
    with pytest.raises(UserError, match=r"train.lst:3: index 4 is that of line 1"):
        read_list(path)


def test_a_key_that_is_not_the_index_s_is_a_damaged_record(tmp_path, rec_path):
    index = tmp_path / "train.idx"
    index.write_text(index.read_text().replace("3\t", "4\t"))
    records = RecordFile(rec_path)
    with pytest.raises(DamagedRecord, match="record 4: has the key 3"):
        records.read(1)
    assert records.read(2).key == 12


def test_an_empty_list_is_an_error(tmp_path):
    (tmp_path / "train.lst").write_text("\n")
    with pytest.raises(UserError, match="lists no image"):
        read_list(tmp_path / "train.lst")


pieces = st.lists(
    st.sampled_from([MAGIC, MAGIC[:3], b"\0", b"12", b"1234"]) | st.binary(max_size=9)
)
labels = st.floats(width=32) | st.lists(st.floats(width=32), max_size=4).map(tuple)


@given(st.lists(st.tuples(st.integers(0, 2**63 - 1), labels, pieces.map(b"".join)), min_size=1))
def test_records_are_framed_as_mxnet_frames_them(tmp_path_factory, write_with_mxnet, items):
    rec_path = write_with_mxnet(tmp_path_factory.mktemp("records"), items)
    ours = [frame_record(pack_record(*item)) for item in items]
    with open(rec_path, "rb") as stream:
        assert stream.read() == b"".join(ours)


def test_mxnet_s_records_are_read(tmp_path, write_with_mxnet):
    records = RecordFile(write_with_mxnet(tmp_path))
    assert len(records) == 3
    assert records.keys.tolist() == [7, 3, 12]
    for position, (key, label, image) in enumerate(ITEMS):
        record = records.read(position)
        assert (record.key, bytes(record.image)) == (key, image)
        assert record.label.dtype == np.float32
        assert record.label.tolist() == np.atleast_1d(label).tolist()


def test_without_an_index_the_records_are_scanned(tmp_path, rec_path):
    indexed = RecordFile(rec_path)
    (tmp_path / "train.idx").unlink()
    scanned = RecordFile(rec_path)
    assert scanned.keys.tolist() == indexed.keys.tolist()
    assert scanned.offsets.tolist() == indexed.offsets.tolist()


def test_an_index_is_written_as_mxnet_writes_it(tmp_path, write_with_mxnet):
    records = RecordFile(write_with_mxnet(tmp_path))
    write_index(tmp_path / "ours.idx", records.keys, records.offsets)
    assert (tmp_path / "ours.idx").read_bytes() == (tmp_path / "mxnet.idx").read_bytes()


def test_the_frames_of_the_records_are_the_file(rec_path):
    records = RecordFile(rec_path)
    with open(rec_path, "rb") as stream:
        assert b"".join(map(records.frame, range(len(records)))) == stream.read()


def test_a_damaged_record_is_named_and_the_others_are_read(rec_path):
    offset = int(RecordFile(rec_path).offsets[1])
    with open(rec_path, "r+b") as stream:
        stream.seek(offset)
        stream.write(b"junk")
    records = RecordFile(rec_path)
    with pytest.raises(DamagedRecord, match=r"train.rec: record 3: no record begins at byte"):
        records.read(1)
    assert bytes(records.read(2).image) == ITEMS[2][2]


@pytest.mark.parametrize("keep", [-4, 60, 30, 6])
def test_a_record_file_that_is_cut_short_is_refused(tmp_path, rec_path, keep):
    with open(rec_path, "rb") as stream:
        content = stream.read()[:keep]
    with open(rec_path, "wb") as stream:
        stream.write(content)
    with pytest.raises(UserError, match="cut short"):
        RecordFile(rec_path)
    (tmp_path / "train.idx").unlink()
    with pytest.raises(UserError, match="the file ends within the record at byte"):
        RecordFile(rec_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("7\t0\nx\ty\n", "not lines of KEY<tab>OFFSET"),
        ("7\t0\n3\n", "not lines of KEY<tab>OFFSET"),
        ("", "is empty"),
        ("7\t0\n3\t44\n", "is not the index of"),
        ("7\t0\n3\t99999999\n", "is not the index of"),
        ("7\t-8\n", "is not the index of"),
        ("7\t0\n3\t0\n12\t84\n", "is not the index of"),  # two keys at one place
    ],
)
def test_an_index_of_something_else_is_refused(tmp_path, rec_path, content, message):
    (tmp_path / "train.idx").write_text(content)
    with pytest.raises(UserError, match=rf"train.idx: {message}.*--reindex"):
        RecordFile(rec_path)


@pytest.mark.parametrize(
    ("content", "message"),
    [(b"", "is empty"), (b"<html>not found</html>", "is not a RecordIO file")],
)
def test_what_is_no_record_file_is_refused(tmp_path, content, message):
    (tmp_path / "train.rec").write_bytes(content)
    with pytest.raises(UserError, match=f"train.rec: {message}.*sh gen_rec.sh"):
        RecordFile(str(tmp_path / "train.rec"))


def test_a_missing_record_file_says_which_step_makes_it(tmp_path):
    with pytest.raises(UserError, match=r"train.rec: not found; .*sh gen_rec.sh"):
        RecordFile(str(tmp_path / "train.rec"))
