"""A network's graph as plain data, as MXNet's `-symbol.json` holds it.

    {"nodes": [{"op", "name", "attrs", "inputs": [[node, output, version], ...]}, ...],
     "arg_nodes": [...], "node_row_ptr": [...], "heads": [[node, output, version]],
     "attrs": {"mxnet_version": ["int", 10901]}}

Nodes stand behind their inputs. A node of the operator `null` is a variable: the images, the
labels, a parameter or a state. Attributes are text, as MXNet's Python formats them: "True",
"(3, 3)", "2e-05". Functions return new graphs and leave those that they are given as they are.

A state's entries carry a version, which counts the operators that write to it. As in MXNet, a
variable that was not read from a file remembers the last one: its node's "version", which no
file holds.
"""

import typing

from common.networks import signatures

MXNET_VERSION = 10901  # whose files are written


class Entry(typing.NamedTuple):
    """An output of a node of a `Builder`, which other nodes may take."""

    node: int
    output: int
    version: int


class Builder:
    """Makes a graph node by node."""

    def __init__(self):
        self._nodes = []
        self._counts = {}

    def variable(self, name, **attrs):
        """Add a variable and return its entry; `lr_mult=0` becomes the attribute `__lr_mult__`."""
        attrs = {k if k[:2] == "__" else f"__{k}__": str(value) for k, value in attrs.items()}
        return self._append("null", name, attrs, [])

    def add(self, op, name, *inputs, **attrs):
        """Add an operator and return the entry of its first output.

        Inputs are entries in the operator's order, or by name: `gamma=entry`. Parameters that are
        missing become variables, named as in MXNet: `conv0_weight`, `bn0_moving_mean`. An
        attribute that is None is left out.

        Args:
            name: None for a name that nobody cares about: `flatten0`.
        """
        op = signatures.ALIASES.get(op, op)
        name = name or self.unique(op.lower())
        named = {key: value for key, value in attrs.items() if isinstance(value, Entry)}
        attrs = {k: str(v) for k, v in attrs.items() if k not in named and v is not None}
        if signatures.takes_any_number(op):
            attrs.setdefault("num_args", str(len(inputs)))
        missing = signatures.input_names(op, attrs)[len(inputs) :]
        inputs = [*inputs]
        for key in missing:
            inputs.append(named.pop(key, None) or self._append("null", f"{name}_{key}", attrs, []))
        if named:
            raise ValueError(f"{op} has no inputs {', '.join(named)}")
        entry = self._append(op, name, attrs, inputs)
        _initialise_inputs(self._nodes[entry.node], self._nodes)
        _count_writes(self._nodes[entry.node], self._nodes)
        return entry

    def output(self, entry, number):
        """Return the entry of a further output of a node, e.g. of SliceChannel."""
        return Entry(entry.node, number, 0)

    def unique(self, hint):
        """Return a name as MXNet makes them up: `hint0`, then `hint1`."""
        number = self._counts[hint] = self._counts.get(hint, -1) + 1
        return f"{hint}{number}"

    def copy_of(self, graph):
        """Add all nodes of a graph and return the entry of its first head."""
        start = len(self._nodes)
        for node in graph["nodes"]:
            inputs = [[source[0] + start, *source[1:]] for source in node["inputs"]]
            self._nodes.append({**node, "inputs": inputs})
        node, output, version = graph["heads"][0]
        return Entry(node + start, output, version)

    def graph(self, *heads):
        """Return the graph of all that the heads need, in MXNet's order: depth first."""
        return _assemble(self._nodes, heads)

    def _append(self, op, name, attrs, inputs):
        node = {"op": op, "name": name}
        if attrs:
            node["attrs"] = dict(attrs)
        node["inputs"] = [list(entry) for entry in inputs]
        self._nodes.append(node)
        return Entry(len(self._nodes) - 1, 0, 0)


def _initialise_inputs(node, nodes):
    """Say at the variables that `node` reads how MXNet would initialise them."""
    for position, source in enumerate(node["inputs"]):
        variable = nodes[source[0]]
        value = signatures.initial_value(node["op"], position)
        if variable["op"] == "null" and value:
            variable.setdefault("attrs", {}).setdefault("__init__", value)
            variable["inputs"] = variable.pop("inputs")  # stays the last


def _count_writes(node, nodes):
    """Give the entries that `node` takes the versions of their variables, of states a new one."""
    for position, source in enumerate(node["inputs"]):
        variable = nodes[source[0]]
        if variable["op"] != "null":
            continue
        if position in signatures.state_positions(node["op"]):
            variable["version"] = variable.get("version", 0) + 1
        source[2] = variable.get("version", 0)


def _assemble(nodes, heads):
    """Return the graph of the nodes that `heads` need, each behind its inputs, depth first."""
    order, number, pending = [], {}, [head[0] for head in reversed(heads)]
    while pending:
        index = pending[-1]
        needed = [*(s[0] for s in nodes[index]["inputs"]), *nodes[index].get("control_deps", ())]
        unseen = next((i for i in needed if i not in number), None)
        if index not in number and unseen is not None:
            pending.append(unseen)
            continue
        pending.pop()
        if index not in number:
            number[index] = len(order)
            order.append(index)
    return _complete(
        [_renumbered(nodes[i], number) for i in order],
        [[number[node], output, version] for node, output, version in heads],
    )


def _renumbered(node, number):
    node = {**node, "inputs": [[number[s[0]], *s[1:]] for s in node["inputs"]]}
    if "attrs" in node:
        node["attrs"] = dict(node["attrs"])
    if "control_deps" in node:
        node["control_deps"] = [number[i] for i in node["control_deps"]]
    return node


def _complete(nodes, heads, version=MXNET_VERSION):
    """Return the graph with what follows from its nodes."""
    ends = [0]
    for node in nodes:
        outputs = signatures.num_outputs(node["op"], node.get("attrs", {}), version)
        ends.append(ends[-1] + outputs)
    return {
        "nodes": nodes,
        "arg_nodes": [i for i, node in enumerate(nodes) if node["op"] == "null"],
        "node_row_ptr": ends,
        "heads": heads,
        "attrs": {"mxnet_version": ["int", version]},
    }
