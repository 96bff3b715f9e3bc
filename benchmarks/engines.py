"""Both engines in one run, and plain PyTorch: ResNet-152 and ConvNeXt-T at 320 px on a CPU.

    python -m benchmarks.engines
    python -m benchmarks.engines --only resnet-152,predict,int8 timm:convnext_tiny,train,float32
    python -m benchmarks.engines --instructions AVX2        ResNet-152 as on an older processor
    python -m benchmarks.engines --instructions AMX         ResNet-152 on a processor with AMX

Run by a Python that has both engines, and timm for ConvNeXt-T, which is trained alone here
(`benchmarks/inference_peers.py` predicts with it). Each side is a process of its own; they take
turns. The peer is the same network written plainly in PyTorch or timm's, at its best: compiled or
not, whichever is faster. The ratios of the engines are what `common/engines/choice.py` decides by.
Random weights, batches of noise. Writes benchmarks/results/engines.json (with `--instructions`,
engines_avx2.json), where `--only` leaves the other rows as they were.
"""

import os
import sys

from benchmarks.compare import (
    add_versions,
    compare,
    make_parser,
    read_comparisons,
    take_turns,
    write_result,
)
from benchmarks.sides import (
    ONEDNN_LIMITS,
    close_all,
    start_sides,
    start_torch_sides,
    torch_network_flags,
)
from common.base.files import UserError
from common.base.processor import cpu_flags, usable_cores
from common.base.script import run_script
from common.networks.timm_pretrained import HUB

SIZE, CLASSES = 320, 5089
NETWORKS = {"resnet-152": "ResNet-152", f"{HUB}convnext_tiny": "ConvNeXt-T"}
QUICK_NETWORKS = {"resnet-18": "ResNet-18", f"{HUB}convnext_atto": "ConvNeXt-A"}
BATCH_SIZES = {"predict": 16, "train": 8}
# In a turn, for every four cores: some seconds for every side.
BATCHES = {"float32": 1, "bfloat16": 2, "int8": 3}
# Compiling takes minutes, and was measured to gain nothing in training a ResNet (ResNet-50, 160 px:
# 1.01 times in float32, 1.00 in bfloat16).
COMPILED = [("predict", "float32"), ("predict", "bfloat16")]
ASKED = 0.97  # smallest ratio to plain PyTorch
# Older processors: oneDNN's name for their instructions, PyTorch's, and what they compute in.
OLDER = {
    "AVX2": ("avx2", ["float32", "int8"]),
    "AVX512_CORE": ("avx512", ["bfloat16", "int8"]),  # neither VNNI nor BF16
}
NEWER = {"AMX": "amx_bf16"}  # and Linux's name; nothing is limited there


def main():
    parser = make_parser(__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--only", nargs="+", metavar="NETWORK,WORK,DTYPE")
    parser.add_argument(
        "--instructions", choices=[*OLDER, *NEWER], help="default: the processor's own"
    )
    args = parser.parse_args()
    os.environ.setdefault("TORCH_PYTHON", sys.executable)
    name = "engines"
    if args.instructions:
        name += f"_{args.instructions.lower()}"
        take_instructions(args.instructions)
    rows, versions = read_comparisons(name, args.quick) if args.only else ({}, {})
    for network, title in (QUICK_NETWORKS if args.quick else NETWORKS).items():
        for work, dtype in works_of(network, args.instructions):
            if args.only and f"{network},{work},{dtype}" not in args.only:
                continue
            row = compare_engines(args, network, title, work, dtype, versions)
            rows.update({row["what"]: row} if row else {})
    if not rows:
        raise UserError("nothing was measured: what is left out, and why, stands above")
    write_result(name, {"comparisons": [*rows.values()]}, args.quick, versions)


def take_instructions(name):
    """Limit the sides to older instructions, or see that the processor has the newer ones."""
    if name in OLDER:
        os.environ.update(dict.fromkeys(ONEDNN_LIMITS, name))
        os.environ["ATEN_CPU_CAPABILITY"] = OLDER[name][0]
    elif NEWER[name] not in cpu_flags():
        raise UserError(f"--instructions {name}: this processor has no {NEWER[name]}")


def works_of(network, instructions):
    """Return what is measured of a network: (work, precision)."""
    is_timm = network.startswith(HUB)
    if instructions and is_timm:
        return []
    dtypes = OLDER[instructions][1] if instructions in OLDER else [*BATCHES]
    works = [] if is_timm else [("predict", dtype) for dtype in dtypes]
    return [*works, *(("train", dtype) for dtype in dtypes if dtype != "int8")]


def compare_engines(args, network, title, work, dtype, versions):
    """Measure the sides of one kind of work; return the comparison, or None where there is none."""
    is_compiled = (work, dtype) in COMPILED or network.startswith(HUB)
    ours = start_ours(network, work, dtype, is_compiled)
    if "ours, PyTorch" not in ours:
        close_all(ours)
        return None
    sides = {**ours, **start_peers(network, work, dtype, is_compiled)}
    speeds = take_turns(sides, 1 if args.quick else args.rounds)
    add_versions(versions, close_all(sides))
    peers = {name: None if name in ours else ASKED for name in sides if name != "ours, PyTorch"}
    what = f"{work}ing {title}, {dtype}"
    what += f", {args.instructions}" if args.instructions else ""
    return compare(what, speeds, "ours, PyTorch", peers)


def start_ours(network, work, dtype, is_compiled):
    """Start a side for each engine, and say which are left out."""
    wanted = {"ours, MXNet": ["--engine", "mxnet"], "ours, PyTorch": ["--engine", "torch"]}
    if network.startswith(HUB):
        del wanted["ours, MXNet"]
    if is_compiled:
        wanted["ours, PyTorch --compile"] = ["--engine", "torch", "--compile"]
    command = [sys.executable, "-m", f"benchmarks.{work}_rate", "--serve"]
    command += ["--network", network, "--image-size", SIZE, "--dtype", dtype]
    command += ["--batch-size", BATCH_SIZES[work], "--batches", batches_of(dtype)]
    return start_sides({name: [*command, *flags] for name, flags in wanted.items()})


def batches_of(dtype):
    return BATCHES[dtype] * max(1, usable_cores() // 4)


def start_peers(network, work, dtype, is_compiled):
    """Start the sides that are written plainly in PyTorch."""
    flags = [work, *torch_network_flags(network), "--batch-size", BATCH_SIZES[work]]
    flags += [
        "--size",
        SIZE,
        "--classes",
        CLASSES,
        "--batches",
        batches_of(dtype),
        "--dtype",
        dtype,
    ]
    wanted = {"plain PyTorch": flags}
    if is_compiled:
        wanted["plain PyTorch, compiled"] = [*flags, "--compile"]
    return start_torch_sides(wanted)


if __name__ == "__main__":
    run_script(main)
