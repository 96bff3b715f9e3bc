"""On one GPU: ResNet-152 trained from records and used, beside the same network in plain PyTorch.

    python -m benchmarks.gpu                        about seven minutes
    python -m benchmarks.gpu --only train,bfloat16,64 predict,float16,64
    python -m benchmarks.gpu --compile --only train,bfloat16,64

320 pixels, random weights. Ours reads, decodes and augments photographs (683x512, JPEG 95) as
fine-tune.py does. The peer's images lie in the GPU's memory already: what is measured against it is
all that training costs beside the network. One side has the GPU at a time. The share of the peak
compares the arithmetic of the convolutions with the card's own product of two matrices of 8192x8192
in the same precision. Adds to benchmarks/results/gpu.json.
"""

import argparse
import math
import os
import sys
import tempfile
import time

import numpy as np

from benchmarks import rates, train_rate
from benchmarks.compare import compare, make_parser, read_result, write_result
from benchmarks.made_up import encoded_photographs, write_records
from benchmarks.sides import Side, rates_and_close
from common import engines
from common.base.processor import usable_cores
from common.base.script import run_script

SIZE, CLASSES = 320, 5089
ASKED = 0.95  # smallest ratio to plain PyTorch
WORKS = [  # work, precision, batch size
    ("train", "bfloat16", 64),
    ("train", "bfloat16", 32),
    ("train", "bfloat16", 128),
    ("train", "float16", 64),
    ("train", "tf32", 64),
    ("train", "float32", 64),
    ("predict", "bfloat16", 64),
    ("predict", "float16", 64),
    ("predict", "tf32", 64),
    ("predict", "float32", 64),
]
SECONDS = 2.0  # of a round


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--only", nargs="+", metavar="WORK,DTYPE,BATCH", help="of all of them")
    parser.add_argument("--compile", action="store_true", help="compile both sides")
    parser.add_argument("--device", default="0", help="as of fine-tune.py; cpu: a trial")
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    args.layers, args.rounds = (18, 1) if args.quick else (152, args.rounds)
    works = WORKS[:1] if args.quick else WORKS
    if args.only:
        wanted = [tuple(text.split(",")) for text in args.only]
        works = [(work, dtype, int(batch)) for work, dtype, batch in wanted]
    found = read_result("gpu", args.quick)
    kept = {entry["what"]: entry for entry in found.get("comparisons", [])}
    peaks, versions = found.get("peaks", {}), {}
    with tempfile.TemporaryDirectory() as folder:
        args.records = make_records(folder, 64 if args.quick else 1920)
        feeding = feeding_rate(args)
        print(f"reading alone: {feeding:.0f} images/s with {usable_cores()} threads", flush=True)
        for work, dtype, batch_size in works:
            comparison = measure(args, work, dtype, batch_size, versions)
            kept[comparison["what"]] = comparison
            if dtype not in peaks:
                peaks[dtype] = peak(args, dtype)
            comparison["share_of_peak"] = share_of_peak(args, work, comparison, peaks[dtype])
            print(f"  share of the peak: {comparison['share_of_peak']:.2f}", flush=True)
            result = {"comparisons": [*kept.values()], "peaks": peaks}
            result.update(feeding=feeding, threads=usable_cores())
            write_result("gpu", result, args.quick, versions)


def make_records(folder, number):
    """Write made-up photographs as records; return their name."""
    labels = [seed % CLASSES for seed in range(number)]
    return write_records(os.path.join(folder, "made_up"), encoded_photographs(number), labels)


def feeding_rate(args):
    """Return the images per second that the loader reads for training with all cores."""
    settings = argparse.Namespace(records=args.records, image_size=SIZE, threads=usable_cores())
    settings.num_classes, settings.batch_size = CLASSES, 64
    loader = train_rate.open_loader(settings, allocate=np.empty)
    start = time.perf_counter()
    count = sum(len(batch.labels) - batch.pad for batch in loader)
    loader.close()
    return count / (time.perf_counter() - start)


def measure(args, work, dtype, batch_size, versions):
    """Measure both sides of one kind of work, one after the other; return the comparison."""
    compiled = ["--compile"] if args.compile else []
    size = ["--batch-size", batch_size, *of_dtype(dtype), *compiled]
    own = ["--engine", "torch", "--serve", "--network", f"resnet-{args.layers}"]
    own += ["--image-size", SIZE, "--gpus", args.device]
    records = ["--records", args.records, "--threads", usable_cores()]
    device = "cpu" if args.device == "cpu" else "cuda"
    peer = [work, "--pre-activation", "--layers", args.layers, "--size", SIZE, "--device", device]
    sides = {
        "ours": [f"{work}_rate", *own, *size, *(records if work == "train" else [])],
        "plain PyTorch": ["torch_peer", *peer, *size],
    }
    speeds = {name: rates_of(args, name, command, versions) for name, command in sides.items()}
    what = f"{work}ing ResNet-{args.layers}, {dtype}, batches of {batch_size}"
    what += ", compiled" if args.compile else ""
    return compare(what, speeds, "ours", {"plain PyTorch": ASKED})


def of_dtype(dtype):
    return ["--tf32"] if dtype == "tf32" else ["--dtype", dtype]


def rates_of(args, name, command, versions):
    """Start a side, have it work for some seconds `--rounds` times, and end it.

    Returns the units per second of each round.
    """
    batches = 2 if args.quick else 25
    command = [sys.executable, "-m", f"benchmarks.{command[0]}", *command[1:]]
    side = Side(name, [*map(str, command), "--batches", str(batches)])
    versions.update(side.versions)
    return rates_and_close(side, args.rounds, 0 if args.quick else SECONDS)


def peak(args, dtype):
    """Return the floating-point operations per second of a product of matrices."""
    device = "cpu" if args.device == "cpu" else "cuda"
    command = ["torch_peer", "peak", "--device", device, *of_dtype(dtype)]
    return max(rates_of(args, "peak", command, {}))


def share_of_peak(args, work, comparison, operations):
    """Return which share of the peak the convolutions of our side take."""
    passes = 3 if work == "train" else 1  # backward: the gradients of inputs and of weights
    median = sorted(comparison["ours"])[len(comparison["ours"]) // 2]
    return median * passes * operations_of_an_image(args.layers) / operations


def operations_of_an_image(layers):
    """Return the floating-point operations of the convolutions and the head for one image."""
    settings = argparse.Namespace(network=f"resnet-{layers}", num_classes=CLASSES)
    engine, shape = engines.load("torch"), (3, SIZE, SIZE)
    graph = rates.build_network(settings, engine).graph
    weights, outputs = engine.infer_shapes(graph, shape), engine.layer_shapes(graph, shape)
    return sum(
        2 * math.prod(weights[f"{name}_weight"]) * math.prod(output[2:])
        for name, output in outputs.items()
        if f"{name}_weight" in weights
    )


if __name__ == "__main__":
    run_script(main)
