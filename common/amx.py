"""AMX, the matrix unit of Intel's processors from Sapphire Rapids on, for bfloat16.

MXNet 1.9.1's oneDNN (2.4) knows AMX, but uses it only where it is told to, and not all that it does
with it is right. Held to float32 on 7,000 made-up convolutions, forward and backward, with pages
around all memory that nobody may touch: what `steer` leaves in bfloat16 is right.
"""

import ast
import ctypes
import os
import platform

from common.devices import cpu_flags
from common.find_mxnet import mx

_FLAGS = {"amx_tile", "amx_bf16", "amx_int8"}
_VARIABLE, _LEVEL = "DNNL_MAX_CPU_ISA", "AVX512_CORE_AMX"
_LEAST_SIDE = 7  # pixels


def allow():
    """Let oneDNN use AMX in this process where the processor has it and can be trusted with it.

    oneDNN asks once, so this comes before the first computation. It is for bfloat16 alone: float32
    has no use for it, and int8's kernels are not steered around. What a user set stays.
    """
    if mx.__version__ != "1.9.1" or not cpu_flags() >= _FLAGS:
        return
    if os.environ.get(_VARIABLE, _LEVEL) == _LEVEL and _ask_linux():
        os.environ[_VARIABLE] = _LEVEL


def is_allowed():
    """Return whether bfloat16 is computed with AMX."""
    return os.environ.get(_VARIABLE) == _LEVEL


def _ask_linux():
    """Return whether Linux lets this process use AMX; unasked, it would be killed (from 5.16)."""
    if platform.machine() != "x86_64":
        return False
    arch_prctl, request_permission, tile_data = 158, 0x1023, 18  # asm/prctl.h
    return ctypes.CDLL(None).syscall(arch_prctl, request_permission, tile_data) == 0


def steer(nodes, shapes):
    """Change a network's nodes so that oneDNN takes AMX code that is right, and fast.

    Args:
        nodes: of a symbol's graph, as `network.read_nodes` gives them; changed in place. What they
            compute stays the same.
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
                # The code for 1x1 alone writes behind the image where its pixels fill an odd number
                # of tiles (20x20, 6x6). It does not take a dilation, which means nothing for one
                # pixel; the code for all kernels does, and is as fast.
                attributes["dilate"] = "(2, 2)"
        elif node["op"] == "Pooling" and _averages_all(attributes):
            # AMX wants channels last, and the gradient of a 1x1 image does not tell its layout:
            # from there on slow reference code was taken, a fifth of a step of ResNet-50.
            node["op"], node["attrs"] = "mean", {"axis": "(2, 3)", "keepdims": "True"}
    return unsafe


def _is_right(attributes, shape):
    """Whether a convolution is of a kind that was tried and found right.

    Tried and not right: kernels of (1, 7) with a stride, which give wrong numbers, and images of 3
    pixels a side and less, for which memory behind their inputs is read.
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
    """Return an attribute such as `"(3, 3)"` as a tuple; left out, it is 1, and 0 of pads."""
    default = (0, 0) if name == "pad" else (1, 1)
    return tuple(ast.literal_eval(attributes.get(name, "()"))) or default
