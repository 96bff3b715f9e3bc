"""One operator in MXNet and in the PyTorch engine: outputs and gradients."""

import numpy as np

from common.engines.mxnet.precision import to_symbol
from common.engines.mxnet.runtime import mx
from common.engines.torch import shapes
from common.engines.torch.operators import build
from common.engines.torch.runtime import torch
from common.networks import Network
from common.networks.graph import Builder

IMAGES = (2, 6, 7, 9)


def graph_of(op, further=(), **attrs):
    """A graph of one operator on `data`, and on `further` variables of the same shape."""
    net = Builder()
    others = [net.variable(name) for name in further]
    return net.graph(net.add(op, "layer", net.variable("data"), *others, **attrs))


def random_arrays(shapes, seed=0, low=-2.0):
    """`{name: array}`, none of them near zero; variances and gammas are positive."""
    random = np.random.RandomState(seed)
    arrays = {}
    for name, shape in shapes.items():
        positive = name.endswith(("var", "gamma"))
        arrays[name] = random.uniform(0.5 if positive else low, 2, shape).astype(np.float32)
    return arrays


def shapes_in_mxnet(graph, **known):
    symbol = to_symbol(graph)
    found, (output,), states = symbol.infer_shape(**known)
    named = dict(zip(symbol.list_arguments(), found))
    return named, dict(zip(symbol.list_auxiliary_states(), states)), output


def compute_with_mxnet(graph, arrays, stats, output_gradient, training):
    """The output, the gradient of every argument, and the statistics afterwards."""
    symbol = to_symbol(graph)
    arguments = {name: mx.nd.array(array) for name, array in arrays.items()}
    gradients = {name: mx.nd.zeros(array.shape) for name, array in arrays.items()}
    states = {name: mx.nd.array(array) for name, array in stats.items()}
    executor = symbol.bind(mx.cpu(), arguments, gradients, aux_states=states)
    (output,) = executor.forward(is_train=training)
    if training:
        executor.backward(mx.nd.array(output_gradient))
    mx.nd.waitall()
    return [
        output.asnumpy(),
        {name: array.asnumpy() for name, array in gradients.items()},
        {name: array.asnumpy() for name, array in states.items()},
    ]


def compute_with_torch(graph, arrays, stats, output_gradient, training):
    """The same of PyTorch; where there is no gradient, it is zero."""
    params = {name: array for name, array in arrays.items() if name != "data"}
    module = build(Network(graph, params, stats)).train(training)
    data = torch.tensor(arrays["data"], requires_grad=True)
    output = module(data)
    if training and output.requires_grad:
        output.backward(torch.tensor(output_gradient))
    leaves = {"data": data, **module.params}
    gradients = {
        name: np.zeros(leaf.shape) if leaf.grad is None else leaf.grad.numpy()
        for name, leaf in leaves.items()
    }
    return [
        output.detach().numpy(),
        gradients,
        {name: tensor.numpy() for name, tensor in module.stats.items()},
    ]


def assert_close(ours, theirs, what=""):
    assert ours.shape == theirs.shape, what
    scale = max(abs(theirs).max(), 1e-3)
    np.testing.assert_allclose(ours / scale, theirs / scale, atol=2e-5, rtol=0, err_msg=what)


def compare(graph, shape=IMAGES, further=(), low=-2.0, training=True):
    """Both engines give the same numbers for a graph, and its parameters the same shapes."""
    known = {"data": shape, **dict.fromkeys(further, shape)}
    names, states, output = shapes_in_mxnet(graph, **known)
    arrays, stats = random_arrays(names, low=low), random_arrays(states, seed=1)
    inferred = shapes.infer_shapes(graph, shape[1:], shape[0]) if not further else None
    assert inferred in (None, {**{n: s for n, s in names.items() if n != "data"}, **states})
    gradient = np.random.RandomState(2).uniform(-1, 1, output).astype(np.float32)
    for mode in (False, True) if training else (False,):
        theirs = compute_with_mxnet(graph, arrays, stats, gradient, mode)
        ours = compute_with_torch(graph, arrays, stats, gradient, mode)
        assert_close(ours[0], theirs[0], "output")
        for kind in (1, 2):
            for name in theirs[kind]:
                assert_close(ours[kind][name], theirs[kind][name], name)
