"""ONNX files through MXNet's own importer, as networks that are fed raw images."""

import contextlib
import io
import json
import os
import re
import tempfile

from common.files import UserError, require_file
from common.find_mxnet import mx
from common.torch_networks import normalised_data

# onnx 1.13.1 to 1.19.1 import the same numbers in MXNet 1.9.1 (measured); the file says <1.17, for
# the sake of the exporter.
REQUIREMENTS = "requirements/onnx.txt"

# A protocol buffer: the version of ONNX, then the next field of a model.
_START = re.compile(rb"\x08[\x01-\x1f][\x12\x1a\x22\x28\x32\x3a\x42]")


def is_onnx(path):
    """Whether there is a file that begins as ONNX does."""
    if not os.path.isfile(path):
        return False
    with open(path, "rb") as stream:
        start = stream.read(9)
    return _START.match(start) is not None and start[8:] != b"{"  # as safetensors


def read_network(path, mean, std):
    """Return (symbol, arg_params, aux_params) of an image classifier in ONNX.

    The result is fed raw RGB, `data` (N, 3, H, W), 0 to 255, and ends in `fc1` and `softmax`.

    Args:
        mean, std: what the original wants subtracted, and divided by, on the scale of 0 to 255.

    Raises:
        UserError: the onnx package is missing, the file is damaged, or it holds operators that
            MXNet's importer does not know.
    """
    require_file(path, "name an ONNX file")
    try:
        import onnx
    except ImportError:
        raise UserError(
            f"{path}: reading ONNX takes the onnx package; run:"
            f" .venv/bin/python -m pip install -r {REQUIREMENTS}"
        ) from None
    try:
        model = onnx.load_model(path)
        onnx.checker.check_model(model)
        with mx.name.NameManager():  # layers get the same names in every run
            symbol, arg_params, aux_params = _import(onnx, model)
    except Exception as error:  # the importer raises KeyError, AttributeError, NotImplementedError
        if isinstance(error, OSError) and error.errno:
            raise
        raise UserError(
            f"{path}: MXNet's importer cannot read it ({_first_line(error)}); export the network"
            " again with opset 9, or import its PyTorch checkpoint"
        ) from error
    inputs = [name for name in symbol.list_arguments() if name not in arg_params]
    if len(inputs) != 1:
        raise UserError(f"{path}: has the inputs {inputs}; an image classifier has one")
    symbol = _with_classifier(symbol, arg_params)
    data, more_args, more_aux = normalised_data(mean, std)
    symbol = symbol(**{inputs[0]: data})
    used = set(symbol.list_arguments())
    arg_params = {name: array for name, array in arg_params.items() if name in used}
    return symbol, {**arg_params, **more_args}, {**aux_params, **more_aux}


def _first_line(error):
    lines = str(error).strip().splitlines()
    return f"{type(error).__name__}: {lines[0][:200]}" if lines else type(error).__name__


def _import(onnx, model):
    # MXNet's importer reads what exporters wrote in 2019: the bounds of a Clip are weights, and all
    # weights are inputs of the graph.
    for node in [node for node in model.graph.node if node.op_type == "Constant"]:
        tensor = node.attribute[0].t
        tensor.name = node.output[0]
        model.graph.initializer.append(tensor)
        model.graph.node.remove(node)
    inputs = {entry.name for entry in model.graph.input}
    for tensor in model.graph.initializer:
        if tensor.name not in inputs:
            entry = onnx.helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            model.graph.input.append(entry)
    from mxnet.contrib import onnx as importer

    with tempfile.TemporaryDirectory() as folder:
        copy = os.path.join(folder, "network.onnx")
        onnx.save(model, copy)
        with contextlib.redirect_stdout(io.StringIO()):  # it prints that it is deprecated
            return importer.import_model(copy)


def _with_classifier(symbol, arg_params):
    """Return the network with its last matrix product as `fc1`, under a `softmax`.

    The importer makes a Gemm of several operators; a FullyConnected can be found and swapped.
    """
    nodes = json.loads(symbol.tojson())["nodes"]
    while nodes[-1]["op"] in ("softmax", "SoftmaxOutput", "SoftmaxActivation"):
        symbol = symbol.get_internals()[nodes[nodes[-1]["inputs"][0][0]]["name"] + "_output"]
        nodes = json.loads(symbol.tojson())["nodes"]
    gemm = _find_gemm(nodes)
    if gemm is not None:
        features, weight, bias, beta = gemm
        arg_params["fc1_weight"] = arg_params[weight]
        arg_params["fc1_bias"] = arg_params[bias] * beta
        symbol = mx.sym.FullyConnected(
            symbol.get_internals()[f"{features}_output"],
            num_hidden=arg_params[weight].shape[0],
            name="fc1",
        )
    return mx.sym.SoftmaxOutput(symbol, name="softmax")


def _find_gemm(nodes):
    """Return (features, weight, bias, factor of the bias) of a Gemm that ends the network.

    MXNet's importer writes it as linalg_gemm2(features, weight) + factor * bias.
    """
    last = nodes[-1]
    if last["op"] != "broadcast_add":
        return None
    product, bias = (nodes[entry[0]] for entry in last["inputs"])
    beta = 1.0
    if bias["op"] == "_mul_scalar":
        beta, bias = float(bias["attrs"]["scalar"]), nodes[bias["inputs"][0][0]]
    attributes = product.get("attrs", {})
    transposed = attributes.get("transpose_b") in ("True", "1")
    plain = float(attributes.get("alpha", 1)) == 1 and "True" not in attributes.get(
        "transpose_a", ""
    )
    if product["op"] != "_linalg_gemm2" or bias["op"] != "null" or not (transposed and plain):
        return None
    features, weight = (nodes[entry[0]]["name"] for entry in product["inputs"])
    return features, weight, bias["name"], beta
