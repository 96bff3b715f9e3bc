"""The nodes of an ONNX graph, added one by one to a graph of MXNet's.

Each of ONNX's operators has a function `convert(net, node)`: it takes the `Importer` and the node,
adds what computes the same, and returns the entry of the result, or a list of entries.
"""

import collections
import re

import numpy as np

from common.networks import onnx_arithmetic, onnx_layers, onnx_shapes
from common.networks.onnx_graph import UnsupportedError

OPERATORS = {
    **onnx_layers.OPERATORS,
    **onnx_arithmetic.OPERATORS,
    **onnx_shapes.OPERATORS,
}

# Names that the ends of a network have.
_RESERVED = {"data", "data_float32", "bn_data", "fc1", "softmax"}
_TAIL = {"Add", "Identity", "Reshape", "Flatten", "Squeeze", "Dropout"}


class Importer:
    """Adds an `OnnxGraph` to a `Builder`; gathers the parameters and states by name."""

    def __init__(self, graph, builder, image):
        self.graph, self.builder = graph, builder
        self.params, self.stats = {}, {}
        self._entries = {graph.image: image}
        self.readers = collections.defaultdict(list)
        self._taken = set(_RESERVED)
        self.transposed = {}
        for node in graph.nodes:
            for name in node.inputs:
                self.readers[name].append(node)
        self._head = self._find_head()

    def lay_out_images(self):
        """Give the network its images as it wants them: channels last, where it is one of those."""
        image = self.graph.image
        shape = self.graph.shapes[image]
        if shape[1] != 3:
            first, axes = self._entries[image], (0, 2, 3, 1)
            last = self._entries[image] = self.add("transpose", "transpose", first, axes=axes)
            self.transposed[last] = first, axes

    def run(self):
        """Add all nodes and return the entry of the output."""
        for node in self.graph.nodes:
            if node.outputs[0] in self._entries:  # a bias that the product before it has taken
                continue
            convert = OPERATORS.get(node.op)
            if convert is None:
                raise UnsupportedError(node, "has no counterpart here")
            results = convert(self, node)
            if not isinstance(results, list):
                results = [results]
            self._entries.update(zip(node.outputs, results))
        return self._entries[self.graph.output]

    def _find_head(self):
        """Return the matrix product that gives the logits, or None."""
        makers = {name: node for node in self.graph.nodes for name in node.outputs}
        node = makers.get(self.graph.output)
        while node is not None and node.op in _TAIL:
            node = next((makers[name] for name in node.inputs if name in makers), None)
        return node if node is not None and node.op in ("Gemm", "MatMul") else None

    def add(self, op, hint, *entries, **attrs):
        """Add an operator without parameters, under a generated name: `relu0`."""
        return self.builder.add(op, self.name(hint), *entries, **attrs)

    def name(self, hint, weight=""):
        """Return a new name of a layer: that of its weight's module where it has one."""
        module, _, kind = weight.rpartition(".")
        name = re.sub(r"\W", "_", module) if kind == "weight" and module else ""
        while not name or name in self._taken:
            name = self.builder.unique(hint)
        self._taken.add(name)
        return name

    def product_name(self, node):
        """Return the name of a matrix product: `fc1` of the one that ends the network."""
        return "fc1" if node is self._head else self.name("fc", node.inputs[1])

    def entry(self, node, index=0):
        """Return the entry of an input that depends on the images."""
        name = node.inputs[index]
        if name not in self._entries:
            raise UnsupportedError(node, "of a constant" if name in self.graph.constants else name)
        return self._entries[name]

    def constant(self, node, index, default=None):
        """Return an input that is a constant, or `default` where it is left out."""
        if index >= len(node.inputs) or not node.inputs[index]:
            return default
        name = node.inputs[index]
        if name not in self.graph.constants:
            raise UnsupportedError(node, f"its input {index} is computed from the images")
        return self.graph.constants[name]

    def shape(self, node, index=0):
        """Return the shape of an input."""
        shape = self.graph.shapes.get(node.inputs[index])
        if shape is None:
            raise UnsupportedError(node, "the shape of its input is not known")
        return shape

    def axes(self, node, values):
        """Return axes as numbers from 0 up; none may be the batch."""
        rank = len(self.shape(node))
        axes = sorted(int(value) % rank for value in np.ravel(values))
        if 0 in axes:
            raise UnsupportedError(node, "along the batch")
        return axes

    def layer(self, op, name, entry, params, **attrs):
        """Add an operator with its parameters, `{ending of the name: array}`; None is left out."""
        for ending, array in params.items():
            if array is not None:
                arrays = self.stats if ending.startswith("moving") else self.params
                arrays[f"{name}_{ending}"] = np.ascontiguousarray(array, np.float32)
        return self.builder.add(op, name, entry, **attrs)

    def fixed(self, hint, array):
        """Return a variable of a constant, which training does not change."""
        name = self.name(hint)
        self.params[name] = np.ascontiguousarray(array, np.float32)
        return self.builder.variable(name, lr_mult=0, wd_mult=0, shape=np.shape(array))

    def take_bias(self, node, size, entry_of):
        """Add a product with the bias that the next node adds, where that is all it does.

        Args:
            entry_of: called with the bias or None; returns the product's entry.
        """
        readers = self.readers[node.outputs[0]]
        if len(readers) == 1 and readers[0].op == "Add":
            constants = (self.graph.constants.get(name) for name in readers[0].inputs)
            bias = next((array for array in constants if array is not None), None)
            if bias is not None and bias.shape[-1:] == (size,) and bias.size == size:
                self._entries[readers[0].outputs[0]] = entry = entry_of(bias.reshape(size))
                return entry
        return entry_of(None)
