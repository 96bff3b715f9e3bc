"""Small ONNX files, and what ONNX Runtime and this project compute with them."""

import numpy as np
import pytest

from common.networks import onnx_files, symbol_file

onnx = pytest.importorskip("onnx")
runtime = pytest.importorskip("onnxruntime")
MEAN, STD = (120.0, 110.0, 100.0), (60.0, 50.0, 40.0)
RANDOM = np.random.RandomState(0)


def weights(*shape):
    return (RANDOM.randn(*shape) / 3).astype(np.float32)


def ints(*values):
    return np.array(values, np.int64)


def write(path, nodes, opset=13, count="N", size=8, features=None, **constants):
    """Write a network of (operator, inputs, outputs, attributes), from `x` to `features`.

    A classifier of four classes follows, as PyTorch writes one; `features` is the number of its
    inputs, where ONNX cannot infer it.
    """
    make, tensor = onnx.helper.make_node, onnx.numpy_helper.from_array
    kind, value = onnx.TensorProto.FLOAT, onnx.helper.make_tensor_value_info
    made = [make(op, i.split(), o.split(), **attrs) for op, i, o, attrs in nodes]

    def model(count, made, output, arrays):
        tensors = [tensor(np.asarray(array), name) for name, array in arrays.items()]
        images = value("x", kind, [count, 3, size, size])
        graph = onnx.helper.make_graph(made, "net", [images], [output], tensors)
        opsets = [onnx.helper.make_opsetid("", opset)]
        return onnx.helper.make_model(graph, opset_imports=opsets, ir_version=8)

    alone = model(1, made, value("features", kind, None), constants)
    inferred = onnx.shape_inference.infer_shapes(alone, data_prop=True).graph.output[0]
    shape = [dim.dim_value for dim in inferred.type.tensor_type.shape.dim]
    made += [
        make("Flatten", ["features"], ["flat"]),
        make("Gemm", ["flat", "head.weight", "head.bias"], ["logits"], transB=1),
    ]
    head = {"head.weight": weights(4, features or int(np.prod(shape))), "head.bias": weights(4)}
    onnx.save(model(count, made, value("logits", kind, [count, 4]), {**constants, **head}), path)
    return str(path)


def raw_images(count=2, size=8):
    return np.random.RandomState(1).randint(0, 256, (count, 3, size, size)).astype(np.float32)


def expected(path, images):
    """The probabilities of ONNX Runtime, which is fed what the original wants."""
    mean, std = (np.reshape(x, (1, 3, 1, 1)) for x in (MEAN, STD))
    session = runtime.InferenceSession(path)
    (image,) = session.get_inputs()
    (logits,) = session.run(None, {image.name: ((images - mean) / std).astype(np.float32)})
    exponentials = np.exp(logits - logits.max(1, keepdims=True))
    return exponentials / exponentials.sum(1, keepdims=True)


def probabilities(mx, network, images):
    """The probabilities of MXNet."""
    symbol = mx.sym.load_json(symbol_file.to_json(network.graph))
    shapes = {"data": images.shape, "softmax_label": images.shape[:1]}
    executor = symbol.simple_bind(mx.cpu(), grad_req="null", **shapes)
    arrays = [{k: mx.nd.array(v) for k, v in p.items()} for p in (network.params, network.stats)]
    executor.copy_params_from(*arrays)
    return executor.forward(is_train=False, data=mx.nd.array(images))[0].asnumpy()


def compare(mx, path, images=None):
    images = raw_images() if images is None else images
    network = onnx_files.read_network(path, MEAN, STD)
    ours, theirs = probabilities(mx, network, images), expected(path, images)
    assert theirs.std() > 0.01
    np.testing.assert_allclose(ours, theirs, atol=1e-4)
    return network


def one(op, inputs="x", **attrs):
    """A network of one operator."""
    return [(op, inputs, "features", attrs)]


def constants(case):
    if case == "statistics":
        return {"s": weights(3), "b": weights(3), "m": weights(3), "v": weights(3) ** 2 + 0.5}
    return {k: weights(*v) if isinstance(v, tuple) else v for k, v in (case or {}).items()}
