"""Compares a finished `.rec` and `.idx` with the `.lst` that they were packed from."""

import os
from collections import defaultdict

import numpy as np

from common.base.files import require_file
from common.base.progress import Progress
from common.data.commands import pack_command
from common.data.encoding import decode_image, is_cut_short
from common.data.packing import ordered_map
from common.data.recordio import DamagedRecord, map_file, read_index, read_list, read_record


def verify_records(prefix, decode=False, workers=1):
    """Check each record of `PREFIX.rec`: key, label, framing, end marker; with `decode` its pixels.

    Returns:
        (number of records, {fault: [keys of the records that have it]}); without faults an empty
        dict. Images that `PREFIX.rec.failed.txt` names are not faults: packing reported them.

    Raises:
        UserError: one of the three files is missing or cannot be read at all.
    """
    rec_path = f"{prefix}.rec"
    require_file(rec_path, f"make it with: {pack_command(rec_path)}")
    entries = {entry.index: entry for entry in read_list(f"{prefix}.lst")}
    keys, offsets = read_index(f"{prefix}.idx", rec_path)
    data = map_file(rec_path)
    faults = defaultdict(list)

    def check(number):
        return _check_record(data, int(keys[number]), int(offsets[number]), entries, decode)

    order = np.argsort(offsets, kind="stable").tolist()
    expected_offset, seen = 0, set()
    with Progress(len(order), "verifying", "records") as progress:
        for number, (found, end) in zip(order, ordered_map(check, order, workers)):
            key = int(keys[number])
            if expected_offset is not None and offsets[number] != expected_offset:
                found = [*found, "the record before it is not in the index"]
            if key in seen:
                found = [*found, "key occurs twice"]
            for fault in found:
                faults[fault].append(key)
            seen.add(key)
            expected_offset = end
            progress.update()
    if expected_offset is not None and expected_offset != len(data):
        faults["bytes behind the last record of the index"].append(int(keys[order[-1]]))
    missing = entries.keys() - seen - failed_keys(prefix)
    if missing:
        faults["is in the list, has no record"] = sorted(missing)
    return len(order), dict(faults)


def _check_record(data, key, offset, entries, decode):
    """Return (faults of the record, where the next begins or None where that cannot be known)."""
    try:
        record, end = read_record(data, offset)
    except DamagedRecord:
        return ["cannot be read: no record at its offset, or the file is cut short"], None
    faults = []
    if record.key != key:
        faults.append("the index names another record")
    entry = entries.get(key)
    if entry is None:
        faults.append("is not in the list")
    elif not _is_label(record.label, entry.label):
        faults.append("label is not the list's")
    if is_cut_short(record.image):
        faults.append("image is cut short: its end marker is missing")
    elif decode:
        try:
            decode_image(record.image, -1)
        except ValueError:
            faults.append("image cannot be decoded")
    return faults, end


def _is_label(label, listed):
    """Return whether a record's label is the list's: all of it, or (by default) its first."""
    expected = np.atleast_1d(np.float32(listed))
    return label.size in (1, expected.size) and np.array_equal(
        label, expected[: label.size], equal_nan=True
    )


def failed_keys(prefix):
    """Return the keys of the images that failed when they were packed."""
    path = f"{prefix}.rec.failed.txt"
    if not os.path.exists(path):
        return set()
    with open(path, "rb") as stream:
        indices = (line.split(b"\t")[0] for line in stream)
        return {int(index) for index in indices if index.isdigit()}
