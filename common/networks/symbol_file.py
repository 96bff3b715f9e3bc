"""A network's `-symbol.json`: read with full checks, and written as MXNet writes it.

Files that MXNet has written since 2016 are read, and updated as MXNet does. What this project
writes carries a checksum among its attributes, which MXNet ignores.
"""

import json
import re
import zlib

from common.base.files import UserError, atomic_open, require_file
from common.networks import operators, signatures
from common.networks.graph import MXNET_VERSION, assemble, initialise_inputs

# Characters that MXNet writes without an escape, and then cannot read.
_UNREADABLE = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff]")

_SEAL = re.compile(r'"crc32": \["str", "([^"]*)"\], ')
_OLDEST = 800  # the version of a graph that names none: 0.8.0
_HIDDEN_KEYS = ("ctx_group", "lr_mult", "wd_mult", "force_mirroring", "mirror_stage")
_HIDDEN_KEY = re.compile(f"(?:(.+)_)?({'|'.join(_HIDDEN_KEYS)})")


def read(path):
    """Return the graph of a `-symbol.json`, after a check of what its nodes may do.

    Raises:
        UserError: the file is damaged, or has operators that image networks do not need (some of
            MXNet's run code or read files).
    """
    require_file(path, "name a network's definition (-symbol.json)")
    with open(path, encoding="utf-8", errors="replace") as stream:
        return parse(stream.read(), path)


def parse(text, where):
    """Return the graph in the text of a file; `where` is the file's name, for messages.

    The nodes have MXNet's order and names, in today's format.

    Raises:
        UserError: as `read`.
    """
    try:
        graph = json.loads(text)
        _check_graph(graph)
        _check_seal(text)
        return _up_to_date(graph)
    except (ValueError, RecursionError) as error:
        what = "is a web page" if text.lstrip()[:1] == "<" else f"is not a network ({error})"
        raise UserError(f"{where}: {what}; fetch or make the file again") from None


def write(path, graph, version=MXNET_VERSION):
    """Write a `-symbol.json` with its checksum; `version`: the MXNet that it is written for."""
    with atomic_open(path) as stream:
        stream.write(seal(to_json(graph, version)))


# --- Checks --------------------------------------------------------------------------------------


def _check_graph(graph):
    """Raise ValueError unless `graph` is a graph of image networks' operators in their order."""
    nodes = graph.get("nodes") if isinstance(graph, dict) else None
    if not isinstance(nodes, list) or not nodes or not isinstance(graph.get("heads"), list):
        raise ValueError("it has no nodes and heads")
    for index, node in enumerate(nodes):
        operator = node.get("op") if isinstance(node, dict) else None
        if not isinstance(operator, str) or not isinstance(node.get("name"), str):
            raise ValueError(f"node {index} has no operator or name")
        if operator != "null" and operator not in operators.OF_IMAGE_NETWORKS:
            raise ValueError(
                f"node {index} is a {ascii(operator)[1:-1][:80]}, which is not among the operators"
                " of image networks (common/networks/operators.py)"
            )
        _check_texts(node, index)
        _check_inputs(node.get("inputs"), index, f"node {index}")
        _check_order(node.get("control_deps", []), index)
        subgraphs = node.get("subgraphs", [])  # of quantized networks
        if not isinstance(subgraphs, list):
            raise ValueError(f"node {index} has subgraphs that are not a list")
        for inner in subgraphs:
            _check_graph(inner)
    _check_inputs(graph["heads"], len(nodes), "heads")


def _check_texts(node, index):
    """Raise ValueError unless names and attributes are text that MXNet can read again."""
    texts = [node["name"]]
    for key in ("attrs", "attr", "param"):
        attributes = node.get(key, {})
        if not isinstance(attributes, dict):
            raise ValueError(f"node {index} has attributes that are not names with values")
        texts += [*attributes, *attributes.values()]
    for text in texts:
        if not isinstance(text, str) or _UNREADABLE.search(text):
            raise ValueError(f"node {index} has a name or an attribute that is not text")


def _check_inputs(inputs, limit, where):
    """Raise ValueError unless every input is an output of an earlier node: there are no cycles."""
    if not isinstance(inputs, list) or (where == "heads" and not inputs):
        raise ValueError(f"{where} has no inputs")
    for entry in inputs:
        whole = isinstance(entry, list) and all(type(number) is int for number in entry)
        if not whole or not 2 <= len(entry) <= 3 or not all(number >= 0 for number in entry):
            raise ValueError(f"{where} has an input that does not exist")
        if entry[0] >= limit or entry[1] >= 64 or entry[-1] >= 2**31:
            raise ValueError(f"{where} has an input that does not exist")


def _check_order(indices, limit):
    """Raise ValueError unless the nodes that a node waits for come before it."""
    if not isinstance(indices, list) or any(
        type(index) is not int or not 0 <= index < limit for index in indices
    ):
        raise ValueError(f"node {limit} waits for a node that does not come before it")


def seal(text):
    """Return a network's text with its checksum among the attributes.

    Only `parse` reads it; whoever edits the file removes it.
    """
    start, attributes, rest = text.rpartition('"attrs": {')
    return f'{start}{attributes}"crc32": ["str", "{_crc32(text)}"], {rest}'


def _check_seal(text):
    """Raise ValueError if the text is not the one that was sealed."""
    sealed = _SEAL.search(text)
    if sealed and sealed.group(1) != _crc32(text.replace(sealed.group(), "")):
        raise ValueError("its content is not what was written (CRC-32)")


def _crc32(text):
    return f"{zlib.crc32(text.encode()):08x}"


# --- Older formats -------------------------------------------------------------------------------


def _up_to_date(graph):
    """Return a checked graph as MXNet holds it after reading it."""
    version = _version(graph)
    graph = _canonical(graph)
    nodes = graph["nodes"]
    if version < MXNET_VERSION:
        _hide_attributes(nodes)
    if version < 900:
        _add_missing_inputs(nodes)
    if version < 904:
        for node in nodes:
            initialise_inputs(node, nodes)
    if version < 905:
        for node in nodes:
            if node["op"] in ("argmax", "argmin") and node.get("attrs", {}).get("axis") == "-1":
                del node["attrs"]["axis"]
    for index, node in enumerate(nodes):
        _check_states(node, index, nodes)
    return assemble(nodes, graph["heads"])


def _version(graph):
    """Return the version of MXNet that wrote a graph: 10901 for 1.9.1."""
    attributes = graph.get("attrs", {})
    stamp = isinstance(attributes, dict) and attributes.get("mxnet_version", ["int", _OLDEST])
    if not isinstance(stamp, list) or len(stamp) != 2 or type(stamp[1]) is not int:
        raise ValueError("its version is not a number")
    return stamp[1]


def _canonical(graph):
    """Return a graph with today's keys, operators under their first names, entries of three."""
    nodes = []
    for node in graph["nodes"]:
        attributes = [node[key] for key in node if key in ("attrs", "attr")]
        copy = {
            "op": signatures.ALIASES.get(node["op"], node["op"]),
            "name": node["name"],
            "attrs": {**node.get("param", {}), **(attributes[-1] if attributes else {})},
            "inputs": [[*entry, 0][:3] for entry in node["inputs"]],
            "control_deps": node.get("control_deps", []),
            "subgraphs": [_without_version(_canonical(g)) for g in node.get("subgraphs", [])],
        }
        nodes.append(copy)
    return assemble(nodes, [[*entry, 0][:3] for entry in graph["heads"]])


def _without_version(graph):
    return {key: value for key, value in graph.items() if key != "attrs"}


def _hide_attributes(nodes):
    """Move the optimizer's attributes: `weight_lr_mult` of an operator belongs to its weight."""
    for node in nodes:
        attributes = node.get("attrs", {})
        names = signatures.input_names(node["op"], attributes)
        for key in [*attributes]:
            match = _HIDDEN_KEY.fullmatch(key)
            if match and not match.group(1):
                attributes[f"__{key}__"] = attributes.pop(key)
            elif match and match.group(1) in names:
                source = names.index(match.group(1))
                if source >= len(node["inputs"]):
                    continue
                variable = nodes[node["inputs"][source][0]]
                if variable["op"] == "null":
                    hidden = variable.setdefault("attrs", {})
                    hidden[f"__{match.group(2)}__"] = attributes.pop(key)


def _add_missing_inputs(nodes):
    """Add the states of BatchNorm, which graphs did not hold before 0.9."""
    for node in [*nodes]:
        names = signatures.input_names(node["op"], node.get("attrs", {}))
        for key in names[len(node["inputs"]) :]:
            name = f"{node['name']}_{key}" if node["name"] else key
            attributes = dict(node.get("attrs", {}))
            node["inputs"].append([len(nodes), 0, 0])
            nodes.append({"op": "null", "name": name, "attrs": attributes, "inputs": []})


def _check_states(node, index, nodes):
    """Raise ValueError if an operator lacks inputs, or writes to something else than a variable."""
    needed = signatures.input_names(node["op"], node.get("attrs", {}))
    if len(node["inputs"]) < len(needed):
        raise ValueError(f"node {index} has {len(node['inputs'])} inputs and needs {len(needed)}")
    for position in signatures.state_positions(node["op"]):
        if nodes[node["inputs"][position][0]]["op"] != "null":
            raise ValueError(f"node {index} has statistics that are computed")


# --- Writing -------------------------------------------------------------------------------------


def to_json(graph, version=MXNET_VERSION):
    """Return the text of a graph, byte for byte MXNet's own, without the casts of its AMP.

    Args:
        version: the MXNet whose bytes these are: 10901, or 10500, which keeps the casts.
    """
    nodes = graph["nodes"] if version < 10600 else without_amp_casts(graph["nodes"])
    return _graph_text(assemble(nodes, graph["heads"], version), 0)


def without_amp_casts(nodes):
    """Return the nodes with their inputs taken from before the casts of MXNet's AMP."""
    nodes = [dict(node) for node in nodes]
    for node in nodes:
        inputs = []
        for entry in node["inputs"]:
            source = nodes[entry[0]]
            if source["op"] in ("amp_cast", "amp_multicast"):
                entry = source["inputs"][entry[1]]
            inputs.append(entry)
        node["inputs"] = inputs
    return nodes


def _graph_text(graph, depth):
    nodes = [_node_text(node, depth + 2) for node in graph["nodes"]]
    parts = [
        ("nodes", _enclosed("[]", nodes, depth + 1)),
        ("arg_nodes", _numbers(graph["arg_nodes"], depth + 1)),
        ("node_row_ptr", _numbers(graph["node_row_ptr"], depth + 1)),
        ("heads", _entries(graph["heads"], depth + 1)),
    ]
    if "attrs" in graph:
        parts.append(("attrs", json.dumps(graph["attrs"])))
    return _object(parts, depth)


def _node_text(node, depth):
    parts = [("op", _text(node["op"])), ("name", _text(node["name"]))]
    if "attrs" in node:
        attributes = [(key, _text(value)) for key, value in sorted(node["attrs"].items())]
        parts.append(("attrs", _object(attributes, depth + 1, lines=len(attributes) > 1)))
    parts.append(("inputs", _entries(node["inputs"], depth + 1)))
    if "control_deps" in node:
        parts.append(("control_deps", _numbers(node["control_deps"], depth + 1)))
    if "subgraphs" in node:
        inner = [_graph_text(graph, depth + 2) for graph in node["subgraphs"]]
        parts.append(("subgraphs", _enclosed("[]", inner, depth + 1)))
    return _object(parts, depth)


def _numbers(numbers, depth):
    return _enclosed("[]", [str(number) for number in numbers], depth, lines=len(numbers) > 10)


def _entries(entries, depth):
    texts = [f"[{', '.join(map(str, entry))}]" for entry in entries]
    return _enclosed("[]", texts, depth, lines=len(texts) > 10)


def _object(items, depth, lines=True):
    return _enclosed("{}", [f"{_text(key)}: {text}" for key, text in items], depth, lines)


def _enclosed(brackets, parts, depth, lines=True):
    """Join texts as MXNet does: each on a line of its own, or all on one."""
    if not lines or not parts:
        return f"{brackets[0]}{', '.join(parts)}{brackets[1]}"
    start, end = "\n" + "  " * (depth + 1), "\n" + "  " * depth
    return f"{brackets[0]}{start}{f', {start}'.join(parts)}{end}{brackets[1]}"


_ESCAPES = str.maketrans({"\r": r"\r", "\n": r"\n", "\\": r"\\", "\t": r"\t", '"': r"\""})


def _text(text):
    return f'"{text.translate(_ESCAPES)}"'
