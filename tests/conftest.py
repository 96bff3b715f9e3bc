"""What several test files share: the scripts as a user calls them, and the engines there are."""

import gc
import os
import resource
import runpy
import signal
import struct
import subprocess
import sys
import textwrap

import pytest

from common import engines
from common.base.files import UserError
from common.base.processor import usable_cores
from common.data.classes import format_class_names
from common.networks import checkpoint
from common.networks.resnet import build_resnet
from tests.many_runs import Scripts
from tests.random_networks import with_random_weights

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# The servers of the tests are on this machine, where a proxy of the network does not look.
os.environ.update(no_proxy="127.0.0.1,localhost", NO_PROXY="127.0.0.1,localhost")
# The networks of the tests are small, and several tests run at once: each computes in one thread,
# and so does what it starts. More threads would also sum in another order.
os.environ["OMP_NUM_THREADS"] = "1"
# A shell's background job ignores Ctrl-C, and what it starts inherits that: not so our scripts.
signal.signal(signal.SIGINT, signal.default_int_handler)

NAMES = {"mxnet": "MXNet", "torch": "PyTorch"}
MISSING = {name: f"{NAMES[name]} is not installed" for name in engines.ENGINES}


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


@pytest.hookimpl(hookwrapper=True)
def pytest_make_collect_report(collector):
    """Skip a test file that imports an engine which is not installed."""
    report = (yield).get_result()
    error = getattr(report.call, "excinfo", None)
    if error is None or not error.errisinstance(UserError):
        return
    passed = "".join(str(entry.path) for entry in error.traceback)
    for name in set(engines.ENGINES) - set(engines.installed()):
        if os.path.join("engines", name, "runtime.py") in passed:
            report.outcome = "skipped"
            report.longrepr = (str(collector.path), 0, f"Skipped: {MISSING[name]}")


def require_engine(name):
    """Skip a test where an engine is not installed."""
    if name not in engines.installed():
        pytest.skip(MISSING[name])


def only(name):
    """Mark a test that takes the fixture `engine`: it is of one engine alone."""
    return pytest.mark.parametrize("engine", [name], indirect=True)


@pytest.fixture(
    scope="session",
    params=engines.installed()
    or [pytest.param("", marks=pytest.mark.skip(reason="no engine is installed"))],
)
def engine(request):
    """The name of an engine, as `--engine` takes it: such a test runs with each that there is."""
    require_engine(request.param)
    return request.param


@pytest.fixture(scope="session")
def mx():
    """MXNet, or the test is skipped: for what is compared with MXNet itself."""
    require_engine("mxnet")
    from common.engines.mxnet.runtime import mx

    return mx


def require_precision(engine, dtype):
    """Skip a test where an engine does not compute in a precision on this CPU."""
    loaded = engines.load(engine)
    try:
        loaded.check(dtype, loaded.parse_devices("cpu"))
    except UserError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="session")
def scripts(tmp_path_factory):
    """Run a script in a fork of a process that has imported the engines: `many_runs.Scripts`."""
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


def write_class_names(path, names):
    """Write a class file."""
    content = format_class_names(path, names)
    with open(path, "wb") as stream:
        stream.write(content)


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
def tiny_network(tmp_path_factory):
    """The prefix of a zoo-shaped ResNet that is small enough to train in seconds."""
    prefix = str(tmp_path_factory.mktemp("zoo") / "resnet-10")
    network = with_random_weights(build_resnet(10, 9, width=8), 64, seed=7, variance=2)
    checkpoint.save(prefix, 0, network)
    return prefix
