"""Pretrained networks: list, check and fetch them, and import those of PyTorch and ONNX.

    python -m common.modelzoo list
    python -m common.modelzoo fetch imagenet11k-resnet-152
    python -m common.modelzoo fetch timm:convnext_tiny.in12k
    python -m common.modelzoo info imagenet11k-resnet-152 --plot network.pdf
    python -m common.modelzoo import efficientnet-lite0-57934424.pth --name efficientnet-lite0
    python -m common.modelzoo import model_best.pth.tar --name resnet-50
    python -m common.modelzoo verify model/resnet-152

Reads and writes model/NAME-symbol.json and model/NAME-0000.params. `list`, `info` and `verify` also
read what fine-tune.py wrote of a network of timm: NAME-timm.json and NAME-0007.safetensors.
"""

import argparse
import importlib.util
import logging
import os
import shutil
import subprocess
import sys

from common import engines
from common.base import fetch
from common.base.files import MODEL_DIR, UserError, atomic_open, require_file
from common.base.help import Parser, number, whole
from common.data.flags import parse_image_shape
from common.networks import checkpoint, summary, timm_files, timm_pretrained, torch_networks
from common.networks.catalogue import CATALOGUE
from common.networks.pretrained import (
    fetch_network,
    import_network,
    load_pretrained,
    load_verified,
)
from common.networks.timm_catalogue import TIMM_CATALOGUE
from common.networks.timm_pretrained import HUB
from common.training.run_files import flags_before


def list_networks(model_dir=MODEL_DIR):
    """Return the lines of a table: the catalogue, and the networks in `model_dir`."""
    lines = [f"{'name':36} {'classes':>7} {'pixels':>6} {'parameters':>10} {'top-1 %':>7}  here"]
    for entry in CATALOGUE.values():
        millions = f"{entry.num_parameters / 1e6:.1f} M" if entry.num_parameters else "?"
        here = "yes" if _epochs_in(model_dir, entry.name) else ""
        lines.append(
            f"{entry.name:36} {entry.num_classes or '?':>7} {entry.image_size:>6} {millions:>10}"
            f" {entry.top1 or '?':>7}  {here}"
        )
    local = map(os.path.basename, checkpoint.find_prefixes(model_dir))
    lines += [f"{name:36} {'in ' + model_dir}" for name in local if name not in CATALOGUE]
    return [*lines, "", *list_timm_networks()]


def list_timm_networks():
    """Return the lines of a table: networks of timm that are worth trying for species."""
    lines = [
        "networks of timm, for --engine torch; * for non-commercial use only; parameters without"
        " the head; top-1 on iNaturalist where it is published (its source: info timm:NAME)",
        f"{'name':60} {'pixels':>6} {'parameters':>10}  {'licence':13}  top-1 on iNaturalist",
    ]
    for entry in TIMM_CATALOGUE.values():
        licence = entry.licence + " *" * entry.is_non_commercial
        line = (
            f"{HUB + entry.name:60} {entry.image_size:>6} {entry.num_parameters / 1e6:>8.1f} M"
            f"  {licence:14} {entry.figure or ''}"
        )
        lines.append(line.rstrip())
    return lines


def describe_timm_network(name):
    """Print what is known of a network of timm."""
    entry = TIMM_CATALOGUE.get(name)
    repository = name if "/" in name else f"timm/{name}"
    print(f"{HUB}{name}: its card: https://huggingface.co/{repository}")
    if entry is None:
        return
    use = ", for non-commercial use only" if entry.is_non_commercial else ""
    print(f"licence: {entry.licence}{use}\npretrained on: {entry.pretraining}")
    print(f"images: {entry.image_size} pixels; {entry.num_parameters:,} parameters, and the head's")
    if entry.figure:
        print(f"top-1 on iNaturalist {entry.figure}; {entry.source}")


def _epochs_in(model_dir, name):
    return checkpoint.find_epochs(os.path.join(model_dir, name), "params")


def describe(name, model_dir=MODEL_DIR, epoch=None, image_size=None, plot=None):
    """Print what is known about a network and, if it is here, its layers; draw it into `plot`."""
    timm_prefix = timm_pretrained.find_prefix(name, model_dir)
    if timm_prefix is not None:
        if plot is not None:
            raise UserError(f"--plot: {timm_prefix} is a network of timm; leave it out")
        describe_timm_run(timm_prefix, epoch)
        return
    entry = CATALOGUE.get(os.path.basename(name))
    if entry is not None:
        accuracy = f"top-1 {entry.top1 or '?'} %, top-5 {entry.top5 or '?'} % (single crop)"
        print(f"{entry.name}: {entry.origin}\nlicence: {entry.licence}\ninput: {entry.input}")
        print(f"classes: {entry.num_classes or '?'}\naccuracy: {accuracy}")
        print(*(url for source in entry.sources for url in source.urls), sep="\n")
        if not os.path.exists(checkpoint.symbol_path(name)) and not _epochs_in(model_dir, name):
            print(f"not in {model_dir}; get it with: python -m common.modelzoo fetch {entry.name}")
            return
    engine, shape = engines.load(), _shape_of_images(name, image_size)
    network = load_pretrained(
        name, engine.infer_shapes, model_dir, epoch, epoch_flag="--epoch", image_shape=shape
    )
    layers = engine.layer_shapes(network.graph, shape)
    print(summary.table(network.graph, layers, network.shapes()))
    print(_sizes(network))
    if plot is not None:
        _draw(summary.drawing(network.graph, layers), plot)
        print(f"{plot}: the layers as a drawing")


def _shape_of_images(prefix, image_size):
    """Return the `(3, H, W)` that the user names; else the run's, or 224 pixels."""
    if image_size is not None:
        return 3, image_size, image_size
    return parse_image_shape(flags_before(prefix).get("image_shape", "3,224,224"))


def describe_timm_run(prefix, epoch=None):
    """Print what the files of a network of timm hold; the newest epoch's, unless one is named."""
    epochs = checkpoint.find_epochs(prefix, "safetensors")
    network = checkpoint.load(prefix, max(epochs, default=0) if epoch is None else epoch)
    _, height, width = _image_shape(prefix, network)
    print(f"{prefix}: timm's {network.architecture}, for --engine torch")
    print(f"classes: {network.num_classes}")
    print(f"images: {height}x{width} pixels")
    print(f"epochs: {', '.join(map(str, epochs))}")
    print(_sizes(network))


def _image_shape(prefix, network):
    """Return the `(3, H, W)` of the images that a network of timm was trained with."""
    try:
        channels, height, width = network.pretrained_cfg["input_size"]
    except (LookupError, TypeError, ValueError):
        path = timm_files.config_path(prefix)
        raise UserError(f"{path}: has no input_size of three numbers; add it") from None
    return channels, height, width


def _sizes(network):
    trained, running = (
        sum(array.size for array in arrays.values()) for arrays in (network.params, network.stats)
    )
    return f"{trained:,} parameters, {running:,} running statistics"


def _draw(source, path):
    """Have graphviz draw a network that is described in its language."""
    if shutil.which("dot") is None:
        raise UserError(f"{path}: drawing needs graphviz (apt-get install graphviz)")
    command = ["dot", f"-T{os.path.splitext(path)[1][1:] or 'pdf'}"]
    drawn = subprocess.run(command, input=source.encode(), capture_output=True)
    if drawn.returncode:
        reason = drawn.stderr.decode(errors="replace").strip().splitlines()[-1]
        raise UserError(f"{path}: graphviz cannot draw it ({reason}); use .pdf, .png or .svg")
    with atomic_open(path, "wb") as stream:
        stream.write(drawn.stdout)


def verify(prefix, image_size=None):
    """Return a line about local files that are complete and agree; raise UserError otherwise."""
    epochs = checkpoint.find_epochs(prefix) or [0]  # where there is none, an error names epoch 0's
    if checkpoint.is_timm(prefix, epochs[-1]):
        return _verify_timm(prefix, epochs)
    require_file(checkpoint.symbol_path(prefix), "it belongs to the .params file")
    paths = [checkpoint.symbol_path(prefix)]
    paths += [checkpoint.params_path(prefix, epoch) for epoch in epochs]
    known = [fetch.verify_sha256(path) for path in paths]
    for epoch in epochs:
        shape = _shape_of_images(prefix, image_size)
        load_verified(prefix, engines.load().infer_shapes, epoch, shape)
    unchanged = "" if None in known else "; its sha256 is the one that was fetched"
    return (
        f"{prefix}: epochs {', '.join(map(str, epochs))} are complete and fit the symbol{unchanged}"
    )


def _verify_timm(prefix, epochs):
    """Do what `verify` does, for a network of timm."""
    require_file(timm_files.config_path(prefix), "it belongs to the .safetensors file")
    has_timm = "torch" in engines.installed() and importlib.util.find_spec("timm")
    for epoch in epochs:
        network = checkpoint.load(prefix, epoch)
        if has_timm:
            _build_timm(prefix, epoch, network)
    agreement = f"fit timm's {network.architecture}"
    if not has_timm:
        agreement = f"finite; install PyTorch and timm to check that they {agreement}"
    return f"{prefix}: epochs {', '.join(map(str, epochs))} are complete and {agreement}"


def _build_timm(prefix, epoch, network):
    """Raise `UserError` unless timm's architecture has exactly the arrays of a checkpoint."""
    engine, shape = engines.load("torch"), _image_shape(prefix, network)
    try:
        engine.Predictor([network], [1], engine.parse_devices("cpu"), 1, shape)
    except UserError as error:
        raise UserError(f"{checkpoint.weights_path(prefix, epoch)}: {error}") from None


def _numbers(text):
    numbers = tuple(number(part) for part in text.split(","))
    if len(numbers) != 3:
        raise argparse.ArgumentTypeError(f"{text}: must be three numbers, R,G,B")
    return numbers


def _deviations(text):
    numbers = _numbers(text)
    if min(numbers) <= 0:
        raise argparse.ArgumentTypeError(f"{text}: must be more than 0: colours are divided by it")
    return numbers


def _parser():
    parser = Parser(
        prog="python -m common.modelzoo",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    shared = Parser(add_help=False)
    shared.add_argument(
        "--model-dir", default=MODEL_DIR, help="folder of the networks (default: %(default)s)"
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def add(name, help_text):
        return commands.add_parser(name, help=help_text, parents=[shared])

    add("list", "the catalogue, and the networks that are here")
    add("fetch", "fetch a network of the catalogue, or of timm").add_argument("name")
    info = add("info", "a network's layers and parameters, its source, licence and accuracy")
    info.add_argument(
        "name", help="a name of the catalogue, timm:NAME, a prefix, or a file to import"
    )
    info.add_argument(
        "--epoch", type=whole, help="which of several .params (default: the only one)"
    )
    info.add_argument("--plot", metavar="FILE", help="draw the network as .pdf, .png or .svg")
    importing = add("import", "make a network from a PyTorch checkpoint or an ONNX file")
    importing.add_argument("file", help="a PyTorch checkpoint (.pth, .safetensors, …) or .onnx")
    importing.add_argument("--name", required=True, help="the network becomes MODEL_DIR/NAME-*")
    importing.add_argument(
        "--variant",
        choices=torch_networks.LITE0_VARIANTS,
        help="which EfficientNet-Lite0 it is (default: the one that the file's name begins with)",
    )
    for option, kind, use in (
        ("--mean", _numbers, "subtracted from"),
        ("--std", _deviations, "that divide"),
    ):
        importing.add_argument(
            option,
            type=kind,
            metavar="R,G,B",
            help=f"ONNX: numbers {use} raw RGB, 0 to 255 (default: ImageNet's)",
        )
    verifying = add("verify", "check files: structure, agreement, sha256")
    verifying.add_argument("prefix", nargs="*", help="(default: all in MODEL_DIR)")
    for command in (info, verifying):
        command.add_argument(
            "--image-size", type=whole, help="pixels (default: those of the training run, or 224)"
        )
    return parser


def main():
    """Run one command."""
    args = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if args.command == "list":
        print(*list_networks(args.model_dir), sep="\n")
    elif args.command == "fetch" and args.name.startswith(HUB):
        name = args.name[len(HUB) :]
        paths = timm_pretrained.fetch_network(name, _find_timm_config, args.model_dir)
        print(f"{' and '.join(paths)} are ready")
    elif args.command == "fetch":
        if args.name not in CATALOGUE:
            raise UserError(
                f"{args.name}: not in the catalogue; see: python -m common.modelzoo list"
            )
        prefix = fetch_network(CATALOGUE[args.name], engines.load().infer_shapes, args.model_dir)
        print(f"{prefix}-* are ready")
    elif args.command == "info" and args.name.startswith(HUB):
        describe_timm_network(args.name[len(HUB) :])
    elif args.command == "info":
        describe(args.name, args.model_dir, args.epoch, args.image_size, args.plot)
    elif args.command == "import":
        prefix = import_network(
            args.file,
            args.name,
            engines.load().infer_shapes,
            args.model_dir,
            args.variant,
            args.mean,
            args.std,
        )
        print(f"{prefix}-symbol.json and {prefix}-0000.params are ready")
    else:
        prefixes = args.prefix or checkpoint.find_prefixes(args.model_dir)
        return _verify_all(prefixes, args.model_dir, args.image_size)
    return 0


def _find_timm_config(name):
    return engines.load("torch").timm_config(name)


def _verify_all(prefixes, model_dir, image_size):
    if not prefixes:
        raise UserError(f"{model_dir}: holds no network; name the folder with --model-dir")
    failed = 0
    for prefix in prefixes:
        try:
            print(verify(prefix, image_size))
        except UserError as error:
            failed += 1
            print(error, file=sys.stderr)
    return 2 if failed else 0
