"""A fine-tuned network as ONNX, for the runtimes that outlive MXNet."""

import logging

from common.files import UserError, replacing
from common.find_mxnet import mx
from common.network import fixed_gammas, read_nodes

OPSET = 13  # the newest that MXNet 1.9 knows, whatever the installed onnx does
INSTALL = "pip install -r requirements/onnx.txt"


def export_onnx(path, symbol, arg_params, aux_params, image_shape):
    """Write a network to `path`: `data` (N, 3, H, W) float32 RGB, 0 to 255, -> `probabilities`.

    N is free, H and W are those of `image_shape`. The training head's label is gone.

    Raises:
        UserError: the package onnx is missing, or a layer has no counterpart in ONNX.
    """
    try:
        import onnx
        from onnx import mapping  # noqa: F401  (mx2onnx needs it; onnx 1.17 began to remove it)
    except ImportError:
        raise UserError(f"--export-onnx needs the package onnx: {INSTALL}") from None
    try:
        from mxnet import onnx as mx2onnx
    except ImportError:
        raise UserError(f"--export-onnx needs MXNet 1.9, this is {mx.__version__}") from None
    inference = without_label(symbol)
    arguments, states = inference.list_arguments(), inference.list_auxiliary_states()
    params = {name: arg_params[name] for name in arguments if name != "data"}
    params.update({name: aux_params[name] for name in states})
    for gamma in fixed_gammas(inference):  # mx2onnx takes the stored one, MXNet takes 1
        params[gamma] = mx.nd.ones_like(params[gamma])
    shape = tuple(image_shape)
    with replacing(path) as temporary:
        logging.disable(logging.INFO)  # mx2onnx would tell of the temporary file
        try:
            mx2onnx.export_model(
                inference,
                params,
                [(1, *shape)],
                "float32",
                temporary,
                dynamic=True,
                dynamic_input_shapes=[(None, *shape)],
            )
        except AttributeError as error:  # what mx2onnx raises for "No conversion function"
            raise UserError(f"{path}: this network has a layer that ONNX lacks: {error}") from None
        finally:
            logging.disable(logging.NOTSET)
        model = onnx.load(temporary)
        # mx2onnx writes nodes of opset 13 and labels them with the newest of the onnx package.
        model.opset_import[0].version = OPSET
        model.ir_version = min(model.ir_version, 8)
        model.producer_name = "mxnet"
        _keep_data_as_the_only_input(model.graph)
        onnx.checker.check_model(model)
        onnx.save(model, temporary)
    logging.info("%s: opset %d, input data (N, %d, %d, %d)", path, OPSET, *shape)


def _keep_data_as_the_only_input(graph):
    """Weights that are listed as inputs too could be overridden, so that nothing is folded."""
    read = {name for node in graph.node for name in node.input}
    for values, wanted in ((graph.input, {"data"}), (graph.initializer, read)):
        kept = [value for value in values if value.name in wanted]
        del values[:]
        values.extend(kept)


def without_label(symbol):
    """Return the network that ends in a plain softmax instead of SoftmaxOutput and its label."""
    nodes = read_nodes(symbol)
    head = next(node for node in nodes if node["op"] == "SoftmaxOutput")
    logits = nodes[head["inputs"][0][0]]["name"]
    internals = symbol.get_internals()
    return mx.sym.softmax(internals[f"{logits}_output"], axis=1, name="probabilities")
