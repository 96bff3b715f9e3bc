"""Networks of every origin take a new head, keep all else, and train."""

import numpy as np
import pytest

from common import engines
from common.data.loader import Batch
from common.engines import TrainerOptions
from common.networks import Network, edits, pretrained
from common.networks.graph import Builder, auxiliary_states
from common.networks.resnet import _activate, _batch_norm
from common.training.schedule import Schedule


def exported_by_gluon(mx, name, folder):
    """The prefix of a network of MXNet's own zoo, random weights, and its image size."""
    zoo = mx.gluon.model_zoo.vision
    size = {"inceptionv3": 299, "vgg": 224}.get(name, 64)
    block = zoo.VGG([1] * 5, [4] * 5) if name == "vgg" else zoo.get_model(name, classes=10)
    mx.random.seed(1)
    block.initialize(mx.init.Xavier())
    block.hybridize()
    block(mx.nd.zeros((1, 3, size, size)))
    block.export(str(folder / name))
    return str(folder / name), size


@pytest.mark.parametrize(
    "name", ["resnet18_v1", "resnet18_v2", "mobilenet0.25", "vgg", "inceptionv3"]
)
def test_networks_that_gluon_exported_take_a_new_head_and_train(mx, engine, name, tmp_path):
    prefix, size = exported_by_gluon(mx, name, tmp_path)
    network = pretrained.load_pretrained(prefix, engines.load(engine).infer_shapes)
    graph, before, head = edits.swap_head(network.graph, network.params, num_classes=3)
    after = as_trained(engine, Network(graph, before, network.stats, head), size)
    moved = {n for n in before if (after[n] != before[n]).any()}
    assert set(after) - set(before) == {f"{head}_weight", f"{head}_bias"}
    assert {n for n in before if n.endswith("weight")} <= moved
    assert not moved & edits.fixed_gammas(graph)


def as_trained(engine, network, size):
    """The weights after one batch of two images."""
    engine = engines.load(engine)
    devices = engine.parse_devices("cpu")
    options = TrainerOptions(2, (3, size, size), schedule=Schedule("step", 0.1, 1.0, (), 0, 1))
    trainer = engine.Trainer(network, devices, options, engine.Workers("device", devices))
    images = np.random.RandomState(0).randint(0, 256, (2, 3, size, size)).astype(np.uint8)
    batch = Batch(images, np.array([0, 1], np.float32), np.arange(2), pad=0, missing=[])
    trainer.step(batch, 0.1)
    return trainer.state().params


def zoo_resnext(net, data):
    """One unit of the zoo's ResNeXt: convolutions in groups."""
    x = _batch_norm(net, data, "bn_data", fix_gamma=True)
    for number, groups in enumerate((1, 4, 1), start=1):
        x = net.add(
            "Convolution",
            f"stage1_unit1_conv{number}",
            x,
            num_filter=8,
            kernel=(3, 3),
            num_group=groups,
            no_bias=True,
        )
        x = _activate(net, x, f"stage1_unit1_bn{number}", f"stage1_unit1_relu{number}")
    x = net.add("Pooling", "pool1", x, global_pool=True, kernel=(7, 7), pool_type="avg")
    return edits.classify(net, net.add("Flatten", "flatten0", x), 7, "fc1")


def zoo_inception_bn(net, data):
    """One module of the zoo's Inception-BN: branches that are joined."""
    branches = []
    for name in ("1x1", "3x3"):
        x = net.add("Convolution", f"conv_3a_{name}", data, num_filter=4, kernel=(3, 3))
        branches.append(_activate(net, x, f"bn_3a_{name}", f"relu_3a_{name}"))
    x = net.add("Concat", "ch_concat_3a_chconcat", *branches)
    x = net.add("Pooling", "global_pool", x, global_pool=True, kernel=(7, 7), pool_type="avg")
    return edits.classify(net, net.add("Flatten", "flatten", x), 7, "fc1")


def zoo_vgg(net, data):
    """The end of the zoo's VGG, whose inner layers are fully connected, too."""
    x = net.add("Convolution", "conv1_1", data, num_filter=4, kernel=(3, 3), stride=(4, 4))
    x = net.add("Flatten", "flatten_0", x)
    for name in ("fc6", "fc7"):
        x = net.add("FullyConnected", name, x, num_hidden=8)
        x = net.add("Activation", f"relu_{name}", x, act_type="relu")
        x = net.add("Dropout", f"drop_{name}", x, p=0.5)
    return net.add("SoftmaxOutput", "prob", net.add("FullyConnected", "fc8", x, num_hidden=7))


@pytest.mark.parametrize(
    ("build", "dropped", "before_head"),
    [
        (zoo_resnext, {"fc1_weight", "fc1_bias"}, "flatten0"),
        (zoo_inception_bn, {"fc1_weight", "fc1_bias"}, "flatten"),
        (zoo_vgg, {"fc8_weight", "fc8_bias"}, "drop_fc7"),
    ],
)
def test_the_zoos_other_networks_keep_all_but_their_head_and_train(
    engine, build, dropped, before_head
):
    net = Builder()
    graph = edits.take_raw_images(net.graph(build(net, net.variable("data"))))
    random = np.random.RandomState(0)
    shapes = engines.load(engine).infer_shapes(graph, (3, 32, 32))
    weights = {n: (random.rand(*shape) / 9).astype(np.float32) for n, shape in shapes.items()}
    stats = {n: weights.pop(n) for n in auxiliary_states(graph)}
    assert edits.find_head(graph)[1] == f"{before_head}_output"
    swapped, kept, head = edits.swap_head(graph, weights, num_classes=3)
    assert set(weights) - set(kept) == dropped
    trained = as_trained(engine, Network(swapped, kept, stats, head), 32)
    assert trained[f"{head}_weight"].shape[0] == 3
