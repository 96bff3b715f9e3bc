"""ONNX files as nodes whose constants are folded and whose shapes are known.

Exporters write a reshape as a chain of Shape, Gather, Mul, Concat; weights as Identity or Transpose
of other weights. All that does not depend on the images is computed here.
"""

import contextlib
import dataclasses
import math
import os

import numpy as np

from common.base.files import UserError, require_file

REQUIREMENTS = "requirements/onnx.txt"
STANDARD_DOMAINS = ("", "ai.onnx")

_OLDEST_OPSET = 7  # earlier ones broadcast differently

# Replaces dimensions that the file leaves open: one image of the usual size.
_DEFAULT_IMAGE = (1, 3, 224, 224)
_CHANNELS_LAST = (1, 224, 224, 3)
# Operators that hold graphs, and those whose result differs from call to call.
_NOT_FOLDED = {"If", "Loop", "Scan", "Bernoulli", "Multinomial", "RandomNormalLike"}
_NOT_FOLDED |= {"RandomUniformLike", "Dropout"}
# Shape inference needs the numbers of shapes, axes and indices, not those of weights.
_MOST_INDICES = 1024
# No weight of a classifier is larger; a small file can ask for terabytes.
_MOST_FOLDED = 2**28


# What an export of this project holds: it normalises its images itself.
_RAW_IMAGES = ("images", "raw RGB, 0 to 255")

# MXNet reads no "inf" in attributes.
LARGEST = float(np.finfo(np.float32).max)


class UnsupportedError(Exception):
    """A node cannot be expressed; the text says which, and why."""

    def __init__(self, node, reason):
        super().__init__(f"the operator {node.op} ({reason})")


@dataclasses.dataclass
class Node:
    """An operator: its type, names of inputs and outputs, attributes as Python values."""

    op: str
    inputs: list
    outputs: list
    attrs: dict


@dataclasses.dataclass
class OnnxGraph:
    """The nodes that compute `output` from `image`, and what is known of the tensors by name."""

    opset: int
    image: str
    output: str
    nodes: list
    constants: dict
    shapes: dict
    takes_raw_images: bool  # 0 to 255, as all exports of this project do


def read_graph(path):
    """Return the `OnnxGraph` of a file of one input and one output.

    Raises:
        UserError: the onnx package or a file is missing, or it is no classifier of photographs.
    """
    require_file(path, "name an ONNX file")
    try:
        import onnx
    except ImportError:
        raise UserError(
            f"{path}: reading ONNX takes the onnx package; run:"
            f" .venv/bin/python -m pip install -r {REQUIREMENTS}"
        ) from None
    model = _load(onnx, path)
    weights = {tensor.name for tensor in model.graph.initializer}
    images = [value for value in model.graph.input if value.name not in weights]
    for kind, values in (("inputs", images), ("outputs", model.graph.output)):
        if len(values) != 1:
            names = [value.name for value in values]
            raise UserError(f"{path}: has the {kind} {names}; an image classifier has one")
    graph = _Folder(onnx, model, images[0]).fold()
    if graph.opset < _OLDEST_OPSET:
        raise UserError(f"{path}: is of opset {graph.opset}; export it with opset 9 or newer")
    shape = graph.shapes[graph.image]
    if len(shape) != 4 or 3 not in (shape[1], shape[3]):
        raise UserError(f"{path}: takes images of shape {shape}; photographs have 3 channels")
    return graph


def _load(onnx, path):
    model = onnx.load_model(path, load_external_data=False)
    folder = os.path.dirname(os.path.abspath(path))
    for tensor in model.graph.initializer:
        if onnx.external_data_helper.uses_external_data(tensor):
            _check_second_file(path, folder, {e.key: e.value for e in tensor.external_data})
            onnx.external_data_helper.load_external_data_for_tensor(tensor, folder)
            tensor.data_location = onnx.TensorProto.DEFAULT
            del tensor.external_data[:]
    onnx.checker.check_model(model)
    if model.functions:
        with contextlib.suppress(ImportError):  # onnx 1.15 and newer can; else they are named
            from onnx import inliner

            model = inliner.inline_local_functions(model)
    return model


def _check_second_file(path, folder, entries):
    """Raise `UserError` where the file that holds a weight is missing, elsewhere or too short."""
    location = entries.get("location", "")
    if os.path.isabs(location) or ".." in location.replace("\\", "/").split("/"):
        raise UserError(f"{path}: its weights are outside its folder, in {location}; export again")
    second = os.path.join(folder, location)
    require_file(second, f"it holds the weights of {path}; put both into one folder")
    end = int(entries.get("offset", 0)) + int(entries.get("length", 0))
    if os.path.getsize(second) < end:
        raise UserError(f"{second}: is cut off: of at least {end} bytes; copy or export it again")


def mark_as_raw(path):
    """Write into an ONNX file that its network takes raw images, 0 to 255.

    It works without the onnx package: what is appended to a protocol buffer is merged into it.
    """
    key, value = (text.encode() for text in _RAW_IMAGES)
    entry = b"\x0a%c%b\x12%c%b" % (len(key), key, len(value), value)
    with open(path, "ab") as stream:
        stream.write(b"\x72%c%b" % (len(entry), entry))  # 14, the field `metadata_props`


def infer_shapes(onnx, nodes, image, tensors, opsets):
    """Return `{name: shape}` of what nodes compute from an image, where it can be inferred.

    Args:
        image: the `ValueInfoProto` of the input, of one fixed shape.
        tensors: the constants by name.
        opsets: those of the model.
    """
    shapes = {name: tuple(tensor.dims) for name, tensor in tensors.items()}
    is_weight = {name: math.prod(shape) > _MOST_INDICES for name, shape in shapes.items()}
    inputs = [
        onnx.helper.make_tensor_value_info(name, tensors[name].data_type, shapes[name])
        for name in tensors
        if is_weight[name]
    ]
    indices = [tensor for name, tensor in tensors.items() if not is_weight[name]]
    graph = onnx.helper.make_graph(nodes, "part", [image, *inputs], [], indices)
    model = onnx.helper.make_model(graph, opset_imports=opsets)
    graph = onnx.shape_inference.infer_shapes(model, data_prop=True).graph
    for value in (*graph.input, *graph.value_info):
        tensor = value.type.tensor_type
        if tensor.HasField("shape") and all(d.HasField("dim_value") for d in tensor.shape.dim):
            shapes[value.name] = tuple(dim.dim_value for dim in tensor.shape.dim)
    return shapes


class _Folder:
    """Computes everything that does not depend on the images."""

    def __init__(self, onnx, model, image):
        self._onnx = onnx
        self._opsets = list(model.opset_import)
        self._nodes = list(model.graph.node)
        self._tensors = {tensor.name: tensor for tensor in model.graph.initializer}
        self._image = self._with_fixed_shape(image)
        self._output = model.graph.output[0].name
        self._read = {name for node in self._nodes for name in node.input} | {self._output}
        self._shapes = {}
        self._metadata = [(entry.key, entry.value) for entry in model.metadata_props]

    def fold(self):
        """Return the graph of the remaining nodes."""
        while self._fold_known():  # new constants give shapes, and these new constants
            pass
        onnx = self._onnx
        needed = self._needed()
        read = {name for node in needed for name in node.input}
        return OnnxGraph(
            opset=next(o.version for o in self._opsets if o.domain in STANDARD_DOMAINS),
            image=self._image.name,
            output=self._output,
            nodes=[self._as_plain_node(node) for node in needed],
            constants={
                name: onnx.numpy_helper.to_array(tensor)
                for name, tensor in self._tensors.items()
                if name in read
            },
            shapes=self._shapes,
            takes_raw_images=_RAW_IMAGES in self._metadata,
        )

    def _with_fixed_shape(self, image):
        helper, tensor = self._onnx.helper, image.type.tensor_type
        dims = [dim.dim_value for dim in tensor.shape.dim] or [0] * 4
        defaults = _CHANNELS_LAST if dims[1] != 3 and dims[-1] == 3 else _DEFAULT_IMAGE
        shape = [dim or default for dim, default in zip(dims, defaults)]
        return helper.make_tensor_value_info(image.name, tensor.elem_type, shape)

    def _fold_known(self):
        """Fold what can be folded by the shapes that are known; return whether anything was."""
        self._shapes = infer_shapes(
            self._onnx, self._nodes, self._image, self._tensors, self._opsets
        )
        left = []
        for node in self._nodes:
            known = self._compute(node)
            if known is None:
                left.append(node)
            else:
                for name, array in known.items():
                    self._tensors[name] = self._onnx.numpy_helper.from_array(array, name)
        folded = len(left) < len(self._nodes)
        self._nodes = left
        return folded

    def _compute(self, node):
        """Return `{name: array}` of what a node gives, or None where that depends on the images."""
        if node.op_type == "Shape" and node.input[0] in self._shapes:
            return {node.output[0]: self._shape_of(node)}
        inputs = [name for name in node.input if name]
        if (
            node.op_type in _NOT_FOLDED
            or node.domain not in STANDARD_DOMAINS
            or any(name not in self._tensors for name in inputs)
            or (not inputs and node.op_type != "Constant")
            or any(math.prod(self._shapes.get(name, ())) > _MOST_FOLDED for name in node.output)
        ):
            return None
        from onnx.reference import ReferenceEvaluator

        names = [name for name in node.output if name in self._read]
        outputs = [self._onnx.ValueInfoProto(name=name) for name in names]
        tensors = [self._tensors[name] for name in {*inputs}]
        graph = self._onnx.helper.make_graph([node], "node", [], outputs, tensors)
        model = self._onnx.helper.make_model(graph, opset_imports=self._opsets)
        return dict(zip(names, ReferenceEvaluator(model).run(None, {})))

    def _shape_of(self, node):
        ends = {a.name: a.i for a in node.attribute}
        shape = self._shapes[node.input[0]]
        return np.array(shape[ends.get("start") : ends.get("end")], np.int64)

    def _needed(self):
        """The nodes that the output depends on."""
        wanted, needed = {self._output}, []
        for node in reversed(self._nodes):
            if wanted & {*node.output}:
                needed.append(node)
                wanted.update(node.input)
        return needed[::-1]

    def _as_plain_node(self, node):
        domain = "" if node.domain in STANDARD_DOMAINS else f"{node.domain}."
        return Node(
            domain + node.op_type,
            list(node.input),
            list(node.output),
            {attribute.name: self._plain(attribute) for attribute in node.attribute},
        )

    def _plain(self, attribute):
        value = self._onnx.helper.get_attribute_value(attribute)
        return value.decode() if isinstance(value, bytes) else value
