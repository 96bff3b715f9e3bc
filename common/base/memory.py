"""How this process keeps the memory that it frees."""

import ctypes
import sys

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # glibc's malloc.h
_LARGEST_BLOCK = 32 << 20  # glibc's limit of the second; more than any photograph here


def keep_freed_memory(num_bytes=_LARGEST_BLOCK):
    """Let glibc keep up to `num_bytes` per thread for the next image, instead of returning them.

    By default, the pixels of each image are fresh pages from the kernel: 650 page faults for a
    photograph of 800x600, or 1.5 ms of the 6 ms that decoding, resizing and encoding it take. This
    does nothing except on Linux with glibc.
    """
    if not sys.platform.startswith("linux"):
        return
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None)
    if mallopt:
        mallopt(_MMAP_THRESHOLD, _LARGEST_BLOCK)
        mallopt(_TRIM_THRESHOLD, min(num_bytes, 2**31 - 1))
