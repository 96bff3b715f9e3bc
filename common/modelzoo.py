"""Pretrained networks: list and check them, fetch one by name, import PyTorch's and ONNX's.

    python -m common.modelzoo list
    python -m common.modelzoo fetch imagenet11k-resnet-152
    python -m common.modelzoo info imagenet11k-resnet-152 --plot network.pdf
    python -m common.modelzoo import efficientnet-lite0-57934424.pth --name efficientnet-lite0
    python -m common.modelzoo import model_best.pth.tar --name resnet-50
    python -m common.modelzoo verify model/resnet-152

Reads and writes model/NAME-symbol.json and model/NAME-0000.params.
"""

import argparse
import difflib
import glob
import logging
import os
import shutil
import subprocess
import sys

import numpy as np

from common import (
    checkpoint,
    fetch,
    network,
    onnx_files,
    params_file,
    torch_architectures,
    torch_files,
    torch_networks,
    zoo_mirrors,
)
from common.catalogue import CATALOGUE
from common.files import MODEL_DIR, ROOT, UserError, atomic_open, require_file
from common.find_mxnet import mx
from common.help import Parser, number, whole
from common.script import run_script

# Of files that are not there; those that are there are known by their content.
FILE_SUFFIXES = (".pth", ".pt", ".tar", ".bin", ".ckpt", ".safetensors", ".onnx")

log = logging.getLogger(__name__)


def load_pretrained(name, model_dir=MODEL_DIR, epoch=None, variant=None):
    """Return (symbol, arg_params, aux_params) of a pretrained network.

    Whatever its source, it is fed raw RGB images: `data`, (N, 3, H, W), 0 to 255, uint8 or
    float32.

    Args:
        name: the prefix of local files (`model/resnet-152`), a name of the catalogue (fetched
            into `model_dir` where it is not there), a PyTorch checkpoint or an ONNX file.
        epoch: which of several `PREFIX-EPOCH.params`; None takes the only one.
        variant: of a PyTorch checkpoint, a key of `torch_networks.LITE0_VARIANTS`.

    Raises:
        UserError: nothing is found under that name, or what is found is damaged; or it could not
            be fetched, and then the error says what to put where by hand.
    """
    is_prefix = os.path.lexists(checkpoint.symbol_path(name))
    if name.endswith(FILE_SUFFIXES) or (os.path.isfile(name) and not is_prefix):
        return _as_arrays(*_read_file(name, variant))
    if variant is not None:
        raise UserError(f"--variant {variant}: is for PyTorch files, and {name} is not one")
    prefix = _find_prefix(name, model_dir)
    entry = CATALOGUE.get(os.path.basename(prefix))
    symbol, arg_params, aux_params = load_verified(prefix, epoch)
    if entry is not None and entry.mean is not None:
        return _subtract_mean(entry.mean, symbol, arg_params, aux_params)
    return network.take_raw_images(symbol), arg_params, aux_params


def load_verified(prefix, epoch=None):
    """Return (symbol, arg_params, aux_params) of local files, checked to belong together."""
    epoch = _only_epoch(prefix) if epoch is None else epoch
    symbol, arg_params, aux_params = checkpoint.load_as_it_is(prefix, epoch)
    shapes = _shapes(arg_params, aux_params)
    params_file.require_agreement(symbol, shapes, name=checkpoint.params_path(prefix, epoch))
    return symbol, arg_params, aux_params


def import_network(path, name, model_dir=MODEL_DIR, variant=None, mean=None, std=None):
    """Write the network of a PyTorch checkpoint or ONNX file into `model_dir`; return its prefix.

    Raises:
        UserError: the file is damaged, holds more than tensors, or another architecture.
    """
    parts = _read_file(path, variant, mean, std)
    if not name or os.path.basename(name) != name:
        raise UserError(f"--name {name}: must be a name, without a folder; see --model-dir")
    os.makedirs(model_dir, exist_ok=True)
    prefix = os.path.join(model_dir, name)
    checkpoint.save(prefix, 0, *_as_arrays(*parts))
    return prefix


def _read_file(path, variant=None, mean=None, std=None):
    """Read a network of another tool; its content says which, whatever the file's name."""
    if path.endswith(".onnx") or onnx_files.is_onnx(path):
        mean = torch_networks.IMAGENET_MEAN if mean is None else mean
        std = torch_networks.IMAGENET_STD if std is None else std
        return onnx_files.read_network(path, mean, std)
    return _read_torch(path, variant)


def _read_torch(path, variant=None):
    if variant is None:  # timm's file names tell
        stem = os.path.basename(path)
        variant = next((v for v in torch_networks.LITE0_VARIANTS if stem.startswith(v)), None)
    _check_known_sha256(path)
    state = torch_files.read_state_dict(path)
    for name, array in state.items():
        if not np.isfinite(array).all():
            raise UserError(f"{path}: damaged: {name} holds what is no number; download it again")
    try:
        symbol, arg_params, aux_params = torch_networks.build(state, variant)
    except UserError as error:
        known = torch_architectures.describe(state, torch_networks.KNOWN_ARCHITECTURES)
        raise UserError(f"{path}: {known or error}") from None
    if "fc1_weight" not in arg_params:
        log.info("%s: has no classifier: it can be fine-tuned, and predicts nothing before", path)
    params_file.require_agreement(symbol, _shapes(arg_params, aux_params), name=path)
    return symbol, arg_params, aux_params


def _check_known_sha256(path):
    """Raise `UserError` where a file has the name of a published one, and not its content."""
    for entry in CATALOGUE.values():
        for source in entry.sources:
            if source.sha256 and source.file_name == os.path.basename(path):
                digest = fetch.sha256_of(path)
                if not digest.startswith(source.sha256):
                    raise UserError(
                        f"{path}: is damaged, or another file of that name: its sha256 begins with"
                        f" {digest[:8]}, not {source.sha256}; download it again"
                    )


def _shapes(arg_params, aux_params):
    return {name: array.shape for name, array in (*arg_params.items(), *aux_params.items())}


def _as_arrays(symbol, *params):
    as_arrays = ({name: mx.nd.array(v) for name, v in arrays.items()} for arrays in params)
    return (symbol, *as_arrays)


def _subtract_mean(mean, symbol, arg_params, aux_params):
    data, more_args, more_aux = torch_networks.normalised_data(mean, (1, 1, 1))
    more_args, more_aux = _as_arrays(None, more_args, more_aux)[1:]
    return symbol(data=data), {**arg_params, **more_args}, {**aux_params, **more_aux}


def _find_prefix(name, model_dir):
    """Return the prefix of the files that `name` means, fetched where only the catalogue has it."""
    for prefix in (name, os.path.join(ROOT, name), os.path.join(model_dir, name)):
        is_there = os.path.lexists(checkpoint.symbol_path(prefix))
        if is_there and (checkpoint.find_epochs(prefix) or name not in CATALOGUE):
            return prefix
    if name in CATALOGUE:
        return fetch_network(CATALOGUE[name], model_dir)
    close = difflib.get_close_matches(name, CATALOGUE, n=3, cutoff=0.5)
    hint = f" (close names: {', '.join(close)})" if close else ""
    raise UserError(
        f"{checkpoint.symbol_path(name)}: not found, and {name} is no name of the catalogue{hint};"
        " see: python -m common.modelzoo list"
    )


def _only_epoch(prefix):
    epochs = checkpoint.find_epochs(prefix)
    if not epochs:
        raise UserError(f"{checkpoint.params_path(prefix, 0)}: not found; it belongs to the symbol")
    if len(epochs) > 1:
        raise UserError(
            f"{prefix}: there are weights of the epochs {', '.join(map(str, epochs))};"
            " choose one with --pretrained-epoch"
        )
    return epochs[0]


def fetch_network(entry, model_dir=MODEL_DIR):
    """Fetch a network of the catalogue into `model_dir`, whole and checked; return its prefix.

    Raises:
        UserError: no mirror gave the files; it says what to put where by hand.
    """
    paths = zoo_mirrors.fetch_files(entry, model_dir)
    if entry.is_torch:
        return import_network(paths[0], entry.name, model_dir, entry.variant)
    return os.path.join(model_dir, entry.name)


def list_networks(model_dir=MODEL_DIR):
    """Return the lines of a table: the catalogue, and what lies in `model_dir`."""
    lines = [f"{'name':36} {'classes':>7} {'pixels':>6} {'parameters':>10} {'top-1 %':>7}  here"]
    for entry in CATALOGUE.values():
        millions = f"{entry.num_parameters / 1e6:.1f} M" if entry.num_parameters else "?"
        here = "yes" if _epochs_in(model_dir, entry.name) else ""
        lines.append(
            f"{entry.name:36} {entry.num_classes or '?':>7} {entry.image_size:>6} {millions:>10}"
            f" {entry.top1 or '?':>7}  {here}"
        )
    others = sorted(_local_names(model_dir) - set(CATALOGUE))
    return lines + [f"{name:36} {'in ' + model_dir}" for name in others]


def _local_names(model_dir):
    paths = glob.glob(os.path.join(glob.escape(model_dir), "*-symbol.json"))
    return {os.path.basename(path)[: -len("-symbol.json")] for path in paths}


def _epochs_in(model_dir, name):
    return checkpoint.find_epochs(os.path.join(model_dir, name))


def describe(name, model_dir=MODEL_DIR, epoch=None, image_size=224, plot=None):
    """Print what is known of a network and, where it is here, its layers; draw it as `plot`."""
    entry = CATALOGUE.get(os.path.basename(name))
    if entry is not None:
        accuracy = f"top-1 {entry.top1 or '?'} %, top-5 {entry.top5 or '?'} % (single crop)"
        print(f"{entry.name}: {entry.origin}\nlicence: {entry.licence}\ninput: {entry.input}")
        print(f"classes: {entry.num_classes or '?'}\naccuracy: {accuracy}")
        print(*(url for source in entry.sources for url in source.urls), sep="\n")
        if not os.path.exists(checkpoint.symbol_path(name)) and not _epochs_in(model_dir, name):
            print(f"not in {model_dir}; get it with: python -m common.modelzoo fetch {entry.name}")
            return
    symbol, arg_params, aux_params = load_pretrained(name, model_dir, epoch)
    shape = {"data": (1, 3, image_size, image_size)}
    try:
        mx.viz.print_summary(symbol, shape)
    except mx.base.MXNetError:
        raise UserError(
            f"--image-size {image_size}: this network cannot take such images"
        ) from None
    trained, running = (
        sum(array.size for array in params.values()) for params in (arg_params, aux_params)
    )
    print(f"{trained:,} parameters, {running:,} running statistics")
    if plot is not None:
        _draw(mx.viz.plot_network(symbol, shape=shape).source, plot)
        print("drawn as", plot)


def _draw(source, path):
    """Have graphviz draw what MXNet wrote in its language."""
    if shutil.which("dot") is None:
        raise UserError(f"{path}: drawing takes graphviz (apt-get install graphviz)")
    command = ["dot", f"-T{os.path.splitext(path)[1][1:] or 'pdf'}"]
    drawn = subprocess.run(command, input=source.encode(), capture_output=True)
    if drawn.returncode:
        reason = drawn.stderr.decode(errors="replace").strip().splitlines()[-1]
        raise UserError(f"{path}: graphviz cannot draw it ({reason}); take .pdf, .png or .svg")
    with atomic_open(path, "wb") as stream:
        stream.write(drawn.stdout)


def verify(prefix):
    """Return a line about local files that are whole and agree; raise UserError otherwise."""
    epochs = checkpoint.find_epochs(prefix) or [_only_epoch(prefix)]
    require_file(checkpoint.symbol_path(prefix), "it belongs to the .params file")
    paths = [checkpoint.symbol_path(prefix)]
    paths += [checkpoint.params_path(prefix, epoch) for epoch in epochs]
    known = [fetch.verify_sha256(path) for path in paths]
    for epoch in epochs:
        load_verified(prefix, epoch)
    unchanged = "" if None in known else "; its sha256 is the one that was fetched"
    return f"{prefix}: epochs {', '.join(map(str, epochs))} are whole and fit the symbol{unchanged}"


def _numbers(text):
    numbers = tuple(number(part) for part in text.split(","))
    if len(numbers) != 3:
        raise argparse.ArgumentTypeError(f"{text}: three numbers, R,G,B")
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

    add("list", "the catalogue, and what is here")
    add("fetch", "fetch a network of the catalogue").add_argument("name")
    info = add("info", "layers and parameters of a network, its source, licence and accuracy")
    info.add_argument("name", help="a name of the catalogue, a prefix, or a file to import")
    info.add_argument(
        "--epoch", type=whole, help="which of several .params (default: the only one)"
    )
    info.add_argument("--image-size", type=whole, default=224, help="pixels (default: %(default)s)")
    info.add_argument("--plot", metavar="FILE", help="draw the network as .pdf, .png or .svg")
    importing = add("import", "make a network of a PyTorch checkpoint or an ONNX file")
    importing.add_argument("file", help="a PyTorch checkpoint (.pth, .safetensors, …) or .onnx")
    importing.add_argument("--name", required=True, help="the network becomes MODEL_DIR/NAME-*")
    importing.add_argument(
        "--variant",
        choices=torch_networks.LITE0_VARIANTS,
        help="of an EfficientNet-Lite0 (default: as the file's name begins)",
    )
    for option, what in (("--mean", "subtracted from"), ("--std", "divided by, of")):
        importing.add_argument(
            option,
            type=_numbers,
            metavar="R,G,B",
            help=f"ONNX: what is {what} raw RGB, 0 to 255 (default: ImageNet's)",
        )
    verifying = add("verify", "check files: structure, agreement, sha256")
    verifying.add_argument("prefix", nargs="*", help="(default: all in MODEL_DIR)")
    return parser


def main():
    """Run one command."""
    args = _parser().parse_args()
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    if args.command == "list":
        print(*list_networks(args.model_dir), sep="\n")
    elif args.command == "fetch":
        if args.name not in CATALOGUE:
            raise UserError(f"{args.name}: no name of the catalogue; see: modelzoo list")
        print(f"{fetch_network(CATALOGUE[args.name], args.model_dir)}-* are ready")
    elif args.command == "info":
        describe(args.name, args.model_dir, args.epoch, args.image_size, args.plot)
    elif args.command == "import":
        prefix = import_network(
            args.file, args.name, args.model_dir, args.variant, args.mean, args.std
        )
        print(f"{prefix}-symbol.json and {prefix}-0000.params are ready")
    else:
        local = sorted(os.path.join(args.model_dir, name) for name in _local_names(args.model_dir))
        return _verify_all(args.prefix or local, args.model_dir)
    return 0


def _verify_all(prefixes, model_dir):
    if not prefixes:
        raise UserError(f"{model_dir}: holds no network; name the folder with --model-dir")
    failed = 0
    for prefix in prefixes:
        try:
            print(verify(prefix))
        except UserError as error:
            failed += 1
            print(error, file=sys.stderr)
    return 2 if failed else 0


if __name__ == "__main__":
    run_script(main)
