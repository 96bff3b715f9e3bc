"""Graphs that predict in 8-bit integers: their convolutions, and what is between them.

Between layers that compute in integers, tensors are uint8. All other layers compute in float32.

Measured, images of 224 px for a second of one core with VNNI, batch 8, in float32, bfloat16 and
int8: ResNet-50 24, 46 and 87; MobileNetV2 181, 319 and 432. With oneDNN held to AVX2, in float32
and int8: 14 and 26; 132 and 187.
"""

import itertools

from common.engines.torch import fusion, layers, operators
from common.engines.torch.attributes import Attributes
from common.engines.torch.int8_arithmetic import PIXELS, Format, as_integers, convolve, pack
from common.engines.torch.runtime import torch

LOWEST, HIGHEST = "__lowest__", "__highest__"  # attributes of a node: the range of its output


def prepare(module, shapes):
    """Rewrite the `GraphModule` of a calibrated network for prediction; it takes uint8 images.

    The last FullyConnected stays float32.

    Args:
        shapes: `{entry: shape}` of all that it computes.
    """
    module.eval()
    module.image_type = torch.uint8
    plan = module.plan
    ranges = {
        step.node: [step.attributes.number(key) for key in (LOWEST, HIGHEST)] for step in plan.steps
    }
    with torch.no_grad():
        fusion.fold_batch_norms(module)
        _make_convolutions(module, shapes)
        fusion.pack_convolutions(module, shapes, _QuantizedConvolution)
        plan.steps = _Rewriter(plan, ranges).steps
    operators.free_early(plan.steps, plan.output)
    _sum_in_place(plan)


# --- Convolutions ---------------------------------------------------------------------------------


def _make_convolutions(module, shapes):
    """Write batch norms and inner FullyConnecteds as convolutions of one pixel.

    A batch norm has one weight for each channel, which int8 with a scale of its own holds exactly.
    """
    readers = fusion.count_readers(module.plan)
    dense = [step for step in module.plan.steps if step.op == "FullyConnected"]
    for step in module.plan.steps:
        is_read_elsewhere = any(readers[entry] > 1 for entry in step.inputs[1:])
        if is_read_elsewhere or not fusion.has_numbers(module.plan, step):
            continue
        if step.op == "BatchNorm" and step.compute.axis == 1 and len(shapes[step.inputs[0]]) == 4:
            fusion.as_convolution(module, step)
        elif step in dense[:-1] and step.attributes.flag("flatten", True):
            step.op, step.attributes = "Convolution", Attributes({"attrs": {"kernel": "(1, 1)"}})


class _QuantizedConvolution:
    """A convolution of uint8 tensors, and what is computed along with it.

    Attributes:
        activation: oneDNN's name of an activation and its numbers: `("hardtanh", [0, 6])`.
        in_place: whether the sum may overwrite what is added.
    """

    def __init__(self, step, weight, bias, shape):
        _, stride, dilation, pad = layers.windows(step.attributes)
        self._window = stride, pad, dilation, step.attributes.integer("num_group", 1)
        self._weight = weight.detach()
        self._bias = None if bias is None else bias.detach()
        self._shape = shape
        self._is_dense = weight.ndim == 2  # of a FullyConnected
        self.activation = ("none", [])
        self.in_place = False

    def quantize(self, source, target, other=None):
        """Pack the weights; these are the formats of the input, the output and what is added.

        The target is None for an output in float32.
        """
        weight, shape = self._weight, self._shape
        if self._is_dense:
            weight = weight[..., None, None]
            shape = (shape[0], *weight.shape[1:])
        self._weight = pack(*as_integers(weight), source, self._window, shape)
        self._formats = source, target, other

    def __call__(self, x, other=None):
        """Return the convolution of `x`, plus `other`, behind the activation."""
        if not self._is_dense:
            return self._convolve(x, other)
        x, other = (t if t is None else t.flatten(1)[..., None, None] for t in (x, other))
        return self._convolve(x, other).flatten(1)

    def _convolve(self, x, other):
        if other is not None and not self.in_place:
            other = other.clone()
        return convolve(
            *(x, other, self._weight, self._bias, self._window, self._formats, self.activation)
        )


# --- The plan -------------------------------------------------------------------------------------


def _passes(step):
    """Return whether a step only chooses or moves numbers, and so may get uint8 for float32."""
    attrs = step.attributes
    if step.op == "Pooling":
        is_max = attrs.text("pool_type", "max") == "max"
        return is_max and (attrs.flag("global_pool") or len(attrs.integers("kernel")) == 2)
    if step.op == "Cast":
        return attrs.text("dtype") == "float32"
    return step.op in ("Flatten", "_copy")


def _is_quantized(step):
    return isinstance(step.compute, _QuantizedConvolution)


class _Rewriter:
    """Chooses the format of every tensor, and puts conversions where a reader takes another one.

    Attributes:
        steps: those of the new plan.
    """

    def __init__(self, plan, ranges):
        self.steps = []
        self._ranges = ranges
        self._formats = {  # of entries; what is float32 has none
            (node, 0): PIXELS for node, name in plan.variables.items() if name == "data"
        }
        self._wanted = self._find_wanted(plan)
        self._converted = {}
        nodes = [*plan.variables, *(step.node for step in plan.steps)]
        self._new_nodes = itertools.count(max(nodes) + 1)
        for step in plan.steps:
            self._add(step)
        plan.output = self._as_float(plan.output)

    def _find_wanted(self, plan):
        """Return the entries that a reader takes in uint8; what is joined gets one range."""
        wanted = set()
        for step in reversed(plan.steps):
            is_joined = step.op == "Concat" and (step.node, 0) in wanted
            if is_joined:
                for node, _ in step.inputs:
                    self._ranges[node] = self._ranges[step.node]
            if _is_quantized(step) or is_joined or (_passes(step) and (step.node, 0) in wanted):
                wanted.update(step.inputs)
        return wanted

    def _add(self, step):
        output = (step.node, 0)
        if _is_quantized(step):
            step.inputs = [self._as_integers(entry) for entry in step.inputs]
            is_wanted = output in self._wanted or len(step.inputs) == 2
            target = self._own_format(output) if is_wanted else None
            step.compute.quantize(
                self._formats[step.inputs[0]], target, *map(self._formats.get, step.inputs[1:])
            )
        elif step.op == "Concat" and output in self._wanted:
            target = self._own_format(output)
            step.inputs = [self._as_format(entry, target) for entry in step.inputs]
        elif _passes(step) and output in self._wanted:
            step.inputs = [self._as_integers(entry) for entry in step.inputs]
            target = self._formats[step.inputs[0]]
            if step.op == "Cast":
                step.compute = lambda x: x
        else:
            target = None
            step.inputs = [self._as_float(entry) for entry in step.inputs]
        if target is not None:
            self._formats[output] = target
        self.steps.append(step)

    def _own_format(self, entry):
        return Format.of_range(*self._ranges[entry[0]])

    def _as_integers(self, entry):
        return entry if entry in self._formats else self._as_format(entry, self._own_format(entry))

    def _as_format(self, entry, target):
        if self._formats.get(entry) == target:
            return entry
        return self._convert(self._as_float(entry), "quantize", target)

    def _as_float(self, entry):
        if entry not in self._formats:
            return entry
        return self._convert(entry, "dequantize", self._formats[entry])

    def _convert(self, entry, how, by):
        """Return the entry of a conversion; each is made once."""
        key = entry, how, by
        if key not in self._converted:
            new = (next(self._new_nodes), 0)
            self._converted[key] = new
            self.steps.append(
                operators.Step(how, how, Attributes({}), getattr(by, how), [entry], new[0])
            )
            if how == "quantize":
                self._formats[new] = by
        return self._converted[key]


def _sum_in_place(plan):
    """Let sums overwrite what nobody reads after them."""
    own, kept = set(), set()
    for step in plan.steps:
        if _is_quantized(step) and len(step.inputs) == 2:
            other = step.inputs[1]
            may_change = other in step.last and other in own - kept
            step.compute.in_place = may_change and other != step.inputs[0]
        if _is_quantized(step) or step.op == "quantize":
            own.add((step.node, 0))
        elif step.op != "dequantize":
            kept.update(step.inputs)  # what it gives may be the same memory
