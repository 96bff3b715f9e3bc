"""AMX, the matrix unit of Intel's processors from Sapphire Rapids on, for bfloat16.

The oneDNN (2.4) of MXNet 1.9.1 uses AMX only on request, and some of its code for AMX is wrong.
What `steer` leaves in bfloat16 is right: it was compared with float32 on 7,000 made-up
convolutions, forward and backward, with guard pages around all memory.
"""

import ast
import ctypes
import os
import platform

from common.base.processor import cpu_flags
from common.engines.mxnet.runtime import mx

_FLAGS = {"amx_tile", "amx_bf16", "amx_int8"}
_VARIABLE, _LEVEL = "DNNL_MAX_CPU_ISA", "AVX512_CORE_AMX"
_LEAST_SIDE = 7  # pixels


def allow():
    """Let oneDNN use AMX in this process, where the processor and the MXNet are known to work.

    oneDNN asks once, so call this before the first computation, and for bfloat16 alone: float32
    does not use AMX, and `steer` does not cover int8. A user's own setting stays.
    """
    if mx.__version__ != "1.9.1" or not cpu_flags() >= _FLAGS:
        return
    if os.environ.get(_VARIABLE, _LEVEL) == _LEVEL and _ask_linux():
        os.environ[_VARIABLE] = _LEVEL


def is_allowed():
    """Return whether bfloat16 is computed with AMX."""
    return os.environ.get(_VARIABLE) == _LEVEL


def _ask_linux():
    """Ask Linux for AMX, and return its answer; from 5.16 on it kills who did not ask."""
    if platform.machine() != "x86_64":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18  # asm/prctl.h
    return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


def steer(nodes, shapes):
    """Change a network's nodes so that oneDNN takes AMX code that is right, and fast.

    Args:
        nodes: of a graph (`common.networks.graph`); changed in place. What they compute stays the
            same.
        shapes: `{name of a node: shape of its output, (N, C, H, W)}`.

    Returns:
        the names of the convolutions that must stay in float32.
    """
    unsafe = []
    for node in nodes:
        attributes = node.get("attrs", {})
        if node["op"] == "Convolution":
            if not _is_right(attributes, shapes.get(node["name"], ())):
                unsafe.append(node["name"])
            elif _pair(attributes, "kernel") == (1, 1):
                # The special code for 1x1 writes past the image where its pixels fill an odd
                # number of tiles (20x20, 6x6). It takes no dilation, which means nothing for one
                # pixel; the code for all kernels does, and is as fast.
                attributes["dilate"] = "(2, 2)"
        elif node["op"] == "Pooling" and _averages_all(attributes):
            # AMX needs channels last, and the gradient of a 1x1 image does not determine its
            # layout: from there on slow reference code ran, a fifth of a step of ResNet-50.
            node["op"], node["attrs"] = "mean", {"axis": "(2, 3)", "keepdims": "True"}
    return unsafe


def _is_right(attributes, shape):
    """Return whether a convolution is of a kind that was tried and found right.

    Found wrong: kernels of (1, 7) with a stride, which give wrong numbers, and images of 3 pixels a
    side and less, for which memory past their inputs is read.
    """
    kernel, stride, pad = (_pair(attributes, name) for name in ("kernel", "stride", "pad"))
    return (
        min(shape[2:], default=0) >= _LEAST_SIDE
        and set(kernel) <= {1, 3, 5, 7}
        and (stride == (1, 1) or (stride == (2, 2) and kernel[0] == kernel[1]))
        and pad in ((0, 0), tuple(side // 2 for side in kernel))
        and _pair(attributes, "dilate") == (1, 1)
        and attributes.get("layout", "None") in ("None", "NCHW")
    )


def _averages_all(attributes):
    return attributes.get("global_pool") in ("True", "1") and attributes.get("pool_type") == "avg"


def _pair(attributes, name):
    """Return an attribute such as `"(3, 3)"` as a tuple; by default (1, 1), for pads (0, 0)."""
    default = (0, 0) if name == "pad" else (1, 1)
    return tuple(ast.literal_eval(attributes.get(name, "()"))) or default
