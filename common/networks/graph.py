"""A network's graph as plain data, as MXNet's `-symbol.json` holds it.

    {"nodes": [{"op", "name", "attrs", "inputs": [[node, output, version], ...]}, ...],
     "arg_nodes": [...], "node_row_ptr": [...], "heads": [[node, output, version]],
     "attrs": {"mxnet_version": ["int", 10901]}}

A node follows its inputs. A node of the operator `null` is a variable: the images, the
labels, a parameter or a state. Attributes are text, as MXNet's Python formats them: "True",
"(3, 3)", "2e-05". Functions return new graphs and leave those that they are given unchanged.

Each entry of a state carries a version: how many operators have written to the state so far. As in
MXNet, a variable that was not read from a file remembers the latest one. It is the "version" of
its node, which files do not hold.
"""

import typing

from common.networks import signatures

MXNET_VERSION = 10901  # the MXNet that files are written for by default


class Entry(typing.NamedTuple):
    """An output of a node of a `Builder`, which other nodes can take as an input."""

    node: int
    output: int
    version: int


class Builder:
    """Builds a graph node by node."""

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
            name: None for a generated name, e.g. `flatten0`.
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
        initialise_inputs(self._nodes[entry.node], self._nodes)
        _count_writes(self._nodes[entry.node], self._nodes)
        return entry

    def output(self, entry, number):
        """Return the entry of a further output of a node, e.g. of SliceChannel."""
        return Entry(entry.node, number, 0)

    def unique(self, hint):
        """Return a new name in MXNet's style: `hint0`, then `hint1`."""
        number = self._counts[hint] = self._counts.get(hint, -1) + 1
        return f"{hint}{number}"

    def copy_of(self, graph):
        """Add all nodes of a graph and return the entry of its only head."""
        start = len(self._nodes)
        self._nodes += [_shifted(node, start) for node in graph["nodes"]]
        ((node, output, version),) = graph["heads"]
        return Entry(node + start, output, version)

    def graph(self, *heads):
        """Return the graph of everything that the heads need, in MXNet's order: depth first."""
        return assemble(self._nodes, heads)

    def _append(self, op, name, attrs, inputs):
        node = {"op": op, "name": name}
        if attrs:
            node["attrs"] = dict(attrs)
        node["inputs"] = [list(entry) for entry in inputs]
        self._nodes.append(node)
        return Entry(len(self._nodes) - 1, 0, 0)


def initialise_inputs(node, nodes):
    """Record on the variables that `node` reads how MXNet would initialise them."""
    for position, source in enumerate(node["inputs"]):
        variable = nodes[source[0]]
        value = signatures.initial_value(node["op"], position)
        if variable["op"] == "null" and value:
            variable.setdefault("attrs", {}).setdefault("__init__", value)


def _count_writes(node, nodes):
    """Set the version of each input of `node`; a state that it writes to gets a new one."""
    states = signatures.state_positions(node["op"])
    for position, source in enumerate(node["inputs"]):
        variable = nodes[source[0]]
        if variable["op"] == "null":
            if position in states:
                variable["version"] = variable.get("version", 0) + 1
            source[2] = variable.get("version", 0)


def assemble(nodes, heads, version=MXNET_VERSION):
    """Return the graph of the nodes that `heads` need, each after its inputs, depth first."""
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
    nodes = [_renumbered(nodes[i], number) for i in order]
    ends = [0]
    for node in nodes:
        outputs = signatures.num_outputs(node["op"], node.get("attrs", {}), version)
        ends.append(ends[-1] + outputs)
    return {
        "nodes": nodes,
        "arg_nodes": [i for i, node in enumerate(nodes) if node["op"] == "null"],
        "node_row_ptr": ends,
        "heads": [[number[head[0]], *head[1:]] for head in heads],
        "attrs": {"mxnet_version": ["int", version]},
    }


def _renumbered(node, number):
    """Return a copy of a node whose inputs have new numbers."""
    copy = {"op": node["op"], "name": node["name"]}
    if node.get("attrs"):
        copy["attrs"] = dict(node["attrs"])
    copy["inputs"] = [[number[source[0]], *source[1:]] for source in node["inputs"]]
    if node.get("control_deps"):
        copy["control_deps"] = [number[i] for i in node["control_deps"]]
    copy.update({key: node[key] for key in ("subgraphs", "version") if node.get(key)})
    return copy


# --- Queries -------------------------------------------------------------------------------------


def arguments(graph):
    """Return the names of the variables that no operator writes to: data, labels, parameters."""
    states = _state_nodes(graph)
    return [graph["nodes"][i]["name"] for i in graph["arg_nodes"] if i not in states]


def auxiliary_states(graph):
    """Return the names of the variables that operators write to: running statistics."""
    states = _state_nodes(graph)
    return [graph["nodes"][i]["name"] for i in graph["arg_nodes"] if i in states]


def _state_nodes(graph):
    return {
        node["inputs"][position][0]
        for node in graph["nodes"]
        for position in signatures.state_positions(node["op"])
    }


def outputs(graph):
    """Return the names of the graph's outputs: `softmax_output`."""
    return [_entry_name(graph["nodes"][index], output) for index, output, _ in graph["heads"]]


def internals(graph):
    """Return `{name: entry}` of every variable and output in the graph: `conv0_output`."""
    found = {}
    for index, node in enumerate(graph["nodes"]):
        if node["op"] == "null":
            found.setdefault(node["name"], Entry(index, 0, node.get("version", 0)))
            continue
        for output in range(len(signatures.output_names(node["op"], node.get("attrs", {})))):
            found.setdefault(_entry_name(node, output), Entry(index, output, 0))
    return found


def _entry_name(node, output):
    if node["op"] == "null":
        return node["name"]
    endings = signatures.output_names(node["op"], node.get("attrs", {}))
    ending = endings[output] if output < len(endings) else f"output{output}"  # a hidden one
    return f"{node['name']}_{ending}" if node["name"] else ending


def output_of(graph, layer):
    """Return the name of a layer's (first) output, `flatten0_output`; None without such a layer.

    The input `data` is its own output.
    """
    names = internals(graph)
    return next((n for n in (f"{layer}_output", f"{layer}_output0", layer) if n in names), None)


def last_layers(graph, count=8):
    """Return the names of the last operators."""
    return [node["name"] for node in graph["nodes"] if node["op"] != "null"][-count:]


# --- Edits ---------------------------------------------------------------------------------------


def subgraph(graph, output):
    """Return the graph that ends at an output, named as `internals` names it."""
    return ending_at(graph, internals(graph)[output])


def ending_at(graph, entry):
    """Return the graph that ends at an output, given as an operator's input is."""
    return assemble(graph["nodes"], [entry])


def replace_variable(graph, name, replacement):
    """Return the graph with a variable replaced by what another graph computes."""
    start = len(replacement["nodes"])
    nodes = [_shifted(node, 0) for node in replacement["nodes"]]
    nodes += [_shifted(node, start) for node in graph["nodes"]]
    replaced = {i for i, node in enumerate(nodes) if i >= start and _is_variable(node, name)}
    (source,) = replacement["heads"]
    for node in nodes[start:]:
        if any(entry[0] in replaced for entry in node["inputs"]):
            node["inputs"] = [list(source if e[0] in replaced else e) for e in node["inputs"]]
            _count_writes(node, nodes)
    heads = [[head[0] + start, *head[1:]] for head in graph["heads"]]
    return assemble(nodes, [source if head[0] in replaced else head for head in heads])


def _is_variable(node, name):
    return node["op"] == "null" and node["name"] == name


def _shifted(node, start):
    """Return a copy of a node whose inputs have numbers that are `start` higher."""
    copy = {**node, "inputs": [[entry[0] + start, *entry[1:]] for entry in node["inputs"]]}
    if "attrs" in node:
        copy["attrs"] = dict(node["attrs"])
    if "control_deps" in node:
        copy["control_deps"] = [index + start for index in node["control_deps"]]
    return copy


def edit(graph, changes):
    """Return the graph with other attributes: `{name of a node: {attribute: text}}`.

    The result is as if the graph had been written to a file and read again.
    """
    nodes = [{**node, "version": 0} for node in graph["nodes"]]
    for node in nodes:
        if node["name"] in changes:
            node["attrs"] = {**node.get("attrs", {}), **changes[node["name"]]}
    return assemble(nodes, graph["heads"])
