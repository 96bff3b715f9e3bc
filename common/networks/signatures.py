"""What a graph has to know of MXNet's operators: their inputs, states and outputs, by name.

An operator that is not named here takes the inputs that it is given and has one output, `output`.
"""

_WEIGHT = ("data", "weight", "bias")
_NORM = ("data", "gamma", "beta")
_BATCH_NORM = (*_NORM, "moving_mean", "moving_var")

_INPUTS = {
    "BatchNorm": _BATCH_NORM,
    "BatchNorm_v1": _BATCH_NORM,
    "_contrib_SyncBatchNorm": _BATCH_NORM,
    "Convolution": _WEIGHT,
    "Convolution_v1": _WEIGHT,
    "Deconvolution": _WEIGHT,
    "FullyConnected": _WEIGHT,
    "Embedding": ("data", "weight"),
    "GroupNorm": _NORM,
    "InstanceNorm": _NORM,
    "LayerNorm": _NORM,
    "LeakyReLU": ("data", "gamma"),
    "LinearRegressionOutput": ("data", "label"),
    "LogisticRegressionOutput": ("data", "label"),
    "MAERegressionOutput": ("data", "label"),
    "SoftmaxOutput": ("data", "label"),
}

# Inputs that an operator writes to: the running statistics.
_STATES = dict.fromkeys(("BatchNorm", "BatchNorm_v1", "_contrib_SyncBatchNorm"), (3, 4))

# Operators of any number of inputs, which they are told.
_COUNTED = {"Concat", "add_n", "stack", "Crop", "UpSampling", "_rnn_param_concat"}

# Outputs of which only the first is for others, unless an attribute asks for all.
_HIDDEN_OUTPUTS = {
    "BatchNorm": ("output", "mean", "var"),
    "BatchNorm_v1": ("output", "mean", "var"),
    "_contrib_SyncBatchNorm": ("output", "mean", "var"),
    "Dropout": ("output", "mask"),
    "GroupNorm": ("output", "mean", "std"),
    "InstanceNorm": ("output", "mean", "var"),
    "L2Normalization": ("output", "norm"),
    "LayerNorm": ("output", "mean", "std"),
    "LRN": ("output", "tmp_norm"),
    "BilinearSampler": ("output", "tmp"),
    "GridGenerator": ("output", "grid_dst"),
    "ROIPooling": ("output", "maxidx"),
}

_INITIAL = {
    **{(op, 3): '["zero", {}]' for op in _STATES},
    **{(op, 4): '["one", {}]' for op in _STATES},
    ("LeakyReLU", 1): '["Constant", {"value": 0.25}]',
}

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
    """Return whether an operator takes any number of inputs, and `num_args` says how many."""
    return op in _COUNTED


def input_names(op, attrs):
    """Return the names of an operator's inputs; () where it takes what it is given."""
    names = _INPUTS.get(op, ())
    no_bias = attrs.get("no_bias", op == "Deconvolution")
    if names == _WEIGHT and is_true(no_bias):
        return names[:2]
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
    """Return how many outputs an operator has, those for its own gradient included."""
    if op in _HIDDEN_OUTPUTS:
        return len(_HIDDEN_OUTPUTS[op])
    if op == "Pooling":
        return 2 if version >= 10600 and _keeps_maxima(attrs) else 1
    return len(output_names(op, attrs))


def _keeps_maxima(attrs):
    """MXNet's oneDNN remembers where in the windows of a max pool the maxima were."""
    channels_first = attrs.get("layout", "NCHW")[:2] == "NC"
    return "kernel" in attrs and attrs.get("pool_type", "max") == "max" and channels_first


def output_names(op, attrs):
    """Return the endings of the names of the outputs that others may take: `output`."""
    if op in _HIDDEN_OUTPUTS:
        all_of_them = is_true(attrs.get("output_mean_var", False))
        return _HIDDEN_OUTPUTS[op] if all_of_them else ("output",)
    if op == "LeakyReLU" and attrs.get("act_type") == "rrelu":
        return ("output", "mask")
    count = 1
    if op in ("SliceChannel", "amp_multicast"):
        count = int(attrs.get("num_outputs", 1))
    elif op in ("moments", "_contrib_quantize_v2", "_contrib_quantize"):
        count = 2 if op == "moments" else 3
    elif op == "topk" and attrs.get("ret_typ") == "both":
        count = 2
    return ("output",) if count == 1 else tuple(f"output{i}" for i in range(count))
