"""What several test files share: the scripts as a user calls them."""

import os
import resource
import signal
import struct
import subprocess
import sys
import textwrap

import pytest

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# The servers of the tests are on this machine, where a proxy of the network does not look.
os.environ.update(no_proxy="127.0.0.1,localhost", NO_PROXY="127.0.0.1,localhost")
# A shell's background job ignores Ctrl-C, and what it starts inherits that: not so our scripts.
signal.signal(signal.SIGINT, signal.default_int_handler)


def pytest_addoption(parser):
    parser.addoption("--faults-seed", default="0", help="draws other moments and damages")


@pytest.fixture
def script():
    """Call a script of the repository and return what it said: `script("mx_list.py", "--check")`.

    stdout and stderr are text; `status` is the exit status that is expected.
    """

    def call(name, *arguments, status=0, cwd=ROOT):
        command = [sys.executable, os.path.join(ROOT, name), *map(str, arguments)]
        done = subprocess.run(command, capture_output=True, encoding="utf-8", cwd=cwd)
        assert done.returncode == status, done.stderr
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
def tiny_network(tmp_path_factory):
    """The prefix of a zoo-shaped ResNet that is small enough to train in seconds."""
    from common import checkpoint, network
    from common.find_mxnet import mx

    mx.random.seed(7)
    symbol = network.build_resnet(10, 9, width=8)
    module = mx.mod.Module(symbol)
    module.bind([("data", (1, 3, 64, 64))], [("softmax_label", (1,))])
    module.init_params(mx.init.Xavier(rnd_type="gaussian", factor_type="in", magnitude=2))
    prefix = str(tmp_path_factory.mktemp("zoo") / "resnet-10")
    checkpoint.save(prefix, 0, symbol, *module.get_params())
    return prefix
