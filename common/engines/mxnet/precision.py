"""The symbol that MXNet computes a graph with, in the precision asked for."""

import contextlib
import inspect
import io
import json
import re

from common.base.files import UserError
from common.engines.mxnet import amx, fusion
from common.engines.mxnet.runtime import mx, reason_of
from common.networks import edits, symbol_file
from common.networks.graph import Builder, edit, ending_at

# This MXNet's version as symbol files hold it: 10901 for 1.9.1.
_MAJOR, _MINOR, _PATCH = map(int, mx.__version__.split(".")[:3])
SYMBOL_VERSION = _MAJOR * 10000 + _MINOR * 100 + _PATCH
ADJUSTMENT = "logit_adjustment"  # an input of networks that train with it


def to_symbol(graph):
    """Return MXNet's symbol of a graph.

    Raises:
        UserError: an attribute of an operator is not one that MXNet takes.
    """
    nodes = [{k: v for k, v in node.items() if k != "version"} for node in graph["nodes"]]
    # MXNet warns of graphs that a newer version has written.
    attributes = {"mxnet_version": ["int", SYMBOL_VERSION]}
    try:
        return mx.sym.load_json(json.dumps({**graph, "nodes": nodes, "attrs": attributes}))
    except mx.MXNetError as error:
        raise UserError(
            f"MXNet cannot build this network ({reason_of(error)}); fetch or make its -symbol.json"
            " again"
        ) from None


def to_graph(symbol):
    """Return the graph of a symbol."""
    # By default MXNet leaves out the casts of its AMP (1.5 has none of them), and a network that
    # was converted to bfloat16 would come back in float32.
    whole = "remove_amp_cast" in inspect.signature(symbol.tojson).parameters
    text = symbol.tojson(remove_amp_cast=False) if whole else symbol.tojson()
    return symbol_file.parse(text, "MXNet's network")


def training_symbol(graph, options):
    """Return the symbol of a network in float32 that trains as `TrainerOptions` say."""
    computed = convert(graph, options.dtype, options.image_shape)
    computed = edits.set_learning_rate_factors(computed, options.learning_rate_factors)
    if options.loss_scale != 1.0:
        computed = edits.scale_loss(computed, options.loss_scale)
    if options.logit_adjustment is not None:
        computed = _adjust_logits(computed)
    return to_symbol(computed)


def prediction_symbol(graph, dtype, image_shape):
    """Return the symbol of a network in float32, or quantized, that predicts in `dtype`."""
    return to_symbol(fusion.without_wrong_sums(convert(graph, dtype, image_shape)))


def convert(graph, dtype, image_shape):
    """Return a graph of the same parameters that computes in `dtype`; softmax stays in float32.

    Args:
        dtype: float32, float16, bfloat16, or int8 where the graph is quantized already.
        image_shape: `(3, H, W)` of what it will see.
    """
    if dtype == "bfloat16":
        return _to_bfloat16(graph, image_shape)
    if dtype == "float16":
        return _to_float16(graph)
    return graph


def _to_bfloat16(graph, image_shape):
    """MXNet's AMP casts weights on the fly, so that the parameters stay float32.

    The first convolution and the head stay in float32 too: in bfloat16 oneDNN computes them in slow
    reference code. It has no blocked bfloat16 for 3 channels (nor for the layer after them), and
    the head's gradient took 20 times as long (a quarter of ResNet-18's time, a tenth of
    ResNet-152's).
    """
    from mxnet.contrib import amp

    nodes = graph["nodes"]
    convolutions, heads = (
        [node["name"] for node in nodes if node["op"] == op]
        for op in ("Convolution", "FullyConnected")
    )
    unsafe = []
    if amx.is_allowed():
        graph = edit(graph, {})  # a copy
        unsafe = amx.steer(graph["nodes"], _output_shapes(graph, image_shape))
    symbol = amp.convert_symbol(
        to_symbol(graph),
        target_dtype="bfloat16",
        # Concat too: AMP leaves its inputs as they come, and MXNet needs them of one type.
        target_dtype_ops=["Convolution", "FullyConnected", "Concat"],
        data_names=["data"],
        excluded_sym_names=[*convolutions[:1], *heads, *unsafe],
        cast_optional_params=False,
    )
    return to_graph(symbol)


def _to_float16(graph):
    """The casts after `data` change, and with them the inferred type of every parameter.

    A cast before the softmax returns to float32; the optimizer keeps float32 masters
    (`multi_precision`).
    """
    half = edit(graph, {})  # a copy
    for node in half["nodes"]:
        if node["op"] == "Cast":
            node["attrs"]["dtype"] = "float16"
        elif node["op"] == "null":
            node.get("attrs", {}).pop("__dtype__", None)  # Gluon fixes its parameters to float32
    builder, logits, name, attributes = _open_loss(half)
    logits = builder.add("Cast", "logits_float32", logits, dtype="float32")
    return builder.graph(builder.add("SoftmaxOutput", name, logits, **attributes))


def _adjust_logits(graph):
    """Add an input to the logits of the loss: `logit_adjustment`, `(N, num_classes)`.

    The second output is the probabilities without it.
    """
    builder, logits, name, attributes = _open_loss(graph)
    adjustment = builder.variable(ADJUSTMENT)
    adjusted = builder.add("elemwise_add", "adjusted_logits", logits, adjustment)
    plain = builder.add("softmax", "plain_probabilities", logits, axis=1)
    return builder.graph(
        builder.add("SoftmaxOutput", name, adjusted, **attributes),
        builder.add("BlockGrad", "probabilities", plain),
    )


def _open_loss(graph):
    """Return (a builder of all but the loss, its logits, name and attributes of the loss)."""
    softmax = next(node for node in graph["nodes"] if node["op"] == "SoftmaxOutput")
    attributes = {k: v for k, v in softmax.get("attrs", {}).items() if k[0] != "_"}
    builder = Builder()
    logits = builder.copy_of(ending_at(graph, softmax["inputs"][0]))
    return builder, logits, softmax["name"], attributes


def _output_shapes(graph, image_shape):
    """Return `{layer: shape}`; empty where the network takes no such images, as binding reports."""
    layers = to_symbol(graph).get_internals()
    try:
        with contextlib.redirect_stdout(io.StringIO()):  # MXNet prints what it then raises
            _, shapes, _ = layers.infer_shape(data=(1, *image_shape))
    except mx.MXNetError:
        return {}
    names = (re.sub("_output0?$", "", name) for name in layers.list_outputs())
    return dict(zip(names, shapes or ()))
