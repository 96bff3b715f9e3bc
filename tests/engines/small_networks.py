"""Small networks of known kinds with random weights, and what the engines predict with them."""

import numpy as np

from common.data.loader import Batch
from common.engines import mxnet as mxnet_engine
from common.engines import torch as torch_engine
from common.engines.mxnet.precision import to_graph
from common.engines.mxnet.runtime import mx
from common.engines.torch import operators
from common.engines.torch.runtime import torch
from common.networks import Network, edits
from common.networks.graph import Builder, arguments

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
