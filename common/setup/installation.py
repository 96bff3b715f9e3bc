"""Installing: a new environment with its packages, and the trial that it computes."""

import os

from common.base.files import ROOT
from common.setup import machine, sizes
from common.setup.environment import Stamp, python_of, sum_of_requirements
from common.setup.packages import (
    Pip,
    default_torch_build,
    run,
    take_fitting_opencv,
    torch_build,
)

# What computes in the environment of each file in requirements/, in the order of `engines.ENGINES`.
ENGINES = {
    "cpu": ["mxnet"],
    "cu117": ["mxnet"],
    "cu80": ["mxnet"],
    "cpu-1.5": ["mxnet"],
    "torch": ["torch"],
    "both": ["mxnet", "torch"],
}

# The trials run in the new environment and end in one line. A GPU that fails is reported: PyTorch
# computes on the CPU as well.
_TRIALS = {
    "mxnet": """
from common.engines.mxnet.runtime import mx
assert mx.nd.ones((2, 2)).sum().asscalar() == 4
print("setup.sh: MXNet", mx.__version__, "works", file=sys.stderr)
""",
    "torch": """
from common.engines.torch.devices import num_gpus
from common.engines.torch.runtime import reason_of, torch
assert torch.ones((2, 2)).sum().item() == 4
print("setup.sh: PyTorch", torch.__version__, "works", file=sys.stderr)
for number in range(num_gpus()):
    try:
        assert torch.ones((2, 2), device=number).sum().item() == 4
    except RuntimeError as error:
        print(f"setup.sh: GPU {number} fails: {reason_of(error)}", file=sys.stderr)
""",
}
_TRIAL = """
import sys
from common.base.files import UserError
try:
{}
except UserError as error:
    sys.exit(f"setup.sh: all is installed, but {} does not start here: {{error}}")
"""


def install(environment, interpreter, kind, say):
    """Make a new environment beside the present one and install requirements/KIND.txt in it.

    Raises:
        SetupError: it cannot be done, and why.
    """
    requirements = os.path.join(ROOT, "requirements", f"{kind}.txt")
    needs_torch = "torch" in ENGINES[kind]
    say(f"making {environment.shown} with {interpreter} and requirements/{kind}.txt")
    sizes.require_space(environment.folder, kind, "CPU" if needs_torch else None)
    environment.begin(interpreter.path)
    pip = Pip(environment.new, python_of(environment.new), (kind, str(interpreter)))
    wanted, build = ["-r", requirements], None
    if needs_torch:
        here = machine.look()
        wanted += machine.torch_limit(here)
        packages = pip.would_install(*wanted)
        build = default_torch_build() if packages is None else torch_build(packages)
        announce_torch(build, machine.fits_torch(here), say)
        sizes.require_space(environment.folder, kind, build)
    say(sizes.describe(kind, build))
    pip.install(*wanted)
    take_fitting_opencv(pip, say)
    python = ".".join(map(str, interpreter.version))
    environment.complete(Stamp(kind, sum_of_requirements(kind), python))


def announce_torch(build, has_gpu, say):
    """Say which build of PyTorch it is, and how to get the other one where that fits better."""
    say(f"PyTorch's build for {build} is what pip finds")
    if has_gpu == (build != "CPU"):
        return
    better = "CUDA" if has_gpu else "CPUs"
    download, _ = sizes.cost("torch", "CUDA 13" if has_gpu else "CPU")
    say(
        f"this machine has {'a' if has_gpu else 'no'} GPU that PyTorch can use; for its build for"
        f" {better} ({sizes.in_bytes(download)}) stop this (Ctrl-C), set PIP_EXTRA_INDEX_URL to the"
        f" address of PyTorch's index for {better}, which its install page shows, and run it again"
    )


def computes(folder, kind):
    """Return whether the engines of the environment in a folder compute; report the first lines."""
    for engine in ENGINES[kind]:
        name = {"mxnet": "MXNet", "torch": "PyTorch"}[engine]
        code = _TRIAL.format(_TRIALS[engine].replace("\n", "\n    "), name)
        if run([python_of(folder), "-c", code], cwd=ROOT).returncode != 0:
            return False
    return True
