"""The edits of `common/networks/edits.py` and the ResNets, written on MXNet's own symbols.

The tests compare bytes: a graph that was edited here and one that `common/networks` edited must be
equal. This is the code of the project from before it had graphs of its own.
"""

import inspect
import json
import re

from common.engines.mxnet.runtime import mx
from common.networks.resnet import BATCH_NORM_EPSILON, BATCH_NORM_MOMENTUM, RESNET_UNITS


def build_resnet(num_layers, num_classes, width=64):
    units, bottleneck = RESNET_UNITS[num_layers]
    expansion = 4 if bottleneck else 1
    with mx.name.NameManager():
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
    return mx.sym.Activation(_batch_norm(body, batch_norm_name), act_type="relu", name=relu_name)


def _classify(features, num_classes, name):
    logits = mx.sym.FullyConnected(features, num_hidden=num_classes, name=name)
    return mx.sym.SoftmaxOutput(logits, name="softmax")


def read_graph(symbol):
    # MXNet leaves the casts of its AMP out unless it is asked to keep them (1.5 has none).
    whole = "remove_amp_cast" in inspect.signature(symbol.tojson).parameters
    return json.loads(symbol.tojson(remove_amp_cast=False) if whole else symbol.tojson())


def _read_nodes(symbol):
    return read_graph(symbol)["nodes"]


def _write_graph(graph):
    return mx.sym.load_json(json.dumps(graph))


def find_head(symbol):
    nodes = _read_nodes(symbol)
    heads = [node for node in nodes if node["op"] == "FullyConnected"]
    before = nodes[heads[-1]["inputs"][0][0]]
    return heads[-1]["name"], _output_name(symbol, before["name"])


def _output_name(symbol, layer):
    outputs = symbol.get_internals().list_outputs()
    return next(n for n in (f"{layer}_output", f"{layer}_output0", layer) if n in outputs)


def swap_head(symbol, arg_params, num_classes, layer_before_fullc=None, dropout=0.0):
    if layer_before_fullc:
        output = _output_name(symbol, layer_before_fullc)
    else:
        _, output = find_head(symbol)
    features = symbol.get_internals()[output]
    used = set(features.list_arguments())
    head = "fc1"
    while f"{head}_weight" in used:
        head = f"new_{head}"
    if dropout > 0:
        features = mx.sym.Dropout(features, p=dropout, name=f"{head}_dropout")
    kept = {name: array for name, array in arg_params.items() if name in used}
    return _classify(features, num_classes, head), kept, head


def take_raw_images(symbol):
    nodes = _read_nodes(symbol)
    data = next(i for i, node in enumerate(nodes) if node["name"] == "data")
    readers = [node for node in nodes if data in (source[0] for source in node["inputs"])]
    if all(node["op"] in ("Cast", "cast") for node in readers):
        return symbol
    return symbol(data=mx.sym.Cast(mx.sym.Variable("data"), dtype="float32", name="data_cast"))


def normalize_input(symbol, mean, std):
    if not any(mean) and set(std) == {1}:
        return symbol
    with mx.name.NameManager():
        raw = mx.sym.Cast(mx.sym.Variable("data"), dtype="float32", name="raw_cast")
        colors = mx.sym.SliceChannel(raw, num_outputs=3, axis=1, name="colors")
        scaled = [(colors[i] - mean[i]) / std[i] for i in range(3)]
        return symbol(data=mx.sym.Concat(*scaled, dim=1, name="normalized"))


def to_float16(symbol):
    graph = read_graph(symbol)
    for node in graph["nodes"]:
        if node["op"] in ("Cast", "cast"):
            node["attrs"]["dtype"] = "float16"
        elif node["op"] == "null":
            node.get("attrs", {}).pop("__dtype__", None)
    half = _write_graph(graph)
    softmax = next(node for node in graph["nodes"] if node["op"] == "SoftmaxOutput")
    before = graph["nodes"][softmax["inputs"][0][0]]["name"]
    logits = half.get_internals()[_output_name(half, before)]
    return mx.sym.SoftmaxOutput(
        mx.sym.Cast(logits, dtype="float32", name="logits_float32"),
        name=softmax["name"],
        **{key: value for key, value in softmax.get("attrs", {}).items() if key[0] != "_"},
    )


def without_label(symbol):
    nodes = _read_nodes(symbol)
    head = next(node for node in nodes if node["op"] == "SoftmaxOutput")
    logits = nodes[head["inputs"][0][0]]["name"]
    internals = symbol.get_internals()
    return mx.sym.softmax(internals[f"{logits}_output"], axis=1, name="probabilities")


def smooth_labels(symbol, share):
    return _edit(symbol, lambda op, name: op == "SoftmaxOutput", smooth_alpha=str(float(share)))


def scale_loss(symbol, scale):
    return _edit(symbol, lambda op, name: op == "SoftmaxOutput", grad_scale=str(float(scale)))


def set_learning_rate_factors(symbol, factors):
    for parameter, factor in factors.items():
        symbol = _edit(symbol, lambda op, name, p=parameter: name == p, __lr_mult__=str(factor))
    return symbol


def fixed_gammas(symbol):
    return {
        inputs[1]
        for node, inputs in _batch_norms(symbol)
        if node.get("attrs", {}).get("fix_gamma", "True") in ("True", "1")
    }


def freeze(symbol, pattern):
    matches = re.compile(pattern).match
    inputs = ("data", "softmax_label")
    names = [name for name in symbol.list_arguments() if name not in inputs and matches(name)]
    drifting = {node["name"] for node, inputs in _batch_norms(symbol) if inputs[1] in names}
    frozen = _edit(symbol, lambda op, name: name in drifting, use_global_stats="True")
    return frozen, names


def _batch_norms(symbol):
    nodes = _read_nodes(symbol)
    for node in nodes:
        if node["op"] == "BatchNorm":
            yield node, [nodes[source[0]]["name"] for source in node["inputs"]]


def _edit(symbol, chosen, **attributes):
    graph = read_graph(symbol)
    for node in graph["nodes"]:
        if chosen(node["op"], node["name"]):
            node.setdefault("attrs", {}).update(attributes)
    return _write_graph(graph)
