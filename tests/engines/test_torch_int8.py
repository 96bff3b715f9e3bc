"""PyTorch in 8-bit integers: how near to float32, in which layers, and as sub.py has it."""

import csv
import os
import time

import cv2
import numpy as np
import pytest

from common import engines
from common.base.files import UserError
from common.base.processor import cpu_flags
from common.data.loader import Batch
from common.engines import torch as engine
from common.engines.torch import int8_arithmetic, operators
from common.engines.torch.initial_weights import draw
from common.engines.torch.runtime import torch
from common.evaluation.quantized import load_quantized
from common.networks import Network, checkpoint, edits
from common.networks.graph import Builder, auxiliary_states, edit
from common.networks.resnet import build_resnet
from tests.conftest import require_engine, run_python
from tests.made_up_challenge import CATEGORY_IDS, SIZE, make_folder, pixels, read_csv

CLASSES, SIDE = 6, 64
CPU = engine.parse_devices("cpu")

pytestmark = pytest.mark.skipif(
    not engine.describe()["int8"].startswith("yes"), reason=engine.describe()["int8"]
)


def images_of(count, side=SIDE):
    """Images of a few coloured patches."""
    patches = np.random.RandomState(5).randint(0, 256, (count, 2, 2, 3)).astype(np.uint8)
    images = [cv2.resize(image, (side, side), interpolation=cv2.INTER_CUBIC) for image in patches]
    return np.array(images).transpose(0, 3, 1, 2)


def with_weights(graph, side=SIDE, seed=3):
    """A network of random weights, with the statistics of its layers on some images."""
    generator, random = torch.Generator().manual_seed(seed), np.random.RandomState(seed)
    arrays = {}
    for name, shape in engine.infer_shapes(graph, (3, side, side)).items():
        arrays[name] = draw(name, shape, {}, generator).numpy()
        if name.endswith(("gamma", "beta", "bias")):
            arrays[name] += random.uniform(-0.3, 0.3, shape).astype(np.float32)
    stats = {name: arrays.pop(name) for name in auxiliary_states(graph)}
    norms = [node["name"] for node in graph["nodes"] if node["op"] == "BatchNorm"]
    module = operators.build(
        Network(edit(graph, {name: {"momentum": "0"} for name in norms}), arrays, stats)
    )
    with torch.no_grad():
        module.train()(torch.from_numpy(images_of(16, side)))
        logits = module.eval()(torch.from_numpy(images_of(16, side))).numpy()
    arrays["fc1_weight"] /= logits.std(axis=0).mean()  # so that every class is chosen
    arrays["fc1_bias"] = (arrays["fc1_bias"] - logits.mean(axis=0)) / logits.std(axis=0).mean()
    stats = {name: tensor.numpy() for name, tensor in module.stats.items()}
    return Network(graph, arrays, stats, "fc1")


def conv(net, x, name, filters, kernel=3, stride=1, groups=1, act=True):
    """A convolution, a batch norm and a ReLU6, as MobileNets have them."""
    pad = (kernel // 2, kernel // 2)
    attrs = {"kernel": (kernel, kernel), "stride": (stride, stride), "pad": pad, "no_bias": True}
    x = net.add("Convolution", f"conv_{name}", x, num_filter=filters, num_group=groups, **attrs)
    x = net.add("BatchNorm", f"bn_{name}", x, fix_gamma=False, eps=2e-5)
    return net.add("clip", f"act_{name}", x, a_min=0, a_max=6) if act else x


def mobilenet(net, x):
    """Sandler et al. 2018: sums of numbers of both signs."""
    x = conv(net, x, "stem", 16, 3, 2)
    for name, stride in (("a", 2), ("b", 1), ("c", 2), ("d", 1)):
        y = conv(net, conv(net, x, f"{name}1", 64, 1), f"{name}2", 64, 3, stride, groups=64)
        y = conv(net, y, f"{name}3", 16, 1, act=False)
        x = y if stride == 2 else net.add("elemwise_add", f"{name}_sum", x, y)
    return conv(net, x, "last", 64, 1)


def branches(net, x):
    """Densely joined layers, pools of every kind, and an inner FullyConnected."""
    x = conv(net, x, "stem", 16, 3, 2)
    full = {"kernel": (3, 3), "stride": (2, 2), "pooling_convention": "full", "pool_type": "max"}
    x = net.add("Pooling", "pool_full", x, **full)
    for number in range(3):
        x = net.add("Concat", f"joined{number}", x, conv(net, x, f"dense{number}", 8))
    same = {"kernel": (3, 3), "stride": (1, 1), "pad": (1, 1)}
    pools = [
        net.add("Pooling", f"pool_{kind}", x, pool_type=kind, **same) for kind in ("max", "avg")
    ]
    x = net.add("Concat", "joined", conv(net, x, "beside", 8, 1), *pools)
    x = net.add("Pooling", "pool_last", x, kernel=(4, 4), stride=(4, 4), pool_type="max")
    x = net.add("Flatten", "flat", x)
    x = net.add("FullyConnected", "fc0", x, num_hidden=48)
    return net.add("Activation", "fc0_relu", x, act_type="relu")


def kept_apart(net, x):
    """Sums that must not overwrite what they add: it is read meanwhile, later, or as a copy."""
    x = conv(net, x, "stem", 16, 3, 2, act=False)
    y = net.add("elemwise_add", "itself", x, conv(net, x, "itself", 16, act=False))
    first = net.add("elemwise_add", "first", y, conv(net, y, "first", 16, 1, act=False))
    same = net.add("_copy", "same", first)
    z = net.add("elemwise_add", "later", conv(net, y, "later", 16, 1, act=False), first)
    z = net.add("elemwise_add", "sum", conv(net, z, "sum", 16, 1, act=False), z)
    return conv(net, net.add("Concat", "both", same, z), "last", 16, 1)


def network_of(body):
    net = Builder()
    raw = net.add("Cast", "raw_cast", net.variable("data"), dtype="float32")
    x = body(net, net.add("BatchNorm", "raw", raw, fix_gamma=True))
    if body is not branches:
        x = net.add("Pooling", "pool_last", x, global_pool=True, pool_type="avg")
        x = net.add("Flatten", "flat", x)
    return with_weights(net.graph(edits.classify(net, x, CLASSES, "fc1")))


def zoo_graph():
    return edits.take_raw_images(build_resnet(10, CLASSES, width=16))


@pytest.fixture(scope="module")
def networks():
    """{name: (the network, the same in int8)}."""
    made = {body.__name__: network_of(body) for body in (mobilenet, branches, kept_apart)}
    made["resnet"] = with_weights(zoo_graph())
    return {name: (one, engine.quantize(one, images_of(16))) for name, one in made.items()}


def predict(networks, images, dtype="int8", size=8):
    predictor = engine.Predictor(networks, [1] * len(networks), CPU, size, images.shape[1:], dtype)
    return predict_with(predictor, images, size)


def predict_with(predictor, images, size=8):
    batches = []
    for start in range(0, len(images), size):
        part = images[start : start + size]
        pad = size - len(part)
        batches.append(Batch(np.concatenate([part, part[:1].repeat(pad, 0)]), None, None, pad, []))
    return np.concatenate([values for _, values in predictor.predict(batches)])


def steps_of(network):
    predictor = engine.Predictor([network], [1], CPU, 8, (3, SIDE, SIDE), "int8")
    return predictor._modules[0][0].plan.steps


# --- How near -------------------------------------------------------------------------------------


def assert_near(found, expected):
    """The probabilities of 64 images are nearly those of float32."""
    assert expected.std(axis=0).max() > 0.1  # images differ in what they get
    assert 0 < abs(found - expected).mean() < 0.03
    same = found.argmax(axis=1) == expected.argmax(axis=1)
    first, second = -np.partition(-expected, 1, axis=1)[:, :2].T
    assert (first - second > 0.2).sum() >= 10 and same[first - second > 0.2].all()
    assert same.sum() >= 56


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "branches", "kept_apart"])
def test_the_probabilities_are_nearly_those_of_float32(networks, name):
    exact, quantized = networks[name]
    images = images_of(64)  # of which 16 were calibrated on
    assert_near(predict([quantized], images), predict([exact], images, "float32"))


@pytest.mark.parametrize("name", ["resnet", "mobilenet", "branches", "kept_apart"])
def test_an_image_has_the_same_probabilities_at_every_call_and_in_every_place(networks, name):
    images = images_of(16)
    predictor = engine.Predictor([networks[name][1]], [1], CPU, 8, images.shape[1:], "int8")
    expected = predict_with(predictor, images)
    for shift in (0, 0, 1, 5):
        found = predict_with(predictor, np.roll(images, shift, axis=0))
        np.testing.assert_array_equal(np.roll(found, -shift, axis=0), expected)


def test_a_processor_without_vnni_gets_seven_bits_of_the_weights():
    """With eight, sums of two products overflow there, and the largest logits are halved."""
    if "avx2" not in cpu_flags():
        pytest.skip("oneDNN can be told to do without VNNI on x86 only")
    status, output, errors = run_python("-c", WITHOUT_VNNI, ONEDNN_MAX_CPU_ISA="AVX2")
    assert status == 0, errors
    bits, ratio, reason = output.splitlines()
    assert bits == "7" and 0.98 < float(ratio) < 1.02
    assert reason == "yes: the processor has no VNNI: weights have 7 bits, and it is slower"


WITHOUT_VNNI = """
import numpy as np
from common.engines import torch as engine
from common.engines.torch import int8, int8_arithmetic, operators, predictor
from common.networks import Network
from common.networks.graph import Builder
import torch

net = Builder()
x = net.add("Convolution", "bright", net.variable("data"), num_filter=16, kernel=(3, 3))
x = net.add("Convolution", "sum", x, num_filter=4, kernel=(3, 3))
graph = net.graph(net.add("Pooling", "pool", x, global_pool=True, pool_type="avg"))
shapes = engine.infer_shapes(graph, (3, 16, 16))
network = Network(graph, {name: np.ones(shape, np.float32) for name, shape in shapes.items()}, {})
images = np.random.RandomState(0).randint(200, 256, (2, 3, 16, 16)).astype(np.uint8)
logits = []
for each, prepare in ((network, None), (engine.quantize(network, images), int8.prepare)):
    module, entries = predictor.load(each, "cpu", images.shape)
    if prepare:
        prepare(module, entries)
    with torch.inference_mode():
        logits.append(module(torch.from_numpy(images)).mean().item())
print(int8_arithmetic.weight_bits())
print(logits[1] / logits[0])
print(engine.describe()["int8"])
"""


# --- In which layers ------------------------------------------------------------------------------


def test_the_head_and_what_no_convolution_reads_are_float32(networks):
    in_float = [s.name for s in steps_of(networks["resnet"][1]) if s.op != "Convolution"]
    assert in_float == ["data_cast", "pooling0", "pool1", "flatten0", "fc1"]
    in_float = [s.name for s in steps_of(networks["mobilenet"][1]) if s.op != "Convolution"]
    assert in_float == ["raw_cast", "pool_last", "flat", "fc1"]


def test_between_convolutions_tensors_are_uint8(networks):
    """Only an average pool computes in float32; of what is joined, a pool's range is another."""
    steps = steps_of(networks["branches"][1])
    names = [s.name for s in steps if s.op in ("Pooling", "Concat", "quantize", "dequantize")]
    assert names == [
        *("pool_full", "dequantize", "quantize", "joined0", "joined1", "joined2"),
        *("pool_max", "dequantize", "pool_avg"),
        *("dequantize", "quantize", "quantize", "joined", "pool_last"),
    ]
    assert [step.name for step in steps if step.op == "FullyConnected"] == ["fc1"]


def test_a_quantized_network_is_plain_data_that_float32_reads_as_well(networks, tmp_path):
    exact, quantized = networks["mobilenet"]
    checkpoint.save(str(tmp_path / "net"), 0, quantized)
    read = checkpoint.load(str(tmp_path / "net"), 0)
    images = images_of(8)
    np.testing.assert_array_equal(predict([read], images), predict([quantized], images))
    for network in (exact, read):
        found = predict([network], images, "float32")
        np.testing.assert_array_equal(found, predict([exact], images, "float32"))
    (first,) = (node for node in read.graph["nodes"] if node["name"] == "act_stem")
    assert float(first["attrs"]["__lowest__"]) == 0 < float(first["attrs"]["__highest__"]) <= 6


def test_ranges_hold_all_calibration_images(networks):
    """One that is more than a batch, and one that is brighter at the end."""
    images = images_of(20)
    images[19] = 255
    nodes = engine.quantize(networks["mobilenet"][0], images).graph["nodes"]
    (cast,) = (node for node in nodes if node["name"] == "raw_cast")
    assert (cast["attrs"]["__lowest__"], cast["attrs"]["__highest__"]) == ("0.0", "255.0")


def test_a_network_that_diverged_is_an_error_of_one_line(networks):
    network, _ = networks["mobilenet"]
    params = {**network.params, "conv_stem_weight": network.params["conv_stem_weight"] * 1e38}
    params["conv_a1_weight"] = params["conv_a1_weight"] * 1e38
    with pytest.raises(UserError, match=r"^--dtype int8: the layer \w+ gives NaN or infinite .*"):
        engine.quantize(network.with_arrays(params, network.stats), images_of(4))


def test_a_layer_that_gives_only_zeros_stays_one(networks):
    network, _ = networks["mobilenet"]
    params = {**network.params, "bn_a3_gamma": np.zeros(16, "f"), "bn_a3_beta": np.zeros(16, "f")}
    dead, images = network.with_arrays(params, network.stats), images_of(8)
    found = predict([engine.quantize(dead, images)], images)
    np.testing.assert_allclose(found, predict([dead], images, "float32"), atol=0.1)


# --- Devices --------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["cuda", "mps"])
def test_a_gpu_is_told_what_to_take(kind):
    with pytest.raises(UserError) as error:
        engine.check("int8", [torch.device(kind, 0)])
    assert str(error.value) == ("--dtype int8: is for CPUs; on a GPU take float16 or bfloat16")


def test_a_pytorch_without_such_convolutions_says_so(monkeypatch):
    def refuse(*_):
        raise RuntimeError("not built with oneDNN\nC++ stack")

    engine.check("int8", CPU)
    int8_arithmetic.weight_bits.cache_clear()
    monkeypatch.setattr(torch.ops.onednn, "qconv_prepack", refuse)
    with pytest.raises(UserError) as error:
        engine.check("int8", CPU)
    assert str(error.value) == (
        "--dtype int8: this PyTorch has no convolutions in it here (not built with oneDNN);"
        " use --dtype float32"
    )


# --- sub.py ---------------------------------------------------------------------------------------


def save_network(prefix, epoch):
    checkpoint.save(prefix, epoch, with_weights(zoo_graph(), SIZE, seed=epoch))


@pytest.fixture
def folder(tmp_path):
    return make_folder(tmp_path, save_network)


@pytest.fixture
def sub(script, folder):
    """Call sub.py in int8; return what it said."""

    def call(*arguments):
        flags = ["--data-dir", folder, "--model-prefix", folder / "net", "--batch-size", 4]
        flags += ["--crop-size", SIZE, "--output", folder / "out.csv", "--engine", "torch"]
        return script("sub.py", *arguments, "--dtype", "int8", *flags).stderr

    return call


def test_sub_calibrates_once_and_chooses_as_float32_does(folder, sub):
    kept = folder / "net-0001-int8-torch-0000.params"
    assert f"{kept}: quantized; its first choice is that of float32 on 1" in sub("1", "cpu")
    rows = read_csv(folder / "out.csv")
    network = checkpoint.load(str(folder / "net"), 1)
    best = predict([network], pixels(folder, "test"), "float32").argmax(axis=1)
    assert sum(row[0] == CATEGORY_IDS[i] for row, i in zip(rows.values(), best)) >= len(rows) - 1
    assert "quantized" not in sub("1", "cpu")
    assert read_csv(folder / "out.csv") == rows


def test_sub_averages_networks_views_and_devices_in_int8(folder, sub):
    path = folder / "p.npz"
    said = sub("1,2", "cpu:0,cpu:1", "--crops=2", "--set=val", "--save-probs", path, "--resume")
    assert "net-0001-int8-torch" in said and "net-0002-int8-torch" in said
    found = np.load(path)["probabilities"].astype(float)
    images = pixels(folder, "val")
    for dtype, suffix, atol in (("int8", "-{:04d}-int8-torch", 1e-3), ("float32", "", 0.1)):
        networks = [
            checkpoint.load(f"{folder}/net{suffix.format(epoch)}", 0 if suffix else epoch)
            for epoch in (1, 2)
        ]
        views = [predict(networks, view, dtype) for view in (images, images[..., ::-1])]
        np.testing.assert_allclose(found, sum(views) / 2, atol=atol)


def test_photographs_of_no_challenge_calibrate_too(folder, sub):
    for path in folder.glob("*2017.json"):
        path.unlink()
    said = sub("1", "cpu", "--images", folder / "test2017")
    assert "int8 is calibrated on the photographs of --images" in said
    assert not [*folder.glob("net-0001-int8*")]  # the next photographs may be others
    with open(folder / "out.csv", encoding="utf-8", newline="") as stream:
        assert len([*csv.DictReader(stream)]) == 9


@pytest.mark.parametrize("name", ["mxnet", "torch"])
def test_the_calibrated_network_is_made_again_for_another_checkpoint(tmp_path, name):
    """Each engine keeps its own."""
    require_engine(name)
    one, prefix, calls = engines.load(name), str(tmp_path / "net"), []

    def make_images():
        calls.append(name)
        return images_of(8, SIZE)

    save_network(prefix, 1)
    now = time.time()
    for expected, seconds in ((1, -9), (1, -9), (2, 9), (3, -9)):  # also for an older one
        os.utime(tmp_path / "net-0001.params", times=(now + seconds,) * 2)
        load_quantized(one, prefix, 1, one.parse_devices("cpu"), make_images)
        assert len(calls) == expected
    kept = {"mxnet": "net-0001-int8-0000.params", "torch": "net-0001-int8-torch-0000.params"}
    assert (tmp_path / kept[name]).exists()
