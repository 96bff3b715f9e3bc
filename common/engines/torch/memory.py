"""Memory that numpy and PyTorch share: the loader decodes right into what the devices read."""

import functools

import numpy as np

from common.engines.torch.runtime import torch


def allocate(shape, dtype):
    """Return a new numpy array; where there is a GPU, in memory that it copies from by itself."""
    tensor_type = torch.from_numpy(np.empty(0, dtype)).dtype
    return torch.empty(shape, dtype=tensor_type, pin_memory=torch.cuda.is_available()).numpy()


def copy_to(array, device):
    """Return an array as a tensor on a device; a GPU copies it while it computes.

    The array must stay as it is until it is used there. On a CPU the tensor is the array's own
    memory.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type != "cuda":
        return tensor.to(device)
    if not tensor.is_pinned():
        tensor = tensor.pin_memory()
    copying, computing = _copy_stream(device), torch.cuda.current_stream(device)
    with torch.cuda.stream(copying):
        copy = tensor.to(device, non_blocking=True)
    computing.wait_stream(copying)
    copy.record_stream(computing)  # its memory stays until what is queued there has read it
    return copy


@functools.lru_cache(maxsize=None)
def _copy_stream(device):
    return torch.cuda.Stream(device)
