"""A network's graph as a PyTorch module that computes what MXNet would."""

import dataclasses
from typing import Callable, Dict, List, Sequence, Tuple

import numpy as np

from common.base.files import UserError
from common.engines.torch import arithmetic, layers
from common.engines.torch.attributes import Attributes
from common.engines.torch.runtime import torch
from common.networks.graph import assemble, auxiliary_states

_MAKERS = {**layers.OPERATORS, **arithmetic.OPERATORS}


@dataclasses.dataclass(eq=False)
class Step:
    """One operator of a plan; entries are `(node, output)`."""

    name: str
    op: str
    attributes: Attributes
    compute: Callable  # of the inputs
    inputs: Sequence[Tuple[int, int]]
    node: int
    last: Sequence[Tuple[int, int]] = ()  # inputs that no later step reads


@dataclasses.dataclass
class Plan:
    """What a graph computes, as far as its logits.

    Attributes:
        steps: the operators in their order.
        variables: `{node: name}` of parameters and statistics, and of `data`.
        stats: which of those names are statistics.
        shapes: `{name: shape}` where the graph itself says it.
        output: the entry of the logits.
        loss_settings: of SoftmaxOutput, the keyword arguments of `loss.loss_gradient`.
        is_softmax: whether the graph ends in a softmax, which the plan leaves out.
    """

    steps: List[Step]
    variables: Dict[int, str]
    stats: List[str]
    shapes: Dict[str, tuple]
    output: Tuple[int, int]
    loss_settings: Dict[str, float]
    is_softmax: bool


def plan(graph):
    """Return the `Plan` of a graph.

    Raises:
        UserError: the graph has an operator that this engine does not compute.
    """
    head = graph["nodes"][graph["heads"][0][0]]
    settings = Attributes(head if head["op"] == "SoftmaxOutput" else {})
    ends_in_softmax = _is_softmax(head)
    graph = assemble(graph["nodes"], head["inputs"][:1] if ends_in_softmax else graph["heads"][:1])
    nodes = graph["nodes"]
    steps = [
        Step(
            node["name"],
            node["op"],
            Attributes(node),
            _make(node),
            [tuple(entry[:2]) for entry in node["inputs"]],
            index,
        )
        for index, node in enumerate(nodes)
        if node["op"] != "null"
    ]
    output = tuple(graph["heads"][0][:2])
    free_early(steps, output)
    variables = {i: node["name"] for i, node in enumerate(nodes) if node["op"] == "null"}
    shapes = {nodes[i]["name"]: Attributes(nodes[i]).integers("__shape__") for i in variables}
    return Plan(
        steps,
        variables,
        auxiliary_states(graph),
        {name: shape for name, shape in shapes.items() if shape and all(shape)},
        output,
        {
            "grad_scale": settings.number("grad_scale", 1.0),
            "smooth_alpha": settings.number("smooth_alpha", 0.0),
            "is_mean": settings.text("normalization", "null") != "null",
        },
        ends_in_softmax,
    )


def _is_softmax(head):
    """Return whether an operator gives the softmax of `(N, classes)`, and nothing else."""
    attrs = Attributes(head)
    if head["op"] == "softmax":
        return attrs.integer("axis", -1) in (-1, 1) and attrs.number("temperature", 1.0) == 1
    return head["op"] == "SoftmaxOutput"


def _make(node):
    """Return the function of a node's inputs."""
    what = f"a {node['op']}"
    if node["op"] in _MAKERS:
        try:
            return _MAKERS[node["op"]](Attributes(node))
        except ValueError as error:
            what += f" with {error}"
    raise UserError(
        f"--engine torch: the layer {node['name']} is {what}, which this engine does not compute;"
        " use --engine mxnet"
    )


def free_early(steps, output):
    """Note at each step which of its inputs nobody reads later."""
    read_later = {output}
    for step in reversed(steps):
        step.last = tuple(set(step.inputs) - read_later)
        read_later.update(step.inputs)


def run(plan, values):
    """Compute a plan's logits; `values` are those of its variables, `{(node, 0): tensor}`."""
    for step in plan.steps:
        values.update(outputs_of(step, values))
        for entry in step.last:
            del values[entry]
    return values[plan.output]


def outputs_of(step, values):
    """Return what a step computes, by its entries."""
    result = step.compute(*[values[entry] for entry in step.inputs])
    outputs = result if isinstance(result, (tuple, list)) else (result,)
    return {(step.node, number): tensor for number, tensor in enumerate(outputs)}


class GraphModule(torch.nn.Module):
    """A network's graph with its numbers.

    Attributes:
        plan: the `Plan` that it computes.
        missing: names of parameters and statistics that are still to be set.
        loss_settings: of the graph's SoftmaxOutput, the keyword arguments of `loss.loss_gradient`.
        image_type: what the plan takes images as.
    """

    def __init__(self, plan, dtype):
        super().__init__()
        self.plan = plan
        self.loss_settings = plan.loss_settings
        self.missing = [name for name in plan.variables.values() if name != "data"]
        self.channels_last = False
        self.image_type = torch.float32
        self._dtype = getattr(torch, dtype)
        # A graph's names may hold what PyTorch's may not.
        self._keys = {name: f"array{number}" for number, name in enumerate(self.missing)}
        self._operators = torch.nn.ModuleList(
            step.compute for step in plan.steps if isinstance(step.compute, torch.nn.Module)
        )

    @property
    def is_softmax(self):
        """Whether the softmax of what it gives are probabilities."""
        return self.plan.is_softmax

    @property
    def params(self):
        """`{name in the graph: parameter}`."""
        return {n: self._parameters[k] for n, k in self._keys.items() if k in self._parameters}

    @property
    def stats(self):
        """`{name in the graph: statistic}`."""
        return {n: self._buffers[k] for n, k in self._keys.items() if k in self._buffers}

    def set(self, name, tensor):
        """Give a parameter or statistic its numbers; the tensor becomes the module's own."""
        if name in self.plan.stats:
            self.register_buffer(self._keys[name], tensor)
        else:
            self.register_parameter(self._keys[name], torch.nn.Parameter(tensor))
        if name in self.missing:
            self.missing.remove(name)

    def add(self, name, tensor):
        """Give the plan a parameter that the graph does not have; return its entry."""
        node = 1 + max([*self.plan.variables, *(step.node for step in self.plan.steps)])
        self.plan.variables[node] = name
        self._keys[name] = f"added{node}"
        self.set(name, tensor)
        return node, 0

    def remove(self, name):
        """Forget a parameter or statistic that the plan no longer reads."""
        variables = self.plan.variables
        self.plan.variables = {node: n for node, n in variables.items() if n != name}
        delattr(self, self._keys.pop(name))

    def forward(self, images):
        """Return the logits, float32, of images (N, 3, H, W), uint8 or floating point."""
        layout = torch.channels_last if self.channels_last else torch.contiguous_format
        images = images.to(self.image_type, memory_format=layout)
        values = {
            (node, 0): images if name == "data" else getattr(self, self._keys[name])
            for node, name in self.plan.variables.items()
        }
        low_precision = self._dtype is not torch.float32
        with torch.autocast(images.device.type, self._dtype, enabled=low_precision):
            logits = run(self.plan, values)
        return logits.float()


def build(network, dtype="float32", device="cpu", channels_last=False):
    """Return the `GraphModule` of a network, on a device.

    Its numbers are copies of the network's; those that the network lacks (of a new head) are
    named in `missing`, for the trainer to draw and `set`.

    Args:
        dtype: what it computes in, by autocast: float32, bfloat16 or float16.
        channels_last: whether images and weights lie in memory by pixels.

    Raises:
        UserError: the graph has an operator that this engine does not compute.
    """
    module = GraphModule(plan(network.graph), dtype)
    module.channels_last = channels_last
    for name in [*module.missing]:
        array = {**network.params, **network.stats}.get(name)
        if array is not None:
            module.set(name, as_tensor(array, device, channels_last))
    return module.to(device)


def as_tensor(array, device="cpu", channels_last=False):
    """Return a copy of a numpy array, as a parameter lies in memory."""
    by_pixels = channels_last and array.ndim == 4
    layout = torch.channels_last if by_pixels else torch.contiguous_format
    tensor = torch.from_numpy(np.require(array, np.float32, "W"))
    return tensor.to(device, memory_format=layout, copy=True)
