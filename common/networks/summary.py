"""A network's layers, as a table and as a drawing in the language of Graphviz."""

import math

from common.networks.signatures import state_positions

_COLUMNS = "{:34} {:20} {:>16} {:>12}  {}"
_SHOWN = ("kernel", "stride", "num_filter", "num_group", "num_hidden", "act_type", "pool_type")


def table(graph, layers, parameters):
    """Return the layers of a graph, a line each: name, operator, output, parameters, what it reads.

    Args:
        layers: `{layer: shape of its output}`, of one image.
        parameters: `{name: shape}`; running statistics do not count.
    """
    nodes = graph["nodes"]
    lines = [_COLUMNS.format("layer", "operator", "output", "parameters", "reads")]
    counted = set()
    for node in nodes:
        if node["op"] == "null":
            continue
        sources = _sources(node, nodes)
        own = {name for name in _parameters(node, nodes) if name in parameters} - counted
        counted |= own  # those that several layers share count once
        number = sum(math.prod(parameters[name]) for name in own)
        shape = _text(_shape(node, nodes, layers))
        reads = ", ".join(sources)
        lines.append(
            _COLUMNS.format(node["name"], node["op"], shape, f"{number:,}", reads).rstrip()
        )
    return "\n".join(lines)


def drawing(graph, layers):
    """Return a drawing of the layers of a graph, from the images down.

    Args:
        layers: `{layer: shape of its output}`, of one image.
    """
    nodes = graph["nodes"]
    lines = ["digraph network {", "  node [shape=box, style=rounded, fontname=sans];"]
    for node in nodes:
        if node["op"] == "null":
            continue
        attrs = node.get("attrs", {})
        details = "\\n".join(f"{name} {attrs[name]}" for name in _SHOWN if name in attrs)
        label = "\\n".join(filter(None, (_quoted(node["name"]), node["op"], _quoted(details))))
        lines.append(f'  "{_quoted(node["name"])}" [label="{label}"];')
        for source in _sources(node, nodes):
            shape = _text(layers.get(source, ()))
            lines.append(f'  "{_quoted(source)}" -> "{_quoted(node["name"])}" [label="{shape}"];')
    return "\n".join([*lines, "}", ""])


def _sources(node, nodes):
    """Return the layers that a layer reads, and `data`."""
    names = [nodes[index]["name"] for index, *_ in node["inputs"]]
    is_layer = [nodes[index]["op"] != "null" for index, *_ in node["inputs"]]
    return [name for name, layer in zip(names, is_layer) if layer or name == "data"]


def _parameters(node, nodes):
    states = state_positions(node["op"])
    inputs = [nodes[index] for index, *_ in node["inputs"]]
    return [
        source["name"]
        for position, source in enumerate(inputs)
        if source["op"] == "null" and position not in states
    ]


def _shape(node, nodes, layers):
    """Return the shape of a layer's output; an engine may leave out the softmax at the end."""
    return layers.get(node["name"]) or layers.get(nodes[node["inputs"][0][0]]["name"], ())


def _text(shape):
    return "x".join(map(str, shape[1:]))


def _quoted(text):
    return text.replace('"', '\\"')
