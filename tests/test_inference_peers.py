"""What benchmarks/inference_peers.py starts: our rates, and the runtimes that read our ONNX."""

import argparse
import sys

import numpy as np
import pytest

from benchmarks import predict_rate, rates, train_rate
from benchmarks.sides import Side, close_all, start_sides
from common import engines
from common.base.files import UserError
from common.networks import edits
from common.networks.export import export_onnx
from common.networks.resnet import build_resnet
from tests.random_networks import with_random_weights

SIDE = 32


def flags(network, dtype="float32"):
    shapes = {"image_size": SIDE, "batch_size": 2, "num_classes": 3, "views": 1, "networks": 1}
    ways = {"dtype": dtype, "compile": False, "tf32": False, "records": None}
    return argparse.Namespace(network=network, **shapes, **ways)


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    pytest.importorskip("onnx")
    graph = edits.take_raw_images(build_resnet(18, 3))
    path = str(tmp_path_factory.mktemp("exported") / "network.onnx")
    export_onnx(path, with_random_weights(graph, SIDE, seed=0), (3, SIDE, SIDE))
    return path


def peer(runtime, path, dtype):
    command = [sys.executable, "-m", "benchmarks.onnx_peer", runtime, path, "--dtype", dtype]
    return [*command, "--size", str(SIDE), "--batch-size", "2", "--batches", "3"]


def test_the_rates_predict_and_train_with_a_network_of_each_kind(engine):
    loaded = engines.load(engine)
    devices = loaded.parse_devices("cpu")
    assert predict_rate.make_predict(flags("resnet-18"), loaded, devices)(2) == []
    losses = train_rate.make_train(flags("resnet-18"), loaded, devices)(2)
    assert len(losses) == 2 and np.isfinite(losses).all()


def test_the_rates_take_networks_of_timm():
    pytest.importorskip("timm")
    torch = engines.load("torch")
    devices = torch.parse_devices("cpu")
    network = rates.build_network(flags("timm:convnext_atto"), torch)
    assert (network.architecture, network.num_classes) == ("convnext_atto", 3)
    for dtype in ("float32", "int8"):
        work = flags("timm:convnext_atto", dtype)
        assert predict_rate.make_predict(work, torch, devices)(1) == []
    (loss,) = train_rate.make_train(flags("timm:convnext_atto"), torch, devices)(1)
    assert np.isfinite(loss)


def test_a_network_that_the_rates_do_not_know_is_refused(engine):
    args = flags("resnet")
    args.engine, args.gpus = engine, "cpu"
    with pytest.raises(UserError, match="--network resnet: must be resnet-N or timm:NAME"):
        rates.measure(args, "predict", predict_rate.make_predict)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_onnx_runtime_predicts_with_what_we_export(exported, dtype):
    pytest.importorskip("onnxruntime")
    if dtype == "int8":
        pytest.importorskip("ml_dtypes")  # of ONNX Runtime's quantization
    side = Side("ONNX Runtime", peer("onnxruntime", exported, dtype))
    assert side() == 6
    assert [*close_all({"": side})] == ["ONNX Runtime"]


@pytest.mark.parametrize("dtype", ["bfloat16", "int8"])
def test_openvino_predicts_with_what_we_export(exported, dtype):
    pytest.importorskip("openvino")
    side = Side("OpenVINO", peer("openvino", exported, dtype))
    assert side() == 6
    assert "OpenVINO" in close_all({"": side})


def test_a_peer_that_lacks_a_precision_is_left_out_and_says_so(exported, capsys):
    pytest.importorskip("onnxruntime")
    assert start_sides({"ONNX Runtime": peer("onnxruntime", exported, "bfloat16")}) == {}
    assert capsys.readouterr().out == "left out: ONNX Runtime: has no bfloat16 on x86 processors\n"
