"""Packages: pip, which installs them, what it would download, and what its failures mean."""

import contextlib
import json
import os
import platform
import re
import subprocess
import sys

from common.setup import SetupError

DISK_FULL = "the disk is full; free some space and run it again"
_FIRST_REPORT = (23, 3)  # the first pip that says what it would install and downloads none of it
_WRONG_OPTIONS = 2  # the exit status of a pip that does not know an option
_ELSEWHERE = ("PIP_TARGET", "PIP_PREFIX", "PIP_ROOT", "PIP_USER")  # where pip would install
_LIBRARIES_OF_WINDOWS = r"libGL|libgthread|libglib|libSM|libXext|libX11"  # that show images


def start(command, **options):
    """Start a command, which holds the lock of this run, too (`environment.only_run`)."""
    return subprocess.Popen(list(map(str, command)), close_fds=False, encoding="utf-8", **options)


def run(command, **options):
    """Run a command to its end; it holds the lock as well."""
    return subprocess.run(list(map(str, command)), close_fds=False, encoding="utf-8", **options)


class Pip:
    """The pip of an environment.

    Attributes:
        python: the environment's interpreter.
        wanted: for messages: `("cpu", "Python 3.11")`.
    """

    def __init__(self, folder, python, wanted):
        self.python = python
        self.wanted = wanted
        self._log = os.path.join(folder, "pip.log")
        self._report = os.path.join(folder, "pip-report.json")

    def install(self, *arguments):
        """Install what `pip install` takes; raise `SetupError` with what to do where it fails."""
        if self._call("--log", self._log, "install", *arguments) != 0:
            raise SetupError(explain(self._read_log(), *self.wanted))
        os.remove(self._log)

    def uninstall(self, package):
        """Remove a package."""
        self._call("uninstall", "--yes", package)

    def would_install(self, *arguments):
        """Return the names of the packages that `install` would add; None where pip cannot say.

        Nothing is downloaded but what the packages say of themselves.
        """
        if not self._has_report():
            return None
        options = ("--dry-run", "--ignore-installed", "--report", self._report)
        options += ("--use-feature=fast-deps",)  # for an index that does not keep metadata apart
        status = self._call("--log", self._log, "install", *options, *arguments)
        if status == _WRONG_OPTIONS:
            return None
        if status != 0:
            raise SetupError(explain(self._read_log(), *self.wanted))
        with open(self._report, encoding="utf-8") as stream:
            report = json.load(stream)
        os.remove(self._report)
        return [item["metadata"]["name"] for item in report["install"]]

    def _has_report(self):
        if self._version() < _FIRST_REPORT:
            self._call("install", "--upgrade", "pip", stderr=subprocess.DEVNULL)
        return self._version() >= _FIRST_REPORT

    def _version(self):
        done = run([self.python, "-m", "pip", "--version"], stdout=subprocess.PIPE)
        found = re.match(r"pip (\d+)\.(\d+)", done.stdout)
        return tuple(map(int, found.groups())) if found else (0, 0)

    def _call(self, *arguments, **options):
        command = [self.python, "-m", "pip", "--disable-pip-version-check", "--quiet", *arguments]
        environ = {name: value for name, value in os.environ.items() if name not in _ELSEWHERE}
        return run(command, env=environ, **options).returncode

    def _read_log(self):
        with contextlib.suppress(FileNotFoundError):
            with open(self._log, encoding="utf-8", errors="replace") as stream:
                return stream.read()
        return ""


def explain(log, kind, python):
    """Return what to do about a failure of pip, given what it logged.

    pip's own messages are long and come first; this is the last line.
    """
    if is_disk_full(log):
        return DISK_FULL
    if re.search(r"Retry\(total=0|Could not fetch URL|(Connection|Timeout|Protocol)Error", log):
        return (
            "pip cannot reach its package index: connect to the network (behind a proxy set"
            " https_proxy) and run it again; or bring the wheels in a folder:"
            f" pip download -r requirements/{kind}.txt -d FOLDER elsewhere, and here"
            f" PIP_NO_INDEX=1 PIP_FIND_LINKS=FOLDER sh setup.sh {kind}"
        )
    missing = re.search(r"No matching distribution found for (\S+)", log)
    if missing:
        is_offline = os.environ.get("PIP_NO_INDEX")
        fix = "bring it into PIP_FIND_LINKS" if is_offline else "docs/install.md lists the wheels"
        return (
            f"requirements/{kind}.txt has no wheel for {python} on {platform.system()}"
            f" {platform.machine()}: {missing.group(1)}; {fix}"
        )
    return f"pip could not install requirements/{kind}.txt; pip's messages above say why"


def is_disk_full(text):
    """Return whether a program's messages say that a disk is full."""
    return re.search(r"No space left|disk quota exceeded", text, re.IGNORECASE) is not None


def torch_build(packages):
    """Return which build of PyTorch is among packages: `"CPU"`, `"CUDA 12"` or `"CUDA 13"`.

    PyTorch's build with CUDA needs NVIDIA's packages; those of CUDA 12 have it in their names.
    """
    if not [name for name in packages if name.startswith("nvidia-")]:
        return "CPU"
    return "CUDA 12" if any(name.endswith("-cu12") for name in packages) else "CUDA 13"


def default_torch_build():
    """Return the build of PyTorch that the package index has for this system."""
    is_usual = (platform.system(), platform.machine()) == ("Linux", "x86_64")
    return "CUDA 13" if is_usual else "CPU"


def take_fitting_opencv(pip, say):
    """Replace opencv-python, which can draw windows, where the libraries for that are missing.

    Servers lack them (libGL); opencv-python-headless does without.
    """
    reason = _why_cv2_fails(pip.python)
    if reason is None:
        return
    if not re.search(_LIBRARIES_OF_WINDOWS, reason):
        sys.stderr.write(reason)
        raise SetupError("import cv2 fails as above")
    code = "from importlib.metadata import version; print(version('opencv-python'))"
    version = run([pip.python, "-c", code], stdout=subprocess.PIPE).stdout.strip()
    say(f"no libGL on this machine: taking opencv-python-headless {version} instead")
    pip.uninstall("opencv-python")
    pip.install(f"opencv-python-headless=={version}")
    reason = _why_cv2_fails(pip.python)
    if reason is not None:
        sys.stderr.write(reason)
        raise SetupError("import cv2 fails as above")


def _why_cv2_fails(python):
    done = run([python, "-c", "import cv2"], stderr=subprocess.PIPE)
    return done.stderr if done.returncode else None
