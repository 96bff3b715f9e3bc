"""The training of fine-tune.py, written plainly in PyTorch, on the same batches.

The peer of `benchmarks/choices.py`. The network is EfficientNet-Lite0 as one would write it
(`tests/torch_reference.py`), with the pretrained weights of `--pretrained-model` and the new head
that `--seed` draws; the optimizer is `torch.optim`'s. Images, their order and their augmentation
are the loader's. One semantic difference is left: BatchNorm blends the unbiased variance into its
statistics, this project and MXNet the biased one.
"""

import math

import torch
from torch.nn.functional import cross_entropy

from common.base.memory import keep_all_freed_memory
from common.networks import checkpoint
from common.training import batches
from common.training.schedule import parse_step_epochs
from tests.torch_reference import Lite0

# The order of arrays in memory, which decides how sums are rounded.
LAYOUTS = {"nhwc": torch.channels_last, "nchw": torch.contiguous_format}
MEAN, STD = 127, 128  # of the input, as these weights were trained
ARRAYS = {  # of a layer: PyTorch's name, and the ending of ours
    torch.nn.Conv2d: {"weight": "weight"},
    torch.nn.BatchNorm2d: {
        "weight": "gamma",
        "bias": "beta",
        "running_mean": "moving_mean",
        "running_var": "moving_var",
    },
}


def fine_tune(args, layout):
    """Train and validate by the flags of fine-tune.py; return `{"val_top1": …, "val_loss": …}`."""
    keep_all_freed_memory()
    torch.backends.cudnn.allow_tf32 = False  # float32 means float32, as in ours
    torch.backends.cudnn.benchmark = True
    device = torch.device("cpu" if args.gpus in ("", "cpu") else f"cuda:{args.gpus}")
    data = batches.open_batches(args)
    try:
        network = make_network(args.pretrained_model, data.num_classes, args.seed)
        network.to(device, memory_format=LAYOUTS[layout])
        train(network, data.train, args)
        return validate(network, data.val)
    finally:
        data.close()


@torch.no_grad()
def make_network(prefix, num_classes, seed):
    """Return the pretrained network with a new head: what ours begins with."""
    network, ours = Lite0(tensorflow=True, num_classes=num_classes), checkpoint.load(prefix, 0)
    arrays = {**ours.params, **ours.stats}
    operators = ("Convolution", "BatchNorm")
    names = [node["name"] for node in ours.graph["nodes"] if node["op"] in operators]
    names.remove("bn_data")  # the normalisation of the input
    layers = [layer for layer in network.modules() if type(layer) in ARRAYS]
    if len(names) != len(layers):
        raise ValueError(f"{prefix}: has {len(names)} layers, not {len(layers)}")
    for name, layer in zip(names, layers):
        for theirs, mine in ARRAYS[type(layer)].items():
            getattr(layer, theirs).copy_(torch.from_numpy(arrays[f"{name}_{mine}"]))
    weight = network.classifier.weight
    drawn = torch.randn(weight.shape, generator=torch.Generator().manual_seed(seed))
    weight.copy_(drawn * math.sqrt(2 / weight.shape[1]))
    torch.nn.init.zeros_(network.classifier.bias)
    return network


def make_optimizer(network, args):
    """Return torch.optim's: AdamW decays the weights alone, no biases and no BatchNorm."""
    if args.optimizer == "adamw":
        params = list(network.parameters())
        groups = [
            {"params": [param for param in params if param.dim() > 1], "weight_decay": args.wd},
            {"params": [param for param in params if param.dim() == 1], "weight_decay": 0.0},
        ]
        return torch.optim.AdamW(groups, lr=args.lr)
    return torch.optim.SGD(network.parameters(), lr=args.lr, momentum=args.mom)


def train(network, loader, args):
    """Train all epochs."""
    optimizer = make_optimizer(network, args)
    steps = parse_step_epochs(args.lr_step_epochs)
    for epoch in range(args.num_epochs):
        for group in optimizer.param_groups:
            group["lr"] = args.lr * args.lr_factor ** sum(step <= epoch for step in steps)
        loader.set_epoch(epoch)
        network.train()
        for batch in loader:
            loss = cross_entropy(*compute(network, batch))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()


@torch.inference_mode()
def validate(network, loader):
    """Return the scores of the validation images."""
    network.eval()
    losses, right = [], []
    for batch in loader:
        logits, labels = compute(network, batch)
        size = len(labels) - batch.pad
        losses.append(cross_entropy(logits, labels, reduction="none")[:size])
        right.append((logits.argmax(1) == labels)[:size].float())
    return {"val_top1": torch.cat(right).mean().item(), "val_loss": torch.cat(losses).mean().item()}


def compute(network, batch):
    """Return the logits of a batch, and its labels on the same device."""
    weight = network.conv_stem.weight
    images = (torch.from_numpy(batch.images).to(weight.device).float() - MEAN) / STD
    labels = torch.from_numpy(batch.labels).to(weight.device).long()
    return network(images), labels
