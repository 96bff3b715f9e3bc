"""MXNet's layers, activations and arithmetic as ONNX's, of opset 13."""

import numpy as np

_CHANNELS_FIRST = (None, "NCHW", "NCW")


def _one(number):
    return np.float32(number)


# --- Layers with weights -------------------------------------------------------------------------


def _convolution(net, layer):
    if layer.get("layout") not in _CHANNELS_FIRST:
        raise layer.lacks(f"layout {layer.get('layout')}")
    return net.add(
        "Conv",
        layer.name,
        *layer.inputs,
        kernel_shape=list(layer.get("kernel")),
        strides=layer.sizes("stride", 1),
        pads=layer.sizes("pad", 0) * 2,
        dilations=layer.sizes("dilate", 1),
        group=layer.get("num_group", 1),
    )


def _fully_connected(net, layer):
    data, weight, *bias = layer.inputs
    if layer.flag("flatten", True):
        data = net.add("Flatten", f"{layer.name}_flat", data, axis=1)
        return net.add("Gemm", layer.name, data, weight, *bias, transB=1)
    product = layer.name if not bias else f"{layer.name}_product"
    result = net.add("MatMul", product, data, net.parameter(weight).T)
    return net.add("Add", layer.name, result, *bias) if bias else result


def _batch_norm(net, layer):
    if layer.get("axis", 1) != 1:
        raise layer.lacks(f"axis {layer.get('axis')}")
    return net.add("BatchNormalization", layer.name, *layer.inputs, epsilon=layer.get("eps", 1e-3))


def _layer_norm(net, layer):
    """Opset 13 has no such layer: the mean, the variance, and what MXNet makes of them."""
    data, gamma, beta = layer.inputs
    rank = len(net.shape(data))
    axis = layer.get("axis", -1) % rank
    shape = [-1 if i == axis else 1 for i in range(axis, rank)]
    gamma, beta = (net.parameter(name).reshape(shape) for name in (gamma, beta))

    def add(op, ending, *inputs, **attrs):
        return net.add(op, f"{layer.name}_{ending}", *inputs, **attrs)

    mean = add("ReduceMean", "mean", data, axes=[axis])
    centred = add("Sub", "centred", data, mean)
    square = add("Mul", "square", centred, centred)
    variance = add("ReduceMean", "variance", square, axes=[axis])
    deviation = add("Sqrt", "std", add("Add", "eps", variance, _one(layer.get("eps", 1e-5))))
    scaled = add("Mul", "scaled", add("Div", "normal", centred, deviation), gamma)
    return net.add("Add", layer.name, scaled, beta)


def _local_response_norm(net, layer):
    return net.add(
        "LRN",
        layer.name,
        layer.inputs[0],
        size=layer.get("nsize"),
        alpha=layer.get("alpha", 1e-4),
        beta=layer.get("beta", 0.75),
        bias=float(layer.get("knorm", 2)),
    )


# --- Pooling -------------------------------------------------------------------------------------


def _pooling(net, layer):
    kind, data = layer.get("pool_type", "max"), layer.inputs[0]
    layout = layer.get("layout")
    if kind not in ("avg", "max") or layout not in _CHANNELS_FIRST:
        raise layer.lacks(f"pool_type {kind}, layout {layout or 'NCHW'}")
    op = {"avg": "AveragePool", "max": "MaxPool"}[kind]
    if layer.flag("global_pool"):
        return net.add(f"Global{op}", layer.name, data)
    convention = layer.get("pooling_convention", "valid")
    kernel, stride = layer.sizes("kernel", 1), layer.sizes("stride", 1)
    pads = layer.sizes("pad", 0) * 2
    counted = kind == "avg" and layer.flag("count_include_pad", True)
    if convention == "full":
        over = _beyond(net.shape(data)[2:], kernel, stride, pads[:2])
        if counted and any(pads) and any(over):
            return _average_over_pads(net, layer, data, kernel, stride, pads[:2], over)
        # What lies beyond does not count in an average. ONNX's own ceil_mode differs between
        # runtimes.
        pads = pads[:2] + [pad + more for pad, more in zip(pads, over)]
        counted = counted and not any(over)
    elif convention != "valid":
        raise layer.lacks(f"pooling_convention {convention}")
    return net.add(
        op,
        layer.name,
        data,
        kernel_shape=kernel,
        strides=stride,
        pads=pads,
        count_include_pad=int(counted) if kind == "avg" else None,
    )


def _beyond(sizes, kernel, stride, pads):
    """Return how far the last windows of the "full" convention reach beyond the padded image."""
    return [
        -(size + 2 * pad - side) % step
        for size, pad, side, step in zip(sizes, pads, kernel, stride)
    ]


def _average_over_pads(net, layer, data, kernel, stride, pads, over):
    """Average where the pads count, and what lies beyond them does not.

    All of it is padded and counted, and the last windows are scaled to what counts in them. ONNX
    Runtime 1.19 and 1.20 merge a Pad into an average whose pads do not count, and get it wrong.
    """
    shares = []  # of each window, by rows and by columns, that lie within the pads
    for size, pad, side, step, more in zip(net.shape(data)[2:], pads, kernel, stride, over):
        padded = size + 2 * pad
        starts = np.arange(0, padded + more - side + 1, step)
        shares.append((np.minimum(starts + side, padded) - starts) / side)
    scale = (1 / np.outer(*shares)).astype(np.float32)[np.newaxis, np.newaxis]
    ends = [*pads, *(pad + more for pad, more in zip(pads, over))]
    padded = net.add("Pad", f"{layer.name}_pad", data, _all_axes(ends), _one(0))
    sums = net.add(
        "AveragePool",
        f"{layer.name}_all",
        padded,
        kernel_shape=kernel,
        strides=stride,
        count_include_pad=1,
    )
    return net.add("Mul", layer.name, sums, scale)


def _all_axes(pads):
    return np.array([0, 0, *pads[:2], 0, 0, *pads[2:]], np.int64)


def _adaptive_pooling(net, layer):
    size = layer.get("output_size") or 1
    wanted = [size, size] if isinstance(size, int) else list(size) * (3 - len(size))
    if wanted == [1, 1]:
        return net.add("GlobalAveragePool", layer.name, layer.inputs[0])
    sizes = net.shape(layer.inputs[0])[2:]
    if any(have % want for have, want in zip(sizes, wanted)):
        raise layer.lacks(f"output_size {wanted} of {list(sizes)}")
    kernel = [have // want for have, want in zip(sizes, wanted)]
    return net.add("AveragePool", layer.name, layer.inputs[0], kernel_shape=kernel, strides=kernel)


# --- Activations ---------------------------------------------------------------------------------


def _unary(op):
    return lambda net, layer: net.add(op, layer.name, layer.inputs[0])


_ACTIVATIONS = {
    "relu": "Relu",
    "sigmoid": "Sigmoid",
    "softrelu": "Softplus",
    "softsign": "Softsign",
    "tanh": "Tanh",
}


def _activation(net, layer):
    kind = layer.get("act_type")
    if kind not in _ACTIVATIONS:
        raise layer.lacks(f"act_type {kind}")
    return net.add(_ACTIVATIONS[kind], layer.name, layer.inputs[0])


def _leaky_relu(net, layer):
    kind, data = layer.get("act_type", "leaky"), layer.inputs[0]
    if kind in ("leaky", "elu"):
        op = {"leaky": "LeakyRelu", "elu": "Elu"}[kind]
        return net.add(op, layer.name, data, alpha=layer.get("slope", 0.25))
    if kind == "rrelu":  # the slope is random in training, its mean in prediction
        slope = (layer.get("lower_bound", 0.125) + layer.get("upper_bound", 0.334)) / 2
        return [net.add("LeakyRelu", layer.name, data, alpha=slope)] * 2
    if kind == "prelu":
        slope = net.parameter(layer.inputs[1]).reshape(-1, *[1] * (len(net.shape(data)) - 2))
        return net.add("PRelu", layer.name, data, slope)
    if kind == "selu":
        return net.add("Selu", layer.name, data, alpha=1.6732632, gamma=1.050701)
    if kind == "gelu":
        erf = net.add("Mul", f"{layer.name}_scaled", data, _one(0.5**0.5))
        erf = net.add("Erf", f"{layer.name}_erf", erf)
        gate = net.add("Add", f"{layer.name}_gate", erf, _one(1))
        half = net.add("Mul", f"{layer.name}_half", data, _one(0.5))
        return net.add("Mul", layer.name, half, gate)
    raise layer.lacks(f"act_type {kind}")


def _hard_sigmoid(net, layer):
    alpha, beta = layer.get("alpha", 0.2), layer.get("beta", 0.5)
    return net.add("HardSigmoid", layer.name, layer.inputs[0], alpha=alpha, beta=beta)


def _clip(net, layer):
    bounds = (_one(layer.get(key)) for key in ("a_min", "a_max"))
    return net.add("Clip", layer.name, layer.inputs[0], *bounds)


def _softmax(op):
    def convert(net, layer):
        data, temperature = layer.inputs[0], layer.get("temperature", 1.0)
        if temperature != 1:
            data = net.add("Div", f"{layer.name}_scaled", data, _one(temperature))
        return net.add(op, layer.name, data, axis=layer.get("axis", -1))

    return convert


def _softmax_activation(net, layer):
    if layer.get("mode", "instance") != "channel" and len(net.shape(layer.inputs[0])) != 2:
        raise layer.lacks("mode instance")
    return net.add("Softmax", layer.name, layer.inputs[0], axis=1)


# --- Arithmetic ----------------------------------------------------------------------------------


def _binary(op):
    return lambda net, layer: net.add(op, layer.name, *layer.inputs)


def _scalar(op, first=False):
    """`x op number`, or `number op x` where the number comes first."""

    def convert(net, layer):
        operands = (layer.inputs[0], _one(layer.get("scalar")))
        return net.add(op, layer.name, *operands[:: -1 if first else 1])

    return convert


def _square(net, layer):
    return net.add("Mul", layer.name, layer.inputs[0], layer.inputs[0])


def _same(net, layer):
    """What changes nothing in prediction. Everything is computed in float32."""
    return layer.inputs[0]


def _cast(net, layer):
    if layer.get("dtype") not in ("float32", "float16", "bfloat16", "float64"):
        raise layer.lacks(f"dtype {layer.get('dtype')}")
    return layer.inputs[0]


_ARITHMETIC = {"add": "Add", "sub": "Sub", "mul": "Mul", "div": "Div"}
_COMPARISONS = {"maximum": "Max", "minimum": "Min", "power": "Pow"}

OPERATORS = {
    "Activation": _activation,
    "BatchNorm": _batch_norm,
    "BatchNorm_v1": _batch_norm,
    "BlockGrad": _same,
    "Cast": _cast,
    "Convolution": _convolution,
    "Convolution_v1": _convolution,
    "Dropout": _same,
    "FullyConnected": _fully_connected,
    "LRN": _local_response_norm,
    "LayerNorm": _layer_norm,
    "LeakyReLU": _leaky_relu,
    "Pooling": _pooling,
    "Pooling_v1": _pooling,
    "SoftmaxActivation": _softmax_activation,
    "_contrib_AdaptiveAvgPooling2D": _adaptive_pooling,
    "_contrib_SyncBatchNorm": _batch_norm,
    "_copy": _same,
    "_div_scalar": _scalar("Div"),
    "_maximum": _binary("Max"),
    "_maximum_scalar": _scalar("Max"),
    "_minimum": _binary("Min"),
    "_minimum_scalar": _scalar("Min"),
    "_minus_scalar": _scalar("Sub"),
    "_mul_scalar": _scalar("Mul"),
    "_plus_scalar": _scalar("Add"),
    "_power": _binary("Pow"),
    "_power_scalar": _scalar("Pow"),
    "_rdiv_scalar": _scalar("Div", first=True),
    "_rminus_scalar": _scalar("Sub", first=True),
    "_rpower_scalar": _scalar("Pow", first=True),
    "abs": _unary("Abs"),
    "add_n": _binary("Sum"),
    "amp_cast": _cast,
    "amp_multicast": lambda net, layer: layer.inputs,
    "clip": _clip,
    "erf": _unary("Erf"),
    "exp": _unary("Exp"),
    "hard_sigmoid": _hard_sigmoid,
    "log": _unary("Log"),
    "log_softmax": _softmax("LogSoftmax"),
    "negative": _unary("Neg"),
    "reciprocal": _unary("Reciprocal"),
    "relu": _unary("Relu"),
    "sigmoid": _unary("Sigmoid"),
    "softmax": _softmax("Softmax"),
    "softsign": _unary("Softsign"),
    "sqrt": _unary("Sqrt"),
    "square": _square,
    "tanh": _unary("Tanh"),
    **{f"elemwise_{name}": _binary(op) for name, op in _ARITHMETIC.items()},
    **{f"broadcast_{name}": _binary(op) for name, op in {**_ARITHMETIC, **_COMPARISONS}.items()},
}
