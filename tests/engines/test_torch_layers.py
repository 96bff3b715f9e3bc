"""The layers of the PyTorch engine, compared with MXNet: outputs, gradients, statistics."""

import numpy as np
import pytest

from common.base.files import UserError
from common.engines.torch import shapes
from common.engines.torch.operators import build
from common.engines.torch.runtime import torch
from common.networks import Network
from common.networks.graph import Builder
from tests.engines.operator_peer import compare, graph_of

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


def test_bilinear_upsampling():
    net = Builder()
    data, weight = net.variable("data"), net.variable("layer_weight")
    attrs = {"scale": 2, "sample_type": "bilinear", "num_filter": 6, "num_args": 2}
    compare(net.graph(net.add("UpSampling", "layer", data, weight, **attrs)))


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


def test_a_single_number_has_the_gradients_of_mxnet():
    compare(graph_of("BatchNorm", fix_gamma=False), (1, 6, 1, 1))


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


def test_a_softmax_over_an_image_is_refused():
    """MXNet's own takes each row of its pixels, on a CPU."""
    compare(graph_of("SoftmaxActivation"), (2, 6))
    compare(graph_of("SoftmaxActivation", mode="channel"))
    with pytest.raises(
        UserError, match=r"layer layer: .* instance of \(6, 2, 2\); use --engine mx"
    ):
        shapes.infer_shapes(graph_of("SoftmaxActivation"), (6, 2, 2))


def test_an_attribute_of_none_is_mxnets_default():
    attrs = {"kernel": (3, 3), "pad": (1, 1), "pool_type": "avg", "count_include_pad": None}
    compare(graph_of("Pooling", **attrs), (2, 3, 7, 7))
