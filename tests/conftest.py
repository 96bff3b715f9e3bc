"""What several test files share: the scripts as a user calls them, and MXNet where there is one."""

import gc
import importlib.util
import os
import resource
import runpy
import signal
import struct
import subprocess
import sys
import textwrap

import pytest

from common.base.files import UserError
from common.base.processor import usable_cores
from tests.many_runs import Scripts

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# The servers of the tests are on this machine, where a proxy of the network does not look.
os.environ.update(no_proxy="127.0.0.1,localhost", NO_PROXY="127.0.0.1,localhost")
# The networks of the tests are small, and several tests run at once: each computes in one thread,
# and so does what it starts. More threads would also sum in another order.
os.environ["OMP_NUM_THREADS"] = "1"
# A shell's background job ignores Ctrl-C, and what it starts inherits that: not so our scripts.
signal.signal(signal.SIGINT, signal.default_int_handler)

NO_MXNET = "MXNet is not installed"


def pytest_addoption(parser):
    parser.addoption("--faults-seed", default="0", help="draws other moments and damages")


def pytest_terminal_summary(terminalreporter):
    """Print how many cases the fault tests tried, and how many the pipeline survived."""

    def number(outcome):
        reports = [
            report
            for report in terminalreporter.stats.get(outcome, [])
            if report.when == "call" and "faults/" in report.nodeid
        ]
        return sum(dict(report.user_properties).get("cases", 1) for report in reports)

    survived, failed = number("passed"), number("failed")
    if survived + failed:
        terminalreporter.write_line(f"faults: {survived + failed} cases tried, {survived} survived")


@pytest.hookimpl(optionalhook=True, tryfirst=True)
def pytest_xdist_auto_num_workers():
    return usable_cores()


def is_mxnet_installed():
    return importlib.util.find_spec("mxnet") is not None


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    """Skip a test file that imports MXNet, where MXNet is not installed."""
    report = (yield).get_result()
    error = getattr(report.call, "excinfo", None)
    if error is not None and error.errisinstance(UserError) and not is_mxnet_installed():
        report.outcome = "skipped"
        report.longrepr = (str(collector.path), 0, f"Skipped: {NO_MXNET}")


@pytest.fixture(scope="session")
def mx():
    """MXNet, or the test is skipped: for a test that needs it in a file that does not."""
    if not is_mxnet_installed():
        pytest.skip(NO_MXNET)
    from common.engines.mxnet.runtime import mx

    return mx


@pytest.fixture(scope="session")
def scripts(tmp_path_factory):
    """Run a script in a fork of a process that has imported MXNet: see `many_runs.Scripts`."""
    started = Scripts(tmp_path_factory.mktemp("scripts"))
    yield started
    started.close()


@pytest.fixture(scope="session")
def script(scripts):
    """Call a script of the repository and return what it said: `script("mx_list.py", "--check")`.

    A module is called by its name: `script("common.doctor")`. stdout and stderr are text; `status`
    is the exit status that is expected. Tests of how Python starts call `run_python` instead.
    """

    def call(name, *arguments, status=0, cwd=ROOT):
        done = scripts(cwd, name, *arguments, seconds=600, limit=resource.RLIM_INFINITY)
        assert done.status == status, done.stderr
        assert "Traceback" not in done.stderr, done.stderr
        return done

    return call


@pytest.fixture
def python():
    """Run lines of Python in a process of their own, which may be killed or limited."""

    def run(code, **settings):
        command = [sys.executable, "-c", textwrap.dedent(code)]
        return subprocess.run(
            command, cwd=ROOT, capture_output=True, encoding="utf-8", timeout=120, **settings
        )

    return run


def run_python(*arguments, python=sys.executable, **environ):
    """Run Python in the repository's root; return its exit status, output and errors."""
    done = subprocess.run(
        [python, *map(str, arguments)],
        cwd=ROOT,
        env={**os.environ, **{name: str(value) for name, value in environ.items()}},
        capture_output=True,
        encoding="utf-8",
    )
    return done.returncode, done.stdout, done.stderr


@pytest.fixture
def stand_in(tmp_path):
    """Put a module in front of the installed one: `stand_in("mxnet", "raise …")`."""

    def write(name, code):
        (tmp_path / f"{name}.py").write_text(code)
        return tmp_path

    return write


@pytest.fixture
def peer(mx, monkeypatch):
    """Run MXNet's own im2rec.py: `peer("--list", PREFIX, ROOT)`."""
    tool = os.path.join(os.path.dirname(mx.__file__), "tools", "im2rec.py")

    def run(*arguments):
        monkeypatch.setattr(sys, "argv", [tool, *map(str, arguments)])
        runpy.run_path(tool, run_name="__main__")
        gc.collect()  # it leaves its files open until it goes

    return run


def limit_file_size():
    """As `preexec_fn`: no file of the process may grow over 20,000 bytes, as on a full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))


def with_orientation(jpeg, orientation):
    """Return the JPEG with an EXIF block that asks for `orientation`, 1 to 8."""
    entry = struct.pack("<HHIHH", 0x0112, 3, 1, orientation, 0)
    tiff = b"II*\0" + struct.pack("<IH", 8, 1) + entry + bytes(4)
    block = b"Exif\0\0" + tiff
    return jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]


@pytest.fixture(scope="session")
def sample(tmp_path_factory):
    """The folder of the sample, with its lists and records."""
    folder = tmp_path_factory.mktemp("sample")
    for command in (
        [sys.executable, "data/make_sample.py", "--data-dir", folder],
        [sys.executable, "mx_list.py", "--data-dir", folder],
        ["sh", "gen_rec.sh", folder],
    ):
        subprocess.run(command, check=True, cwd=ROOT, capture_output=True)
    return folder


@pytest.fixture(scope="session")
def tiny_network(tmp_path_factory, mx):
    """The prefix of a zoo-shaped ResNet that is small enough to train in seconds."""
    from common.networks import checkpoint
    from common.networks.resnet import build_resnet
    from tests.random_networks import with_random_weights

    network = with_random_weights(
        build_resnet(10, 9, width=8), 64, 7, rnd_type="gaussian", factor_type="in", magnitude=2
    )
    prefix = str(tmp_path_factory.mktemp("zoo") / "resnet-10")
    checkpoint.save(prefix, 0, network)
    return prefix
