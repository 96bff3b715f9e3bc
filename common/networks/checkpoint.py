"""Checkpoints in MXNet's format: written whole or not at all, found, checked and read.

    PREFIX-symbol.json    the network            PREFIX-0007.params   its weights after 7 epochs
    PREFIX-0007.states    the optimizer's state, as MXNet's arrays (no pickle)

The file of the weights is written last: where it exists, the checkpoint is complete. Networks of
timm have other files of the network and its weights (`timm_files`), and the same of all else.
"""

import contextlib
import glob
import itertools
import os
import re

import numpy as np

from common.base.files import UserError, require_file, require_target
from common.networks import Network, params_file, symbol_file, timm_files
from common.networks.classifier import end_in_softmax
from common.networks.graph import MXNET_VERSION, arguments, auxiliary_states
from common.networks.timm_network import TimmNetwork

WEIGHTS = ("params", "safetensors")  # endings of the files of weights
AVERAGE = "-ema"  # ends the prefix of a run's averaged weights, a network of its own


def params_path(prefix, epoch):
    """Return the name of the weights after `epoch` epochs: `PREFIX-0007.params`."""
    return f"{prefix}-{epoch:04d}.params"


def states_path(prefix, epoch):
    """Return the name of the optimizer's state after `epoch` epochs."""
    return f"{prefix}-{epoch:04d}.states"


def symbol_path(prefix):
    """Return the name of the network's definition."""
    return f"{prefix}-symbol.json"


def config_path(prefix):
    """Return the name of what fine-tune.py writes of a run: its flags and versions."""
    return f"{prefix}-config.json"


def weights_path(prefix, epoch):
    """Return the name of the weights after `epoch` epochs, of whatever kind the network is."""
    path = timm_files.weights_path if is_timm(prefix, epoch) else params_path
    return path(prefix, epoch)


def is_timm(prefix, epoch):
    """Return whether a checkpoint is of a network of timm."""
    if os.path.lexists(timm_files.weights_path(prefix, epoch)):
        return True
    return os.path.lexists(timm_files.config_path(prefix)) and not os.path.lexists(
        params_path(prefix, epoch)
    )


def is_run_of_timm(prefix):
    """Return whether the checkpoints of a prefix are of a network of timm."""
    return os.path.lexists(timm_files.config_path(prefix))


def is_there(prefix):
    """Return whether a prefix has a network's definition, of whatever kind the network is."""
    return os.path.lexists(symbol_path(prefix)) or is_run_of_timm(prefix)


def find_epochs(prefix, *endings):
    """Return the epochs that have weights (or files with other endings), in increasing order."""
    epochs = set()
    for ending in endings or WEIGHTS:
        pattern = re.compile(rf"{re.escape(os.path.basename(prefix))}-(\d{{4,}})\.{ending}")
        names = map(os.path.basename, glob.glob(f"{glob.escape(prefix)}-*.{ending}"))
        epochs.update(int(match.group(1)) for match in map(pattern.fullmatch, names) if match)
    return sorted(epochs)


def find_prefixes(folder):
    """Return the prefixes of the networks in a folder, of whatever kind, in alphabetical order."""
    prefixes = set()
    for name_of in (symbol_path, timm_files.config_path):
        ending = name_of("")
        paths = glob.glob(os.path.join(glob.escape(folder), f"*{ending}"))
        prefixes.update(path[: -len(ending)] for path in paths)
    return sorted(prefixes)


def save(prefix, epoch, network, states=None, version=MXNET_VERSION):
    """Write a checkpoint of a `Network` or `TimmNetwork`.

    Args:
        states: the optimizer's state, `{name: array}`.
        version: the MXNet that the symbol is written for: 10500 for 1.5.0.

    Raises:
        OSError: e.g. the disk is full; older checkpoints stay complete.
    """
    is_timm = isinstance(network, TimmNetwork)
    if not is_timm:
        symbol_file.write(symbol_path(prefix), network.graph, version)
    if states:
        params_file.write(states_path(prefix, epoch), states)
    if is_timm:
        timm_files.write(prefix, epoch, network)
        return
    arrays = {f"arg:{name}": array for name, array in network.params.items()}
    arrays.update((f"aux:{name}", array) for name, array in network.stats.items())
    params_file.write(params_path(prefix, epoch), arrays)


def load(prefix, epoch):
    """Return the `Network` of a checkpoint, which ends in a SoftmaxOutput, or its `TimmNetwork`.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or it is not a classifier.
    """
    if is_timm(prefix, epoch):
        network = timm_files.read(prefix, epoch, f"epochs that are there: {_there(prefix)}")
        _require_finite({**network.params, **network.stats}, weights_path(prefix, epoch))
        return network
    network = load_as_it_is(prefix, epoch)
    try:
        network.graph = end_in_softmax(network.graph)
    except UserError as error:
        raise UserError(f"{symbol_path(prefix)}: {error}") from None
    return network


def load_as_it_is(prefix, epoch):
    """Return the `Network` of a checkpoint, whatever it ends in.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    require_file(symbol_path(prefix), "check --model-prefix; fine-tune.py writes it")
    path = require_file(params_path(prefix, epoch), f"epochs that are there: {_there(prefix)}")
    arrays = params_file.read(path)
    _require_finite(arrays, path)
    graph = symbol_file.read(symbol_path(prefix))
    if "data" not in arguments(graph):
        raise UserError(f"{symbol_path(prefix)}: has no input named data; take an image network")
    if arrays and not any(key.startswith(("arg:", "aux:")) for key in arrays):
        arrays = _named_by_graph(graph, arrays, path)
    split = {"arg": {}, "aux": {}}
    for key, array in arrays.items():
        kind, _, name = key.partition(":")
        split.get(kind, {})[name] = array
    return Network(graph, split["arg"], split["aux"])


def _there(prefix):
    return ", ".join(map(str, find_epochs(prefix))) or "none"


def _require_finite(arrays, path):
    for name, array in arrays.items():
        if array.dtype.kind == "f" and not np.isfinite(array).all():
            raise UserError(
                f"{path}: {name} holds NaN or infinite values: its training has diverged, or the"
                " file is damaged; choose an earlier epoch"
            )


def _named_by_graph(graph, arrays, path):
    """Return Gluon's arrays, whose names have no kind, as `{"arg:NAME" or "aux:NAME": array}`.

    Their prefix may differ from the symbol's: Gluon numbers its networks (`resnetv11_`).
    """
    kinds = {
        name: "arg" for name in arguments(graph) if name != "data" and not name.endswith("label")
    }
    kinds.update(dict.fromkeys(auxiliary_states(graph), "aux"))
    found = arrays
    if kinds.keys() - arrays.keys():
        unprefixed = dict(zip(_without_prefix(arrays), arrays.values()))
        pairs = zip(kinds, _without_prefix(kinds))
        found = {name: unprefixed[short] for name, short in pairs if short in unprefixed}
    if kinds.keys() - found.keys():
        missing = [name for name in kinds if name not in arrays]
        extra = [name for name in arrays if name not in kinds]
        raise UserError(
            f"{path}: its names are not those of the symbol: {len(missing)} are missing"
            f" ({', '.join(missing[:2])} ...), {len(extra)} are others"
            f" ({', '.join(extra[:2])} ...); write both files again with Gluon's net.export(PREFIX)"
        )
    return {f"{kind}:{name}": found[name] for name, kind in kinds.items()}


def _without_prefix(names):
    """Return the names without the prefix that all share."""
    shared = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names))
    start = len(list(shared))
    return [name[start:] for name in names]


def load_states(prefix, epoch):
    """Return the optimizer's state of a checkpoint, `{name: array}`; empty if it has none."""
    path = states_path(prefix, epoch)
    if not os.path.lexists(path):
        return {}
    require_file(path, "remove it to continue without the optimizer's state")
    with open(path, "rb") as stream:
        if stream.read(1) == b"\x80":
            raise UserError(
                f"{path}: is a pickle, as MXNet's Module writes them: it could run code, and is not"
                " read; remove it to continue without the optimizer's state"
            )
    return params_file.read(path)


def newest_whole(prefix, last=None, with_average=False):
    """Return `(epoch, complaints)` of the newest complete checkpoint; epoch 0: there is none.

    Args:
        last: the last epoch in the run's log; checkpoints of later epochs are of an earlier run.
        with_average: whether the averaged weights must be whole as well, where there are any.

    Raises:
        UserError: the run has checkpoints, and none of them can be read.
    """
    complaints, faults = [], []
    for epoch in reversed(find_epochs(prefix)):
        if epoch == 0:
            continue
        if last is not None and epoch > last:
            path = weights_path(prefix, epoch)
            complaints.append(f"{path}: of an earlier run, as the log ends at epoch {last}")
            continue
        try:
            load(prefix, epoch)
            load_states(prefix, epoch)
            average = prefix + AVERAGE
            if with_average and os.path.lexists(weights_path(average, epoch)):
                load(average, epoch)
            return epoch, complaints
        except UserError as error:
            faults.append(str(error))
            complaints.append(str(error))
    if faults:  # a run from the beginning would overwrite them
        raise UserError(
            f"{faults[0]}. No checkpoint of {prefix} can be resumed: repair this one, or begin"
            " another run with another --model-prefix"
        )
    return 0, complaints


def require_targets(prefix):
    """Raise `UserError` if a folder has the name of a file that a run will write."""
    for path in glob.glob(f"{glob.escape(prefix)}-*"):
        if path.endswith((".params", ".safetensors", ".states", ".json", ".csv", ".png")):
            require_target(path)


def require_one_kind(prefix, network):
    """Raise `UserError` if there are checkpoints of the other kind of network than `network` is."""
    others = WEIGHTS[0] if isinstance(network, TimmNetwork) else WEIGHTS[1]
    for epoch in find_epochs(prefix, others):
        raise UserError(
            f"{weights_path(prefix, epoch)}: is of a network of another kind; choose another"
            " --model-prefix, or remove the files of that run"
        )


def prune(prefix, keep, newest, best=None):
    """Remove the checkpoints up to epoch `newest`, except the last `keep` and that of epoch `best`.

    Others stay: later epochs of an earlier run, and epoch 0, a pretrained network.
    """
    epochs = find_epochs(prefix, *WEIGHTS, "states")
    for epoch in epochs:
        if not 0 < epoch <= newest - keep or epoch == best:
            continue
        for path in (weights_path(prefix, epoch), states_path(prefix, epoch)):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
