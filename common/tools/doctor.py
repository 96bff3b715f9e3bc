"""The report on the machine and the state of the pipeline: `python -m common.doctor`.

Send it with every bug report. It ends with what to do next.
"""

import contextlib
import glob
import mmap
import os
import platform
import re
import shlex
import shutil
import sys
from importlib.metadata import PackageNotFoundError, version

from common import engines
from common.base.files import DATA_DIR, MODEL_DIR, MODEL_PREFIX, ROOT, UserError
from common.base.help import Parser
from common.base.processor import usable_cores
from common.data.annotations import annotation_path
from common.networks import checkpoint
from common.setup import interpreters, machine

# The packages that engines compute with; three of them provide the module `mxnet`.
_FRAMEWORKS = ("mxnet", "mxnet-cu117", "mxnet-cu80", "torch")
_ENGINE_NAMES = {"mxnet": "MXNet", "torch": "PyTorch"}
_MODULES = ("numpy", "opencv-python", "opencv-python-headless", "matplotlib", "tqdm")
_SETS = ("train", "val", "test")
_QUANTIZED = re.compile(r"-\d{4,}-int8(-torch)?$")  # what sub.py keeps beside a checkpoint
_IMAGE = re.compile(rb'"file_name"')
_LINE = re.compile(rb"\n")


def main():
    """Print the report; a `UserError` at its end says why no engine starts."""
    parser = Parser(prog="python -m common.doctor", description=__doc__)
    parser.add_argument(
        "--data-dir", default=DATA_DIR, help="folder of lists and records (default: %(default)s)"
    )
    parser.add_argument(
        "--model-dir", default=MODEL_DIR, help="folder of networks (default: %(default)s)"
    )
    args = parser.parse_args()
    failure = None
    _print("Python", f"{platform.python_version()}, {sys.executable}")
    _print("Machine", f"{platform.system()} {platform.release()}, {platform.machine()}")
    for line in machine.nvidia_smi("name,driver_version,memory.total").splitlines():
        _print("nvidia-smi", line)
    _print("Packages", ", ".join(installed(_MODULES + _FRAMEWORKS)))
    _print("cv2", _cv2())
    try:
        _print_engines()
    except UserError as error:
        failure = error
    for folder in (args.data_dir, args.model_dir):
        _print_disk(folder)
    data, networks = find_data(args.data_dir), find_networks(args.model_dir)
    for line in data.values():
        _print("Data", line)
    for name, epochs in networks.items():
        _print("Network", f"{name}, epochs {_ranges(epochs)}" if epochs else f"{name}, no weights")
    if failure:
        raise failure
    _print("Next", next_step(args.data_dir, set(data), networks))


def _print(title, text):
    print(f"{title:<11} {text}", flush=True)


def _cv2():
    try:
        import cv2
    except ImportError as error:  # e.g. without libGL
        return f"does not start ({error}); run: sh setup.sh"
    return f"{cv2.__version__}, {os.path.dirname(cv2.__file__)}"


def _print_engines():
    cores = usable_cores()
    _print("Cores", f"{cores} usable of {os.cpu_count()} (hyper-threads counted)")
    installed, failures = engines.installed(), []
    for name in engines.ENGINES:
        if name not in installed:
            reason = why_missing(name, machine.look(), sys.version_info[:2])
            _print(_ENGINE_NAMES[name], reason)
            continue
        try:
            described = engines.load(name).describe()
        except UserError as error:
            failures.append(error)
            continue
        for title, text in described.items():
            _print(title, text)
    if not installed:
        engines.load()  # says in its error what to do
    if len(failures) == len(installed):
        raise failures[0]
    for failure in failures:
        _print("Fails", failure)


def why_missing(name, here, python):
    """Return why an engine is not installed, and what would install it.

    Args:
        here: the `Machine`.
        python: the version of this Python, e.g. `(3, 11)`.
    """
    kind, reason = machine.choose(here, has_python=True)
    if name == "mxnet" and kind == "torch":
        return f"not installed: {reason}"
    this = interpreters.Interpreter(sys.executable, tuple(python))
    versions = interpreters.range_of("both")
    if this.fits("both"):
        return "not installed; for both engines in one environment: sh setup.sh both"
    other = "VENV=.venv-2 sh setup.sh" + (f" {kind}" if name == "mxnet" else " torch")
    return (
        f"not installed: this is {this}, and both engines in one environment need {versions};"
        f" in another one: {other}"
    )


def installed(packages):
    """Return "NAME VERSION" of each of the Python packages that is installed."""
    found = []
    for package in packages:
        with contextlib.suppress(PackageNotFoundError):
            found.append(f"{package} {version(package)}")
    return found


def _print_disk(folder):
    if os.path.isdir(folder):
        free = shutil.disk_usage(folder).free / 2**30
        _print("Disk", f"{_short(folder)}: {free:.1f} GiB free")
    else:
        _print("Disk", f"{_short(folder)}: no such folder")


def _short(path):
    inside = os.path.abspath(path).startswith(ROOT + os.sep)
    return os.path.relpath(path, ROOT) if inside else path


def find_data(data_dir):
    """Return what the first two steps have written: `{"train.json": a line with its count, …}`.

    The keys are `SET.json`, `SET.lst` and `SET.rec`, and the names of other records.
    """
    found = {}
    for set_name in _SETS:
        paths = {
            "json": annotation_path(data_dir, set_name),
            "lst": os.path.join(data_dir, f"{set_name}.lst"),
            "rec": os.path.join(data_dir, f"{set_name}.rec"),
        }
        for kind, path in paths.items():
            if os.path.exists(path):
                found[f"{set_name}.{kind}"] = _counted(kind, path)
    for path in sorted(glob.glob(os.path.join(glob.escape(data_dir), "*.rec"))):
        found.setdefault(os.path.basename(path), _counted("rec", path))
    return found


def _counted(kind, path):
    try:
        count = _count(kind, path)
    except OSError as error:  # reported, and the report goes on
        count = f"cannot be read ({error.strerror.lower()})"
    return f"{_short(path)}: {count}"


def _count(kind, path):
    size = f"{os.path.getsize(path) / 1e6:.1f} MB"
    if kind == "json":  # searched, not parsed: 0.6 s instead of 11 s for the challenge's
        return f"{_occurrences(_IMAGE, path)} images, {size}"
    if kind == "lst":
        return f"{_occurrences(_LINE, path)} images, {size}"
    index = os.path.splitext(path)[0] + ".idx"
    if not os.path.exists(index):
        return f"no {os.path.basename(index)} beside it, {size}"
    return f"{_occurrences(_LINE, index)} records, {size}"


def _occurrences(pattern, path):
    if os.path.getsize(path) == 0:
        return 0
    with open(path, "rb") as stream:
        with mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return sum(1 for _ in pattern.finditer(content))


def find_networks(model_dir):
    """Return the networks of a folder and the epochs of their weights: `{"resnet-152": [0]}`."""
    prefixes = [each for each in checkpoint.find_prefixes(model_dir) if not _QUANTIZED.search(each)]
    return {_short(prefix): checkpoint.find_epochs(prefix) for prefix in prefixes}


def _ranges(epochs):
    """Return `"0 to 3, 7"` for `[0, 1, 2, 3, 7]`."""
    runs = []
    for epoch in epochs:
        if runs and runs[-1][1] == epoch - 1:
            runs[-1][1] = epoch
        else:
            runs.append([epoch, epoch])
    return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in runs)


def next_step(data_dir, data, networks):
    """Return the command to run next, given what is there."""
    folder = shlex.quote(_short(data_dir))
    flag = "" if folder == "data" else f" --data-dir {folder}"
    trained = [name for name, epochs in networks.items() if epochs and epochs[-1] > 0]
    if "train.json" not in data and trained:
        return f"python sub.py EPOCH GPU{_prefix_flag(trained, networks)} --images PHOTOGRAPHS"
    if "train.json" not in data and any(name.endswith(".rec") for name in data):
        return "train on the records (docs/training.md#your-own-photographs)"
    if "train.json" not in data:
        return "get the photographs (docs/challenge.md), or see all steps on a sample: sh demo.sh"
    if any(f"{name}.json" in data and f"{name}.lst" not in data for name in _SETS):
        return f"python mx_list.py{flag}"
    if any(f"{name}.lst" in data and f"{name}.rec" not in data for name in ("train", "val")):
        return f"sh gen_rec.sh {folder}"
    if not networks:
        return "get a pretrained network (docs/training.md#networks)"
    if not trained:
        return f"sh run.sh{flag}"
    return f"python sub.py EPOCH GPU{flag}{_prefix_flag(trained, networks)}"


def _prefix_flag(trained, networks):
    """Return the flag of sub.py that names the network that was trained last."""

    def saved(name):
        path = checkpoint.weights_path(os.path.join(ROOT, name), networks[name][-1])
        return os.path.getmtime(path) if os.path.exists(path) else 0

    newest = max(trained, key=saved)
    is_default = os.path.join(ROOT, newest) == MODEL_PREFIX
    return "" if is_default else f" --model-prefix {shlex.quote(newest)}"
