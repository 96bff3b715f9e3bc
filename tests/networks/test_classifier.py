"""The end of a network: logits and plain softmaxes become what all others are, or are refused."""

import numpy as np
import pytest

from common import engines
from common.base.files import UserError
from common.data.loader import Batch
from common.evaluation.quantized import agreement
from common.networks import Network, checkpoint, edits, symbol_file
from common.networks.classifier import end_in_softmax
from common.networks.export import export_onnx
from common.networks.graph import Builder, outputs
from tests.conftest import only, require_precision
from tests.made_up_challenge import SIZE, make_folder, peer_probabilities, pixels

SIZES = {"squeezenet1.1": 224, "resnet18_v1": 64, "mobilenet0.5": 64}
FEATURES = np.array([[1, 2, 4], [0, 0, 3]], np.float32)


def exported(mx, name, folder, classes=6, size=None):
    """(prefix, block) of a network of MXNet's Gluon zoo with random weights, exported."""
    block = mx.gluon.model_zoo.vision.get_model(name, classes=classes)
    mx.random.seed(1)
    block.initialize(mx.init.Xavier())
    block.hybridize()
    side = size or SIZES[name]
    block(mx.nd.random.uniform(shape=(1, 3, side, side)))
    block.export(str(folder / name))
    return str(folder / name), block


def images_of(size, count=4):
    images = np.random.RandomState(0).randint(0, 256, (count, 3, size, size))
    return images.astype(np.uint8)


def probabilities(engine, network, images):
    engine = engines.load(engine)
    devices = engine.parse_devices("cpu")
    predictor = engine.Predictor([network], [1], devices, len(images), images.shape[1:])
    ((_, found),) = predictor.predict([Batch(images, None, None, pad=0, missing=[])])
    return found


def as_read(prefix, epoch=0):
    network = checkpoint.load(prefix, epoch)
    return network.with_graph(edits.take_raw_images(network.graph))


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("end", "temperature"),
    [
        (lambda sym, x: x, 1),
        (lambda sym, x: sym.softmax(x), 1),
        (lambda sym, x: sym.softmax(x, axis=1, name="softmax"), 1),
        (lambda sym, x: sym.softmax(x, temperature=2.0), 2),
        (lambda sym, x: sym.log_softmax(x), 1),
        (lambda sym, x: sym.SoftmaxActivation(x), 1),
        (lambda sym, x: sym.SoftmaxOutput(x, name="prob"), 1),
    ],
)
def test_every_end_of_a_classifier_gives_its_probabilities(mx, end, temperature):
    from common.engines.mxnet.precision import to_symbol

    text = end(mx.sym, mx.sym.Flatten(mx.sym.Variable("data"))).tojson()
    graph = end_in_softmax(symbol_file.parse(text, "net"))
    ends = [node["op"] for node in graph["nodes"] if "oftmax" in node["op"]]
    assert ends == ["SoftmaxOutput"]
    shapes = {"data": FEATURES.shape}
    executor = to_symbol(graph).simple_bind(mx.cpu(), grad_req="null", **shapes)
    found = executor.forward(data=mx.nd.array(FEATURES))[0].asnumpy()
    np.testing.assert_allclose(found, softmax(FEATURES / temperature), rtol=1e-5)


def without_head(sym, data):
    """What an import of a network without a classifier ends in."""
    return sym.Flatten(sym.Pooling(data, kernel=(1, 1), name="pool1"), name="flatten0")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda sym, x: sym.Group([x, sym.relu(x)]), "has 2 outputs"),
        (lambda sym, x: sym.sigmoid(x, name="scores"), r"ends in scores \(sigmoid\)"),
        (lambda sym, x: sym.Activation(x, act_type="relu"), r"\(Activation\)"),
        (lambda sym, x: sym.LogisticRegressionOutput(x), r"\(LogisticRegressionOutput\)"),
        (without_head, "has no classifier; give it one"),
    ],
)
def test_what_is_no_classifier_is_refused_in_a_line(mx, tmp_path, make, said):
    weights = {"arg:data_weight": mx.nd.ones((1,))}
    make(mx.sym, mx.sym.Variable("data")).save(str(tmp_path / "net-symbol.json"))
    mx.nd.save(str(tmp_path / "net-0000.params"), weights)
    with pytest.raises(UserError, match=f"net-symbol.json: .*{said}") as caught:
        checkpoint.load(str(tmp_path / "net"), 0)
    assert "\n" not in str(caught.value)


def test_a_map_of_features_is_no_row_of_probabilities(engine):
    net = Builder()
    pooled = net.add("Pooling", "pool", net.variable("data"), kernel=(2, 2))
    graph = edits.take_raw_images(end_in_softmax(net.graph(pooled)))
    with pytest.raises(UserError, match=r"gives \(4, 3, 7, 7\) for a batch, not \(images, classes"):
        probabilities(engine, Network(graph, {}, {}), images_of(8))


@pytest.mark.parametrize("name", SIZES)
def test_gluons_exports_give_the_probabilities_of_the_block(mx, engine, tmp_path, name):
    prefix, block = exported(mx, name, tmp_path)
    images = images_of(SIZES[name])
    expected = softmax(block(mx.nd.array(images)).asnumpy())
    found = probabilities(engine, as_read(prefix), images)
    np.testing.assert_allclose(found, expected, atol=1e-4)


@only("mxnet")
@pytest.mark.parametrize("name", SIZES)
def test_gluons_exports_become_onnx(mx, engine, tmp_path, name):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    prefix, _ = exported(mx, name, tmp_path)
    images = images_of(SIZES[name], count=2)
    path = str(tmp_path / "net.onnx")
    export_onnx(path, checkpoint.load(prefix, 0), images.shape[1:])
    (found,) = runtime.InferenceSession(path).run(None, {"data": images.astype(np.float32)})
    np.testing.assert_allclose(found, probabilities(engine, as_read(prefix), images), atol=1e-3)


@only("mxnet")
@pytest.mark.parametrize("name", SIZES)
def test_gluons_exports_are_quantized(mx, engine, tmp_path, name):
    require_precision(engine, "int8")
    prefix, _ = exported(mx, name, tmp_path)
    images = images_of(SIZES[name])
    reference = as_read(prefix)
    mxnet = engines.load(engine)
    quantized = mxnet.quantize(reference, images)
    assert any("quantize" in node["op"] for node in quantized.graph["nodes"])
    same = agreement(mxnet, mxnet.parse_devices("cpu"), reference, quantized, images)
    assert same >= len(images) - 1
    found = probabilities(engine, quantized, images)
    np.testing.assert_allclose(found.sum(axis=1), 1, rtol=1e-3)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_gluons_exports_change_their_precision(mx, tmp_path, dtype):
    if dtype == "bfloat16" and mx.__version__ < "1.9":
        pytest.skip("MXNet 1.5 has no bfloat16")
    from common.engines.mxnet.precision import convert

    network = as_read(exported(mx, "mobilenet0.5", tmp_path)[0])
    assert outputs(convert(network.graph, dtype, (3, 64, 64))) == ["softmax_output"]


def test_both_networks_of_an_ensemble_have_their_vote(mx, engine, tmp_path, script):
    """With logits in the place of probabilities the larger numbers decided alone."""
    folder = make_folder(tmp_path)
    prefix, block = exported(mx, "mobilenet0.5", tmp_path, size=SIZE)
    block.export(prefix, epoch=1)
    flags = ["--data-dir", folder, "--crop-size", SIZE, "--set", "val"]
    flags += ["--model-prefix", prefix, "--model-prefix", folder / "net"]
    flags += [
        "--engine",
        engine,
        "--output",
        folder / "out.csv",
        "--save-probs",
        folder / "out.npz",
    ]
    script("sub.py", "1", "cpu", *flags)
    images = pixels(folder, "val")
    gluons = softmax(block(mx.nd.array(images)).asnumpy())
    expected = (gluons + peer_probabilities(folder / "net", 1, images)) / 2
    with np.load(folder / "out.npz") as saved:
        np.testing.assert_allclose(saved["probabilities"], expected, rtol=2e-3, atol=1e-4)
