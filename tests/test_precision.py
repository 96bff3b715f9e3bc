"""What MXNet computes a graph with, in every precision."""

import json

import numpy as np
import pytest

from common.base.files import UserError
from common.engines.mxnet.devices import supports_bfloat16
from common.engines.mxnet.precision import SYMBOL_VERSION, convert, to_graph, to_symbol
from common.engines.mxnet.runtime import mx
from common.networks import edits, symbol_file
from common.networks.graph import Builder, edit, outputs
from common.networks.resnet import build_resnet

needs_bfloat16 = pytest.mark.skipif(not supports_bfloat16()[0], reason=supports_bfloat16()[1])


def types_of(graph):
    """({name of a parameter: type}, [type of the output]) for uint8 images."""
    symbol = to_symbol(graph)
    types, output_types, _ = symbol.infer_type(data="uint8")
    return dict(zip(symbol.list_arguments(), types)), output_types


def probabilities(graph, images):
    """What a network of made-up weights gives for images of their own type."""
    executor = to_symbol(graph).simple_bind(
        mx.cpu(), data=images.shape, type_dict={"data": images.dtype}, grad_req="null"
    )
    for name, array in executor.arg_dict.items():
        if name.endswith("weight"):
            array[:] = mx.nd.array(np.random.RandomState(1).randn(*array.shape) / 10)
    return executor.forward(data=mx.nd.array(images, dtype=images.dtype))[0].asnumpy()


def test_a_symbol_is_its_graph_and_a_graph_its_symbol():
    graph = edits.take_raw_images(build_resnet(10, 4, width=8))
    text = to_symbol(graph).tojson()
    assert symbol_file.to_json(graph, SYMBOL_VERSION) == text
    assert symbol_file.to_json(to_graph(to_symbol(graph)), SYMBOL_VERSION) == text


def test_mxnet_warns_of_no_graph_whatever_wrote_it(capfd):
    graph = build_resnet(10, 4, width=8)
    for version in (10500, 10901):
        to_symbol({**graph, "attrs": {"mxnet_version": ["int", version]}})
    assert capfd.readouterr() == ("", "")


def test_an_attribute_that_mxnet_does_not_take_is_one_line():
    graph = edit(build_resnet(10, 4, width=8), {"bn0": {"eps": "many"}})
    with pytest.raises(UserError, match=r"cannot build this network \(.*eps.*many.*fetch") as error:
        to_symbol(graph)
    assert "\n" not in str(error.value)


def test_raw_images_may_be_uint8_or_float32():
    graph = edits.take_raw_images(build_resnet(10, 4, width=8))
    images = np.random.RandomState(0).randint(0, 256, (2, 3, 64, 64)).astype(np.uint8)
    found = [probabilities(graph, images.astype(dtype)) for dtype in ("uint8", "float32")]
    np.testing.assert_array_equal(*found)


def test_float32_changes_nothing():
    graph = build_resnet(10, 4, width=8)
    assert convert(graph, "float32", (3, 64, 64)) is graph


def test_float16_keeps_batch_norm_and_softmax_in_float32():
    graph = edits.take_raw_images(build_resnet(10, 4, width=8))
    half = convert(graph, "float16", (3, 64, 64))
    types, output_types = types_of(half)
    assert types["conv0_weight"] == types["fc1_weight"] == np.float16
    assert types["bn0_gamma"] == np.float32
    assert output_types == [np.float32]
    assert outputs(half) == ["softmax_output"]
    assert types_of(graph)[0]["conv0_weight"] == np.float32  # the one that was given


def from_gluon():
    """A network after a cast of its own, whose parameters Gluon fixed to float32."""
    net = Builder()
    weight = net.variable("conv0_weight", dtype="0")
    body = net.add("Cast", None, net.variable("data"), dtype="float32")
    body = net.add("Convolution", "conv0", body, weight, kernel=(3, 3), num_filter=4)
    return net.graph(edits.classify(net, net.add("Flatten", None, body), 3, "fc1"))


def test_float16_reaches_the_weights_after_any_input():
    """After --rgb-mean, too."""
    graph = edits.normalize_input(from_gluon(), (120.0, 110.0, 100.0), (60.0, 50.0, 40.0))
    types, _ = types_of(convert(graph, "float16", (3, 8, 8)))
    assert types["conv0_weight"] == types["fc1_weight"] == np.float16


@pytest.mark.parametrize("dtype", ["float16", pytest.param("bfloat16", marks=needs_bfloat16)])
def test_a_network_in_another_precision_keeps_its_casts_when_it_is_changed(dtype):
    graph = convert(edits.take_raw_images(build_resnet(10, 4, width=8)), dtype, (3, 64, 64))
    scaled = edits.scale_loss(edits.set_learning_rate_factors(graph, {"fc1_weight": 10.0}), 128)

    def casts(graph):
        return [node["name"] for node in graph["nodes"] if node["op"] in ("Cast", "amp_cast")]

    assert casts(to_graph(to_symbol(scaled))) == casts(graph) != []


@pytest.mark.skipif(not hasattr(mx.sym, "amp_cast"), reason="this MXNet has no AMP")
def test_a_cast_of_mxnets_amp_stays():
    net = Builder()
    body = net.add("amp_cast", "cast", net.variable("data"), dtype="float16")
    graph = edits.scale_loss(net.graph(net.add("SoftmaxOutput", "softmax", body)), 128)
    assert [node["op"] for node in to_graph(to_symbol(graph))["nodes"]].count("amp_cast") == 1


@needs_bfloat16
def test_bfloat16_leaves_the_first_convolution_and_the_head_in_float32():
    nodes = convert(build_resnet(18, 5), "bfloat16", (3, 64, 64))["nodes"]
    kept = [
        node["name"]
        for node in nodes
        if node["op"] in ("Convolution", "FullyConnected")
        and nodes[node["inputs"][1][0]]["op"] == "null"  # its weight, and no cast of it
    ]
    assert kept == ["conv0", "fc1"]


@needs_bfloat16
def test_bfloat16_on_amx_changes_a_copy_of_the_graph(monkeypatch):
    monkeypatch.setenv("DNNL_MAX_CPU_ISA", "AVX512_CORE_AMX")
    graph = edits.take_raw_images(build_resnet(50, 5))
    before = json.dumps(graph)
    nodes = {node["name"]: node for node in convert(graph, "bfloat16", (3, 224, 224))["nodes"]}
    assert nodes["pool1"]["op"] == "mean"
    assert nodes["stage1_unit1_conv1"]["attrs"]["dilate"] == "(2, 2)"
    assert json.dumps(graph) == before


@needs_bfloat16
def test_bfloat16_joins_a_branch_in_float32_with_others():
    """As DenseNet does, after its first convolution."""
    net = Builder()
    first = net.add("Convolution", "conv0", net.variable("data"), kernel=(3, 3), num_filter=16)
    second = net.add("Convolution", "conv1", first, kernel=(1, 1), num_filter=16)
    body = net.add("Flatten", None, net.add("Concat", None, first, second))
    graph = net.graph(edits.classify(net, body, 3, "fc1"))
    images = np.random.RandomState(1).randn(2, 3, 16, 16).astype(np.float32) / 10
    found = [
        probabilities(convert(graph, dtype, (3, 16, 16)), images)
        for dtype in ("float32", "bfloat16")
    ]
    assert (found[0] != found[1]).any()
    np.testing.assert_allclose(*found, atol=0.02)


def test_smoothed_labels_pull_towards_a_share_of_all_classes():
    net = Builder()
    graph = net.graph(net.add("SoftmaxOutput", "s", net.variable("data")))
    executor = to_symbol(edits.smooth_labels(graph, 0.3)).simple_bind(mx.cpu(), data=(1, 4))
    executor.arg_dict["data"][:] = mx.nd.array([[0, 1, 2, 3]])
    executor.arg_dict["s_label"][:] = 2
    found = executor.forward(is_train=True)[0].asnumpy()
    executor.backward()
    target = found - executor.grad_dict["data"].asnumpy()  # the gradient is p - target
    np.testing.assert_allclose(target, [[0.1, 0.1, 0.7, 0.1]], rtol=1e-5)
