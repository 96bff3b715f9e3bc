"""The peer in PyTorch: run by a Python that has torch and none of our packages.

    TORCH_PYTHON -m benchmarks.torch_peer train --dtype bfloat16 --compile
    TORCH_PYTHON -m benchmarks.torch_peer predict
    TORCH_PYTHON -m benchmarks.torch_peer feed --folder JPEGS --preset training --reader cv2

The benchmarks start it; it then works for each line of its standard input (`benchmarks/sides.py`).
PyTorch gets its best settings for a CPU: all cores, channels_last, autocast for bfloat16, freed
memory that stays with the process, and Inductor's frozen weights where the network is compiled for
inference.
"""

import argparse
import os

import torch
from torch.utils.data import DataLoader

from benchmarks.sides import serve
from common.base.memory import keep_all_freed_memory
from tests.torch_reference import IMAGENET, PreActivationResNet, ResNet

DEPTHS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 152: (3, 8, 36, 3)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["train", "predict", "feed"])
    parser.add_argument("--layers", type=int, choices=DEPTHS, default=152)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=1, help="per request, in train and predict")
    parser.add_argument("--classes", type=int, default=5089)
    parser.add_argument("--dtype", choices=["float32", "bfloat16", "int8"], default="float32")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--pre-activation", action="store_true", help="the zoo's network")
    parser.add_argument("--timm", metavar="NAME", help="timm's network instead of a ResNet")
    parser.add_argument("--folder", help="of JPEGs")
    parser.add_argument("--preset", choices=["training", "validation"], default="training")
    readers = ["pil", "cv2", "torchvision", "torchvision-cv2"]
    parser.add_argument("--reader", choices=readers, default="cv2")
    parser.add_argument("--workers", type=int, default=os.cpu_count())
    args = parser.parse_args()
    torch.manual_seed(0)
    keep_all_freed_memory()
    versions = {"PyTorch": torch.__version__}
    if args.work == "feed":
        work, version = make_feeder(args)
        versions.update(version)
    else:
        work = make_trainer(args) if args.work == "train" else make_predictor(args)
        work()  # compiles
    serve(work, versions)


# --- The network --------------------------------------------------------------------------------


def make_network(args):
    """Return a network in the memory layout that is fastest on CPUs, and a batch of noise."""
    if args.timm:
        import timm

        network = timm.create_model(args.timm, num_classes=args.classes)
    else:
        kind = PreActivationResNet if args.pre_activation else ResNet
        bottleneck = args.layers >= 50
        network = kind(DEPTHS[args.layers], bottleneck=bottleneck, num_classes=args.classes)
    shape = (args.batch_size, 3, args.size, args.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8)
    return network.to(memory_format=torch.channels_last), images


def normalise(images):
    """Return raw uint8 RGB as the network takes it."""
    mean, std = (torch.tensor(values).reshape(1, 3, 1, 1) * 255 for values in IMAGENET)
    return ((images.float() - mean) / std).contiguous(memory_format=torch.channels_last)


def make_trainer(args):
    """Return a function that trains batches: SGD, as run.sh has it."""
    network, images = make_network(args)
    labels = torch.randint(0, args.classes, (args.batch_size,))
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01)
    forward = torch.compile(network) if args.compile else network

    def work():
        losses = []
        for _ in range(args.batches):
            with torch.autocast("cpu", torch.bfloat16, enabled=args.dtype == "bfloat16"):
                logits = forward(normalise(images))
                loss = torch.nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.item())
        return args.batch_size * args.batches, losses

    return work


def make_predictor(args):
    """Return a function that predicts batches: probabilities as numpy arrays."""
    network, images = make_network(args)
    network.eval()
    if args.dtype == "int8":
        network = quantize(network, normalise(images))
    if args.compile:
        from torch._inductor import config

        config.freezing = True
        network = torch.compile(network)

    def work():
        for _ in range(args.batches):
            with torch.no_grad(), torch.autocast(
                "cpu", torch.bfloat16, enabled=args.dtype == "bfloat16"
            ):
                network(normalise(images)).float().softmax(1).numpy()
        return args.batch_size * args.batches, []

    return work


@torch.no_grad()
def quantize(network, images):
    """Return a network in int8, by PyTorch's own quantization for this processor."""
    from torch.ao.quantization import get_default_qconfig_mapping
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx

    network = prepare_fx(network, get_default_qconfig_mapping("x86"), (images,))
    network(images)  # calibrates
    return convert_fx(network)


# --- The photographs ----------------------------------------------------------------------------


def make_feeder(args):
    """Return a function that reads every photograph of a folder, and the version of its reader."""
    from benchmarks.torch_photographs import Photographs, reader_version, start_worker

    version = reader_version(args.reader)
    photographs = Photographs(args.folder, args.preset, args.reader, args.size)
    loader = DataLoader(
        photographs,
        batch_size=args.batch_size,
        shuffle=args.preset == "training",
        num_workers=args.workers,
        worker_init_fn=start_worker,
        persistent_workers=True,
    )

    def work():
        return sum(len(images) for images, _ in loader), []

    return work, version


if __name__ == "__main__":
    main()
