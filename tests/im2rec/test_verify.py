"""im2rec.py --verify and --reindex: finished record files, sound and damaged."""

import os
import struct

from common.data.recordio import RecordFile
from tests.im2rec.conftest import bytes_of


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


def test_verify_names_a_record_before_the_beginning_of_the_file(script, ours, photographs):
    script("im2rec.py", ours, photographs)
    with open(f"{ours}.idx") as stream:
        first, *others = stream
    key = first.split()[0]
    with open(f"{ours}.idx", "w") as stream:
        stream.writelines([f"{key}\t-4\n", *others])
    out = script("im2rec.py", "--verify", ours, status=1).stdout
    assert f"cannot be read: no record at its offset, or the file is cut short: {key}\n" in out


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
