"""What fine-tuning changes in a network's graph: the head, the input, the loss, what is trained."""

import re

from common.base.files import UserError
from common.networks.graph import (
    Builder,
    arguments,
    edit,
    ending_at,
    last_layers,
    output_of,
    replace_variable,
    subgraph,
)
from common.networks.signatures import is_true, state_positions

_DROPOUT = "_dropout"  # ends the name of what `swap_head` puts before a head
WITHOUT_HEAD = ["pool1", "flatten0"]  # the last layers of an import without a classifier
_INPUTS = ("data", "softmax_label")


# --- The head ------------------------------------------------------------------------------------


def classify(builder, features, num_classes, name):
    """Add a classifier and its loss, `softmax`; return the entry of the probabilities."""
    logits = builder.add("FullyConnected", name, features, num_hidden=num_classes)
    return builder.add("SoftmaxOutput", "softmax", logits)


def find_head(graph):
    """Return `(name of the head, output name of the layer before it)`.

    The head is the last FullyConnected; None if the network was imported without one.

    Raises:
        UserError: the network has no FullyConnected layer.
    """
    if [node["name"] for node in graph["nodes"][-2:]] == WITHOUT_HEAD:
        return None, "flatten0_output"
    head = _last_classifier(graph)
    before = graph["nodes"][head["inputs"][0][0]]
    return head["name"], output_of(graph, before["name"])


def _last_classifier(graph):
    heads = [node for node in graph["nodes"] if node["op"] == "FullyConnected"]
    if not heads:
        raise UserError(
            "this network has no FullyConnected layer to swap; name the layer that the new head"
            f" comes after: --layer-before-fullc NAME, one of: {', '.join(last_layers(graph))}"
        )
    return heads[-1]


def swap_head(graph, params, num_classes, layer_before_fullc=None, dropout=0.0):
    """Put a new, untrained classifier on a pretrained network.

    Args:
        graph: any classification network; everything up to its last FullyConnected is kept.
        params: its parameters; the ones that the new network does not use are dropped, by exact
            name, so that VGG's fc6 and fc7 stay.
        layer_before_fullc: the layer that the head follows, if not the one that is found.
        dropout: share of the features that is dropped in training, 0 to 1.

    Returns:
        `(graph, params, name of the head)`; the head's parameters are not in `params`.

    Raises:
        UserError: there is no such layer; the message lists the last layers.
    """
    if layer_before_fullc:
        output = output_of(graph, layer_before_fullc)
        if output is None:
            raise UserError(
                f"--layer-before-fullc {layer_before_fullc}: this network has no such layer;"
                f" its last ones are: {', '.join(last_layers(graph))}"
            )
        kept = subgraph(graph, output)
    elif find_head(graph)[0] is None:
        kept = graph
    else:
        kept = ending_at(graph, _before_dropout(graph, _last_classifier(graph)["inputs"][0]))
    used = set(arguments(kept))
    head = "fc1"
    while f"{head}_weight" in used:  # an inner layer has the name of the zoo's head
        head = f"new_{head}"
    builder = Builder()
    features = builder.copy_of(kept)
    if dropout > 0:
        features = builder.add("Dropout", head + _DROPOUT, features, p=dropout)
    swapped = builder.graph(classify(builder, features, num_classes, head))
    return swapped, {name: array for name, array in params.items() if name in used}, head


def _before_dropout(graph, source):
    """Return what the dropout of an earlier run of this project drops of, else `source`."""
    node = graph["nodes"][source[0]]
    is_ours = node["op"] == "Dropout" and node["name"].endswith(_DROPOUT)
    return node["inputs"][0] if is_ours else source


def without_label(graph):
    """Return the network with a plain softmax in place of SoftmaxOutput and its label."""
    head = next(node for node in graph["nodes"] if node["op"] == "SoftmaxOutput")
    builder = Builder()
    logits = builder.copy_of(ending_at(graph, head["inputs"][0]))
    return builder.graph(builder.add("softmax", "probabilities", logits, axis=1))


# --- The input -----------------------------------------------------------------------------------


def take_raw_images(graph):
    """Return the network with a cast after `data`, so that it takes uint8 as well as float32.

    uint8 moves a quarter of the bytes from the host to the device.
    """
    nodes = graph["nodes"]
    data = next((i for i, node in enumerate(nodes) if node["name"] == "data"), None)
    if data is None:
        raise UserError("this network has no input named data")
    readers = [node for node in nodes if data in (source[0] for source in node["inputs"])]
    if all(node["op"] == "Cast" for node in readers):
        return graph
    builder = Builder()
    cast = builder.add("Cast", "data_cast", builder.variable("data"), dtype="float32")
    return replace_variable(graph, "data", builder.graph(cast))


def normalize_input(graph, mean, std):
    """Insert `(data - mean) / std`, three numbers each, after the input of a pretrained network.

    They become part of the network, and so of every checkpoint: it takes raw images everywhere, in
    validation and in sub.py too.
    """
    if not any(mean) and set(std) == {1}:
        return graph
    builder = Builder()
    raw = builder.add("Cast", "raw_cast", builder.variable("data"), dtype="float32")
    colors = builder.add("SliceChannel", "colors", raw, num_outputs=3, axis=1)
    scaled = []
    for i in range(3):
        color = builder.output(colors, i)
        for op, scalar in (("_minus_scalar", mean[i]), ("_div_scalar", std[i])):
            color = builder.add(op, builder.unique(op.replace("_s", "s")), color, scalar=scalar)
        scaled.append(color)
    normalized = builder.add("Concat", "normalized", *scaled, dim=1)
    return replace_variable(graph, "data", builder.graph(normalized))


def keep_normalisation(graph, params, stats):
    """Return only what no training changes: the input's normalisation and constants, no weights.

    Networks imported from PyTorch hold the mean and deviation in a BatchNorm of fixed statistics,
    those from ONNX hold constants as parameters of learning rate 0.
    """
    constants = {
        node["name"]
        for node in graph["nodes"]
        if node["op"] == "null" and float(node.get("attrs", {}).get("__lr_mult__", 1)) == 0
    }
    fixed = constants | {
        name
        for node, inputs in _batch_norms(graph)
        if is_true(node.get("attrs", {}).get("use_global_stats"))
        for name in inputs
    }
    kept = [
        {name: array for name, array in arrays.items() if name in fixed}
        for arrays in (params, stats)
    ]
    return kept[0], kept[1]


# --- The loss, and what is trained ---------------------------------------------------------------


def smooth_labels(graph, share):
    """Return the network trained with `share` (0 to below 1) of each target on the other classes.

    Szegedy et al. 2016, arXiv:1512.00567.
    """
    return _edit_loss(graph, smooth_alpha=str(float(share)))


def scale_loss(graph, scale):
    """Return the network whose loss gradient is `scale` times as large (float16 underflows)."""
    return _edit_loss(graph, grad_scale=str(float(scale)))


def _edit_loss(graph, **attributes):
    losses = [node["name"] for node in graph["nodes"] if node["op"] == "SoftmaxOutput"]
    return edit(graph, dict.fromkeys(losses, attributes))


def set_learning_rate_factors(graph, factors):
    """Return the network with `{parameter: factor}` of the learning rate written into it."""
    if not factors:
        return graph
    return edit(graph, {name: {"__lr_mult__": str(factor)} for name, factor in factors.items()})


def fixed_gammas(graph):
    """Return the names of the gammas that are 1 whatever the optimizer does (`fix_gamma`).

    MXNet still updates them, and resets them in the next forward pass without its engine knowing.
    """
    return {
        inputs[1]
        for node, inputs in _batch_norms(graph)
        if is_true(node.get("attrs", {}).get("fix_gamma", True))
    }


def _batch_norms(graph):
    """Yield (node, names of its inputs) of every BatchNorm: data, gamma, beta, mean, variance.

    The zoo's `bn0` has a `bn0_gamma`, but Gluon's `bn0_fwd` has one too.
    """
    nodes = graph["nodes"]
    for node in nodes:
        if state_positions(node["op"]) == (3, 4) and "quantized" not in node["op"]:
            yield node, [nodes[source[0]]["name"] for source in node["inputs"]]


def freeze(graph, pattern):
    """Freeze the parameters whose names match a regular expression (`re.match`).

    BatchNorms whose gamma matches use their stored mean and variance in training too, so that a
    frozen layer does not drift.

    Returns:
        `(graph, names of the frozen parameters)`.

    Raises:
        UserError: the pattern is not a regular expression, or matches no parameter.
    """
    names = matching(pattern, [name for name in arguments(graph) if name not in _INPUTS])
    drifting = {node["name"] for node, inputs in _batch_norms(graph) if inputs[1] in names}
    return edit(graph, {name: {"use_global_stats": "True"} for name in drifting}), names


def matching(pattern, parameters):
    """Return the parameters whose names match the regular expression of `--freeze`.

    Raises:
        UserError: it is not a regular expression, or matches none of them, or all.
    """
    try:
        matches = re.compile(pattern).match
    except re.error as error:
        raise UserError(f"--freeze {pattern}: not a regular expression: {error}") from None
    names = [name for name in parameters if matches(name)]
    if not names:
        raise UserError(f"--freeze {pattern}: matches no parameter of this network")
    if len(names) == len(set(parameters)):
        raise UserError(f"--freeze {pattern}: matches all parameters, and leaves nothing to train")
    return names
