"""What `predict_rate` and `train_rate` share: flags, a network of random weights, the line."""

import os
import re
import statistics
import time

import numpy as np

from benchmarks.compare import processor_name
from benchmarks.sides import serve
from common.base.files import UserError
from common.base.help import Parser, whole
from common.engines import add_engine_arg, require_engine_of_timm
from common.engines.choice import choose
from common.networks import Network, edits, resnet
from common.networks.timm_network import TimmNetwork
from common.networks.timm_pretrained import HUB

ROUNDS = 5


def make_parser(description, batch_size):
    """Return a parser of the flags that both have; `batch_size` is the default one."""
    parser = Parser(description=description.splitlines()[0])
    parser.add_argument(
        "--network",
        default="resnet-152",
        help="resnet-N, or timm:NAME, e.g. timm:convnext_tiny (default: %(default)s)",
    )
    parser.add_argument("--image-size", type=whole, default=320, help="pixels (%(default)s)")
    parser.add_argument("--batch-size", type=whole, default=batch_size, help="(%(default)s)")
    parser.add_argument("--num-classes", type=whole, default=5089, help="(%(default)s)")
    parser.add_argument("--batches", type=whole, default=4, help="of each measurement")
    parser.add_argument("--gpus", default="cpu", metavar="DEVICES", help="as of fine-tune.py")
    parser.add_argument("--dtype", default="float32", help="(%(default)s)")
    parser.add_argument("--serve", action="store_true", help="work for the other benchmarks")
    add_engine_arg(parser)
    return parser


def build_network(args, engine):
    """Return the network of `--network` for raw images, without numbers."""
    if args.network.startswith(HUB):
        require_engine_of_timm(engine, args.network)
        config = engine.timm_config(args.network[len(HUB) :])
        return TimmNetwork.from_config(config, {}).with_new_head(args.num_classes)
    found = re.fullmatch(r"resnet-(\d+)", args.network)
    if not found:
        raise UserError(
            f"--network {args.network}: must be resnet-N or timm:NAME, e.g. resnet-152 or"
            " timm:convnext_tiny"
        )
    graph = edits.take_raw_images(resnet.build_resnet(int(found.group(1)), args.num_classes))
    return Network(graph, {}, {}, "fc1")


def with_random_weights(network, engine, image_shape):
    """Return the network with weights that keep the size of what they are given (He et al. 2015).

    As in a trained network no number is denormal: those are slow. timm draws its own weights.
    """
    if isinstance(network, TimmNetwork):
        return network
    rng, params, stats = np.random.default_rng(0), {}, {}
    for name, shape in engine.infer_shapes(network.graph, image_shape).items():
        if name.endswith("_weight"):
            array = rng.normal(0, (2 / np.prod(shape[1:])) ** 0.5, shape)
        else:
            array = np.full(shape, name.endswith(("gamma", "_var")))
        (stats if "moving" in name else params)[name] = array.astype(np.float32)
    return Network(network.graph, params, stats, network.head)


def measure(args, work, make):
    """Print the images per second of a function; with `--serve`, work for another benchmark.

    Args:
        work: `"train"` or `"predict"`.
        make: `make(args, engine, devices)` returns the function, which computes a number of
            batches and returns their losses.
    """
    ways = {"compiled": args.compile, "tf32": args.tf32, "of_timm": args.network.startswith(HUB)}
    engine, devices, reason = choose(args.engine, args.gpus, args.dtype, work, **ways)
    compute = make(args, engine, devices)
    compute(1)  # compiles, and plans the layers
    count = args.batches * args.batch_size
    version = next(iter(engine.versions().values()))
    if args.serve:
        serve(lambda: (count, compute(args.batches)), {engine.NAME: version})
        return
    rates = []
    for _ in range(ROUNDS):
        start = time.perf_counter()
        compute(args.batches)
        rates.append(count / (time.perf_counter() - start))
    print(
        f"{work} {args.network}, {args.image_size} px, batch {args.batch_size}, {args.dtype}"
        f"{', TF32' if args.tf32 else ''}{', compiled' if args.compile else ''}:"
        f" {statistics.median(rates):.2f} images/s"
        f" ({min(rates):.2f} to {max(rates):.2f}); {engine.NAME} {version} ({reason}),"
        f" {', '.join(map(str, devices))} of {processor_name()}, {os.cpu_count()} cores"
    )
