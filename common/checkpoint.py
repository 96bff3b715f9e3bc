"""Checkpoints in MXNet's format: written whole or not at all, found, checked and read.

    PREFIX-symbol.json    the network            PREFIX-0007.params   its weights after 7 epochs
    PREFIX-0007.states    the optimizer's state, as MXNet's arrays (no pickle)

The `.params` file is written last: where it is, the whole checkpoint is.
"""

import contextlib
import glob
import itertools
import os
import re

import numpy as np

from common import classifier, params_file
from common.files import (
    UserError,
    atomic_open,
    open_own,
    replacing,
    require_file,
    require_target,
)
from common.find_mxnet import mx


def params_path(prefix, epoch):
    """Return the name of the weights after `epoch` epochs: `PREFIX-0007.params`."""
    return f"{prefix}-{epoch:04d}.params"


def states_path(prefix, epoch):
    """Return the name of the optimizer's state after `epoch` epochs."""
    return f"{prefix}-{epoch:04d}.states"


def symbol_path(prefix):
    """Return the name of the network's definition."""
    return f"{prefix}-symbol.json"


def find_epochs(prefix, ending="params"):
    """Return the epochs of which there are weights (or "states"), in increasing order."""
    pattern = re.compile(rf"{re.escape(os.path.basename(prefix))}-(\d{{4,}})\.{ending}")
    names = (os.path.basename(path) for path in glob.glob(f"{glob.escape(prefix)}-*.{ending}"))
    return sorted(int(match.group(1)) for match in map(pattern.fullmatch, names) if match)


def save(prefix, epoch, symbol, arg_params, aux_params, states=None):
    """Write a checkpoint; `states` is what `Trainer.states()` gives.

    Raises:
        OSError: the disk is full, say; older checkpoints are whole still.
    """
    with atomic_open(symbol_path(prefix)) as stream:
        stream.write(params_file.seal_symbol(symbol.tojson()))
    if states:
        save_arrays(states_path(prefix, epoch), states)
    arrays = {f"arg:{name}": array for name, array in arg_params.items()}
    arrays.update((f"aux:{name}", array) for name, array in aux_params.items())
    save_arrays(params_path(prefix, epoch), arrays)


def save_arrays(path, arrays):
    """Write `{name: NDArray}` in MXNet's format.

    MXNet's writer reports no full disk, so the file is read over before it gets its name. It
    carries a checksum, which MXNet passes over.
    """
    with replacing(path) as temporary:
        try:
            mx.nd.save(temporary, arrays)
            params_file.verify(temporary)
            params_file.seal(temporary)
        except (mx.base.MXNetError, UserError) as error:
            # MXNet does not tell why. To write as much ourselves does: the disk is full, say.
            with open(temporary, "wb", opener=open_own) as stream:
                for array in arrays.values():
                    stream.write(bytes(array.asnumpy().nbytes + 1024))  # its name and shape, too
            raise UserError(
                f"{path}: could not be written whole ({last_line(error)}); try again"
            ) from None


def last_line(error):
    """Return the last line of an error's text that says something."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return lines[-1] if lines else type(error).__name__


def load(prefix, epoch):
    """Return `(symbol, arg_params, aux_params)` of a checkpoint that ends in a SoftmaxOutput.

    Raises:
        UserError: there is no such checkpoint, it is damaged, or it is no classifier.
    """
    symbol, arg_params, aux_params = load_as_it_is(prefix, epoch)
    try:
        return classifier.end_in_softmax(symbol), arg_params, aux_params
    except UserError as error:
        raise UserError(f"{symbol_path(prefix)}: {error}") from None


def load_as_it_is(prefix, epoch):
    """Return `(symbol, arg_params, aux_params)` of a checkpoint, whatever its network ends in.

    Raises:
        UserError: there is no such checkpoint, or it is damaged.
    """
    there = ", ".join(map(str, find_epochs(prefix))) or "none"
    require_file(symbol_path(prefix), "check --model-prefix; fine-tune.py writes it")
    path = require_file(params_path(prefix, epoch), f"epochs that are there: {there}")
    arrays = load_arrays(path)
    for name, array in arrays.items():
        if np.dtype(array.dtype).kind == "f" and not np.isfinite(array.asnumpy()).all():
            raise UserError(
                f"{path}: {name} holds what is no number: its training has diverged, or the file is"
                " damaged; choose an earlier epoch"
            )
    symbol = params_file.load_symbol(symbol_path(prefix))
    if "data" not in symbol.list_arguments():
        raise UserError(f"{symbol_path(prefix)}: has no input named data; it is no image network")
    if arrays and not any(key.startswith(("arg:", "aux:")) for key in arrays):
        arrays = _named_by_symbol(symbol, arrays, path)
    split = {"arg": {}, "aux": {}}
    for key, array in arrays.items():
        kind, _, name = key.partition(":")
        split.get(kind, {})[name] = array
    return symbol, split["arg"], split["aux"]


def _named_by_symbol(symbol, arrays, path):
    """Return Gluon's arrays, whose names are bare, as `{"arg:NAME" or "aux:NAME": array}`.

    They may have another prefix than the symbol's: Gluon numbers its networks (`resnetv11_`).
    """
    arguments, states = symbol.list_arguments(), symbol.list_auxiliary_states()
    kinds = {name: "arg" for name in arguments if name != "data" and not name.endswith("label")}
    kinds.update(dict.fromkeys(states, "aux"))
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
            f" ({', '.join(extra[:2])} ...); write both files anew with Gluon's net.export(PREFIX)"
        )
    return {f"{kind}:{name}": found[name] for name, kind in kinds.items()}


def _without_prefix(names):
    """Return the names without the beginning that all share."""
    shared = itertools.takewhile(lambda letters: len(set(letters)) == 1, zip(*names))
    start = len(list(shared))
    return [name[start:] for name in names]


def load_states(prefix, epoch):
    """Return the optimizer's state of a checkpoint, `{name: NDArray}`; empty where it has none."""
    path = states_path(prefix, epoch)
    if not os.path.lexists(path):
        return {}
    require_file(path, "remove it to go on without the optimizer's past")
    with open(path, "rb") as stream:
        if stream.read(1) == b"\x80":
            raise UserError(
                f"{path}: is a pickle, as MXNet's Module writes them: it could run code, and is not"
                " read; remove it to go on without the optimizer's past"
            )
    return load_arrays(path)


def load_arrays(path):
    """Return `{name: NDArray}` of a file, checked before MXNet, which may crash, reads it."""
    require_file(path, "check its name")
    params_file.verify(path)
    try:
        return mx.nd.load(path)
    except mx.base.MXNetError as error:
        raise UserError(f"{path}: MXNet cannot read it ({last_line(error)})") from None


def newest_whole(prefix, last=None):
    """Return `(epoch, complaints)` of the newest checkpoint that is whole; epoch 0 is none.

    `last` is the last epoch that the log of the run tells of; later ones are an earlier run's.
    """
    complaints = []
    for epoch in reversed(find_epochs(prefix)):
        if epoch == 0:
            continue
        if last is not None and epoch > last:
            path = params_path(prefix, epoch)
            complaints.append(f"{path}: of an earlier run, as the log ends at epoch {last}")
            continue
        try:
            load(prefix, epoch)
            load_states(prefix, epoch)
            return epoch, complaints
        except UserError as error:
            complaints.append(str(error))
    return 0, complaints


def require_targets(prefix):
    """Raise `UserError` where a folder has the name of a file that a run is going to write."""
    for path in glob.glob(f"{glob.escape(prefix)}-*"):
        if path.endswith((".params", ".states", ".json", ".csv", ".png")):
            require_target(path)


def prune(prefix, keep, newest, best=None):
    """Remove the checkpoints up to epoch `newest` but the last `keep` and that of epoch `best`.

    What else there is stays: later epochs of an earlier run, and epoch 0, a pretrained network.
    """
    epochs = {*find_epochs(prefix), *find_epochs(prefix, "states")}
    for epoch in epochs:
        if not 0 < epoch <= newest - keep or epoch == best:
            continue
        for path in (params_path(prefix, epoch), states_path(prefix, epoch)):
            with contextlib.suppress(FileNotFoundError):
                os.remove(path)
