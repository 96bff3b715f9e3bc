"""Networks of timm on the PyTorch engine, compared with timm's own modules."""

import json

import numpy as np
import pytest

from common.base.files import UserError
from common.data.loader import Batch
from common.engines import torch as engine
from common.engines.torch import timm_networks
from common.engines.torch.runtime import torch
from common.networks import Network, onnx_files
from common.networks.resnet import build_resnet
from common.networks.timm_catalogue import TIMM_CATALOGUE
from tests.engines.timm_modules import (
    CLASSES,
    CPU,
    NETWORKS,
    SHAPE,
    batch_of,
    images,
    network_of,
    normalised,
    options,
    predict,
    timm,
    timms_module,
    trainer_of,
)


@pytest.mark.parametrize("name", NETWORKS)
def test_logits_are_timms(name):
    model = timms_module(name)
    module = timm_networks.build(network_of(model, name), SHAPE).eval()
    with torch.no_grad():
        ours, theirs = module(torch.from_numpy(images())), model(normalised(model, images()))
    assert theirs.std() > 0.1
    np.testing.assert_allclose(ours.numpy(), theirs.numpy(), atol=1e-5)


def test_lower_precision_is_by_autocast():
    model = timms_module("test_vit")
    module = timm_networks.build(network_of(model, "test_vit"), SHAPE, dtype="bfloat16").eval()
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        theirs = model(normalised(model, images()))
    with torch.no_grad():
        ours = module(torch.from_numpy(images()))
    assert ours.dtype is torch.float32
    np.testing.assert_array_equal(ours.numpy(), theirs.float().numpy())


def test_position_embeddings_are_resampled_for_other_images():
    model = timms_module("test_vit")
    module = timm_networks.build(network_of(model, "test_vit"), (3, 96, 128))
    resampled = timm.layers.resample_abs_pos_embed(model.pos_embed, (6, 8))
    torch.testing.assert_close(module.model.pos_embed, resampled)
    assert module(torch.zeros(1, 3, 96, 128)).shape == (1, CLASSES)


def test_an_export_can_be_imported(tmp_path):
    pytest.importorskip("onnx")
    network = network_of(timms_module("test_convnext"), "test_convnext")
    timm_networks.export_onnx(str(tmp_path / "net.onnx"), network, SHAPE)
    again = onnx_files.read_network(str(tmp_path / "net.onnx"))
    np.testing.assert_allclose(predict(again, images()), predict(network, images()), atol=1e-5)


def test_a_new_head_leaves_all_else():
    network = network_of(timms_module("test_convnext"), "test_convnext")
    for num_classes in (CLASSES, 9):  # as many as before: a new head all the same
        swapped = network.with_new_head(num_classes).with_arguments(drop_rate=0.3)
        module = timm_networks.build(swapped, SHAPE)
        params = {key: param.detach().numpy() for key, param in module.params.items()}
        assert params["head.fc.weight"].shape[0] == num_classes
        changed = [key for key in params if not np.array_equal(params[key], network.params[key])]
        assert set(changed) == set(network.head_params())
        assert module.model.head.drop.p == 0.3


def test_arguments_reach_the_architecture():
    network = network_of(timms_module("test_vit"), "test_vit").with_arguments(drop_path_rate=0.4)
    module = timm_networks.build(network, SHAPE)
    assert module.model.blocks[-1].drop_path1.drop_prob == pytest.approx(0.4)


@pytest.mark.parametrize("name", NETWORKS)
def test_weight_decay_leaves_out_biases_norms_and_what_the_architecture_names(name):
    network = network_of(timms_module(name), name).with_new_head(CLASSES)
    module, attributes = timm_networks.build_to_train(network, CPU[0], options())
    never = {"pos_embed", "cls_token"}  # of the ViT; the others name nothing
    for key, param in module.params.items():
        decays = param.ndim > 1 and key not in never
        assert attributes[key] == {"__wd_mult__": str(int(decays)), "__lr_mult__": "1.0"}, key


@pytest.mark.parametrize("name", NETWORKS)
def test_layer_wise_rates_are_timms(name):
    network = network_of(timms_module(name), name).with_new_head(CLASSES)
    settings = options(layer_decay=0.5, learning_rate_factors={f"{network.head}.weight": 10.0})
    module, attributes = timm_networks.build_to_train(network, CPU[0], settings)
    groups = timm.optim.param_groups_layer_decay(module.model, layer_decay=0.5)
    scales = {id(param): group["lr_scale"] for group in groups for param in group["params"]}
    for key, param in module.params.items():
        factor = 10 if key == f"{network.head}.weight" else 1
        rate = float(attributes[key]["__lr_mult__"])
        assert rate == pytest.approx(factor * scales[id(param)]), key
    assert len(set(scales.values())) > 2


def test_blocks_are_skipped_in_training_alone():
    network = network_of(timms_module("test_vit"), "test_vit")
    skipping = network.with_arguments(drop_path_rate=0.9)
    modules = [timm_networks.build(each, SHAPE) for each in (network, skipping)]
    batch = torch.from_numpy(images())
    with torch.no_grad():
        plain, found = (module.eval()(batch) for module in modules)
        torch.testing.assert_close(found, plain)
        plain, found = (module.train()(batch) for module in modules)
    assert (found - plain).abs().max() > 0.01


def test_joint_statistics_are_refused():
    network = network_of(timms_module("regnety_002"), "regnety_002")
    with pytest.raises(UserError, match="--sync-batch-norm: is not for networks of timm"):
        timm_networks.build_to_train(network, CPU[0], options(sync_batch_norm=True))


def test_an_update_is_pytorchs():
    model = timms_module("test_convnext")
    network = network_of(model, "test_convnext")
    trainer = trainer_of(network, learning_rate_factors={"head.fc.bias": 10})
    batch = batch_of()
    trainer.step(batch, 0.1)()
    logits = model.train()(normalised(model, batch.images))
    torch.nn.functional.cross_entropy(logits, torch.from_numpy(batch.labels).long()).backward()
    state = trainer.state()
    for key, param in model.named_parameters():
        rate = 1.0 if key == "head.fc.bias" else 0.1
        updated = (param - rate * param.grad).detach().numpy()
        np.testing.assert_allclose(state.params[key], updated, atol=1e-6, err_msg=key)


def test_labels_are_smoothed():
    model = timms_module("test_convnext")
    network = network_of(model, "test_convnext").smooth_labels(0.1)
    trainer, batch = trainer_of(network), batch_of()
    trainer.step(batch, 0.1)()
    truth = torch.full((4, CLASSES), 0.1 / (CLASSES - 1))
    truth.scatter_(1, torch.from_numpy(batch.labels).long()[:, None], 0.9)
    torch.nn.functional.cross_entropy(model(normalised(model, batch.images)), truth).backward()
    bias = model.head.fc.bias
    updated = (bias - 0.1 * bias.grad).detach().numpy()
    np.testing.assert_allclose(trainer.state().params["head.fc.bias"], updated, atol=1e-6)


def test_training_in_bfloat16_keeps_weights_in_float32():
    trainer = trainer_of(network_of(timms_module("test_vit"), "test_vit"), dtype="bfloat16")
    before = trainer.state().params
    assert np.isfinite(trainer.step(batch_of(), 0.1)()).all()
    after = trainer.state().params
    assert {array.dtype for array in after.values()} == {np.dtype(np.float32)}
    assert not np.array_equal(before["head.weight"], after["head.weight"])


def test_frozen_layers_stay_with_their_statistics():
    network = network_of(timms_module("regnety_002"), "regnety_002")
    network, frozen = network.freeze("stem|s1")
    trainer = trainer_of(network, frozen=frozen)
    trainer.step(batch_of(), 0.1)()
    state = trainer.state()
    for key, array in {**state.params, **state.stats}.items():
        before = {**network.params, **network.stats}[key]
        if key.startswith(("stem", "s1")):
            np.testing.assert_array_equal(array, before, err_msg=key)
        elif key.endswith("running_mean") or key == "head.fc.weight":
            assert not np.array_equal(array, before), key
    with pytest.raises(UserError, match=r"has no parameter other\.weight; its names "):
        trainer_of(network, frozen=["other.weight"])


def test_networks_of_both_kinds_are_averaged():
    graph = build_resnet(10, CLASSES, width=8)
    random = np.random.RandomState(0)
    arrays = {
        key: np.abs(random.normal(0, 0.1, shape)).astype(np.float32)
        for key, shape in engine.infer_shapes(graph, SHAPE).items()
    }
    stats = {key: arrays.pop(key) for key in [*arrays] if "moving" in key}
    of_mxnet = Network(graph, arrays, stats)
    of_timm = network_of(timms_module("test_vit"), "test_vit")
    predictor = engine.Predictor([of_mxnet, of_timm], [1, 3], CPU, 3, SHAPE)
    ((_, mean),) = predictor.predict([Batch(images(), None, None, pad=0, missing=[])])
    expected = 0.25 * predict(of_mxnet, images()) + 0.75 * predict(of_timm, images())
    np.testing.assert_allclose(mean, expected, atol=1e-6)
    with pytest.raises(UserError, match="have 4 and 6 classes"):
        others = of_timm.with_new_head(4)
        engine.Predictor([of_mxnet, others], [1, 1], CPU, 3, SHAPE)


def test_weights_of_another_architecture_are_one_line():
    network = network_of(timms_module("test_vit"), "test_vit")
    network.architecture = "test_convnext"
    with pytest.raises(UserError, match=r"timm's test_convnext for images of 64x64: .*the weights"):
        timm_networks.build(network, SHAPE)


def test_images_that_are_too_small_are_one_line():
    network = network_of(timms_module("test_vit"), "test_vit")
    with pytest.raises(UserError, match="timm's test_vit for images of 8x8: "):
        timm_networks.build(network, (3, 8, 8))


def test_a_network_without_a_classifier_is_refused():
    model = timm.create_model("test_convnext", num_classes=0)
    with pytest.raises(UserError, match="choose a classifier"):
        timm_networks.build(network_of(model, "test_convnext"), SHAPE)


def test_an_unknown_name_has_close_ones():
    with pytest.raises(UserError, match=r"no such network; close names: .*convnext_tiny"):
        timm_networks.timm_config("convnext_tinny")
    with pytest.raises(UserError, match=r"knows no such weights; those of convnext_tiny: .*in12k"):
        timm_networks.timm_config("convnext_tiny.of_nobody")
    config = timm_networks.timm_config("convnext_tiny.in12k")
    assert config["pretrained_cfg"]["tag"] == "in12k"


@pytest.mark.parametrize("name", TIMM_CATALOGUE)
def test_what_is_listed_is_what_timm_says(name):
    entry, architecture = TIMM_CATALOGUE[name], name.partition(".")[0]
    with torch.device("meta"):
        model = timm.create_model(architecture, num_classes=0)
    assert sum(param.numel() for param in model.parameters()) == entry.num_parameters
    assert entry.is_non_commercial == entry.licence.startswith("cc-by-nc")
    if not name.endswith("inat21"):  # which only the hub has
        cfg = timm.get_pretrained_cfg(name, allow_unregistered=False)
        assert (cfg.license, cfg.input_size[-1]) == (entry.licence, entry.image_size)


def test_configurations_are_json():
    for name in NETWORKS:
        assert json.loads(json.dumps(timm_networks.timm_config(name)))["architecture"] == name


def test_weights_under_other_names_are_named():
    network = network_of(timms_module("regnety_002"), "regnety_002")
    network.params["a.weight"] = network.params.pop("stem.conv.weight")
    with pytest.raises(UserError, match=r'Missing key\(s\) in state_dict: "stem.conv.weight"'):
        timm_networks.build(network, SHAPE)
