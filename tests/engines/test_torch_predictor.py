"""Predictions of the PyTorch engine, compared with MXNet's."""

import dataclasses

import numpy as np
import pytest

from common.base.files import UserError
from common.data.loader import Batch
from common.engines import mxnet as mxnet_engine
from common.engines import torch as torch_engine
from common.engines.mxnet.precision import to_graph
from common.engines.mxnet.runtime import mx
from common.engines.torch import fusion, operators
from common.engines.torch.devices import supports
from common.engines.torch.memory import copy_to
from common.engines.torch.runtime import torch
from common.engines.torch.shapes import shapes_of
from common.networks import Network, edits, onnx_files, symbol_file, torch_networks
from common.networks.graph import Builder, arguments
from common.networks.resnet import build_resnet
from tests import torch_reference
from tests.networks import torch_exports

CLASSES = 7


def with_random_weights(graph, side, seed=0):
    """The network with weights that keep the scale of what they see, and statistics that matter."""
    random = np.random.RandomState(seed)
    params, stats = {}, {}
    for name, shape in torch_engine.infer_shapes(graph, (3, side, side)).items():
        if name.startswith(("bn_data_", "raw_")) and name.endswith(("moving_mean", "moving_var")):
            stats[name] = np.full(shape, 120 if name.endswith("mean") else 3600, np.float32)
        elif name.endswith("var"):
            stats[name] = random.uniform(0.5, 2, shape).astype(np.float32)
        elif name.endswith("mean"):
            stats[name] = random.normal(0, 0.3, shape).astype(np.float32)
        elif name.endswith("gamma"):
            params[name] = random.uniform(0.5, 1.5, shape).astype(np.float32)
        elif len(shape) == 1:
            params[name] = random.normal(0, 0.1, shape).astype(np.float32)
        else:
            scale = np.sqrt(2 / np.prod(shape[1:]))
            params[name] = random.normal(0, scale, shape).astype(np.float32)
    network = Network(graph, params, stats)
    last = [name for name in arguments(graph) if name.endswith("_weight")][-1][: -len("weight")]
    spread = logits_of(network, next(batches_of(side)).images).std()
    for name in (f"{last}weight", f"{last}bias"):
        if name in params:
            params[name] /= spread  # so that probabilities are neither 0 nor 1
    return network


def logits_of(network, images):
    """What goes into the softmax, of the module as it is built."""
    with torch.no_grad():
        return operators.build(network).eval()(torch.from_numpy(images)).numpy()


def of_images(network_of):
    """A graph that normalises raw images, and ends in the classifier."""
    net = Builder()
    raw = net.add("Cast", "raw_cast", net.variable("data"), dtype="float32")
    data = net.add("BatchNorm", "raw", raw, fix_gamma=True, use_global_stats=True)
    body = network_of(net, data)
    pooled = net.add("Pooling", "pool_last", body, global_pool=True, pool_type="avg")
    return net.graph(edits.classify(net, net.add("Flatten", None, pooled), CLASSES, "fc1"))


def batches_of(side, count=1, size=3, views=None, pad=0, seed=0):
    random = np.random.RandomState(seed)
    shape = (size, 3, side, side) if views is None else (size, views, 3, side, side)
    for number in range(count):
        images = random.randint(0, 256, shape, np.uint8)
        last = pad if number == count - 1 else 0
        yield Batch(images, np.zeros(size, np.float32), np.arange(size), last, [])


def predict(engine, networks, side, weights=None, devices="cpu", dtype="float32", **batches):
    """The probabilities of each batch."""
    size = batches.get("size", 3)
    weights = weights or [1] * len(networks)
    predictor = engine.Predictor(
        networks, weights, engine.parse_devices(devices), size, (3, side, side), dtype
    )
    return [values for _, values in predictor.predict(batches_of(side, **batches))]


def assert_engines_agree(network, side, **kwargs):
    networks = network if isinstance(network, list) else [network]
    theirs = predict(mxnet_engine, networks, side, **kwargs)
    ours = predict(torch_engine, networks, side, **kwargs)
    assert len(ours) == len(theirs)
    for mine, other in zip(ours, theirs):
        assert mine.dtype == np.float32
        assert other.max() < 0.999  # probabilities that can differ
        np.testing.assert_allclose(mine, other, rtol=1e-4)


# --- Architectures --------------------------------------------------------------------------------


def gluon_graph(name, **settings):
    """A network of Gluon's model zoo as it is exported, with this project's head and input."""
    network = getattr(mx.gluon.model_zoo.vision, name)(classes=CLASSES, **settings)
    graph = to_graph(network(mx.sym.Variable("data")))
    net = Builder()
    graph = net.graph(net.add("SoftmaxOutput", "softmax", net.copy_of(graph)))
    return edits.take_raw_images(edits.normalize_input(graph, (120,) * 3, (60,) * 3))


GLUON = {
    "alexnet": 96,
    "densenet121": 224,
    "inception_v3": 299,
    "mobilenet0_25": 64,
    "mobilenet_v2_0_25": 64,
    "resnet18_v1": 64,
    "resnet18_v2": 64,
    "resnet50_v1": 64,
    "resnet50_v2": 64,
    "squeezenet1_0": 224,
    "squeezenet1_1": 224,
    "vgg11": 64,
    "vgg11_bn": 64,
}


@pytest.mark.parametrize("name", GLUON)
def test_a_network_of_gluon_gives_the_same_probabilities(name):
    graph = gluon_graph(name)
    assert_engines_agree(with_random_weights(graph, GLUON[name]), GLUON[name], size=2)


@pytest.mark.parametrize("num_layers", [18, 50])
def test_the_zoos_resnets_give_the_same_probabilities(num_layers):
    graph = edits.take_raw_images(build_resnet(num_layers, CLASSES, width=16))
    assert_engines_agree(with_random_weights(graph, 64), 64)


def conv(net, x, name, filters, kernel=3, stride=1, groups=1, act="relu"):
    """A convolution, a batch norm and an activation, as Inception-BN and ResNeXt name them."""
    pad = (kernel // 2, kernel // 2)
    attrs = {"kernel": (kernel, kernel), "stride": (stride, stride), "pad": pad, "no_bias": True}
    x = net.add("Convolution", f"conv_{name}", x, num_filter=filters, num_group=groups, **attrs)
    x = net.add("BatchNorm", f"bn_{name}", x, fix_gamma=False, eps=2e-5)
    return net.add("Activation", f"act_{name}", x, act_type=act) if act else x


def resnext(net, data):
    """Xie et al. 2017: the zoo's ResNeXt; its ReLU comes behind the sum."""
    x = conv(net, data, "stem", 16, 7, 2)
    x = net.add("Pooling", "pool", x, kernel=(3, 3), stride=(2, 2), pad=(1, 1), pool_type="max")
    for name, stride in (("unit1", 2), ("unit2", 1)):
        y = conv(net, conv(net, x, f"{name}a", 16, 1), f"{name}b", 16, 3, stride, groups=4)
        y = conv(net, y, f"{name}c", 32, 1, act=None)
        x = conv(net, x, f"{name}d", 32, 1, stride, act=None) if stride > 1 else x
        x = net.add(
            "Activation", f"{name}_relu", net.add("elemwise_add", None, x, y), act_type="relu"
        )
    return x


def inception_bn(net, data):
    """Ioffe and Szegedy 2015: branches of full pools, joined."""
    x = conv(net, data, "stem", 16, 7, 2)
    full = {"kernel": (3, 3), "stride": (2, 2), "pooling_convention": "full"}
    x = net.add("Pooling", "pool_stem", x, pool_type="max", **full)
    same = {"kernel": (3, 3), "stride": (1, 1), "pad": (1, 1)}
    pooled = net.add("Pooling", "pool_3a", x, pool_type="avg", **same)
    branches = [
        conv(net, x, "3a_1x1", 8, 1),
        conv(net, conv(net, x, "3a_3x3_reduce", 8, 1), "3a_3x3", 8),
        conv(net, pooled, "3a_proj", 4, 1),
    ]
    x = net.add("Concat", "3a", *branches)
    pooled = net.add("Pooling", "pool_3b", x, pool_type="max", **full)
    down = conv(net, conv(net, x, "3b_reduce", 8, 1), "3b_3x3", 12, 3, 2)
    cut = net.add("slice_like", "cut", pooled, down, axes=(2, 3))
    return net.add("Concat", "3b", down, cut)


def inception_resnet(net, data):
    """Szegedy et al. 2016: residuals that are scaled, asymmetric kernels, and PReLU."""
    x = conv(net, data, "stem", 8, 3, 2)
    attrs = {"num_filter": 8, "kernel": (1, 7), "pad": (0, 3)}
    y = net.add("Convolution", "wide", x, **attrs)
    y = net.add("LeakyReLU", "prelu", y, act_type="prelu")
    y = net.add("_mul_scalar", "scaled", y, scalar=0.17)
    x = net.add("elemwise_add", "sum", x, y)
    return net.add("LRN", "lrn", net.add("Activation", "out", x, act_type="relu"), nsize=5)


def squeeze_and_excitation(net, data):
    """Hu et al. 2018, as MXNet's SE networks are written: FullyConnected on the pooled channels."""
    x = conv(net, data, "stem", 16, 3, 2)
    pooled = net.add("Pooling", "se_pool", x, global_pool=True, pool_type="avg", kernel=(7, 7))
    squeezed = net.add("FullyConnected", "se_fc1", net.add("Flatten", None, pooled), num_hidden=4)
    squeezed = net.add("Activation", "se_relu", squeezed, act_type="relu")
    gate = net.add("FullyConnected", "se_fc2", squeezed, num_hidden=16)
    gate = net.add("Activation", "se_sigmoid", gate, act_type="sigmoid")
    gate = net.add("Reshape", "se_gate", gate, shape=(-1, 16, 1, 1))
    return net.add("broadcast_mul", "se_scaled", x, gate)


def mobilenet_v3(net, data):
    """Howard et al. 2019: hard swish, and squeeze-and-excitation by convolutions."""
    x = conv(net, data, "stem", 16, 3, 2, act=None)
    gate = net.add(
        "_div_scalar",
        None,
        net.add("clip", None, net.add("_plus_scalar", None, x, scalar=3), a_min=0, a_max=6),
        scalar=6,
    )
    x = conv(net, net.add("elemwise_mul", "hswish", x, gate), "depthwise", 16, 5, groups=16)
    pooled = net.add("mean", "squeeze", x, axis=(2, 3), keepdims=True)
    excited = net.add("Convolution", "excite", pooled, num_filter=16, kernel=(1, 1))
    return net.add("broadcast_mul", "se", x, net.add("hard_sigmoid", "gate", excited))


def reused(net, data):
    """What fusing layers must leave alone: outputs with two readers, weights with two layers."""
    x = conv(net, data, "stem", 8, act=None)
    relu = net.add("Activation", "relu", x, act_type="relu")
    x = net.add("elemwise_add", "twice", net.add("elemwise_add", "once", x, relu), x)
    weight = net.variable("shared_weight")
    attrs = {"num_filter": 8, "kernel": (1, 1), "no_bias": True}
    first = net.add("Convolution", "first", x, weight, **attrs)
    second = net.add("Convolution", "second", first, weight, **attrs)
    y = net.add("elemwise_add", "three", net.add("elemwise_add", "two", second, first), x)
    y = net.add(
        "BatchNorm", "behind", net.add("Convolution", "third", y, **{**attrs, "no_bias": False})
    )
    return net.add("_copy", "same", net.add("Activation", "last", y, act_type="relu"))


BODIES = [resnext, inception_bn, inception_resnet, squeeze_and_excitation, mobilenet_v3, reused]


@pytest.mark.parametrize("body", BODIES)
def test_a_small_network_of_a_known_kind_gives_the_same_probabilities(body, monkeypatch):
    if body is reused:  # MXNet's own fusion overwrites what is read again
        monkeypatch.setenv("MXNET_SUBGRAPH_BACKEND", "NONE")
    assert_engines_agree(with_random_weights(of_images(body), 33), 33)


@pytest.mark.parametrize("year", ["2016", "2017", "1.5.0"])
def test_a_network_of_another_year_gives_the_same_probabilities(year):
    from tests.faults.test_old_files import old_symbol

    text = old_symbol(symbol_file.to_json(of_images(inception_bn)), year)
    graph = symbol_file.parse(text, "old")
    assert_engines_agree(with_random_weights(graph, 33), 33)


@pytest.mark.parametrize("name", ["resnet18", "resnext50_32x4d", "efficientnet_lite0"])
def test_an_import_of_pytorch_gives_the_same_probabilities(name):
    torch.manual_seed(0)
    reference = torch_reference.ARCHITECTURES[name]()
    torch_reference.randomise(reference)
    state = {key: tensor.numpy() for key, tensor in reference.state_dict().items()}
    network = torch_networks.build(state, name if "lite0" in name else None)
    assert_engines_agree(network, 64)


@pytest.mark.parametrize("kind", torch_exports.KINDS)
def test_an_import_of_onnx_gives_the_probabilities_of_onnx_runtime(kind, tmp_path, monkeypatch):
    """MXNet 1.9.1 is no peer here: the ShuffleNet ends it with a floating point exception."""
    peer = pytest.importorskip("tests.networks.test_onnx_files")
    path = str(tmp_path / "net.onnx")
    monkeypatch.setattr("sys.argv", ["torch_exports.py", kind, "13", path])
    torch_exports.main()
    (batch,) = batches_of(33, size=1)
    network = onnx_files.read_network(path, peer.MEAN, peer.STD)
    (ours,) = predict(torch_engine, [network], 33, size=1)
    np.testing.assert_allclose(ours, peer.expected(path, batch.images), rtol=1e-4)


# --- What a predictor does ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def network():
    return with_random_weights(of_images(resnext), 33)


@pytest.fixture(scope="module")
def other():
    return with_random_weights(of_images(inception_bn), 33, seed=1)


def test_an_ensemble_is_averaged_by_its_weights(network, other):
    assert_engines_agree([network, other], 33, weights=[3, 1])
    (both,) = predict(torch_engine, [network, other], 33, weights=[3, 1])
    (first,), (second,) = (predict(torch_engine, [one], 33) for one in (network, other))
    np.testing.assert_allclose(both, 0.75 * first + 0.25 * second, rtol=1e-5)


def test_the_views_of_an_image_are_averaged(network):
    assert_engines_agree(network, 33, views=4)


def test_batches_come_back_in_order_without_their_padding(network):
    assert_engines_agree(network, 33, count=5, pad=1)
    batches = [*batches_of(33, count=5, pad=1)]
    predictor = torch_engine.Predictor(
        [network], [1], torch_engine.parse_devices("cpu"), 3, (3, 33, 33)
    )
    predicted = [*predictor.predict(batches)]
    assert [batch for batch, _ in predicted] == batches
    assert [len(values) for _, values in predicted] == [3, 3, 3, 3, 2]
    assert predictor.num_classes == CLASSES


def test_several_devices_give_what_one_gives(network):
    one, two = (
        predict(torch_engine, [network], 33, count=3, devices=devices)
        for devices in ("cpu", "cpu:0,cpu:1")
    )
    np.testing.assert_array_equal(one, two)


def test_memory_of_the_engine_is_read_without_a_copy(network):
    (batch,) = batches_of(33)
    array = torch_engine.allocate(batch.images.shape, np.uint8)
    assert array.dtype == np.uint8 and array.flags.writeable
    array[:] = batch.images
    assert copy_to(array, torch.device("cpu")).data_ptr() == array.ctypes.data
    predictor = torch_engine.Predictor(
        [network], [1], torch_engine.parse_devices("cpu"), 3, (3, 33, 33)
    )
    own, (expected,) = (
        dataclasses.replace(batch, images=array),
        predict(torch_engine, [network], 33),
    )
    ((_, values),) = predictor.predict([own])
    np.testing.assert_array_equal(values, expected)


def test_a_predictor_leaves_its_networks_as_they_are(network):
    before = {name: array.copy() for name, array in {**network.params, **network.stats}.items()}
    predict(torch_engine, [network], 33)
    for name, array in {**network.params, **network.stats}.items():
        np.testing.assert_array_equal(array, before[name])


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_the_bits_give_nearly_the_same_probabilities(network, dtype):
    if not supports(dtype, torch.device("cpu"))[0]:
        pytest.skip(f"this processor has no {dtype}")
    (full,), (half,) = (predict(torch_engine, [network], 33, dtype=d) for d in ("float32", dtype))
    assert half.dtype == np.float32
    np.testing.assert_allclose(half.sum(1), 1, rtol=1e-5)
    assert 0 < abs(half - full).max() < 0.03


def copied(net, data):
    """A sum is read as it is after the ReLU that could overwrite it."""
    x = conv(net, data, "a", 8, act=None)
    total = net.add("elemwise_add", "sum", x, conv(net, x, "b", 8, act=None))
    kept = net.add("_copy", "kept", total)
    relu = net.add("Activation", "relu", total, act_type="relu")
    return net.add("elemwise_add", "out", kept, relu)


def doubled(net, data):
    """A convolution that is added to itself, which MXNet's own fusion does not bear."""
    x = net.add("Convolution", "conv", data, num_filter=8, kernel=(3, 3))
    return net.add("Activation", "relu", net.add("elemwise_add", "twice", x, x), act_type="relu")


@pytest.mark.parametrize("body", [*BODIES, doubled])
def test_integers_give_nearly_the_same_probabilities(body):
    able, reason = supports("int8", torch.device("cpu"))
    if not able:
        pytest.skip(reason)
    network = with_random_weights(of_images(body), 33)
    quantized = torch_engine.quantize(network, next(batches_of(33)).images)
    (full,) = predict(torch_engine, [network], 33)
    for _ in range(2):  # nothing that is kept was overwritten
        (found,) = predict(torch_engine, [quantized], 33, dtype="int8")
        assert 0 < abs(found - full).max() < 0.02


@pytest.mark.parametrize("use_onednn", [True, False])
@pytest.mark.parametrize("body", [*BODIES, copied, doubled])
def test_a_module_that_is_rewritten_for_prediction_gives_the_same_logits(body, use_onednn):
    network = with_random_weights(of_images(body), 33)
    images = next(batches_of(33)).images
    module = operators.build(network, channels_last=True)
    num_steps = len(module.plan.steps)
    _, entries = shapes_of(module.plan, images.shape)
    fusion.prepare(module, entries, "float32", use_onednn)
    with torch.inference_mode():
        for _ in range(2):  # nothing that is kept was overwritten
            logits = module(torch.from_numpy(images)).numpy()
            np.testing.assert_allclose(logits, logits_of(network, images), rtol=1e-4, atol=1e-4)
    assert len(module.plan.steps) < num_steps or body in (doubled, inception_resnet)


# --- Errors ---------------------------------------------------------------------------------------


def test_networks_of_other_classes_are_not_averaged(network):
    graph, params, head = edits.swap_head(network.graph, network.params, 3)
    params.update({f"{head}_weight": np.zeros((3, 32), "f"), f"{head}_bias": np.zeros(3, "f")})
    with pytest.raises(UserError, match="the networks have 3 and 7 classes; only networks of"):
        predict(torch_engine, [network, Network(graph, params, network.stats)], 33)


def test_a_checkpoint_that_does_not_fit_is_named(network):
    params = {**network.params, "fc1_bias": np.zeros(3, np.float32)}
    with pytest.raises(UserError, match=r"fc1_bias should be \(7,\), and is \(3,\); are both"):
        predict(torch_engine, [network.with_arrays(params, network.stats)], 33)
    del params["fc1_bias"]
    with pytest.raises(UserError, match=r"fc1_bias should be \(7,\), and is nothing; are both"):
        predict(torch_engine, [network.with_arrays(params, network.stats)], 33)


def test_images_that_are_too_small_are_an_error_of_one_line():
    network = Network(edits.take_raw_images(gluon_graph("squeezenet1_0")), {}, {})
    with pytest.raises(UserError, match=r"does not take images of 32x32 .*--crop-size"):
        predict(torch_engine, [network], 32)
    with pytest.raises(
        UserError, match="--image-shape 3,32,32: this network cannot take such"
    ) as e:
        torch_engine.infer_shapes(network.graph, (3, 32, 32))
    assert "\n" not in str(e.value)


def test_weights_that_diverged_are_an_error(network):
    params = {**network.params, "fc1_bias": np.full(CLASSES, np.nan, np.float32)}
    with pytest.raises(UserError, match="are NaN or infinite: its training has diverged"):
        predict(torch_engine, [network.with_arrays(params, network.stats)], 33)


@pytest.mark.parametrize(
    "op, attrs, what",
    [
        ("SpatialTransformer", {}, "a SpatialTransformer"),
        ("Convolution", {"layout": "NHWC", "kernel": (1, 1)}, "a Convolution with layout=NHWC"),
        ("LeakyReLU", {"act_type": "new"}, "a LeakyReLU with act_type=new"),
    ],
)
def test_an_operator_that_is_not_computed_is_one_line_before_anything_long(op, attrs, what):
    net = Builder()
    graph = net.graph(net.add(op, "odd", net.variable("data"), **attrs))
    message = f"--engine torch: the layer odd is {what}, which this engine does not compute; use"
    with pytest.raises(UserError, match=message):
        operators.build(Network(graph, {}, {}))
