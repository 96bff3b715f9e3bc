"""A network as ONNX, for the runtimes that outlive MXNet."""

import ast
import logging

import numpy as np

from common.base.files import UserError, replacing
from common.networks import export_layers, export_shapes
from common.networks.edits import fixed_gammas, without_label
from common.networks.onnx_graph import REQUIREMENTS, infer_shapes, mark_as_raw
from common.networks.signatures import ALIASES, output_names

OPSET = 13  # what every runtime of the last years reads
IR_VERSION = 8  # that of the same time
INSTALL = f"pip install -r {REQUIREMENTS}"

OPERATORS = {**export_layers.OPERATORS, **export_shapes.OPERATORS}


def export_onnx(path, network, image_shape):
    """Write a network to `path`: `data` (N, 3, H, W) float32 RGB, 0 to 255, -> `probabilities`.

    N is free, H and W are those of `image_shape`. The training head's label is gone.

    Raises:
        UserError: the package onnx is missing, or a layer has no counterpart in ONNX.
    """
    try:
        import onnx
    except ImportError:
        raise UserError(f"--export-onnx needs the package onnx: {INSTALL}") from None
    inference = without_label(network.graph)
    arrays = {**network.params, **network.stats}
    for gamma in fixed_gammas(inference):  # MXNet takes 1, whatever is stored
        arrays[gamma] = np.ones_like(arrays[gamma])
    exporter = Exporter(onnx, arrays, image_shape)
    try:
        model = exporter.export(inference)
    except NoCounterpartError as error:
        raise UserError(f"{path}: this network has a layer that ONNX lacks: {error}") from None
    onnx.checker.check_model(model)
    with replacing(path) as temporary:
        onnx.save(model, temporary)
        mark_as_raw(temporary)
    logging.info("%s: opset %d, input data (N, %d, %d, %d)", path, OPSET, *image_shape)


class NoCounterpartError(Exception):
    """A layer cannot be exported: its operator, name and, where it is a variant of one, which."""


class Exporter:
    """Adds the nodes of MXNet's graph to one of ONNX's.

    Each of MXNet's operators has a function `convert(net, layer)`: it adds nodes, and returns the
    name of the result, or a list of names.
    """

    def __init__(self, onnx, arrays, image_shape):
        self.onnx = onnx
        self._arrays = arrays
        self._nodes, self._tensors = [], {}
        self._image_shape = image_shape
        self._opsets = [onnx.helper.make_opsetid("", OPSET)]

    def export(self, graph):
        """Return the model of a graph that ends in `probabilities`."""
        names = {}
        for index, node in enumerate(graph["nodes"]):
            if node["op"] == "null":
                names[index] = [node["name"]]
                continue
            inputs = [names[source][output] for source, output, *_ in node["inputs"]]
            layer = Layer(node, inputs)
            convert = OPERATORS.get(layer.op)
            if convert is None:
                raise layer.lacks()
            results = convert(self, layer)
            names[index] = results if isinstance(results, list) else [results]
        helper = self.onnx.helper
        graph = helper.make_graph(
            self._nodes,
            "network",
            [self._value("data", "N", self._image_shape)],
            [self._value("probabilities", "N", self.shape("probabilities")[1:])],
            list(self._tensors.values()),
        )
        return helper.make_model(
            graph, opset_imports=self._opsets, ir_version=IR_VERSION, producer_name="mxnet"
        )

    def _value(self, name, count, shape):
        float32 = self.onnx.TensorProto.FLOAT
        return self.onnx.helper.make_tensor_value_info(name, float32, [count, *shape])

    def add(self, op, name, *inputs, outputs=None, **attrs):
        """Add an ONNX node and return the name of its result.

        Inputs are names of tensors or of parameters, or arrays; an attribute of None is left out.
        """
        inputs = [self._input(name, i, value) for i, value in enumerate(inputs)]
        attrs = {key: value for key, value in attrs.items() if value is not None}
        node = self.onnx.helper.make_node(op, inputs, outputs or [name], name=name, **attrs)
        self._nodes.append(node)
        return outputs or name

    def _input(self, node, number, value):
        if isinstance(value, str):
            if value in self._arrays and value not in self._tensors:
                self._set(value, np.asarray(self._arrays[value], np.float32))
            return value
        name = f"{node}_input{number}"
        self._set(name, np.asarray(value))
        return name

    def _set(self, name, array):
        self._tensors[name] = self.onnx.numpy_helper.from_array(np.ascontiguousarray(array), name)
        self._tensors[name].dims[:] = array.shape  # a scalar stays one

    def parameter(self, name):
        """Return the array of a parameter."""
        return np.asarray(self._arrays[name], np.float32)

    def shape(self, name):
        """Return the shape of a tensor, for one image."""
        if name in self._arrays:
            return np.shape(self._arrays[name])
        image = self._value("data", 1, self._image_shape)
        shapes = infer_shapes(self.onnx, self._nodes, image, self._tensors, self._opsets)
        return shapes[name]


class Layer:
    """A node of MXNet's graph: the first name of its operator, its attributes as values."""

    def __init__(self, node, inputs):
        self.op = ALIASES.get(node["op"], node["op"])
        self.name, self.inputs = node["name"], inputs
        self._attrs = node.get("attrs", {})

    def __contains__(self, key):
        return self.get(key) is not None

    def get(self, key, default=None):
        """Return an attribute: a number, a tuple, True, False or None; or text."""
        text = self._attrs.get(key)
        if text is None:
            return default
        try:
            value = ast.literal_eval(text)
        except (SyntaxError, ValueError):
            return text
        return value

    def flag(self, key, default=False):
        """Return an attribute that is true or false."""
        value = self.get(key)
        return bool(default if value is None else value)

    def sizes(self, key, default):
        """Return an attribute with one number for each side of the kernel."""
        return list(self.get(key) or [default] * len(self.get("kernel")))

    def outputs(self):
        """Return names for all results of a layer that has several."""
        return [f"{self.name}_{ending}" for ending in output_names(self.op, self._attrs)]

    def lacks(self, variant=""):
        """Return the error for a layer that ONNX lacks, or lacks with such an attribute."""
        return NoCounterpartError(f"{self.op} {self.name}{variant and ' with '}{variant}")
