"""Symbols: the zoo's ResNets, the head, the precision."""

import argparse

import numpy as np
import pytest

from common import devices, modelzoo, network
from common.data import normalize_input
from common.files import UserError
from common.find_mxnet import mx
from common.trainer import Trainer


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


def exported_by_gluon(name, folder):
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
def test_networks_that_gluon_exported_take_a_new_head_and_train(name, tmp_path):
    prefix, size = exported_by_gluon(name, tmp_path)
    symbol, pretrained, aux = modelzoo.load_pretrained(prefix)
    symbol, kept, head = network.swap_head(symbol, pretrained, num_classes=3)
    before = {n: array.asnumpy() for n, array in kept.items()}
    after = as_trained(symbol, kept, aux, size)
    moved = {n for n in before if (after[n] != before[n]).any()}
    assert set(after) - set(before) == {f"{head}_weight", f"{head}_bias"}
    assert {n for n in before if n.endswith("weight")} <= moved
    assert not moved & network.fixed_gammas(symbol)


def as_trained(symbol, arg_params, aux_params, size):
    """The weights, as numpy arrays, after one batch of two images."""
    trainer = Trainer(symbol, [mx.cpu()], (2, 3, size, size))
    trainer.initialise(arg_params, aux_params)
    trainer.start_optimizer("device", "sgd", {"learning_rate": 0.1})
    images = np.random.RandomState(0).randint(0, 256, (2, 3, size, size))
    trainer.train(mx.io.DataBatch([mx.nd.array(images, dtype="uint8")], [mx.nd.array([0, 1])]))
    return {name: array.asnumpy() for name, array in trainer.params()[0].items()}


def zoo_resnext():
    """One unit of the zoo's ResNeXt: convolutions in groups."""
    x = network._batch_norm(mx.sym.Variable("data"), "bn_data", fix_gamma=True)
    for number, groups in enumerate((1, 4, 1), start=1):
        x = mx.sym.Convolution(
            x,
            num_filter=8,
            kernel=(3, 3),
            num_group=groups,
            no_bias=True,
            name=f"stage1_unit1_conv{number}",
        )
        x = network._activate(x, f"stage1_unit1_bn{number}", f"stage1_unit1_relu{number}")
    x = mx.sym.Pooling(x, global_pool=True, kernel=(7, 7), pool_type="avg", name="pool1")
    return network._classify(mx.sym.Flatten(x, name="flatten0"), 7, "fc1")


def zoo_inception_bn():
    """One module of the zoo's Inception-BN: branches that are joined."""
    data, branches = mx.sym.Variable("data"), []
    for name in ("1x1", "3x3"):
        x = mx.sym.Convolution(data, num_filter=4, kernel=(3, 3), name=f"conv_3a_{name}")
        branches.append(network._activate(x, f"bn_3a_{name}", f"relu_3a_{name}"))
    x = mx.sym.Concat(*branches, name="ch_concat_3a_chconcat")
    x = mx.sym.Pooling(x, global_pool=True, kernel=(7, 7), pool_type="avg", name="global_pool")
    return network._classify(mx.sym.Flatten(x, name="flatten"), 7, "fc1")


def zoo_vgg():
    """The end of the zoo's VGG, whose inner layers are fully connected, too."""
    x = mx.sym.Convolution(
        mx.sym.Variable("data"), num_filter=4, kernel=(3, 3), stride=(4, 4), name="conv1_1"
    )
    x = mx.sym.Flatten(x, name="flatten_0")
    for name in ("fc6", "fc7"):
        x = mx.sym.FullyConnected(x, num_hidden=8, name=name)
        x = mx.sym.Activation(x, act_type="relu", name=f"relu_{name}")
        x = mx.sym.Dropout(x, p=0.5, name=f"drop_{name}")
    return mx.sym.SoftmaxOutput(mx.sym.FullyConnected(x, num_hidden=7, name="fc8"), name="prob")


@pytest.mark.parametrize(
    ("build", "dropped", "before_head"),
    [
        (zoo_resnext, {"fc1_weight", "fc1_bias"}, "flatten0"),
        (zoo_inception_bn, {"fc1_weight", "fc1_bias"}, "flatten"),
        (zoo_vgg, {"fc8_weight", "fc8_bias"}, "drop_fc7"),
    ],
)
def test_the_zoos_other_networks_keep_all_but_their_head_and_train(build, dropped, before_head):
    symbol = network.take_raw_images(build())
    shapes = network.infer_shapes(symbol, (3, 32, 32))
    random = np.random.RandomState(0)
    weights = {n: mx.nd.array(random.rand(*shape) / 9) for n, shape in shapes.items()}
    aux = {n: weights.pop(n) for n in symbol.list_auxiliary_states()}
    assert network.find_head(symbol)[1] == f"{before_head}_output"
    swapped, kept, head = network.swap_head(symbol, weights, num_classes=3)
    assert set(weights) - set(kept) == dropped
    assert as_trained(swapped, kept, aux, 32)[f"{head}_weight"].shape[0] == 3


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
    half = network.convert_precision(symbol, "float16", (3, 64, 64))
    types, outputs, _ = half.infer_type(data="uint8")
    of = dict(zip(half.list_arguments(), types))
    assert of["conv0_weight"] == of["fc1_weight"] == np.float16
    assert of["bn0_gamma"] == np.float32
    assert outputs == [np.float32]
    assert half.list_outputs() == ["softmax_output"]


def test_float16_reaches_the_weights_behind_any_beginning():
    """Behind a cast of its own and --rgb-mean, and in parameters that Gluon fixed to float32."""
    data = mx.sym.Cast(mx.sym.Variable("data"), dtype="float32")
    weight = mx.sym.Variable("conv0_weight", attr={"__dtype__": "0"})
    body = mx.sym.Convolution(data, weight, kernel=(3, 3), num_filter=4, name="conv0")
    symbol = network._classify(mx.sym.Flatten(body), 3, "fc1")
    flags = argparse.Namespace(rgb_mean="120,110,100", rgb_std="60,50,40")
    half = network.convert_precision(normalize_input(symbol, flags), "float16", (3, 8, 8))
    types, _, _ = half.infer_type(data="uint8")
    of = dict(zip(half.list_arguments(), types))
    assert of["conv0_weight"] == of["fc1_weight"] == np.float16


@pytest.mark.skipif(not hasattr(mx.sym, "amp_cast"), reason="this MXNet has no AMP")
def test_a_network_in_another_precision_keeps_its_casts_when_it_is_changed():
    body = mx.sym.amp_cast(mx.sym.Variable("data"), dtype="float16")
    symbol = mx.sym.SoftmaxOutput(body, name="softmax")
    scaled = network.scale_loss(symbol, 128)
    assert [node["op"] for node in network.read_nodes(scaled)].count("amp_cast") == 1


@pytest.mark.skipif(not devices.supports_bfloat16()[0], reason=devices.supports_bfloat16()[1])
def test_bfloat16_leaves_the_first_convolution_and_the_head_in_float32():
    symbol = network.convert_precision(network.build_resnet(18, 5), "bfloat16", (3, 64, 64))
    nodes = network.read_nodes(symbol)
    kept = [
        node["name"]
        for node in nodes
        if node["op"] in ("Convolution", "FullyConnected")
        and nodes[node["inputs"][1][0]]["op"] == "null"  # its weight, and no cast of it
    ]
    assert kept == ["conv0", "fc1"]


@pytest.mark.skipif(not devices.supports_bfloat16()[0], reason=devices.supports_bfloat16()[1])
def test_bfloat16_joins_a_branch_in_float32_with_others():
    """As DenseNet does, behind its first convolution."""
    first = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(3, 3), num_filter=16, name="conv0")
    second = mx.sym.Convolution(first, kernel=(1, 1), num_filter=16, name="conv1")
    symbol = network._classify(mx.sym.Flatten(mx.sym.Concat(first, second)), 3, "fc1")
    outputs = []
    for dtype in ("float32", "bfloat16"):
        converted = network.convert_precision(symbol, dtype, (3, 16, 16))
        executor = converted.simple_bind(mx.cpu(), grad_req="null", data=(2, 3, 16, 16))
        for name, array in executor.arg_dict.items():
            if name != "softmax_label":
                array[:] = mx.nd.array(np.random.RandomState(1).randn(*array.shape) / 10)
        outputs.append(executor.forward()[0].asnumpy())
    assert (outputs[0] != outputs[1]).any()
    np.testing.assert_allclose(*outputs, atol=0.02)


def test_frozen_layers_do_not_drift():
    symbol = network.build_resnet(10, 4, width=8)
    frozen, names = network.freeze(symbol, "conv0|bn|stage1")
    assert "stage1_unit1_conv1_weight" in names
    assert "stage2_unit1_conv1_weight" not in names
    attributes = {node["name"]: node.get("attrs", {}) for node in network.read_nodes(frozen)}
    assert attributes["stage1_unit1_bn1"]["use_global_stats"] == "True"
    assert "use_global_stats" not in attributes["stage2_unit1_bn1"]


def test_a_frozen_batch_norm_of_gluon_does_not_drift_either():
    block = mx.gluon.model_zoo.vision.get_model("resnet18_v1")
    symbol = block(mx.sym.Variable("data"))  # its layer batchnorm0_fwd has a batchnorm0_gamma
    frozen, _ = network.freeze(symbol, ".*batchnorm0_")
    kept = [node for node in network.read_nodes(frozen) if node["name"].endswith("batchnorm0_fwd")]
    assert kept and all(node["attrs"]["use_global_stats"] == "True" for node in kept)


def test_a_pattern_that_freezes_nothing_is_refused():
    symbol = network.build_resnet(10, 4, width=8)
    with pytest.raises(UserError, match="matches no parameter"):
        network.freeze(symbol, "stage9")
    with pytest.raises(UserError, match="not a regular expression"):
        network.freeze(symbol, "stage[")


def test_smoothed_labels_pull_towards_a_share_of_all_classes():
    symbol = network.smooth_labels(mx.sym.SoftmaxOutput(mx.sym.Variable("data"), name="s"), 0.3)
    executor = symbol.simple_bind(mx.cpu(), data=(1, 4))
    executor.arg_dict["data"][:] = mx.nd.array([[0, 1, 2, 3]])
    executor.arg_dict["s_label"][:] = 2
    probabilities = executor.forward(is_train=True)[0].asnumpy()
    executor.backward()
    target = probabilities - executor.grad_dict["data"].asnumpy()  # the gradient is p - target
    np.testing.assert_allclose(target, [[0.1, 0.1, 0.7, 0.1]], rtol=1e-5)


def test_dropout_is_put_before_the_head_alone():
    symbol, _, _ = network.swap_head(network.build_resnet(10, 7, width=8), {}, 3, dropout=0.25)
    (dropout,) = [node for node in network.read_nodes(symbol) if node["op"] == "Dropout"]
    assert float(dropout["attrs"]["p"]) == 0.25
    assert network.find_head(symbol) == ("fc1", f"{dropout['name']}_output")


def test_images_that_a_network_cannot_take_are_one_line(capfd):
    pooled = mx.sym.Pooling(mx.sym.Variable("data"), kernel=(7, 7), pool_type="avg")
    symbol = mx.sym.FullyConnected(pooled, num_hidden=2)
    with pytest.raises(UserError, match=r"--image-shape 3,5,5: .*kernel size \(7\) exceeds input"):
        network.infer_shapes(symbol, (3, 5, 5))
    assert capfd.readouterr().out == ""


@pytest.mark.filterwarnings("ignore:Cannot decide shape")
def test_a_network_with_another_input_than_images_is_refused():
    symbol = mx.sym.broadcast_add(mx.sym.Variable("data"), mx.sym.Variable("age"))
    with pytest.raises(UserError, match="do not tell all shapes"):
        network.infer_shapes(symbol, (3, 8, 8))
