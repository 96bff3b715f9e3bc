"""Networks as plain data, without an engine: built, read, edited and written.

    graph          the graph, and how to build one            symbol_file   -symbol.json
    edits          the head, the input, freezing, the loss    params_file   .params and .states
    resnet         the zoo's ResNets                          torch_networks   PyTorch's
    onnx_files     ONNX classifiers (onnx_graph, onnx_importer, and the operators by topic)
    export         networks as ONNX (the operators by topic: export_layers, export_shapes)

Every network of this project takes `data`, raw RGB of 0 to 255, `(N, 3, H, W)`, uint8 or float32
(its first node casts), takes `softmax_label`, `(N,)`, in training, and gives probabilities
`(N, num_classes)` under the name `softmax`.
"""

import dataclasses


@dataclasses.dataclass
class Network:
    """A network: its graph and its arrays."""

    graph: dict  # as `-symbol.json` holds it; see `graph`
    params: dict  # {name: numpy array} of the weights
    stats: dict  # {name: numpy array} of BatchNorm's running mean and variance
    head: str = None  # the name of the classifier, whose weights are `{head}_weight`

    def with_graph(self, graph):
        """Return a network with the same arrays and another graph."""
        return dataclasses.replace(self, graph=graph)

    def with_arrays(self, params, stats):
        """Return a network with the same graph and other arrays."""
        return dataclasses.replace(self, params=params, stats=stats)

    def shapes(self):
        """Return `{name: shape}` of all arrays."""
        return {name: array.shape for name, array in {**self.params, **self.stats}.items()}
