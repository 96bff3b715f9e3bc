"""Pack the photographs of a list into a record file: in order, resumable, never half a file."""

import os
from collections import deque
from concurrent.futures import ThreadPoolExecutor

import cv2

from common.base.files import UserError, exclusive_lock, read_at_once
from common.base.memory import keep_freed_memory
from common.base.progress import Progress
from common.data.encoding import Settings, encode_image
from common.data.packing_run import Failure, PackingRun
from common.data.recordio import MAX_RECORD_BYTES, ListEntry, frame_record, pack_record, read_list
from common.data.unicode_names import find_form

# Results that may wait behind a slow image, for each worker: this bounds the memory.
WINDOW = 8
# Where none of the first images can be packed, the root is wrong rather than the images.
FIRST_IMAGES = 100


def pack_list(
    list_path, root, settings=None, workers=1, strict=False, resume=False, allow_outside=False
):
    """Pack the images of `list_path` below `root` into the `.rec` and `.idx` beside it.

    The result is that of MXNet's `im2rec.py` for the same list, byte for byte. An image that cannot
    be packed is left out and named in `PREFIX.rec.failed.txt`. `resume` goes on where a run
    stopped, or at an earlier image that failed then and can be packed now; over a finished result
    it packs only what had failed, and takes all other records over. A list may come from an
    unknown source: its paths may lead out of `root` only with `allow_outside`.

    Returns:
        Summary; `was_complete` where `resume` found a finished result of the same settings.

    Raises:
        UserError: a bad list, a path that leads out of `root`, a folder that has the name of a
            result, another run that packs the list, settings that differ from those of the partial
            file, with `strict` the first image that fails, none of the first 100 images can be
            packed.
    """
    settings = settings or Settings()
    entries = read_list(list_path)
    if not os.path.isdir(root):
        raise UserError(f"{root}: not a folder; ROOT holds the images that the list names")
    if not allow_outside:
        _check_paths(list_path, root, entries)
    cv2.setNumThreads(1)  # the workers keep the cores busy
    keep_freed_memory()
    run = PackingRun(list_path, root, settings)
    run.require_targets()  # hours before `finish` would find it

    def pack(entry):
        return run.take_over(entry.index) or _pack_entry(root, settings, entry)

    def is_fixed(failure):
        return not isinstance(pack(ListEntry(failure.index, 0.0, failure.path)), Failure)

    with exclusive_lock(run.rec_path, "writing it"):
        if resume:
            run.end_renaming()
        begun = resume and run.is_begun()
        finished = run.finished_summary() if resume and not begun else None
        if finished and not any(map(is_fixed, finished.failures)):
            return finished
        if begun:
            position = run.reopen(entries, is_fixed)
        else:
            position = run.begin(takes_over=finished is not None)
        for failure in run.failures:
            _check_failure(root, failure, strict, run, len(entries))
        title = f"packing {os.path.basename(list_path)}"
        try:
            with run.writing(), Progress(len(entries) - position, title) as progress:
                for result in ordered_map(pack, entries[position:], workers):
                    if isinstance(result, Failure):
                        run.add_failure(result)
                        _check_failure(root, result, strict, run, len(entries))
                    else:
                        run.add_record(*result)
                    progress.update()
        except UserError:
            run.remove_if_empty()
            raise
        return run.finish()


def _check_paths(list_path, root, entries):
    """Raise `UserError` where a path of a list leads out of `root` (links below it may)."""
    root = os.path.abspath(root)
    for entry in entries:
        if not os.path.isabs(entry.path) and ".." not in entry.path:
            continue
        if os.path.commonpath([root, os.path.abspath(os.path.join(root, entry.path))]) != root:
            raise UserError(
                f"{list_path}: image {entry.index}: {entry.path!r} leads out of ROOT {root}; name"
                " a ROOT that holds all of them, or, if you trust the list, add --allow-outside"
            )


def ordered_map(function, items, workers):
    """Yield `function(item)` in the order of `items`, from a pool of threads, in bounded memory.

    Threads, not processes: cv2 works outside Python's lock, nothing is copied between them, and
    none can be killed alone (800x600 to 512, quality 95, two cores: 387 images/s, and 209 from a
    pool of processes).
    """
    pending = deque()
    with ThreadPoolExecutor(workers) as pool:
        try:
            for item in items:
                pending.append(pool.submit(function, item))
                if len(pending) >= WINDOW * workers:
                    yield pending.popleft().result()
            while pending:
                yield pending.popleft().result()
        finally:
            for future in pending:
                future.cancel()


def _pack_entry(root, settings, entry):
    """Return (key, framed record) of a line of the list, or a `Failure`."""
    label = entry.label
    if isinstance(label, tuple) and not settings.pack_label:
        label = label[0]
    try:
        data = read_at_once(find_form(os.path.join(root, entry.path)), MAX_RECORD_BYTES)
        image = encode_image(data, settings)
        return entry.index, frame_record(pack_record(entry.index, label, image))
    except OSError as error:
        return Failure(entry.index, entry.path, (error.strerror or str(error)).lower())
    except ValueError as error:
        return Failure(entry.index, entry.path, str(error))
    except MemoryError:
        return Failure(entry.index, entry.path, "is too large for this machine's memory")


def _check_failure(root, failure, strict, run, num_entries):
    """Raise `UserError` where a failure ends the run."""
    path = os.path.join(root, failure.path)
    list_path = f"{os.path.splitext(run.rec_path)[0]}.lst"
    if strict:
        raise UserError(f"{path}: {failure.reason} (--strict)")
    first = min(FIRST_IMAGES, num_entries)
    if not run.num_records and len(run.failures) == first:
        raise UserError(
            f"{root}: none of the first {first} images of {list_path} can be packed "
            f"({failure.path}: {failure.reason}); is it the folder that the list's paths start in?"
        )
