"""Memory that numpy and PyTorch share: the loader decodes right into what the devices read."""

import numpy as np

from common.engines.torch.runtime import torch


def allocate(shape, dtype):
    """Return a new numpy array; where there is a GPU, in memory that it copies from by itself."""
    tensor_type = torch.from_numpy(np.empty(0, dtype)).dtype
    return torch.empty(shape, dtype=tensor_type, pin_memory=torch.cuda.is_available()).numpy()


def copy_to(array, device):
    """Return an array as a tensor on a device; a GPU copies it when it has done what it was given.

    The array must stay as it is until then. On a CPU the tensor is the array's own memory.
    """
    tensor = torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda" and not tensor.is_pinned():
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
