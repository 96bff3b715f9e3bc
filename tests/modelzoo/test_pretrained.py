"""Pretrained networks as a user names them: by prefix, or as somebody else's file."""

import functools
import json
import os
import shutil
import sys

import numpy as np
import pytest

from common import engines
from common.base.files import UserError
from common.networks import Network, checkpoint, graph, pretrained
from common.networks.edits import swap_head
from tests.modelzoo.conftest import LITE0, infer_shapes, load_pretrained
from tests.random_networks import with_random_weights
from tests.torch_writer import resnet_state, save_legacy, save_safetensors, save_zip

pytestmark = pytest.mark.skipif(not engines.installed(), reason="no engine is installed")
import_network = functools.partial(pretrained.import_network, infer_shapes=infer_shapes)


def test_local_files_are_loaded_by_their_prefix(resnet):
    network = load_pretrained(resnet)
    assert graph.arguments(network.graph)[0] == "data"
    assert network.params["fc1_weight"].shape[0] == 9
    assert "bn_data_moving_mean" in network.stats


def test_a_name_without_a_folder_is_looked_for_in_the_models_folder(resnet):
    folder, name = os.path.split(resnet)
    assert load_pretrained(name, model_dir=folder)


def compute(network, images):
    """What MXNet computes with a network, as numpy."""
    from common.engines.mxnet.precision import to_symbol
    from common.engines.mxnet.runtime import mx

    symbol = to_symbol(network.graph)
    values = {"data": images, "softmax_label": np.zeros(len(images), np.float32), **network.params}
    arguments = {
        name: mx.nd.array(values[name], dtype=values[name].dtype)
        for name in symbol.list_arguments()
    }
    states = {name: mx.nd.array(array) for name, array in network.stats.items()}
    return symbol.bind(mx.cpu(), arguments, aux_states=states).forward()[0].asnumpy()


def test_networks_from_everywhere_take_uint8_images(resnet, lite0, mx):
    images = np.random.RandomState(0).randint(0, 256, (1, 3, 64, 64))
    for prefix in (resnet, lite0):
        network = load_pretrained(prefix)
        outputs = [compute(network, images.astype(dtype)) for dtype in ("uint8", "float32")]
        np.testing.assert_array_equal(*outputs)


def test_of_several_epochs_one_is_to_be_chosen(resnet):
    shutil.copy(f"{resnet}-0000.params", f"{resnet}-0007.params")
    with pytest.raises(UserError, match="epochs 0, 7; choose one with --pretrained-epoch"):
        load_pretrained(resnet)
    assert load_pretrained(resnet, epoch=7)


def test_the_choice_of_an_epoch_is_asked_for_by_the_flag_of_the_tool(zoo, resnet):
    shutil.copy(f"{resnet}-0000.params", f"{resnet}-0007.params")
    assert "epochs 0, 7; choose one with --epoch\n" in zoo("info", resnet, status=2)
    assert "parameters" in zoo("info", resnet, "--epoch", 7)


def test_damaged_parameters_end_in_one_line(zoo, resnet):
    path = f"{resnet}-0000.params"
    with open(path, "rb") as stream:
        whole = stream.read()
    flipped = bytearray(whole)
    flipped[30] ^= 1
    for content in (whole[: len(whole) // 2], bytes(flipped)):
        with open(path, "wb") as stream:
            stream.write(content)
        said = zoo("verify", resnet, status=2)
        assert said.count("\n") == 1 and path in said


def test_a_symbol_of_another_network_ends_in_one_line(resnet, lite0):
    shutil.copy(f"{lite0}-symbol.json", f"{resnet}-symbol.json")
    with pytest.raises(UserError, match=r"resnet-0000\.params: does not fit its symbol"):
        load_pretrained(resnet)


def test_a_network_for_other_images_is_checked_with_their_size(zoo, tmp_path):
    net, prefix = graph.Builder(), str(tmp_path / "small")
    logits = net.add("FullyConnected", "fc1", net.variable("data"), num_hidden=2)
    small = net.graph(net.add("SoftmaxOutput", "softmax", logits))
    checkpoint.save(prefix, 0, with_random_weights(small, 64, 1))
    assert "symbol (fc1_weight is of shape (2, 12288)" in zoo("verify", prefix, status=2)
    assert "fit the symbol" in zoo("verify", prefix, "--image-size", 64)
    assert "24,578 parameters" in zoo("info", prefix, "--image-size", 64)
    assert load_pretrained(prefix, image_shape=(3, 64, 64))
    (tmp_path / "small-config.json").write_text('{"flags": {"image_shape": "3,64,64"}}')
    assert "fit the symbol" in zoo("verify", prefix)


def test_a_weight_that_is_no_number_is_named(tmp_path):
    state = resnet_state((1, 1, 1, 1), num_classes=9)
    state["layer3.0.bn1.bias"].array[3] = np.nan
    path = save_legacy(tmp_path / "resnet18.pth", state)
    with pytest.raises(UserError, match=r"resnet18.pth: damaged: layer3.0.bn1.bias holds"):
        load_pretrained(path)


def test_the_mean_of_an_old_network_is_subtracted_inside_it(tmp_path, mx):
    # Inception-BN, of the catalogue, was trained on images less a mean.
    net = graph.Builder()
    flat = net.add("Flatten", "flatten0", net.variable("data"))
    logits = net.add("FullyConnected", "fc1", flat, num_hidden=2)
    two_classes = net.graph(net.add("SoftmaxOutput", "softmax", logits))
    size = 3 * 224 * 224
    weights = {"fc1_weight": np.ones((2, size), np.float32), "fc1_bias": np.zeros(2, np.float32)}
    prefix = str(tmp_path / "imagenet1k-inception-bn")
    checkpoint.save(prefix, 0, Network(two_classes, weights, {}))
    network = load_pretrained("imagenet1k-inception-bn", model_dir=str(tmp_path))
    features = network.with_graph(graph.subgraph(network.graph, "flatten0_output"))
    normalised = compute(features, np.full((1, 3, 224, 224), 130, np.uint8))
    channels = normalised.reshape(3, -1).mean(axis=1)
    np.testing.assert_allclose(channels, [6.32, 13.221, 26.061], rtol=1e-4)


@pytest.mark.skipif(shutil.which("dot") is None, reason="no graphviz")
def test_a_network_is_drawn(zoo, resnet, tmp_path):
    zoo("info", resnet, "--plot", tmp_path / "network.svg")
    assert "stage1_unit1_conv1" in (tmp_path / "network.svg").read_text()
    said = zoo("info", resnet, "--plot", tmp_path / "network.xyz", status=2)
    assert "network.xyz: graphviz cannot draw it" in said
    said = zoo("info", resnet, "--plot", tmp_path / "no" / "network.pdf", status=2)
    assert "its folder does not exist" in said


def test_a_checkpoint_of_an_unknown_network_is_named(zoo, tmp_path):
    header = json.dumps({"x.weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}})
    content = len(header).to_bytes(8, "little") + header.encode() + bytes(4)
    (tmp_path / "other.safetensors").write_bytes(content)
    said = zoo("import", tmp_path / "other.safetensors", "--name", "other", status=2)
    assert "other.safetensors: its tensors are not of a network that is known here" in said


def safetensors_of(path, shapes):
    arrays = {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}
    return save_safetensors(path, arrays)


def test_an_efficientnet_b0_is_not_asked_for_a_variant_of_lite0(tmp_path):
    shapes = {f"blocks.0.{i}.conv_dw.weight": (8, 1, 3, 3) for i in range(16)}
    shapes.update({"conv_stem.weight": (32, 3, 3, 3), "blocks.0.0.se.conv_reduce.bias": (8,)})
    path = safetensors_of(tmp_path / "efficientnet_b0.safetensors", shapes)
    for variant in (None, "efficientnet_lite0"):
        with pytest.raises(UserError, match=r"is an EfficientNet-B0, .* EfficientNet-Lite0"):
            load_pretrained(path, variant=variant)


@pytest.mark.parametrize("name", ["best.pth.tar", "pytorch_model.bin", "last.ckpt", "net.model"])
def test_a_file_is_taken_by_its_content_whatever_it_is_called(tmp_path, name):
    state = resnet_state((1, 1, 1, 1), num_classes=9)
    for save in (save_zip, save_legacy):
        path = save(tmp_path / name, {"epoch": 1, "state_dict": state, "best_acc1": 0.5})
        assert load_pretrained(path).params["fc1_weight"].shape == (9, 2048)
    arrays = {key: tensor.array for key, tensor in state.items()}
    path = save_safetensors(tmp_path / name, arrays)
    assert load_pretrained(path).params["fc1_weight"].shape == (9, 2048)


def test_an_anti_aliased_resnet_is_known_by_its_files_name(tmp_path):
    path = save_zip(tmp_path / "resnetblur50-84f4748f.pth", resnet_state((1, 1, 1, 1)))
    with pytest.raises(UserError, match=r"anti-aliased ResNet, .* --architecture NAME"):
        load_pretrained(path)


def test_onnx_under_another_name_goes_to_its_importer(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    (tmp_path / "net.model").write_bytes(b"\x08\x08\x12\x07pytorch\x1a")
    with pytest.raises(UserError, match=r"net\.model: .* takes the onnx package"):
        load_pretrained(str(tmp_path / "net.model"))


def test_mxnets_own_file_is_answered_with_its_prefix(resnet):
    with pytest.raises(UserError, match=r"-0000\.params: holds MXNet's .* name the prefix"):
        load_pretrained(f"{resnet}-0000.params")


def test_a_prefix_is_one_though_a_file_has_its_name(resnet):
    with open(resnet, "w") as stream:
        stream.write("notes")
    assert load_pretrained(resnet)


def test_a_variant_of_what_is_not_pytorchs_is_refused(resnet):
    with pytest.raises(UserError, match=r"--variant efficientnet_lite0: is for PyTorch files"):
        load_pretrained(resnet, variant="efficientnet_lite0")


def test_the_variant_of_a_lite0_is_asked_for_and_taken(tmp_path):
    """timm's tensors do not say whether they were trained in TensorFlow."""
    path = safetensors_of(tmp_path / "model.safetensors", {"conv_stem.weight": (32, 3, 3, 3)})
    with pytest.raises(UserError, match=r"say which: --variant tf_efficientnet_lite0"):
        load_pretrained(path)
    with pytest.raises(UserError, match=r"has no tensor _bn0\.weight"):
        load_pretrained(path, variant="tf_efficientnet_lite0")


def test_a_network_without_a_head_gets_one_and_predicts_nothing_before(tmp_path, caplog):
    state = resnet_state((1, 1, 1, 1))
    del state["fc.weight"], state["fc.bias"]
    path = save_zip(tmp_path / "moco.pth.tar", {"state_dict": state})
    with caplog.at_level("INFO"):
        network = load_pretrained(path)
    assert "moco.pth.tar: has no classifier" in caplog.text
    assert graph.outputs(network.graph) == ["flatten0_output"]
    swapped, kept, head = swap_head(network.graph, network.params, num_classes=3)
    assert head == "fc1" and set(kept) == set(network.params)
    assert infer_shapes(swapped, (3, 64, 64))["fc1_weight"] == (3, 2048)
    prefix = import_network(path, "moco", model_dir=str(tmp_path))
    assert graph.outputs(load_pretrained(prefix).graph) == ["flatten0_output"]
    with pytest.raises(UserError, match=r"moco-symbol\.json: has no classifier; give it one"):
        checkpoint.load(prefix, 0)


def test_an_interrupted_import_leaves_no_half_network(zoo, lite0, tmp_path):
    cut = tmp_path / "cut.pth"
    with open(LITE0, "rb") as stream:
        cut.write_bytes(stream.read()[: 10**6])
    assert "cut.pth: is cut off" in zoo(
        "import", cut, "--name", "half", "--model-dir", tmp_path, status=2
    )
    assert os.listdir(tmp_path) == ["cut.pth"]


@pytest.mark.parametrize("made", ["run-0003.params", "run-config.json", "run-0002.safetensors"])
def test_an_import_leaves_a_training_run_alone(zoo, tmp_path, made):
    (tmp_path / made).touch()
    said = zoo("import", LITE0, "--name", "run", "--model-dir", tmp_path, status=2)
    assert said == (
        f"modelzoo.py: --name run: {tmp_path}/run is a training run; choose another name\n"
    )
    assert os.listdir(tmp_path) == [made]


def test_onnx_without_its_package_is_told_how_to_install_it(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "onnx", None)
    (tmp_path / "net.onnx").write_bytes(b"")
    with pytest.raises(UserError, match=r"takes the onnx package; run: .*requirements/onnx"):
        load_pretrained(str(tmp_path / "net.onnx"))


@pytest.mark.slow
def test_torchvisions_resnet_152_is_fine_tuned_on_the_sample(script, engine, sample, tmp_path):
    path = save_zip(tmp_path / "resnet152.pth", resnet_state((3, 8, 36, 3)))
    done = script(
        "fine-tune.py",
        *("--data-dir", sample, "--pretrained-model", path, "--gpus", ""),
        *("--engine", engine),
        *("--model-prefix", tmp_path / "tuned", "--image-shape", "3,64,64"),
        *("--batch-size", 8, "--num-epochs", 1, "--lr", 0.001),
    )
    assert "Epoch[0] Train-accuracy" in done.stderr
    before = load_pretrained(path).params
    tuned = checkpoint.load(str(tmp_path / "tuned"), 1)
    assert tuned.params["fc1_weight"].shape == (6, 2048)
    names = graph.arguments(tuned.graph)
    assert len([n for n in names if "_conv" in n or n.startswith("conv")]) == 151
    for name, changes in (("stage3_unit36_conv2_weight", True), ("bn_data_gamma", False)):
        same = np.array_equal(before[name], tuned.params[name])
        assert same != changes
