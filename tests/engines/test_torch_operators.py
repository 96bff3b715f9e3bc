"""Every operator of the PyTorch engine, compared with MXNet: outputs, gradients, statistics."""

import numpy as np
import pytest

from common.base.files import UserError
from common.engines.mxnet.precision import to_symbol
from common.engines.mxnet.runtime import mx
from common.engines.torch import shapes
from common.engines.torch.operators import build
from common.engines.torch.runtime import torch
from common.networks import Network
from common.networks.graph import Builder

IMAGES = (2, 6, 7, 9)


def graph_of(op, further=(), **attrs):
    """A graph of one operator on `data`, and on `further` variables of the same shape."""
    net = Builder()
    others = [net.variable(name) for name in further]
    return net.graph(net.add(op, "layer", net.variable("data"), *others, **attrs))


def random_arrays(shapes, seed=0, low=-2.0):
    """`{name: array}`, none of them near zero; variances and gammas are positive."""
    random = np.random.RandomState(seed)
    arrays = {}
    for name, shape in shapes.items():
        positive = name.endswith(("var", "gamma"))
        arrays[name] = random.uniform(0.5 if positive else low, 2, shape).astype(np.float32)
    return arrays


def shapes_in_mxnet(graph, **known):
    symbol = to_symbol(graph)
    found, (output,), states = symbol.infer_shape(**known)
    named = dict(zip(symbol.list_arguments(), found))
    return named, dict(zip(symbol.list_auxiliary_states(), states)), output


def compute_with_mxnet(graph, arrays, stats, output_gradient, training):
    """The output, the gradient of every argument, and the statistics afterwards."""
    symbol = to_symbol(graph)
    arguments = {name: mx.nd.array(array) for name, array in arrays.items()}
    gradients = {name: mx.nd.zeros(array.shape) for name, array in arrays.items()}
    states = {name: mx.nd.array(array) for name, array in stats.items()}
    executor = symbol.bind(mx.cpu(), arguments, gradients, aux_states=states)
    (output,) = executor.forward(is_train=training)
    if training:
        executor.backward(mx.nd.array(output_gradient))
    mx.nd.waitall()
    return [
        output.asnumpy(),
        {name: array.asnumpy() for name, array in gradients.items()},
        {name: array.asnumpy() for name, array in states.items()},
    ]


def compute_with_torch(graph, arrays, stats, output_gradient, training):
    """The same of PyTorch; where there is no gradient, it is zero."""
    params = {name: array for name, array in arrays.items() if name != "data"}
    module = build(Network(graph, params, stats)).train(training)
    data = torch.tensor(arrays["data"], requires_grad=True)
    output = module(data)
    if training and output.requires_grad:
        output.backward(torch.tensor(output_gradient))
    leaves = {"data": data, **module.params}
    gradients = {
        name: np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
        for name, leaf in leaves.items()
    }
    return [
        output.detach().numpy(),
        gradients,
        {name: tensor.numpy() for name, tensor in module.stats.items()},
    ]


def assert_close(ours, theirs, what=""):
    assert ours.shape == theirs.shape, what
    scale = max(abs(theirs).max(), 1e-3)
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=2e-5, rtol=0, err_msg=what)


def compare(graph, shape=IMAGES, further=(), low=-2.0, training=True):
    """Both engines give the same numbers for a graph, and its parameters the same shapes."""
    known = {"data": shape, **dict.fromkeys(further, shape)}
    names, states, output = shapes_in_mxnet(graph, **known)
    arrays, stats = random_arrays(names, low=low), random_arrays(states, seed=1)
    inferred = shapes.infer_shapes(graph, shape[1:], shape[0]) if not further else None
    assert inferred in (None, {**{n: s for n, s in names.items() if n != "data"}, **states})
    gradient = np.random.RandomState(2).uniform(-1, 1, output).astype(np.float32)
    for mode in (False, True) if training else (False,):
        theirs = compute_with_mxnet(graph, arrays, stats, gradient, mode)
        ours = compute_with_torch(graph, arrays, stats, gradient, mode)
        assert_close(ours[0], theirs[0], "output")
        for kind in (1, 2):
            for name in theirs[kind]:
                assert_close(ours[kind][name], theirs[kind][name], name)


LAYERS = {
    "convolution": ("Convolution", {"num_filter": 4, "kernel": (3, 3)}),
    "convolution-strided": (
        "Convolution",
        {"num_filter": 4, "kernel": (3, 2), "stride": (2, 1), "pad": (1, 0), "no_bias": True},
    ),
    "convolution-dilated": ("Convolution", {"num_filter": 4, "kernel": (3, 3), "dilate": (2, 2)}),
    "convolution-grouped": ("Convolution", {"num_filter": 4, "kernel": (1, 1), "num_group": 2}),
    "convolution-depthwise": ("Convolution", {"num_filter": 6, "kernel": (3, 3), "num_group": 6}),
    "deconvolution": (
        "Deconvolution",
        {"num_filter": 4, "kernel": (4, 4), "stride": (2, 2), "pad": (1, 1), "num_group": 2},
    ),
    "deconvolution-adjusted": (
        "Deconvolution",
        {"num_filter": 4, "kernel": (3, 3), "stride": (2, 2), "adj": (1, 1), "no_bias": False},
    ),
    "fully-connected": ("FullyConnected", {"num_hidden": 5}),
    "fully-connected-no-bias": ("FullyConnected", {"num_hidden": 5, "no_bias": True}),
    "fully-connected-last-axis": ("FullyConnected", {"num_hidden": 5, "flatten": False}),
    "batch-norm": ("BatchNorm", {"fix_gamma": False}),
    "batch-norm-defaults": ("BatchNorm", {}),
    "batch-norm-settings": ("BatchNorm", {"fix_gamma": False, "eps": 0.1, "momentum": 0.5}),
    "batch-norm-global": ("BatchNorm", {"use_global_stats": True, "fix_gamma": False}),
    "batch-norm-axis": ("BatchNorm", {"axis": 3, "fix_gamma": False}),
    "sync-batch-norm": ("_contrib_SyncBatchNorm", {"fix_gamma": False, "key": "layer"}),
    "layer-norm": ("LayerNorm", {}),
    "layer-norm-axis": ("LayerNorm", {"axis": 1, "eps": 0.01}),
    "instance-norm": ("InstanceNorm", {}),
    "group-norm": ("GroupNorm", {"num_groups": 3}),
    "l2-instance": ("L2Normalization", {}),
    "l2-channel": ("L2Normalization", {"mode": "channel"}),
    "l2-spatial": ("L2Normalization", {"mode": "spatial"}),
    "lrn": ("LRN", {"nsize": 5}),
    "lrn-settings": ("LRN", {"nsize": 3, "alpha": 0.1, "beta": 0.5, "knorm": 1}),
    "dropout-of-nothing": ("Dropout", {"p": 0}),
    "upsampling": ("UpSampling", {"scale": 2, "sample_type": "nearest"}),
    "adaptive": ("_contrib_AdaptiveAvgPooling2D", {"output_size": (3, 2)}),
    "adaptive-default": ("_contrib_AdaptiveAvgPooling2D", {}),
    "relu6": ("clip", {"a_min": 0, "a_max": 1.5}),
    "hard-sigmoid": ("hard_sigmoid", {"alpha": 0.3, "beta": 0.4}),
    "softmax-middle": ("softmax", {"axis": 1, "temperature": 2}),
    "log-softmax": ("log_softmax", {}),
    **{
        f"activation-{kind}": ("Activation", {"act_type": kind})
        for kind in ("relu", "sigmoid", "tanh", "softrelu", "softsign")
    },
    **{
        f"leaky-{kind}": ("LeakyReLU", {"act_type": kind, **settings})
        for kind, settings in (
            ("leaky", {}),
            ("leaky", {"slope": 0.1}),
            ("prelu", {}),
            ("elu", {"slope": 0.7}),
            ("selu", {}),
            ("gelu", {}),
        )
    },
}
# Not at the end of its graph, where a module leaves it out.
NOT_LAST = ("softmax-middle",)
# MXNet's gradient is not the derivative of its output there.
WRONG_GRADIENTS = ("leaky-selu",)


@pytest.mark.parametrize("case", LAYERS)
def test_a_layer_gives_the_same_output_and_gradients(case):
    op, attrs = LAYERS[case]
    graph = graph_of(op, **attrs)
    if case in NOT_LAST:
        net = Builder()
        graph = net.graph(net.add("_copy", "copy", net.copy_of(graph)))
    compare(graph, training=case not in WRONG_GRADIENTS)


POOLS = [
    {"pool_type": kind, "pooling_convention": convention, **windows}
    for kind in ("max", "avg", "sum", "lp")
    for convention in ("valid", "full")
    for windows in (
        {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1)},
        {"kernel": (2, 2), "stride": (2, 2)},
        {"kernel": (2, 3), "stride": (3, 2), "pad": (1, 0)},
        {"kernel": (2, 2), "stride": (2, 2), "pad": (1, 1)},
    )
]


@pytest.mark.parametrize("attrs", POOLS, ids=lambda attrs: "-".join(map(str, attrs.values())))
@pytest.mark.parametrize("shape", [(2, 3, 7, 9), (2, 3, 8, 8)], ids=["odd", "even"])
def test_a_pool_has_the_windows_and_divisors_of_mxnet(attrs, shape):
    power = 2 if attrs["pool_type"] == "lp" else None
    # With oneDNN, MXNet's gradient of an average divides by the whole window, its output does not.
    is_cut = attrs["pool_type"] == "avg" and attrs["pooling_convention"] == "full"
    compare(graph_of("Pooling", p_value=power, **attrs), shape, training=not is_cut)


@pytest.mark.parametrize("convention", ["valid", "full"])
def test_an_average_pool_may_leave_the_padding_out(convention):
    attrs = {"kernel": (3, 3), "stride": (2, 2), "pad": (1, 1), "count_include_pad": False}
    compare(graph_of("Pooling", pool_type="avg", pooling_convention=convention, **attrs))


@pytest.mark.parametrize("kind", ["max", "avg", "sum"])
def test_a_global_pool_ignores_its_window(kind):
    window = {"kernel": (2, 2), "stride": (2, 2), "pad": (1, 1)}
    compare(graph_of("Pooling", pool_type=kind, global_pool=True, **window))


def test_a_pool_is_a_max_pool_unless_told_otherwise():
    compare(graph_of("Pooling", kernel=(2, 2)))
    compare(graph_of("Pooling", kernel=(2, 2), global_pool=True))


ARITHMETIC = ("add", "sub", "mul", "div", "mod", "power", "maximum", "minimum", "hypot")
COMPARISONS = ("equal", "not_equal", "greater", "greater_equal", "lesser", "lesser_equal")


@pytest.mark.parametrize("op", [f"elemwise_{name}" for name in ARITHMETIC[:4]])
def test_element_wise_arithmetic(op):
    compare(graph_of(op, ["other"]), further=["other"], low=0.5)


@pytest.mark.parametrize("name", ARITHMETIC + COMPARISONS)
def test_arithmetic_of_two_inputs(name):
    graph = graph_of(f"broadcast_{name}", ["other"])
    compare(graph, further=["other"], low=0.5, training=name != "mod")
    if name not in ("add", "sub", "mul", "div"):
        compare(graph_of(f"_{name}", ["other"]), further=["other"], low=0.5, training=False)


SCALARS = ["plus", "minus", "rminus", "mul", "div", "rdiv", "mod", "rmod", "power", "rpower"]


@pytest.mark.parametrize("name", [*SCALARS, *ARITHMETIC[6:], *COMPARISONS])
def test_arithmetic_with_a_number(name):
    compare(graph_of(f"_{name}_scalar", scalar=0.75), low=0.5)


UNARY = """
    abs sign negative reciprocal ceil floor trunc fix square sqrt rsqrt cbrt exp expm1 log log10
    log1p log2 sin cos tan arctan sinh cosh tanh erf relu sigmoid softsign zeros_like ones_like
    _copy BlockGrad
"""


@pytest.mark.parametrize("op", UNARY.split())
def test_a_function_of_every_number(op):
    compare(graph_of(op), low=0.4)


@pytest.mark.parametrize("op", ["arcsin", "arccos"])
def test_inverse_functions(op):
    net = Builder()
    small = net.add("_div_scalar", "small", net.variable("data"), scalar=2.5)
    compare(net.graph(net.add(op, "layer", small)))


REDUCTIONS = [{}, {"axis": 1}, {"axis": (2, 3), "keepdims": True}, {"axis": -1}]


@pytest.mark.parametrize("op", ["sum", "mean", "max", "min", "prod"])
@pytest.mark.parametrize("attrs", [*REDUCTIONS, {"axis": 1, "exclude": True}], ids=str)
def test_a_reduction(op, attrs):
    compare(graph_of(op, **attrs), (2, 3, 4, 2))


@pytest.mark.parametrize("attrs", [{}, {"axis": 1}, {"axis": (2, 3)}, {"ord": 1, "axis": 1}])
def test_a_norm(attrs):
    compare(graph_of("norm", **attrs))


SHAPES = [
    ("Flatten", {}),
    ("Reshape", {"shape": (0, -1)}),
    ("Reshape", {"shape": (-2,)}),
    ("Reshape", {"shape": (0, -3, -2)}),
    ("Reshape", {"shape": (0, -4, 2, -1, -2)}),
    ("Reshape", {"shape": (0, 0, -1)}),
    ("Reshape", {"shape": (-1, 0), "reverse": True}),
    ("transpose", {}),
    ("transpose", {"axes": (0, 2, 3, 1)}),
    ("SwapAxis", {"dim1": 1, "dim2": 3}),
    ("expand_dims", {"axis": 1}),
    ("squeeze", {}),
    ("slice", {"begin": (0, 1, None), "end": (2, 5, None), "step": (1, 2, -1)}),
    ("slice_axis", {"axis": -1, "begin": 2, "end": "None"}),
    ("slice_axis", {"axis": 1, "begin": 0, "end": -1}),
    ("Pad", {"mode": "constant", "constant_value": 3, "pad_width": (0, 0, 0, 0, 1, 2, 3, 0)}),
    ("Pad", {"mode": "edge", "pad_width": (0, 0, 0, 0, 1, 2, 3, 0)}),
    ("Pad", {"mode": "reflect", "pad_width": (0, 0, 0, 0, 1, 2, 3, 0)}),
    ("tile", {"reps": (2, 1)}),
    ("reverse", {"axis": (1, 2)}),
    ("Cast", {"dtype": "float32"}),
]


@pytest.mark.parametrize("op, attrs", SHAPES, ids=str)
def test_an_operator_that_changes_shapes(op, attrs):
    compare(graph_of(op, **attrs))


def test_axes_of_one_number_are_squeezed_and_repeated():
    compare(graph_of("squeeze", axis=1), (2, 1, 3))
    compare(graph_of("broadcast_axis", axis=(1, 3), size=(4, 5)), (2, 1, 3, 1))
    compare(graph_of("broadcast_to", shape=(0, 4, 0, 5)), (2, 1, 3, 1))


@pytest.mark.parametrize("op", ["Concat", "add_n", "stack"])
def test_operators_of_any_number_of_inputs(op):
    compare(graph_of(op, ["second", "third"]), further=["second", "third"])


@pytest.mark.parametrize("op", ["broadcast_like", "reshape_like", "slice_like"])
def test_shapes_of_another_input(op):
    compare(graph_of(op, ["other"]), further=["other"])


@pytest.mark.parametrize("output", [0, 1, 2])
@pytest.mark.parametrize("squeeze", [False, True])
def test_each_part_of_a_split(output, squeeze):
    net = Builder()
    attrs = {"axis": 1, "squeeze_axis": squeeze, "num_outputs": 3}
    parts = net.add("SliceChannel", "parts", net.variable("data"), **attrs)
    compare(net.graph(net.add("_copy", "part", net.output(parts, output))), (2, 3, 4))


def test_products_of_matrices():
    for attrs in ({"transpose_b": True}, {"transpose_a": True}):
        compare(graph_of("batch_dot", ["other"], **attrs), (2, 3, 4), further=["other"])


def test_bilinear_upsampling():
    net = Builder()
    data, weight = net.variable("data"), net.variable("layer_weight")
    attrs = {"scale": 2, "sample_type": "bilinear", "num_filter": 6, "num_args": 2}
    compare(net.graph(net.add("UpSampling", "layer", data, weight, **attrs)))


def test_a_cast_to_bytes_wraps():
    net = Builder()
    byte = net.add("Cast", "byte", net.variable("data"), dtype="uint8")
    graph = net.graph(net.add("Cast", "number", byte, dtype="float32"))
    data = {"data": np.array([[-1.5, 3.7, 255, 256, 300.2]], np.float32)}
    theirs = compute_with_mxnet(graph, data, {}, None, False)[0]
    assert np.array_equal(compute_with_torch(graph, data, {}, None, False)[0], theirs)


# --- What MXNet is no peer for --------------------------------------------------------------------


def module_of(graph, **params):
    return build(Network(graph, params, {}))


def test_a_dropout_drops_in_training_and_scales_what_it_keeps():
    module = module_of(graph_of("Dropout", p=0.25))
    ones = torch.ones(1, 100_000)
    assert torch.equal(module.eval()(ones), ones)
    kept = module.train()(ones)
    assert set(kept.unique().tolist()) == {0, np.float32(1 / 0.75)}
    assert (kept > 0).float().mean() == pytest.approx(0.75, abs=0.01)


def test_a_dropout_may_drop_always_and_whole_axes():
    module = module_of(graph_of("Dropout", p=0.5, mode="always", axes=(1, 2))).eval()
    dropped = module(torch.ones(64, 3, 2))
    assert torch.equal(dropped, dropped[:, :1, :1].expand_as(dropped))
    assert set(dropped.unique().tolist()) == {0, 2}


def test_a_random_slope_is_drawn_in_training_and_predicts_with_the_mean_of_its_bounds():
    graph = graph_of("LeakyReLU", act_type="rrelu", lower_bound=0.2, upper_bound=0.4)
    negative = torch.full((1000,), -1.0)
    module = module_of(graph)
    assert module.eval()(negative).tolist() == pytest.approx([-0.3] * 1000)
    slopes = -module.train()(negative)
    assert 0.2 <= slopes.min() < 0.22 and 0.38 < slopes.max() <= 0.4


def test_statistics_of_a_single_number_stay_numbers():
    shape = {"layer_gamma": 1, "layer_beta": 1}
    stats = {"layer_moving_mean": np.ones(1, "f"), "layer_moving_var": np.ones(1, "f")}
    params = {name: np.ones(size, "f") for name, size in shape.items()}
    module = build(Network(graph_of("BatchNorm", momentum=0.9), params, stats)).train()
    assert module(torch.full((1, 1), 3.0)).item() == pytest.approx(1, abs=1e-4)
    assert module.stats["layer_moving_mean"].item() == pytest.approx(1.2)
    assert module.stats["layer_moving_var"].item() == pytest.approx(0.9)


def test_what_a_network_lacks_is_left_to_be_drawn():
    net = Builder()
    logits = net.add("FullyConnected", "fc.1", net.variable("data"), num_hidden=2)
    graph = net.graph(net.add("SoftmaxOutput", "softmax", logits, smooth_alpha=0.1, grad_scale=4))
    module = module_of(graph, **{"fc.1_weight": np.ones((2, 3), "f")})
    assert module.missing == ["fc.1_bias"]
    assert module.loss_settings == {"grad_scale": 4, "smooth_alpha": 0.1, "is_mean": False}
    module.set("fc.1_bias", torch.ones(2))
    assert module.missing == [] and set(module.params) == {"fc.1_weight", "fc.1_bias"}
    images = np.full((1, 3), 5, np.uint8)
    assert module(torch.from_numpy(images)).tolist() == [[16, 16]]


def test_half_precision_keeps_parameters_and_logits_in_float32():
    net = Builder()
    graph = net.graph(net.add("FullyConnected", "fc", net.variable("data"), num_hidden=1))
    params = {"fc_weight": np.ones((1, 2), "f"), "fc_bias": np.zeros(1, "f")}
    module = build(Network(graph, params, {}), "bfloat16")
    logits = module(torch.tensor([[257.0, 0]]))
    assert logits.dtype == torch.float32 and logits.item() == 256  # bfloat16 has 8 bits
    assert module.params["fc_weight"].dtype == torch.float32


def test_a_parameter_with_a_shape_of_its_own_needs_no_layer_that_implies_it():
    net = Builder()
    scale = net.variable("scale", shape=(1, 6, 1, 1))
    graph = net.graph(net.add("broadcast_mul", "scaled", net.variable("data"), scale))
    assert shapes.infer_shapes(graph, (6, 2, 2)) == {"scale": (1, 6, 1, 1)}
    net = Builder()
    graph = net.graph(net.add("broadcast_mul", "mul", net.variable("data"), net.variable("scale")))
    with pytest.raises(UserError, match="--image-shape 6,2,2: the images do not determine all"):
        shapes.infer_shapes(graph, (6, 2, 2))


def test_sums_of_other_shapes_are_refused():
    net = Builder()
    data = net.variable("data")
    pooled = net.add("Pooling", "pool", data, global_pool=True)
    graph = net.graph(net.add("elemwise_add", "sum", data, pooled))
    with pytest.raises(UserError, match="layer sum: adds"):
        shapes.infer_shapes(graph, (6, 2, 2))
