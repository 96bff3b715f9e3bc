"""Networks of timm on the PyTorch engine, compared with timm's own modules."""

import argparse
import json
import os
import runpy
import shutil
import signal
import sys

import numpy as np
import pytest

try:
    import timm
except (ImportError, RuntimeError) as error:  # RuntimeError: a torchvision of another PyTorch
    pytest.skip(f"takes PyTorch and timm ({error})", allow_module_level=True)

from common import engines
from common.base.files import UserError
from common.data.loader import Batch
from common.engines import TrainerOptions
from common.engines import torch as engine
from common.engines.torch import timm_networks
from common.engines.torch.runtime import torch
from common.evaluation.ensemble import load_predictor
from common.networks import Network, checkpoint, timm_files, timm_pretrained
from common.networks.resnet import build_resnet
from common.networks.timm_catalogue import TIMM_CATALOGUE
from common.networks.timm_network import TimmNetwork
from tests.conftest import ROOT

# A ConvNeXt, a ViT, an EfficientNetV2 and a RegNet, the smallest that timm has.
NETWORKS = ["test_convnext", "test_vit", "tf_efficientnetv2_b0", "regnety_002"]
SIDE, CLASSES = 64, 6
SHAPE = (3, SIDE, SIDE)
CPU = engine.parse_devices("cpu")


def timms_module(name, num_classes=CLASSES, **arguments):
    """timm's own module with random weights, a head that tells images apart, and statistics."""
    torch.manual_seed(0)
    if timm.get_pretrained_cfg(name).fixed_input_size:
        arguments.setdefault("img_size", SIDE)
    model = timm.create_model(name, num_classes=num_classes, **arguments).eval()
    for key, tensor in model.state_dict().items():
        if key.endswith("running_var"):
            tensor.uniform_(0.5, 2)
        elif key.endswith("running_mean"):
            tensor.normal_(0, 0.1)
    logits = model(normalised(model, images()))
    weight = model.get_classifier().weight
    weight.data /= logits.detach().std()
    return model


def images(count=3, side=SIDE, seed=0):
    return np.random.RandomState(seed).randint(0, 256, (count, 3, side, side), np.uint8)


def normalised(model, raw):
    """Images as timm's own transforms give them to a module."""
    mean, std = (
        torch.tensor(model.pretrained_cfg[key]).reshape(1, 3, 1, 1) for key in ("mean", "std")
    )
    return (torch.from_numpy(raw).float() / 255 - mean) / std


def network_of(model, name):
    """The `TimmNetwork` of timm's module."""
    arrays = {key: tensor.numpy() for key, tensor in model.state_dict().items()}
    config = {**timm_networks.timm_config(name), "num_classes": model.num_classes}
    return TimmNetwork.from_config(config, arrays)


def predict(network, raw, dtype="float32"):
    predictor = engine.Predictor([network], [1], CPU, len(raw), raw.shape[1:], dtype)
    ((_, probabilities),) = predictor.predict([Batch(raw, None, None, pad=0, missing=[])])
    return probabilities


def softmax(logits):
    return torch.softmax(logits, 1).detach().numpy()


class FixedRate:
    def rate(self, update):
        return 0.1


def options(**changes):
    return TrainerOptions(
        **{"batch_size": 4, "image_shape": SHAPE, "schedule": FixedRate(), **changes}
    )


def trainer_of(network, devices="cpu", **changes):
    devices = engine.parse_devices(devices)
    workers = engine.Workers("device", devices)
    return engine.Trainer(network, devices, options(**changes), workers)


def batch_of(seed=0):
    labels = np.array([0, 1, 2, 5], np.float32)
    return Batch(images(4, seed=seed), labels, np.arange(4), pad=0, missing=[])


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


@pytest.fixture
def main(monkeypatch):
    """Call a script's `main()` in this process, which has PyTorch and timm loaded."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def call(name, *arguments):
        monkeypatch.setattr(sys, "argv", [name, *map(str, arguments)])
        try:
            return runpy.run_path(os.path.join(ROOT, name))["main"]()
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)

    return call


@pytest.mark.parametrize("name", NETWORKS)
def test_a_network_is_fine_tuned_resumed_scored_and_exported(main, sample, tmp_path, name):
    weights = str(tmp_path / "pretrained.safetensors")
    network = network_of(timms_module(name, num_classes=11), name)
    timm_files.write_safetensors(weights, {**network.params, **network.stats})

    def train(prefix, epochs, *flags):
        main(
            *("fine-tune.py", "--engine", "torch", "--gpus", "cpu", "--data-dir", sample),
            *("--pretrained-model", weights, "--architecture", name, "--num-epochs", epochs),
            *("--image-shape", f"3,{SIDE},{SIDE}", "--batch-size", 16, "--mom", 0.9, "--lr", 0.02),
            *(
                "--dropout",
                0.2,
                "--ema",
                0.9,
                "--data-nthreads",
                1,
                "--model-prefix",
                tmp_path / prefix,
                *flags,
            ),
        )

    train("whole", 2)
    train("parts", 1)
    train("parts", 2, "--resume")
    trained = checkpoint.load(str(tmp_path / "whole"), 2)
    assert trained.num_classes == CLASSES
    for ending in ("", "-ema"):
        network = checkpoint.load(str(tmp_path / f"whole{ending}"), 2)
        resumed = checkpoint.load(str(tmp_path / f"parts{ending}"), 2)
        for key, array in {**network.params, **network.stats}.items():
            np.testing.assert_array_equal(array, {**resumed.params, **resumed.stats}[key])

    flags = ("--engine", "torch", "--data-dir", sample, "--model-prefix", tmp_path / "whole")
    main("sub.py", "1,2", "cpu", *flags, "--set", "val", "--output", tmp_path / "val.csv")
    assert (tmp_path / "report-val.html").exists()
    kept = ("--crops", 2, "--save-probs", tmp_path / "test.npz")
    main("sub.py", 2, "cpu", *flags, "--output", tmp_path / "test.csv", *kept)
    assert len((tmp_path / "test.csv").read_text().splitlines()) == 1 + 25
    merged = ("--output", tmp_path / "merged.csv", "--data-dir", sample)
    main("sub.py", "--merge", tmp_path / "test.npz", *merged)
    best = [  # kept probabilities have three digits, so that later places may differ
        [row.split()[0] for row in (tmp_path / f"{kind}.csv").read_text().splitlines()]
        for kind in ("test", "merged")
    ]
    assert best[0] == best[1]

    path = timm_files.weights_path(str(tmp_path / "whole"), 2)
    size = {"img_size": SIDE} if trained.pretrained_cfg["fixed_input_size"] else {}
    theirs = timm.create_model(name, num_classes=CLASSES, checkpoint_path=path, **size).eval()
    expected = softmax(theirs(normalised(theirs, images())))
    np.testing.assert_allclose(predict(trained, images()), expected, atol=1e-5)

    main("sub.py", 2, "cpu", *flags, "--export-onnx", tmp_path / "net.onnx")
    session = pytest.importorskip("onnxruntime").InferenceSession(str(tmp_path / "net.onnx"))
    for count in (1, 3):
        (exported,) = session.run(None, {"data": images(count).astype(np.float32)})
        np.testing.assert_allclose(exported, expected[:count], atol=1e-5)


def test_two_processes_train_as_one(script, sample, tmp_path):
    checkpoint.save(str(tmp_path / "vit"), 0, network_of(timms_module("test_vit"), "test_vit"))
    ends = []
    for devices in ("cpu", "cpu:0,cpu:1"):
        prefix = str(tmp_path / f"on {len(devices)}")
        script(
            *("fine-tune.py", "--engine", "torch", "--gpus", devices, "--data-dir", sample),
            *("--pretrained-model", tmp_path / "vit", "--model-prefix", prefix, "--num-epochs", 1),
            *("--image-shape", f"3,{SIDE},{SIDE}", "--batch-size", 16, "--initial-validation", 0),
        )
        ends.append(checkpoint.load(prefix, 1).params)
    for key, array in ends[0].items():
        np.testing.assert_allclose(ends[1][key], array, atol=1e-5, err_msg=key)


def test_a_second_stage_begins_with_a_checkpoint_at_a_higher_resolution(main, sample, tmp_path):
    first = str(tmp_path / "first")
    before = network_of(timms_module("test_vit"), "test_vit")
    checkpoint.save(first, 3, before)
    flags = (
        *("--engine", "torch", "--gpus", "cpu", "--data-dir", sample, "--image-shape", "3,96,96"),
        *("--batch-size", 16, "--num-epochs", 1, "--lr", 1e-9, "--model-prefix"),
    )
    main("fine-tune.py", "--pretrained-model", first, *flags, tmp_path / "second")
    after = checkpoint.load(str(tmp_path / "second"), 1)
    sizes = [network.params["pos_embed"].shape[1] for network in (before, after)]
    assert sizes == [1 + 4 * 4, 1 + 6 * 6]
    layer = "blocks.0.attn.qkv.weight"
    np.testing.assert_allclose(after.params[layer], before.params[layer], atol=1e-6)
    main("fine-tune.py", "--pretrained-model", first, "--from-scratch", *flags, tmp_path / "random")
    random = checkpoint.load(str(tmp_path / "random"), 1)
    assert abs(random.params[layer] - after.params[layer]).max() > 1e-3


def test_what_timm_saves_for_its_hub_is_a_pretrained_network(tmp_path):
    model = timms_module("test_vit")
    timm.models.save_for_hf(model, tmp_path / "test_vit.mine", safe_serialization=True)
    network = timm_pretrained.load_pretrained(
        "timm:test_vit.mine", timm_networks.timm_config, model_dir=str(tmp_path)
    )
    assert network.num_classes == CLASSES
    expected = softmax(model(normalised(model, images())))
    np.testing.assert_allclose(predict(network, images()), expected, atol=1e-5)


def test_timm_loads_a_checkpoint_as_a_network_of_its_hub(tmp_path):
    model = timms_module("test_vit")
    trained = network_of(model, "test_vit").for_images(SHAPE)
    state = {key: array.numpy() for key, array in model.state_dict().items()}
    checkpoint.save(str(tmp_path / "run"), 7, trained.with_arrays(state, {}))
    folder = tmp_path / "model"
    folder.mkdir()
    shutil.copy(timm_files.config_path(str(tmp_path / "run")), folder / "config.json")
    shutil.copy(timm_files.weights_path(str(tmp_path / "run"), 7), folder / "model.safetensors")
    theirs = timm.create_model(f"local-dir:{folder}", pretrained=True).eval()
    assert theirs.num_classes == CLASSES
    raw = normalised(model, images())
    torch.testing.assert_close(theirs(raw), model(raw))


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


def test_without_timm_one_line_says_what_to_install(stand_in, tmp_path, monkeypatch):
    stand_in("timm", "raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm")
    with pytest.raises(
        UserError, match=r"\(operator torchvision::nms .*\): pip install timm, with"
    ):
        timm_networks.timm_config("convnext_tiny")


def test_int8_is_refused(tmp_path):
    prefix = str(tmp_path / "run")
    checkpoint.save(prefix, 1, network_of(timms_module("test_vit"), "test_vit"))
    args = argparse.Namespace(
        networks=[(prefix, 1)], dtype="int8", engine=engine, weights=[1], devices=CPU
    )
    args.batch_size, args.crop_size = 1, SIDE
    with pytest.raises(
        UserError, match=r"--dtype int8: .*run-0001\.safetensors is a network of timm"
    ):
        load_predictor(args)


def test_mxnet_says_which_engine_is_needed(mx, tmp_path):
    mxnet = engines.load("mxnet")
    prefix = str(tmp_path / "run")
    checkpoint.save(prefix, 1, network_of(timms_module("test_vit"), "test_vit"))
    args = argparse.Namespace(networks=[(prefix, 1)], dtype="float32", engine=mxnet)
    args.weights, args.devices, args.batch_size, args.crop_size = [1], CPU, 1, SIDE
    with pytest.raises(UserError, match="this network of timm needs --engine torch"):
        load_predictor(args)


@pytest.mark.parametrize("flags", [("--rgb-mean", "1,2,3"), ("--layer-before-fullc", "x")])
def test_flags_of_other_networks_are_refused(main, sample, tmp_path, flags):
    with pytest.raises(UserError, match=flags[0]):
        main(
            *("fine-tune.py", "--engine", "torch", "--data-dir", sample, "--batch-size", 4),
            *("--pretrained-model", "timm:test_vit", "--model-prefix", tmp_path / "run", *flags),
        )


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
