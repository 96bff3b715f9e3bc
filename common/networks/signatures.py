"""What a graph needs to know about MXNet's operators: their inputs, states and outputs, by name.

An operator that is not named here takes the inputs that it is given and has one output, `output`.
"""

_WEIGHT = ("data", "weight", "bias")
_NORM = ("data", "gamma", "beta")
_STATISTICS = ("moving_mean", "moving_var")
_LABEL = ("data", "label")
_BATCH_NORMS = (
    "BatchNorm",
    "BatchNorm_v1",
    "_contrib_BatchNormWithReLU",
    "_contrib_SyncBatchNorm",
)

_INPUTS = {
    **dict.fromkeys(_BATCH_NORMS, (*_NORM, *_STATISTICS)),
    **dict.fromkeys(("Convolution", "Convolution_v1", "Deconvolution", "FullyConnected"), _WEIGHT),
    **dict.fromkeys(("GroupNorm", "InstanceNorm", "LayerNorm"), _NORM),
    **dict.fromkeys(("SVMOutput", "SoftmaxOutput", "softmax_cross_entropy"), _LABEL),
    **{f"{kind}RegressionOutput": _LABEL for kind in ("Linear", "Logistic", "MAE")},
    "BilinearSampler": ("data", "grid"),
    "Embedding": ("data", "weight"),
    "LeakyReLU": ("data", "gamma"),
    "SpatialTransformer": ("data", "loc"),
    "_contrib_DeformableConvolution": ("data", "offset", "weight", "bias"),
    "_contrib_ModulatedDeformableConvolution": ("data", "offset", "mask", "weight", "bias"),
}

# Inputs that an operator writes to: the running statistics.
_STATES = dict.fromkeys((*_BATCH_NORMS, "_contrib_quantized_batch_norm"), (3, 4))

_INITIAL = {
    **{(op, 3): '["zero", {}]' for op in _BATCH_NORMS},
    **{(op, 4): '["one", {}]' for op in _BATCH_NORMS},
    ("LeakyReLU", 1): '["Constant", {"value": 0.25}]',
}

# Operators that take any number of inputs, given by `num_args`.
_COUNTED = ("Concat", "add_n", "stack", "Crop", "UpSampling")

# Outputs of which other nodes see only the first, unless an attribute asks for all.
_HIDDEN_OUTPUTS = {
    **dict.fromkeys(_BATCH_NORMS, ("output", "mean", "var")),
    "_contrib_BatchNormWithReLU": ("output", "mean", "var", "mask"),
    "BilinearSampler": ("output", "tmp"),
    "Dropout": ("output", "mask"),
    "GridGenerator": ("output", "grid_dst"),
    "GroupNorm": ("output", "mean", "std"),
    "InstanceNorm": ("output", "mean", "var"),
    "L2Normalization": ("output", "norm"),
    "LRN": ("output", "tmp_norm"),
    "LayerNorm": ("output", "mean", "std"),
    "SpatialTransformer": ("output", "grid_dst", "grid_src"),
}

_MAX_OUTPUTS = 1000

# Other names of the same operator; files that MXNet writes have the first.
_OTHER_NAMES = {
    "BlockGrad": "stop_gradient",
    "Cast": "cast",
    "Concat": "concat",
    "Flatten": "flatten",
    "Pad": "pad",
    "Reshape": "reshape",
    "SliceChannel": "split",
    "SoftmaxOutput": "Softmax",
    "SwapAxis": "swapaxes",
    "_copy": "identity",
    "_div_scalar": "_DivScalar",
    "_equal": "_Equal",
    "_equal_scalar": "_EqualScalar",
    "_greater": "_Greater",
    "_greater_equal": "_Greater_Equal",
    "_greater_equal_scalar": "_GreaterEqualScalar",
    "_greater_scalar": "_GreaterScalar",
    "_hypot": "_Hypot",
    "_hypot_scalar": "_HypotScalar",
    "_lesser": "_Lesser",
    "_lesser_equal": "_Lesser_Equal",
    "_lesser_equal_scalar": "_LesserEqualScalar",
    "_lesser_scalar": "_LesserScalar",
    "_maximum": "_Maximum",
    "_maximum_scalar": "_MaximumScalar",
    "_minimum": "_Minimum",
    "_minimum_scalar": "_MinimumScalar",
    "_minus_scalar": "_MinusScalar",
    "_mod": "_Mod",
    "_mod_scalar": "_ModScalar",
    "_mul_scalar": "_MulScalar",
    "_not_equal": "_Not_Equal",
    "_not_equal_scalar": "_NotEqualScalar",
    "_plus_scalar": "_PlusScalar",
    "_power": "_Power",
    "_power_scalar": "_PowerScalar",
    "_rdiv_scalar": "_RDivScalar",
    "_rminus_scalar": "_RMinusScalar",
    "_rmod_scalar": "_RModScalar",
    "_rpower_scalar": "_RPowerScalar",
    "add_n": "ElementWiseSum",
    "broadcast_add": "broadcast_plus",
    "broadcast_axis": "broadcast_axes",
    "broadcast_sub": "broadcast_minus",
    "elemwise_add": "_Plus _plus _add",
    "elemwise_div": "_Div _div",
    "elemwise_mul": "_Mul _mul",
    "elemwise_sub": "_Minus _minus _sub",
    "max": "max_axis",
    "min": "min_axis",
    "pick": "choose_element_0index",
    "reverse": "flip",
    "slice": "crop",
    "sum": "sum_axis",
}
ALIASES = {alias: name for name, others in _OTHER_NAMES.items() for alias in others.split()}


def is_true(value):
    """Return whether an attribute's text stands for True."""
    return str(value).lower() in ("true", "1")


def takes_any_number(op):
    """Return whether an operator takes any number of inputs, given by `num_args`."""
    return op in _COUNTED


def input_names(op, attrs):
    """Return the names of an operator's inputs; () if it takes any."""
    names = _INPUTS.get(op, ())
    if names[-1:] == ("bias",) and is_true(attrs.get("no_bias", op == "Deconvolution")):
        return names[:-1]
    if op == "LeakyReLU" and attrs.get("act_type") != "prelu":
        return names[:1]
    return names


def state_positions(op):
    """Return which inputs are auxiliary states: the operator writes to them."""
    return _STATES.get(op, ())


def initial_value(op, position):
    """Return the `__init__` that MXNet gives to a variable at this input, or None."""
    return _INITIAL.get((op, position))


def num_outputs(op, attrs, version):
    """Return how many outputs an operator has, including those for its own gradient."""
    if op in _HIDDEN_OUTPUTS:
        return len(_HIDDEN_OUTPUTS[op])
    if op == "Pooling":
        return 2 if version >= 10600 and _keeps_maxima(attrs) else 1
    if op == "topk":
        return 2 if attrs.get("ret_typ") in ("both", "value") else 1
    return len(output_names(op, attrs))


def _keeps_maxima(attrs):
    """MXNet's oneDNN keeps the positions of the maxima of a max pool."""
    channels_first = attrs.get("layout", "NCHW")[:2] == "NC"
    return "kernel" in attrs and attrs.get("pool_type", "max") == "max" and channels_first


def output_names(op, attrs):
    """Return the endings of the names of the outputs that other nodes may take: `output`.

    Raises:
        ValueError: an attribute does not say how many there are.
    """
    if op in _HIDDEN_OUTPUTS:
        all_of_them = is_true(attrs.get("output_mean_var", False))
        return _HIDDEN_OUTPUTS[op][:3] if all_of_them else ("output",)
    if op == "LeakyReLU" and attrs.get("act_type") == "rrelu":
        return ("output", "mask")
    if op.startswith("_contrib_quantized_"):
        return ("output", "min_output", "max_output")
    if op.startswith("_sg_mkldnn_") and is_true(attrs.get("quantized", False)):
        as_floats = is_true(attrs.get("enable_float_output", False))
        return ("output",) if as_floats else ("output", "output_min", "output_max")
    if op in ("_contrib_quantize", "_contrib_quantize_v2", "_contrib_requantize"):
        return _numbered(3)
    if op == "topk" and attrs.get("ret_typ") in ("both", "value"):
        return _numbered(2 if attrs["ret_typ"] == "both" else 1)
    if op == "moments":
        return _numbered(2)
    if op == "SliceChannel":
        return _numbered(int(attrs["num_outputs"]) if "num_outputs" in attrs else 1)
    if op == "_split_v2":
        return _numbered(_num_parts(attrs))
    if op == "amp_multicast" and attrs.get("num_outputs") != "1":
        return _numbered(int(attrs.get("num_outputs", 1)))
    return ("output",)


def _num_parts(attrs):
    """Return the number of parts: of equal size, or one for each index that is given."""
    sections = int(attrs.get("sections", 0))
    return sections or len([i for i in attrs.get("indices", "0").strip("()[]").split(",") if i])


def _numbered(count):
    if not 0 < count <= _MAX_OUTPUTS:
        raise ValueError(f"an operator has {count} outputs")
    return tuple(f"output{i}" for i in range(count))
