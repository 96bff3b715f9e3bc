"""Symbols: build a zoo ResNet, find the head and swap it, choose the precision.

Every network of this project takes `data`, raw RGB of 0 to 255, `(N, 3, H, W)`, uint8 or float32
(its first node casts), takes `softmax_label`, `(N,)`, in training, and gives probabilities
`(N, num_classes)` under the name `softmax`.
"""

import contextlib
import inspect
import io
import json
import re

from common import amx
from common.files import UserError
from common.find_mxnet import mx

BATCH_NORM_EPSILON = 2e-5  # of the zoo's ResNets; MXNet's own default is 1e-3
BATCH_NORM_MOMENTUM = 0.9

WITHOUT_HEAD = ["pool1", "flatten0"]  # the last layers of an import that had no classifier

# Residual units in each of the four stages, and whether they are bottlenecks of three convolutions.
# The zoo's depths (He et al. 2016, arXiv:1603.05027), and 10, which is small enough for tests.
RESNET_UNITS = {
    10: ((1, 1, 1, 1), False),
    18: ((2, 2, 2, 2), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
}


def build_resnet(num_layers, num_classes, width=64):
    """Return a pre-activation ResNet with the layer and parameter names of MXNet's model zoo.

    Args:
        num_layers: a depth of `RESNET_UNITS`.
        width: channels of the first convolution; 64 in the zoo, less for tests.
    """
    if num_layers not in RESNET_UNITS:
        depths = ", ".join(map(str, RESNET_UNITS))
        raise UserError(f"a ResNet has {depths} layers, not {num_layers}")
    units, bottleneck = RESNET_UNITS[num_layers]
    expansion = 4 if bottleneck else 1

    body = _batch_norm(mx.sym.Variable("data"), "bn_data", fix_gamma=True)
    body = _convolution(body, "conv0", width, kernel=7, stride=2)
    body = _activate(body, "bn0", "relu0")
    body = mx.sym.Pooling(
        body, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max", name="pooling0"
    )
    for stage, num_units in enumerate(units, start=1):
        channels = width * 2 ** (stage - 1) * expansion
        for unit in range(1, num_units + 1):
            stride = 2 if unit == 1 and stage > 1 else 1
            name = f"stage{stage}_unit{unit}"
            body = _residual_unit(body, name, channels, stride, unit > 1, bottleneck)
    body = _activate(body, "bn1", "relu1")
    body = mx.sym.Pooling(body, global_pool=True, kernel=(7, 7), pool_type="avg", name="pool1")
    return _classify(mx.sym.Flatten(body, name="flatten0"), num_classes, "fc1")


def _residual_unit(body, name, channels, stride, same_shape, bottleneck):
    """One unit; its shortcut is the identity where the shapes allow, else a 1x1 convolution."""
    activated = _activate(body, f"{name}_bn1", f"{name}_relu1")
    if bottleneck:
        plan = [(channels // 4, 1, 1), (channels // 4, 3, stride), (channels, 1, 1)]
    else:
        plan = [(channels, 3, stride), (channels, 3, 1)]
    branch = activated
    for number, (num_filter, kernel, step) in enumerate(plan, start=1):
        if number > 1:
            branch = _activate(branch, f"{name}_bn{number}", f"{name}_relu{number}")
        branch = _convolution(branch, f"{name}_conv{number}", num_filter, kernel, step)
    shortcut = body if same_shape else _convolution(activated, f"{name}_sc", channels, 1, stride)
    return branch + shortcut


def _convolution(body, name, num_filter, kernel, stride=1):
    return mx.sym.Convolution(
        body,
        num_filter=num_filter,
        kernel=(kernel, kernel),
        stride=(stride, stride),
        pad=(kernel // 2, kernel // 2),
        no_bias=True,
        name=name,
    )


def _batch_norm(body, name, fix_gamma=False):
    return mx.sym.BatchNorm(
        body,
        fix_gamma=fix_gamma,
        eps=BATCH_NORM_EPSILON,
        momentum=BATCH_NORM_MOMENTUM,
        name=name,
    )


def _activate(body, batch_norm_name, relu_name):
    normalised = _batch_norm(body, batch_norm_name)
    return mx.sym.Activation(normalised, act_type="relu", name=relu_name)


def _classify(features, num_classes, name):
    logits = mx.sym.FullyConnected(features, num_hidden=num_classes, name=name)
    return mx.sym.SoftmaxOutput(logits, name="softmax")


def read_nodes(symbol):
    """Return the nodes of a symbol: dicts with `op`, `name`, `attrs` and `inputs`."""
    return read_graph(symbol)["nodes"]


def read_graph(symbol):
    """Return a symbol as MXNet saves it: a dict with its `nodes` and what joins them."""
    # MXNet leaves the casts of its AMP out unless it is told not to (1.5 has none of them), and a
    # network that was converted to bfloat16 would come back in float32.
    whole = "remove_amp_cast" in inspect.signature(symbol.tojson).parameters
    return json.loads(symbol.tojson(remove_amp_cast=False) if whole else symbol.tojson())


def write_graph(graph):
    """Return the symbol of what `read_graph` gave."""
    return mx.sym.load_json(json.dumps(graph))


def find_head(symbol):
    """Return `(name of the head, output name of the layer before it)`.

    The head is the last FullyConnected; None where the network was imported without one.

    Raises:
        UserError: the network has no FullyConnected layer.
    """
    nodes = read_nodes(symbol)
    heads = [node for node in nodes if node["op"] == "FullyConnected"]
    if not heads and [node["name"] for node in nodes[-2:]] == WITHOUT_HEAD:
        return None, "flatten0_output"
    if not heads:
        raise UserError(
            "this network has no FullyConnected layer to swap; name the layer that the new head"
            f" comes after: --layer-before-fullc NAME, one of: {', '.join(_last_layers(symbol))}"
        )
    before = nodes[heads[-1]["inputs"][0][0]]
    return heads[-1]["name"], _output_name(symbol, before["name"])


def _output_name(symbol, layer):
    """The (first) output name of a layer: `flatten0_output`, or `data` for the input itself."""
    outputs = symbol.get_internals().list_outputs()
    for name in (f"{layer}_output", f"{layer}_output0", layer):
        if name in outputs:
            return name
    return None


def _last_layers(symbol, count=8):
    return [node["name"] for node in read_nodes(symbol) if node["op"] != "null"][-count:]


def swap_head(symbol, arg_params, num_classes, layer_before_fullc=None, dropout=0.0):
    """Put a new, untrained classifier on a pretrained network.

    Args:
        symbol: any classification network; everything up to its last FullyConnected is kept.
        arg_params: its parameters; the ones that the new network does not use are dropped, by
            exact name, so that VGG's fc6 and fc7 stay.
        layer_before_fullc: the layer that the head comes after, where it is not the one found.
        dropout: share of the features that is dropped in training, 0 to 1.

    Returns:
        `(symbol, arg_params, name of the head)`; the head's parameters are not in `arg_params`.

    Raises:
        UserError: there is no such layer; names the last layers to choose from.
    """
    if layer_before_fullc:
        output = _output_name(symbol, layer_before_fullc)
        if output is None:
            raise UserError(
                f"--layer-before-fullc {layer_before_fullc}: this network has no such layer;"
                f" its last ones are: {', '.join(_last_layers(symbol))}"
            )
    else:
        _, output = find_head(symbol)
    features = symbol.get_internals()[output]
    used = set(features.list_arguments())
    head = "fc1"
    while f"{head}_weight" in used:  # an inner layer of this network has the zoo's head's name
        head = f"new_{head}"
    if dropout > 0:
        features = mx.sym.Dropout(features, p=dropout, name=f"{head}_dropout")
    kept = {name: array for name, array in arg_params.items() if name in used}
    return _classify(features, num_classes, head), kept, head


def keep_normalisation(symbol, arg_params, aux_params):
    """Return only the parameters that are no weights but the input's mean and deviation.

    Networks imported from PyTorch carry them in a BatchNorm of fixed statistics.
    """
    fixed = {
        name
        for node, inputs in _batch_norms(symbol)
        if node.get("attrs", {}).get("use_global_stats") in ("True", "1")
        for name in inputs
    }
    kept = [
        {name: array for name, array in params.items() if name in fixed}
        for params in (arg_params, aux_params)
    ]
    return kept[0], kept[1]


def take_raw_images(symbol):
    """Return the network with a cast behind `data`, so that it takes uint8 as well as float32.

    uint8 moves a quarter of the bytes from the host to the device.
    """
    nodes = read_nodes(symbol)
    data = next((i for i, node in enumerate(nodes) if node["name"] == "data"), None)
    if data is None:
        raise UserError("this network has no input named data")
    readers = [node for node in nodes if data in (source[0] for source in node["inputs"])]
    if all(node["op"] in ("Cast", "cast") for node in readers):
        return symbol
    return symbol(data=mx.sym.Cast(mx.sym.Variable("data"), dtype="float32", name="data_cast"))


def convert_precision(symbol, dtype, image_shape):
    """Return a network of the same parameters that computes in `dtype`; softmax stays in float32.

    Args:
        dtype: float32, float16 or bfloat16.
        image_shape: `(3, H, W)` of what it will see.

    float16: the casts behind `data` change, and with them the inferred type of every parameter up
    to one cast before the softmax (the optimizer keeps float32 masters: `multi_precision`).
    bfloat16: MXNet's AMP casts weights on the fly, so that the parameters stay float32. So do the
    first convolution and the head, which oneDNN computes in slow reference code: it has no blocked
    bfloat16 for 3 channels (nor for what comes behind them), and the head's gradient took 20 times
    as long (a quarter of ResNet-18's time, a tenth of ResNet-152's).
    """
    if dtype == "float32":
        return symbol
    if dtype == "bfloat16":
        from mxnet.contrib import amp

        graph = read_graph(symbol)
        convolutions, heads = (
            [node["name"] for node in graph["nodes"] if node["op"] == op]
            for op in ("Convolution", "FullyConnected")
        )
        unsafe = []
        if amx.is_allowed():
            unsafe = amx.steer(graph["nodes"], _output_shapes(symbol, image_shape))
        return amp.convert_symbol(
            write_graph(graph),
            target_dtype="bfloat16",
            # Concat too: AMP leaves its inputs as they come, and MXNet wants them of one type.
            target_dtype_ops=["Convolution", "FullyConnected", "Concat"],
            data_names=["data"],
            excluded_sym_names=[*convolutions[:1], *heads, *unsafe],
            cast_optional_params=False,
        )
    graph = read_graph(symbol)
    for node in graph["nodes"]:
        if node["op"] in ("Cast", "cast"):
            node["attrs"]["dtype"] = "float16"
        elif node["op"] == "null":
            node.get("attrs", {}).pop("__dtype__", None)  # Gluon fixes its parameters to float32
    half = write_graph(graph)
    softmax = next(node for node in graph["nodes"] if node["op"] == "SoftmaxOutput")
    before = graph["nodes"][softmax["inputs"][0][0]]["name"]
    logits = half.get_internals()[_output_name(half, before)]
    return mx.sym.SoftmaxOutput(
        mx.sym.Cast(logits, dtype="float32", name="logits_float32"),
        name=softmax["name"],
        **{key: value for key, value in softmax.get("attrs", {}).items() if key[0] != "_"},
    )


def _output_shapes(symbol, image_shape):
    """Return `{layer: shape}`; empty where the network takes no such images, as binding tells."""
    layers = symbol.get_internals()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # MXNet prints what it then raises
            _, shapes, _ = layers.infer_shape(data=(1, *image_shape))
    except mx.MXNetError:
        return {}
    names = (re.sub("_output0?$", "", name) for name in layers.list_outputs())
    return dict(zip(names, shapes or ()))


def smooth_labels(symbol, share):
    """Return the network trained with `share` (0 to below 1) of the truth on the other classes.

    Szegedy et al. 2016, arXiv:1512.00567.
    """
    return _edit(symbol, lambda op, name: op == "SoftmaxOutput", smooth_alpha=str(float(share)))


def scale_loss(symbol, scale):
    """Return the network whose loss gradient is `scale` times as large (float16 underflows)."""
    return _edit(symbol, lambda op, name: op == "SoftmaxOutput", grad_scale=str(float(scale)))


def set_learning_rate_factors(symbol, factors):
    """Return the network with `{parameter: factor}` of the learning rate written into it."""
    for parameter, factor in factors.items():
        symbol = _edit(symbol, lambda op, name, p=parameter: name == p, __lr_mult__=str(factor))
    return symbol


def fixed_gammas(symbol):
    """Return the names of the gammas that are 1 whatever the optimizer does (`fix_gamma`).

    MXNet still updates them, and sets them back in the next forward pass, unseen by its engine.
    """
    return {
        inputs[1]
        for node, inputs in _batch_norms(symbol)
        if node.get("attrs", {}).get("fix_gamma", "True") in ("True", "1")
    }


def _batch_norms(symbol):
    """Yield (node, names of its inputs) of every BatchNorm: data, gamma, beta, mean, variance.

    The zoo's `bn0` has a `bn0_gamma`, but Gluon's `bn0_fwd` has one too.
    """
    nodes = read_nodes(symbol)
    for node in nodes:
        if node["op"] == "BatchNorm":
            yield node, [nodes[source[0]]["name"] for source in node["inputs"]]


def freeze(symbol, pattern):
    """Freeze the parameters whose names match a regular expression (`re.match`).

    BatchNorms whose gamma matches are read with their stored mean and variance in training too:
    a frozen layer must not drift.

    Returns:
        `(symbol, names of the frozen parameters)`.

    Raises:
        UserError: the pattern is no regular expression, or matches no parameter.
    """
    try:
        matches = re.compile(pattern).match
    except re.error as error:
        raise UserError(f"--freeze {pattern}: not a regular expression: {error}") from None
    inputs = ("data", "softmax_label")
    names = [name for name in symbol.list_arguments() if name not in inputs and matches(name)]
    if not names:
        raise UserError(f"--freeze {pattern}: matches no parameter of this network")
    if len(names) == len(set(symbol.list_arguments()) - set(inputs)):
        raise UserError(f"--freeze {pattern}: matches all parameters, and leaves nothing to train")
    drifting = {node["name"] for node, inputs in _batch_norms(symbol) if inputs[1] in names}
    frozen = _edit(symbol, lambda op, name: name in drifting, use_global_stats="True")
    return frozen, names


def _edit(symbol, chosen, **attributes):
    """Return the symbol with attributes changed at every node for which `chosen(op, name)`."""
    graph = read_graph(symbol)
    for node in graph["nodes"]:
        if chosen(node["op"], node["name"]):
            node.setdefault("attrs", {}).update(attributes)
    return write_graph(graph)


def infer_shapes(symbol, image_shape, batch_size=1):
    """Return `{name: shape}` of every parameter and auxiliary state for images `(3, H, W)`.

    Raises:
        UserError: the network cannot take images of this shape, or has other inputs than images.
    """
    flag = f"--image-shape {','.join(map(str, image_shape))}"
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # MXNet prints what it then raises
            shapes, _, aux_shapes = symbol.infer_shape(data=(batch_size, *image_shape))
    except mx.base.MXNetError as error:
        reason = next((line for line in str(error).splitlines() if line.strip()), "")
        raise UserError(
            f"{flag}: this network cannot take such images ({reason.strip()[:200]})"
        ) from None
    if shapes is None:
        raise UserError(f"{flag}: the images do not tell all shapes of this network's parameters")
    names = dict(zip(symbol.list_arguments(), shapes))
    names.update(zip(symbol.list_auxiliary_states(), aux_shapes))
    return {name: s for name, s in names.items() if name != "data" and not name.endswith("label")}
