"""Sums that MXNet must not fuse with a convolution: oneDNN's subgraph pass computes them wrong.

Where MXNet 1.9 binds a network for prediction on a CPU, it fuses Convolution, BatchNorm,
`elemwise_add` and an activation into one operator. It does not know `add_n`, and computes such a
sum on its own. (MXNET_DISABLE_MKLDNN_FUSE_CONV_SUM would turn off every such sum; it is read once
in a process.)
"""

# What the pass takes behind a convolution, and behind the BatchNorm of one.
_FUSED = {"BatchNorm", "elemwise_add", "Activation", "LeakyReLU", "clip"}
_REMOVED = {"Dropout", "_copy"}  # MXNet removes them before the pass


def without_wrong_sums(graph):
    """Return the graph with `add_n` for the sums that the pass would compute wrong.

    It must leave a sum out whose other operand is computed from the convolution's output too. It
    then forgets that this sum reads the output, and fuses what else reads it: in
    y + conv(relu(BN(y))) it adds relu(BN(y)) instead of y (measured: probabilities off by 0.3).
    Where nothing else can be fused, e.g. in y + conv(y), the fusion is right, and stays.
    """
    sums = _Sums(graph["nodes"])
    wrong = {index for index in sums.indices if sums.is_forgotten(index)}
    nodes = [
        {**node, "op": "add_n", "attrs": {**node.get("attrs", {}), "num_args": "2"}}
        if index in wrong
        else node
        for index, node in enumerate(graph["nodes"])
    ]
    return {**graph, "nodes": nodes}


class _Sums:
    """The sums of a graph, and what reads the operands of each."""

    def __init__(self, nodes):
        self._nodes = nodes
        self._sources = [[self._source(e[0]) for e in node["inputs"]] for node in nodes]
        self._readers = [set() for _ in nodes]
        for index, node in enumerate(nodes):
            if node["op"] not in _REMOVED:
                for source in self._sources[index]:
                    self._readers[source].add(index)
        self.indices = [i for i, node in enumerate(nodes) if node["op"] == "elemwise_add"]

    def _source(self, index):
        while self._nodes[index]["op"] in _REMOVED:
            index = self._nodes[index]["inputs"][0][0]
        return index

    def is_forgotten(self, index):
        """Return whether the pass forgets that a sum reads one of its operands."""
        first, second = self._sources[index]
        return any(
            self._is_convolution(own)
            and self._descends(other, own)
            and (other == own or self._is_fused_with_another(own, index))
            for own, other in ((first, second), (second, first))
        )

    def _is_convolution(self, index):
        """Return whether a node is a convolution, or the BatchNorm of one."""
        node = self._nodes[index]
        if node["op"] == "BatchNorm":
            node = self._nodes[self._sources[index][0]]
        return node["op"] == "Convolution"

    def _is_fused_with_another(self, operand, index):
        return any(self._nodes[i]["op"] in _FUSED for i in self._readers[operand] - {index})

    def _descends(self, index, ancestor):
        """Return whether a node is computed from another one, or is that one."""
        pending, seen = [index], set()
        while pending:
            node = pending.pop()
            if node == ancestor:
                return True
            if node > ancestor and node not in seen:  # a node follows its inputs
                seen.add(node)
                pending += self._sources[node]
        return False
