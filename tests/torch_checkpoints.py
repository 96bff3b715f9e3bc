"""Checkpoints as PyTorch's own tools leave them, of one small network; run by a Python with torch.

    python tests/torch_checkpoints.py FOLDER

Writes FOLDER/*.pth, and FOLDER/expected.npz: the network's weights under their plain names.
"""

import argparse
import os
import sys

import numpy as np
import torch
from torch import nn
from torch.optim.swa_utils import AveragedModel


def main():
    folder = sys.argv[1]
    torch.manual_seed(0)
    network = nn.Sequential()
    network.add_module("conv1", nn.Conv2d(3, 4, 3))
    network.add_module("bn1", nn.BatchNorm2d(4))
    optimizer = torch.optim.AdamW(network.parameters())
    network(torch.randn(2, 3, 8, 8)).sum().backward()
    optimizer.step()
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 10)
    parallel, average = nn.DataParallel(network), AveragedModel(network)
    others = {
        "epoch": 3,
        "arch": "resnet18",
        "best_acc1": torch.tensor(71.5),
        "optimizer": optimizer.state_dict(),
        "scheduler": schedule.state_dict(),
        "args": argparse.Namespace(lr=0.1, device=torch.device("cpu"), size=torch.Size([3])),
        "metric": np.float32(0.7),
        "random": (torch.get_rng_state(), np.random.get_state()),
        "scaler": torch.zeros(1, dtype=torch.complex64),
        "mask": torch.eye(2).to_sparse(),
    }
    contents = {
        "imagenet": {**others, "state_dict": parallel.state_dict()},
        "average": average.state_dict(),
        "both": {**others, "model": network.state_dict(), "ema": {"net": average.state_dict()}},
        "parameters": {
            "model": {**dict(network.named_parameters()), **dict(network.named_buffers())}
        },
    }
    if hasattr(torch, "compile"):
        contents["compiled"] = {"model": torch.compile(parallel).state_dict()}
    for name, content in contents.items():
        for protocol in (2, 4):
            for new in (True, False):
                path = os.path.join(folder, f"{name}-{protocol}-{new}.pth")
                torch.save(
                    content, path, pickle_protocol=protocol, _use_new_zipfile_serialization=new
                )
    state = {name: tensor.numpy() for name, tensor in network.state_dict().items()}
    np.savez(os.path.join(folder, "expected.npz"), **state)


if __name__ == "__main__":
    main()
