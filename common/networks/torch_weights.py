"""Where in a PyTorch checkpoint the network's weights are, and their names without prefixes."""

import re
from collections import deque

from common.networks.torch_pickle import Tensor, Unread, UnreadableError

# Names under which training scripts keep weights; of equally large ones these are preferred.
_USUAL_KEYS = ("state_dict", "model_state_dict", "model", "net")

# What a network is wrapped in: parallel and compiled networks, Lightning, self-supervised learning.
_WRAPPERS = (
    "module",
    "_orig_mod",
    "model",
    "net",
    "network",
    "backbone",
    "encoder_q",
    "teacher",
    "student",
    "online_network",
    "encoder",
)
# The first layers of the networks that may be found inside another one.
_FIRST_LAYERS = ("conv1.weight", "conv1.0.weight", "conv_stem.weight", "_conv_stem.weight")


def find(content):
    """Return ({name: Tensor} of the network, names of what was left out) of a checkpoint.

    `content` is what the file holds. The weights are the dict with the most tensors, at any
    depth; of equally large ones averaged weights (`ema`) come first. Prefixes that all names share
    are stripped. Where a network is part of another one (`encoder_q.` of MoCo, `backbone.` with a
    `head.`), the network alone is taken.

    Raises:
        UnreadableError: there is no such dict.
    """
    found = list(_dicts_of_tensors(content))
    if not found:
        raise UnreadableError(_describe_emptiness(content))
    _, weights = max(found, key=lambda entry: (len(entry[1]), entry[0]))
    return _unwrap(weights)


def _dicts_of_tensors(content):
    """Yield (rank, {name: Tensor}) of every dict in `content`, however deep."""
    waiting, seen = deque([(0, content)]), set()
    while waiting:
        rank, found = waiting.popleft()
        if not isinstance(found, dict) or id(found) in seen:
            continue
        seen.add(id(found))
        named = ((k, v) for k, v in found.items() if isinstance(k, str) and isinstance(v, Tensor))
        tensors = {name: tensor for name, tensor in named if name != "n_averaged"}
        if tensors:
            yield rank, tensors
        waiting.extend((max(rank, _rank(key)), value) for key, value in found.items())


def _rank(key):
    words = key.split("_") if isinstance(key, str) else ()
    return 2 if "ema" in words else int(key in _USUAL_KEYS)


def _describe_emptiness(content):
    objects = [content, *(content.values() if isinstance(content, dict) else ())]
    names = [thing.name for thing in objects if isinstance(thing, Unread)]
    instead = f", but an object of {names[0]}, which was not loaded" if names else ""
    return f"holds no state dict{instead}; save the network's state_dict()"


def _unwrap(weights):
    """Return the weights without prefixes, and the first words of the names left out."""
    left_out = []
    while True:
        for wrapper in _WRAPPERS:
            inside, outside = _split(weights, f"{wrapper}.")
            if inside and (not outside or any(layer in inside for layer in _FIRST_LAYERS)):
                break
        else:
            break
        weights = inside
        left_out += outside
        if wrapper == "encoder_q":  # MoCo: its fc projects, and classifies nothing
            _, weights = _split(weights, "fc.")
            left_out.append("fc")
    # A head of several layers is a projection (SimCLR), or somebody's own classifier.
    projection = [name for name in weights if re.match(r"fc\.\d", name)]
    weights = {name: tensor for name, tensor in weights.items() if name not in projection}
    words = (name.partition(".")[0] for name in left_out + projection)
    return weights, list(dict.fromkeys(words))


def _split(weights, prefix):
    """Return (weights under `prefix`, without it; the other weights)."""
    inside = {name for name in weights if name.startswith(prefix)}
    return (
        {name[len(prefix) :]: weights[name] for name in weights if name in inside},
        {name: weights[name] for name in weights if name not in inside},
    )
