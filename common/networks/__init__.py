"""Networks as plain data, without an engine: built, read, edited and written.

    graph          the graph, and how to build one            symbol_file   -symbol.json
    edits          the head, the input, freezing, the loss    params_file   .params and .states
    resnet         the zoo's ResNets                          torch_networks   PyTorch's
    onnx_files     ONNX classifiers (onnx_graph, onnx_importer, and the operators by topic)
    export         networks as ONNX (the operators by topic: export_layers, export_shapes)
    timm_network   a network of timm, which only PyTorch computes: timm_files, timm_pretrained

Every network of this project takes `data`, raw RGB of 0 to 255, `(N, 3, H, W)`, uint8 or float32
(its first node casts), takes `softmax_label`, `(N,)`, in training, and gives probabilities
`(N, num_classes)` under the name `softmax`.
"""

import dataclasses

from common.networks import edits


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

    def head_params(self):
        """Return the names of the classifier's parameters."""
        return f"{self.head}_weight", f"{self.head}_bias"

    def smooth_labels(self, share):
        """Return the network trained with `share` of each target on the other classes."""
        return self.with_graph(edits.smooth_labels(self.graph, share))

    def freeze(self, pattern):
        """Return the network, and the names of the frozen parameters: `edits.freeze`."""
        graph, names = edits.freeze(self.graph, pattern)
        return self.with_graph(graph), names

    def shapes(self):
        """Return `{name: shape}` of all arrays."""
        return {name: array.shape for name, array in {**self.params, **self.stats}.items()}
