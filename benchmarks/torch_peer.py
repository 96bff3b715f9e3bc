"""The peer in PyTorch: run by a Python that has torch and none of our packages.

    TORCH_PYTHON -m benchmarks.torch_peer train --dtype bfloat16 --compile
    TORCH_PYTHON -m benchmarks.torch_peer predict --device cuda --dtype float16
    TORCH_PYTHON -m benchmarks.torch_peer feed --folder JPEGS --preset training --reader cv2

The benchmarks start it; it then works for each line of its standard input (`benchmarks/sides.py`).
PyTorch gets its best settings: channels_last, autocast for bfloat16 and float16, and Inductor's
frozen weights where the network is compiled for inference; on a CPU all cores, and freed memory
that stays with the process; on a GPU cuDNN's fastest convolutions, a fused optimizer, images that
lie in the GPU's memory already, and no wait between batches.
"""

import argparse
import os

import torch
from torch.utils.data import DataLoader

from benchmarks.sides import serve
from common.base.memory import keep_all_freed_memory
from tests.torch_reference import IMAGENET, PreActivationResNet, ResNet

DTYPES = ("float32", "bfloat16", "float16")
DEPTHS = {18: (2, 2, 2, 2), 50: (3, 4, 6, 3), 152: (3, 8, 36, 3)}


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("work", choices=["train", "predict", "feed", "peak"])
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    parser.add_argument("--layers", type=int, choices=DEPTHS, default=152)
    parser.add_argument("--size", type=int, default=320)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--batches", type=int, default=1, help="per request, in train and predict")
    parser.add_argument("--classes", type=int, default=5089)
    parser.add_argument("--dtype", choices=[*DTYPES, "int8"], default="float32")
    parser.add_argument("--tf32", action="store_true", help="float32 as TF32, on a GPU")
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
    if args.device == "cuda":
        versions["GPU"] = torch.cuda.get_device_name()
        torch.backends.cudnn.benchmark = True
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = args.tf32
    if args.work == "feed":
        work, version = make_feeder(args)
        versions.update(version)
    else:
        make = {"train": make_trainer, "predict": make_predictor, "peak": make_product}[args.work]
        work = make(args)
        work()  # compiles
    serve(work, versions)


# --- The network --------------------------------------------------------------------------------


def make_network(args):
    """Return a network on its device in the layout that is fastest, and a batch of noise."""
    if args.timm:
        import timm

        network = timm.create_model(args.timm, num_classes=args.classes)
    else:
        kind = PreActivationResNet if args.pre_activation else ResNet
        bottleneck = args.layers >= 50
        network = kind(DEPTHS[args.layers], bottleneck=bottleneck, num_classes=args.classes)
    shape = (args.batch_size, 3, args.size, args.size)
    images = torch.randint(0, 256, shape, dtype=torch.uint8, device=args.device)
    return network.to(args.device, memory_format=torch.channels_last), images


def make_normalise(args):
    """Return a function that returns raw uint8 RGB as the network takes it."""
    mean, std = (
        torch.tensor(values, device=args.device).reshape(1, 3, 1, 1) * 255 for values in IMAGENET
    )

    def normalise(images):
        images = images.to(torch.float32, memory_format=torch.channels_last)
        return images if args.pre_activation else (images - mean) / std

    return normalise


def autocast(args):
    """Return a context that computes in `--dtype`."""
    low_precision = args.dtype in ("bfloat16", "float16")
    dtype = getattr(torch, args.dtype) if low_precision else torch.bfloat16
    return torch.autocast(args.device, dtype, enabled=low_precision)


def make_trainer(args):
    """Return a function that trains batches: SGD, as run.sh has it.

    float16 is trained without scaling the loss, whose checks would only cost time.
    """
    network, images = make_network(args)
    normalise = make_normalise(args)
    labels = torch.randint(0, args.classes, (args.batch_size,), device=args.device)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.01, fused=args.device == "cuda")
    forward = torch.compile(network) if args.compile else network

    def work():
        losses = []
        for _ in range(args.batches):
            with autocast(args):
                logits = forward(normalise(images))
                loss = torch.nn.functional.cross_entropy(logits, labels)
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        return args.batch_size * args.batches, torch.stack(losses).tolist()

    return work


def make_predictor(args):
    """Return a function that predicts batches: probabilities as numpy arrays."""
    network, images = make_network(args)
    normalise = make_normalise(args)
    network.eval()
    if args.dtype == "int8":
        network = quantize(network, normalise(images))
    if args.compile:
        from torch._inductor import config

        config.freezing = True
        network = torch.compile(network)

    def work():
        for _ in range(args.batches):
            with torch.no_grad(), autocast(args):
                probabilities = network(normalise(images)).float().softmax(1)
                probabilities.to("cpu", non_blocking=True)
        if args.device == "cuda":
            torch.cuda.synchronize()
        return args.batch_size * args.batches, []

    return work


def make_product(args):
    """Return a function that multiplies large matrices; it counts floating-point operations."""
    side = 8192 if args.device == "cuda" else 2048
    dtype = getattr(torch, args.dtype)
    one, other = (torch.randn(side, side, device=args.device).to(dtype) for _ in range(2))

    def work():
        for _ in range(args.batches):
            product = one @ other
        product[0, 0].item()
        return 2 * side**3 * args.batches, []

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
