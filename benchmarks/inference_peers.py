"""Prediction on a CPU: ours, PyTorch compiled, ONNX Runtime and OpenVINO.

    python -m benchmarks.inference_peers
    python -m benchmarks.inference_peers --only resnet-152,int8 resnet-152,bfloat16

ResNet-152 and ConvNeXt-T of timm at 320 px, batches of 16 images of noise, random weights. Each
side is a process of its own; they take turns. Ours is what `--engine auto` chooses, and it with
`--compile`. ONNX Runtime and OpenVINO read what `sub.py --export-onnx` writes, and quantize it by
their own tools. Run by a Python with requirements/peers.txt; TORCH_PYTHON names another one for the
peers. Writes benchmarks/results/inference_peers.json, where `--only` leaves the other rows as they
were.
"""

import os
import sys
import tempfile
from types import SimpleNamespace

from benchmarks import rates
from benchmarks.compare import (
    add_versions,
    compare,
    make_parser,
    read_comparisons,
    take_turns,
    write_result,
)
from benchmarks.sides import close_all, start_sides, torch_network_flags
from common import engines
from common.base.files import UserError
from common.base.script import run_script
from common.networks.export import export_onnx
from common.networks.timm_network import TimmNetwork
from common.networks.timm_pretrained import HUB

SIZE, BATCH_SIZE, CLASSES = 320, 16, 5089
QUICK_SIZE, QUICK_BATCH_SIZE = 96, 4
BATCHES = {"float32": 2, "bfloat16": 3, "int8": 4}  # in a turn: some seconds for every side
NETWORKS = {"resnet-152": "ResNet-152", f"{HUB}convnext_tiny": "ConvNeXt-T"}
QUICK_NETWORKS = {"resnet-18": "ResNet-18", f"{HUB}convnext_atto": "ConvNeXt-A"}
OURS = "ours"
ASKED = 0.95  # smallest ratio to each peer


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="NETWORK,DTYPE", help="e.g. resnet-152,int8")
    args = parser.parse_args()
    args.size, args.batch_size = SIZE, BATCH_SIZE
    networks = NETWORKS
    if args.quick:
        args.size, args.batch_size, args.rounds = QUICK_SIZE, QUICK_BATCH_SIZE, 1
        networks = QUICK_NETWORKS
    rows, versions = read_comparisons("inference_peers", args.quick) if args.only else ({}, {})
    for network, title in networks.items():
        dtypes = [d for d in BATCHES if not args.only or f"{network},{d}" in args.only]
        if not dtypes:
            continue
        with tempfile.TemporaryDirectory() as folder:
            onnx_file = os.path.join(folder, "network.onnx")
            try:
                export(network, args.size, onnx_file)
            except UserError as error:
                print(f"left out: {title}: {error}", flush=True)
                continue
            for dtype in dtypes:
                what = f"predicting {title}, {dtype}"
                row = compare_runtimes(args, what, network, dtype, onnx_file, versions)
                rows.update({row["what"]: row} if row else {})
    write_result("inference_peers", {"comparisons": [*rows.values()]}, args.quick, versions)


def export(network, size, path):
    """Write a network of random weights as ONNX, for images of `size` pixels."""
    settings = SimpleNamespace(network=network, num_classes=CLASSES)
    engine = engines.load("torch" if network.startswith(HUB) else "auto")
    shape = (3, size, size)
    built = rates.with_random_weights(rates.build_network(settings, engine), engine, shape)
    write = engine.export_onnx if isinstance(built, TimmNetwork) else export_onnx
    write(path, built, shape)


def compare_runtimes(args, what, network, dtype, onnx_file, versions):
    """Measure the sides of one network and precision; return the comparison, or None without ours.

    The versions that the sides name are added to `versions`.
    """
    sides = start_ours(args, network, dtype)
    if not sides:
        return None
    sides.update(start_peers(args, network, dtype, onnx_file))
    speeds = take_turns(sides, args.rounds)
    add_versions(versions, close_all(sides))
    ours, *others = sides
    asked = {name: None if name.startswith(OURS) else ASKED for name in others}
    return compare(what, speeds, ours, asked)


def start_ours(args, network, dtype):
    """Start our sides; print which are left out."""
    command = [sys.executable, "-m", "benchmarks.predict_rate", "--serve", "--network", network]
    command += ["--image-size", args.size, "--batch-size", args.batch_size, "--dtype", dtype]
    command += ["--num-classes", CLASSES, "--batches", BATCHES[dtype]]
    wanted = {OURS: command}
    if dtype != "int8" or network.startswith(HUB):  # others have kernels of their own
        wanted[f"{OURS}, PyTorch --compile"] = [*command, "--engine", "torch", "--compile"]
    return start_sides(wanted)


def start_peers(args, network, dtype, onnx_file):
    """Start the peers; print which are left out."""
    flags = ["--dtype", dtype, "--batches", BATCHES[dtype]]
    flags += ["--batch-size", args.batch_size, "--size", args.size]
    of_torch, name = torch_network_flags(network), "PyTorch"
    if dtype != "int8":  # whose kernels are not compiled
        of_torch, name = [*of_torch, "--compile"], "PyTorch, compiled"
    run = [os.environ.get("TORCH_PYTHON", sys.executable), "-m"]
    onnx = [*run, "benchmarks.onnx_peer"]
    return start_sides(
        {
            name: [*run, "benchmarks.torch_peer", "predict", *of_torch, *flags],
            "ONNX Runtime": [*onnx, "onnxruntime", onnx_file, *flags],
            "OpenVINO": [*onnx, "openvino", onnx_file, *flags],
        }
    )


if __name__ == "__main__":
    run_script(main)
