"""Symbols: the zoo's ResNets, the head, the precision."""

import numpy as np
import pytest

from common import network
from common.files import UserError
from common.find_mxnet import mx


def zoo_network(name, size=64):
    """A network of MXNet's own (Gluon) zoo with random weights, as `export` leaves it."""
    block = mx.gluon.model_zoo.vision.get_model(name, classes=10)
    block.initialize(mx.init.Xavier())
    symbol = block(mx.sym.Variable("data"))
    block(mx.nd.zeros((1, 3, size, size)))  # the parameters get their shapes
    params = {p.name: p.data() for p in block.collect_params().values()}
    return symbol, {name: params[name] for name in symbol.list_arguments() if name in params}


@pytest.mark.parametrize(
    ("num_layers", "parameters"), [(18, 11.7e6), (34, 21.8e6), (50, 25.5e6), (152, 60.2e6)]
)
def test_zoo_resnets_have_the_published_number_of_parameters(num_layers, parameters):
    symbol = network.build_resnet(num_layers, 1000)
    shapes = network.infer_shapes(symbol, (3, 224, 224))
    learnt = [shape for name, shape in shapes.items() if "moving" not in name]
    assert sum(map(np.prod, learnt)) == pytest.approx(parameters, rel=0.005)


def test_a_resnet_has_the_names_that_zoo_checkpoints_use():
    symbol = network.build_resnet(152, 11221)
    arguments, layers = symbol.list_arguments(), symbol.get_internals().list_outputs()
    for name in ("bn_data_gamma", "conv0_weight", "stage1_unit1_sc_weight", "fc1_bias"):
        assert name in arguments
    for name in ("stage3_unit36_conv3", "stage4_unit3_bn3", "bn1", "relu1", "pool1", "flatten0"):
        assert f"{name}_output" in layers
    assert symbol.list_outputs() == ["softmax_output"]


def test_the_head_is_found_and_swapped():
    symbol = network.build_resnet(10, 7, width=8)
    weights = {name: mx.nd.zeros((1,)) for name in symbol.list_arguments() if name != "data"}
    swapped, kept, head = network.swap_head(symbol, weights, num_classes=3)
    assert network.find_head(symbol) == ("fc1", "flatten0_output")
    assert head == "fc1"
    assert network.infer_shapes(swapped, (3, 64, 64))["fc1_weight"] == (3, 64)
    assert set(weights) - set(kept) == {"fc1_weight", "fc1_bias", "softmax_label"}


def test_only_the_head_of_a_vgg_is_dropped():
    symbol, weights = zoo_network("vgg11")
    dense = [name for name in weights if "dense" in name and name.endswith("weight")]
    swapped, kept, _ = network.swap_head(symbol, weights, num_classes=3)
    assert [name for name in dense if name in kept] == dense[:2]  # fc6 and fc7 stay
    assert "fc1_weight" in swapped.list_arguments()


@pytest.mark.parametrize(
    ("name", "size"),
    [("resnet18_v1", 64), ("resnet18_v2", 64), ("mobilenet0.25", 64), ("inceptionv3", 299)],
)
def test_networks_that_gluon_exported_take_a_new_head_and_train(name, size):
    symbol, weights = zoo_network(name, size)
    swapped, kept, head = network.swap_head(symbol, weights, num_classes=3)
    module = mx.mod.Module(network.take_raw_images(swapped))
    module.bind([("data", (2, 3, size, size))], [("softmax_label", (2,))])
    module.init_params(mx.init.Xavier(), arg_params=kept, aux_params={}, allow_missing=True)
    batch = mx.io.DataBatch([mx.nd.ones((2, 3, size, size))], [mx.nd.zeros((2,))])
    module.forward_backward(batch)
    assert module.get_outputs()[0].shape == (2, 3)
    assert (
        not set(swapped.list_arguments())
        - set(kept)
        - {
            "data",
            "softmax_label",
            f"{head}_weight",
            f"{head}_bias",
        }
    )


def test_a_network_without_fully_connected_layer_says_what_to_do():
    symbol = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(1, 1), num_filter=9, name="conv9")
    with pytest.raises(UserError, match="--layer-before-fullc NAME, one of: conv9"):
        network.swap_head(symbol, {}, num_classes=3)


def test_a_wrong_layer_gets_the_last_layers_to_choose_from():
    symbol = network.build_resnet(18, 7)
    with pytest.raises(UserError, match=r"flaten0: .* bn1, relu1, pool1, flatten0, fc1, softmax"):
        network.swap_head(symbol, {}, 3, layer_before_fullc="flaten0")
    _, _, head = network.swap_head(symbol, {}, 3, layer_before_fullc="pool1")
    assert head == "fc1"


def test_an_inner_layer_of_the_heads_name_keeps_its_weights():
    hidden = mx.sym.FullyConnected(mx.sym.Variable("data"), num_hidden=4, name="fc1")
    symbol = mx.sym.FullyConnected(hidden, num_hidden=2, name="fc2")
    swapped, kept, head = network.swap_head(symbol, {"fc1_weight": 1, "fc2_weight": 2}, 3)
    assert (head, kept) == ("new_fc1", {"fc1_weight": 1})
    assert "new_fc1_bias" in swapped.list_arguments()


def test_raw_images_may_be_uint8_or_float32():
    symbol = network.take_raw_images(network.build_resnet(10, 4, width=8))
    assert network.take_raw_images(symbol) is symbol
    images = np.random.RandomState(0).randint(0, 256, (2, 3, 64, 64))
    outputs = []
    for dtype in ("uint8", "float32"):
        executor = symbol.simple_bind(
            mx.cpu(), data=images.shape, type_dict={"data": dtype}, grad_req="null"
        )
        for name, array in executor.arg_dict.items():
            if name.endswith("weight"):
                array[:] = mx.nd.array(np.random.RandomState(1).randn(*array.shape) / 10)
        outputs.append(executor.forward(data=mx.nd.array(images, dtype=dtype))[0].asnumpy())
    np.testing.assert_array_equal(outputs[0], outputs[1])


def test_float16_keeps_batch_norm_and_softmax_in_float32():
    symbol = network.take_raw_images(network.build_resnet(10, 4, width=8))
    half = network.convert_precision(symbol, "float16")
    types, outputs, _ = half.infer_type(data="uint8")
    of = dict(zip(half.list_arguments(), types))
    assert of["conv0_weight"] == of["fc1_weight"] == np.float16
    assert of["bn0_gamma"] == np.float32
    assert outputs == [np.float32]
    assert half.list_outputs() == ["softmax_output"]


def test_frozen_layers_do_not_drift():
    symbol = network.build_resnet(10, 4, width=8)
    frozen, names = network.freeze(symbol, "conv0|bn|stage1")
    assert "stage1_unit1_conv1_weight" in names
    assert "stage2_unit1_conv1_weight" not in names
    attributes = {node["name"]: node.get("attrs", {}) for node in network.read_nodes(frozen)}
    assert attributes["stage1_unit1_bn1"]["use_global_stats"] == "True"
    assert "use_global_stats" not in attributes["stage2_unit1_bn1"]
    with pytest.raises(UserError, match="matches no parameter"):
        network.freeze(symbol, "stage9")
    with pytest.raises(UserError, match="not a regular expression"):
        network.freeze(symbol, "stage[")
