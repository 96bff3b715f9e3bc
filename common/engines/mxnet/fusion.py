"""Sums that MXNet must not fuse with a convolution: oneDNN's subgraph pass computes them wrong.

Where MXNet 1.9 binds a network for prediction on a CPU, and where it quantizes one, it fuses
Convolution, BatchNorm, `elemwise_add` and an activation into one operator. It does not know
`add_n`, and computes such a sum on its own, in floating point. (The variable
MXNET_DISABLE_MKLDNN_FUSE_CONV_SUM would turn off every such sum; it is read once in a process.)
"""

# What the pass takes behind a convolution, and behind the BatchNorm of one.
_FUSED = {"BatchNorm", "elemwise_add", "Activation", "LeakyReLU", "clip"}
_SUMS = {"elemwise_add", "add_n"}
_REMOVED = {"Dropout", "_copy"}  # MXNet removes them before the pass


def without_wrong_sums(graph):
    """Return the graph with `add_n` for the sums that the pass would compute wrong.

    It must leave a sum out whose other operand is computed from the convolution's output too. It
    then forgets that this sum reads the output, and fuses what else reads it: in
    y + conv(relu(BN(y))) it adds relu(BN(y)) instead of y (measured: probabilities off by 0.3).
    Where nothing else can be fused, e.g. in y + conv(y), the fusion is right, and stays.
    """
    sums = _Sums(graph["nodes"])
    return _with_add_n(graph, {index for index in sums.indices if sums.is_forgotten(index)})


def without_wrong_int8_sums(graph):
    """Return the graph with `add_n` for the sums that would be wrong in 8-bit integers.

    A fused sum is written over the operand that is no convolution, and both are read as if of one
    type: right if both are uint8, as behind a ReLU, or both int8. Measured, relative errors of the
    logits: x + conv(x) of a ReLU's x 0.23 (0.008 in floating point), ResNet-50 0.18 (0.006). Its
    four sums of two convolutions with a ReLU behind are the wrong ones: 104 images/s with them, 74
    without, 47 without all fused sums, 28 in float32 (224 px, two cores with VNNI).

    Sums without a convolution would become int8 too, and x + x is wrong then.
    """
    graph = without_wrong_sums(graph)
    sums = _Sums(graph["nodes"])
    return _with_add_n(graph, {index for index in sums.indices if not sums.is_of_one_type(index)})


def _with_add_n(graph, indices):
    nodes = [
        {**node, "op": "add_n", "attrs": {**node.get("attrs", {}), "num_args": "2"}}
        if index in indices
        else node
        for index, node in enumerate(graph["nodes"])
    ]
    return {**graph, "nodes": nodes}


class _Sums:
    """The sums of a graph, what they add, and what reads the same."""

    def __init__(self, nodes):
        self._nodes = nodes
        self._sources = [[self._source(e[0]) for e in node["inputs"]] for node in nodes]
        self._readers = [set() for _ in nodes]
        for index, node in enumerate(nodes):
            if node["op"] not in _REMOVED:
                for source in self._sources[index]:
                    self._readers[source].add(index)
        self._signs = self._find_signs()
        self.indices = [i for i, node in enumerate(nodes) if node["op"] == "elemwise_add"]

    def is_forgotten(self, index):
        """Return whether the pass forgets that a sum reads one of its operands."""
        return any(
            self._descends(other, own) and (other == own or self._is_fused_with_another(own, index))
            for own, other in self._fused_operands(index)
        )

    def is_of_one_type(self, index):
        """Return whether a sum is fused, and as signed as what it is written over."""
        readers = self._readers[index]
        is_signed = len(readers) > 1 or not self._is_relu(*readers)
        others = [self._signs[other] for _, other in self._fused_operands(index)]
        return bool(others) and all(sign is is_signed for sign in others)

    def _source(self, index):
        while self._nodes[index]["op"] in _REMOVED:
            index = self._nodes[index]["inputs"][0][0]
        return index

    def _fused_operands(self, index):
        """Yield (the operand that a sum may be fused with, the other one)."""
        first, second = self._sources[index]
        for own, other in ((first, second), (second, first)):
            if self._is_convolution(own):
                yield own, other

    def _is_convolution(self, index):
        """Return whether a node is a convolution, or the BatchNorm that alone reads one."""
        if self._nodes[index]["op"] == "BatchNorm":
            batch_norm, index = index, self._sources[index][0]
            if self._readers[index] != {batch_norm}:
                return False
        return self._nodes[index]["op"] == "Convolution"

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

    def _is_relu(self, index):
        node = self._nodes[index]
        return node["op"] == "Activation" and node["attrs"]["act_type"] == "relu"

    def _find_signs(self):
        """Return of every node whether its output is int8 (True) or uint8; None: not known."""
        signs = []
        for index, node in enumerate(self._nodes):
            before = [signs[source] for source in self._sources[index]]
            sign = None  # the range over the calibration images decides
            if self._is_relu(index):
                sign = False
            elif self._is_convolution(index) or (node["op"] in _SUMS and True in before):
                sign = True
            elif node["op"] == "Pooling":
                (sign,) = before
            signs.append(sign)
        return signs
