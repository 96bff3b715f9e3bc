"""The end of a network: logits and plain softmaxes become what all others are, or are refused."""

import numpy as np
import pytest

from common import checkpoint, devices, network
from common.classifier import end_in_softmax
from common.export import export_onnx
from common.files import UserError
from common.find_mxnet import mx
from common.loader import Batch
from common.predict import Predictor
from common.quantize import agreement, quantize
from tests.made_up_challenge import SIZE, make_folder, module_probabilities, pixels

SIZES = {"squeezenet1.1": 224, "resnet18_v1": 64, "mobilenet0.5": 64}
FEATURES = np.array([[1, 2, 4], [0, 0, 3]], np.float32)


def exported(name, folder, classes=6, size=None):
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


def probabilities(parts, images):
    predictor = Predictor([parts], [1], [mx.cpu()], len(images), images.shape[1:])
    ((_, found),) = predictor.predict([Batch(images, None, None, pad=0, missing=[])])
    return found


def as_read(prefix, epoch=0):
    symbol, arg_params, aux_params = checkpoint.load(prefix, epoch)
    return network.take_raw_images(symbol), arg_params, aux_params


def softmax(logits):
    powers = np.exp(logits - logits.max(axis=1, keepdims=True))
    return powers / powers.sum(axis=1, keepdims=True)


@pytest.mark.parametrize(
    ("end", "temperature"),
    [
        (lambda x: x, 1),
        (mx.sym.softmax, 1),
        (lambda x: mx.sym.softmax(x, axis=1, name="softmax"), 1),
        (lambda x: mx.sym.softmax(x, temperature=2.0), 2),
        (mx.sym.log_softmax, 1),
        (mx.sym.SoftmaxActivation, 1),
        (lambda x: mx.sym.SoftmaxOutput(x, name="prob"), 1),
    ],
)
def test_every_end_of_a_classifier_gives_its_probabilities(end, temperature):
    symbol = end_in_softmax(end(mx.sym.Flatten(mx.sym.Variable("data"))))
    assert [node["op"] for node in network.read_nodes(symbol) if "oftmax" in node["op"]] == [
        "SoftmaxOutput"
    ]
    shapes = {"data": FEATURES.shape}
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
    found = executor.forward(data=mx.nd.array(FEATURES))[0].asnumpy()
    np.testing.assert_allclose(found, softmax(FEATURES / temperature), rtol=1e-5)


def without_head(data):
    """What an import of a network without a classifier ends in."""
    return mx.sym.Flatten(mx.sym.Pooling(data, kernel=(1, 1), name="pool1"), name="flatten0")


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda x: mx.sym.Group([x, mx.sym.relu(x)]), "has 2 outputs"),
        (lambda x: mx.sym.sigmoid(x, name="scores"), r"ends in scores \(sigmoid\)"),
        (lambda x: mx.sym.Activation(x, act_type="relu"), r"\(Activation\)"),
        (lambda x: mx.sym.LogisticRegressionOutput(x), r"\(LogisticRegressionOutput\)"),
        (without_head, "has no classifier; give it one"),
    ],
)
def test_what_is_no_classifier_is_refused_in_a_line(tmp_path, make, said):
    weights = {"arg:data_weight": mx.nd.ones((1,))}
    make(mx.sym.Variable("data")).save(str(tmp_path / "net-symbol.json"))
    mx.nd.save(str(tmp_path / "net-0000.params"), weights)
    with pytest.raises(UserError, match=f"net-symbol.json: .*{said}") as caught:
        checkpoint.load(str(tmp_path / "net"), 0)
    assert "\n" not in str(caught.value)


def test_a_map_of_features_is_no_row_of_probabilities():
    symbol = end_in_softmax(mx.sym.Pooling(mx.sym.Variable("data"), kernel=(2, 2)))
    with pytest.raises(UserError, match=r"gives \(4, 3, 7, 7\) for a batch, not \(images, classes"):
        probabilities((network.take_raw_images(symbol), {}, {}), images_of(8))


@pytest.mark.parametrize("name", SIZES)
def test_gluons_exports_give_the_probabilities_of_the_block(tmp_path, name):
    prefix, block = exported(name, tmp_path)
    images = images_of(SIZES[name])
    expected = softmax(block(mx.nd.array(images)).asnumpy())
    np.testing.assert_allclose(probabilities(as_read(prefix), images), expected, atol=1e-4)


@pytest.mark.skipif(mx.__version__ < "1.9", reason="MXNet exports ONNX from 1.9 on")
@pytest.mark.parametrize("name", SIZES)
def test_gluons_exports_become_onnx(tmp_path, name):
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    prefix, _ = exported(name, tmp_path)
    images = images_of(SIZES[name], count=2)
    path = str(tmp_path / "net.onnx")
    export_onnx(path, *checkpoint.load(prefix, 0), images.shape[1:])
    (found,) = runtime.InferenceSession(path).run(None, {"data": images.astype(np.float32)})
    np.testing.assert_allclose(found, probabilities(as_read(prefix), images), atol=1e-3)


@pytest.mark.skipif(not devices.supports_int8()[0], reason=devices.supports_int8()[1])
@pytest.mark.parametrize("name", SIZES)
def test_gluons_exports_are_quantized(tmp_path, name):
    prefix, _ = exported(name, tmp_path)
    images = images_of(SIZES[name])
    reference = as_read(prefix)
    quantized = quantize(*reference, images)
    assert any("quantize" in node["op"] for node in network.read_nodes(quantized[0]))
    assert agreement(reference, quantized, images) >= len(images) - 1
    np.testing.assert_allclose(probabilities(quantized, images).sum(axis=1), 1, rtol=1e-3)


@pytest.mark.parametrize(
    "dtype",
    [
        "float16",
        pytest.param(
            "bfloat16",
            marks=pytest.mark.skipif(mx.__version__ < "1.9", reason="MXNet 1.5 has no bfloat16"),
        ),
    ],
)
def test_gluons_exports_change_their_precision(tmp_path, dtype):
    symbol, _, _ = as_read(exported("mobilenet0.5", tmp_path)[0])
    converted = network.convert_precision(symbol, dtype, (3, 64, 64))
    assert converted.list_outputs() == ["softmax_output"]


def test_both_networks_of_an_ensemble_have_their_vote(tmp_path, script):
    """With logits in the place of probabilities the larger numbers decided alone."""
    folder = make_folder(tmp_path)
    prefix, block = exported("mobilenet0.5", tmp_path, size=SIZE)
    block.export(prefix, epoch=1)
    flags = ["--data-dir", folder, "--crop-size", SIZE, "--set", "val"]
    flags += ["--model-prefix", prefix, "--model-prefix", folder / "net"]
    flags += ["--output", folder / "out.csv", "--save-probs", folder / "out.npz"]
    script("sub.py", "1", "cpu", *flags)
    images = pixels(folder, "val")
    gluons = softmax(block(mx.nd.array(images)).asnumpy())
    expected = (gluons + module_probabilities(folder / "net", 1, images)) / 2
    with np.load(folder / "out.npz") as saved:
        np.testing.assert_allclose(saved["probabilities"], expected, rtol=2e-3, atol=1e-4)
