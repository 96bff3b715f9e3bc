"""Networks of timm in the scripts: trained, resumed, scored, exported; what is refused."""

import argparse
import os
import runpy
import shutil
import signal
import sys

import numpy as np
import pytest

from common import engines
from common.base.files import UserError
from common.engines.torch import timm_networks
from common.engines.torch.runtime import torch
from common.evaluation.ensemble import load_predictor
from common.networks import checkpoint, timm_files, timm_pretrained
from tests.conftest import ROOT
from tests.engines.timm_modules import (
    CLASSES,
    CPU,
    NETWORKS,
    SHAPE,
    SIDE,
    images,
    network_of,
    normalised,
    predict,
    timm,
    timms_module,
)


def softmax(logits):
    return torch.softmax(logits, 1).detach().numpy()


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
    main("sub.py", 2, "cpu", *flags, "--dtype", "int8", "--output", tmp_path / "int8.csv")
    assert len((tmp_path / "int8.csv").read_text().splitlines()) == 1 + 25
    assert (tmp_path / "whole-0002-int8-torch-0000.safetensors").exists()
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
            *("--log", "plain"),  # torchrun has flags that begin so
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


def test_a_second_stage_at_a_higher_resolution_keeps_the_head(main, sample, tmp_path):
    prefix = str(tmp_path / "run")
    checkpoint.save(str(tmp_path / "vit"), 0, network_of(timms_module("test_vit"), "test_vit"))

    def train(side, epochs, *flags):
        main(
            *("fine-tune.py", "--gpus", "cpu", "--data-dir", sample),  # timm needs PyTorch
            *("--model-prefix", prefix, "--mom", 0.9),
            *("--image-shape", f"3,{side},{side}", "--batch-size", 16, "--lr", 1e-9, *flags),
            *("--num-epochs", epochs, "--initial-validation", 0),
        )

    train(SIDE, 1, "--pretrained-model", tmp_path / "vit", "--dropout", 0.5)
    with pytest.raises(UserError, match=r"has pos_embed in the shape .* use the --image-shape"):
        train(96, 2, "--load-epoch", 1)
    os.remove(checkpoint.states_path(prefix, 1))  # as the message says
    train(96, 2, "--load-epoch", 1)
    first, second = (checkpoint.load(prefix, epoch) for epoch in (1, 2))
    assert second.arguments["drop_rate"] == 0  # as this run has it
    assert second.params["pos_embed"].shape != first.params["pos_embed"].shape
    for name in first.head_params():
        np.testing.assert_allclose(second.params[name], first.params[name], atol=1e-6)


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


def test_without_timm_one_line_says_what_to_install(stand_in, tmp_path, monkeypatch):
    stand_in("timm", "raise RuntimeError('operator torchvision::nms does not exist')")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "timm")
    with pytest.raises(
        UserError, match=r"\(operator torchvision::nms .*\): pip install timm, with"
    ):
        timm_networks.timm_config("convnext_tiny")


def test_mxnet_says_which_engine_is_needed(mx, tmp_path):
    mxnet = engines.load("mxnet")
    prefix = str(tmp_path / "run")
    checkpoint.save(prefix, 1, network_of(timms_module("test_vit"), "test_vit"))
    args = argparse.Namespace(networks=[(prefix, 1)], dtype="float32", engine=mxnet)
    args.weights, args.devices, args.batch_size, args.crop_shape = [1], CPU, 1, (SIDE, SIDE)
    with pytest.raises(UserError, match="this network of timm needs --engine torch"):
        load_predictor(args)


@pytest.mark.parametrize("flags", [("--rgb-mean", "1,2,3"), ("--layer-before-fullc", "x")])
def test_flags_of_other_networks_are_refused(main, sample, tmp_path, flags):
    with pytest.raises(UserError, match=flags[0]):
        main(
            *("fine-tune.py", "--engine", "torch", "--data-dir", sample, "--batch-size", 4),
            *("--pretrained-model", "timm:test_vit", "--model-prefix", tmp_path / "run", *flags),
        )
