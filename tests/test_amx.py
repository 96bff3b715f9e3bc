"""Intel's matrix unit: what is computed with it is right, and what is not stays away from it."""

import os
import subprocess
import sys

import numpy as np
import pytest

from common import amx, devices, network
from common.files import ROOT
from common.find_mxnet import mx

needs_amx = pytest.mark.skipif(
    "amx_bf16" not in devices.cpu_flags() or mx.__version__ != "1.9.1",
    reason="needs a processor with AMX, and MXNet 1.9.1",
)

# What a process of its own begins with: oneDNN asks for AMX once.
BEGIN = """
    import numpy as np
    from common import amx, network
    from common.find_mxnet import mx
    from common.trainer import Trainer

    amx.allow()
    assert amx.is_allowed()

    def gradients(symbol, shape, dtype):
        mx.random.seed(0)
        random = np.random.RandomState(0)
        trainer = Trainer(symbol, [mx.cpu()], shape, dtype=dtype)
        trainer.initialise({}, {})
        trainer.start_optimizer("device", "sgd", {"learning_rate": 1.0})
        before = {name: array.asnumpy() for name, array in trainer.params()[0].items()}
        images = mx.nd.array(random.randint(0, 256, shape), dtype="uint8")
        labels = mx.nd.array(random.randint(0, 5, shape[0]))
        trainer.train(mx.io.DataBatch([images], [labels], pad=0))
        after = trainer.params()[0]
        return {name: before[name] - after[name].asnumpy() for name in before}

    def difference(got, expected):
        return np.linalg.norm(got - expected) / np.linalg.norm(expected)
"""


@needs_amx
def test_a_gradient_of_every_kind_of_convolution_is_that_of_float32(python):
    """20x20 pixels are an odd number of tiles, where the code for 1x1 alone writes too far."""
    done = python(
        BEGIN
        + """
    def classify(side, **convolution):
        body = mx.sym.Variable("data") / 128 - 1
        body = mx.sym.Convolution(body, kernel=(1, 1), num_filter=64, name="conv0")
        body = mx.sym.Convolution(body, num_filter=64, name="conv1", **convolution)
        body = mx.sym.Pooling(body, kernel=(1, 1), global_pool=True, pool_type="avg")
        logits = mx.sym.FullyConnected(mx.sym.Flatten(body), num_hidden=5, name="fc1")
        symbol = mx.sym.SoftmaxOutput(logits, name="softmax")
        return network.take_raw_images(symbol), (4, 3, side, side)

    kinds = [
        dict(kernel=(1, 1)),
        dict(kernel=(1, 1), stride=(2, 2)),
        dict(kernel=(3, 3), pad=(1, 1)),
        dict(kernel=(3, 3), pad=(1, 1), stride=(2, 2)),
        dict(kernel=(3, 3), pad=(1, 1), num_group=64),
        dict(kernel=(3, 3), pad=(1, 1), num_group=4),
        dict(kernel=(5, 5)),
        dict(kernel=(7, 7), pad=(3, 3), stride=(2, 2)),
        dict(kernel=(1, 7), pad=(0, 3)),
        dict(kernel=(1, 7), pad=(0, 3), stride=(2, 2)),
        dict(kernel=(3, 3), pad=(2, 2), dilate=(2, 2)),
    ]
    for side in (20, 14, 6):
        for kind in kinds:
            if side < max(kind["kernel"]):
                continue
            network_and_shape = classify(side, **kind)
            exact = gradients(*network_and_shape, "float32")
            got = gradients(*network_and_shape, "bfloat16")
            for name in ("conv0_weight", "conv1_weight"):
                assert difference(got[name], exact[name]) < 0.02, (side, kind, name)
    print("all right")
    """
    )
    assert done.stdout == "all right\n", done.stderr[-2000:]


@needs_amx
def test_a_resnet_is_trained_with_amx_and_writes_only_where_it_should(python):
    """Left as they are, its 1x1 convolutions write behind their arrays, and the process dies."""
    done = python(
        BEGIN
        + """
    symbol = network.take_raw_images(network.build_resnet(50, 5))
    shape = (3, 3, 160, 160)
    for _ in range(3):
        exact, got = (gradients(symbol, shape, dtype) for dtype in ("float32", "bfloat16"))
    assert difference(got["fc1_weight"], exact["fc1_weight"]) < 0.15  # 0.08 without AMX, too
    """,
        env={**os.environ, "DNNL_VERBOSE": "1"},
    )
    assert done.returncode == 0, done.stderr[-2000:]
    convolutions = [line for line in done.stdout.splitlines() if "exec,cpu,convolution" in line]
    assert sum("amx_bf16,backward" in line for line in convolutions) > 100
    assert not any("jit_1x1:avx512_core_amx" in line for line in convolutions)


@needs_amx
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_training_and_prediction_use_amx_for_bfloat16_alone(dtype, sample, tiny_network, tmp_path):
    def run(*command):
        done = subprocess.run(
            [sys.executable, *map(str, command), "--data-dir", sample, "--dtype", dtype],
            cwd=ROOT,
            env={**os.environ, "DNNL_VERBOSE": "1"},
            capture_output=True,
            encoding="utf-8",
        )
        assert done.returncode == 0, done.stderr
        return "avx512_core_amx_bf16" in done.stdout

    prefix = ("--model-prefix", tmp_path / "run")
    flags = ["--gpus", "cpu", "--image-shape", "3,64,64", "--batch-size", 16, "--num-classes", 6]
    trained = run(
        "fine-tune.py", "--pretrained-model", tiny_network, *flags, *prefix, "--num-epochs", 1
    )
    predicted = run("sub.py", 1, "cpu", *prefix, "--output", tmp_path / "submission.csv")
    assert trained == predicted == (dtype == "bfloat16")


@needs_amx
def test_the_users_own_choice_of_instructions_is_kept(python):
    code = "from common import amx; amx.allow(); print(amx.is_allowed())"
    assert python(code).stdout == "True\n"
    without = {**os.environ, "DNNL_MAX_CPU_ISA": "AVX512_CORE_BF16"}
    assert python(code, env=without).stdout == "False\n"


@pytest.mark.parametrize("side", [20, 7])
def test_steering_changes_nothing_that_is_computed(side):
    data = mx.sym.Variable("data")
    body = mx.sym.Convolution(data, kernel=(1, 1), num_filter=16, name="conv1")
    body = mx.sym.Convolution(body, kernel=(1, 1), stride=(2, 2), num_filter=16, name="conv2")
    body = mx.sym.Convolution(body, kernel=(3, 3), pad=(1, 1), num_filter=8, name="conv3")
    symbol = mx.sym.Pooling(body, global_pool=True, kernel=(7, 7), pool_type="avg", name="pool1")
    graph = network.read_graph(symbol)
    shapes = {f"conv{number}": (2, 16, 7, 7) for number in (1, 2, 3)}
    assert amx.steer(graph["nodes"], shapes) == []
    steered = network.write_graph(graph)
    ops = [node["op"] for node in network.read_nodes(steered)]
    assert "mean" in ops and "Pooling" not in ops
    results = []
    for each in (symbol, steered):
        assert each.list_arguments() == symbol.list_arguments()
        random = np.random.RandomState(0)
        executor = each.simple_bind(mx.cpu(), data=(2, 8, side, side))
        for array in executor.arg_arrays:
            array[:] = mx.nd.array(random.randn(*array.shape))
        output = executor.forward(is_train=True)[0]
        executor.backward(mx.nd.ones(output.shape))
        results.append([output.asnumpy(), *(array.asnumpy() for array in executor.grad_arrays)])
    for got, expected in zip(*results):
        np.testing.assert_allclose(got, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("attributes", "side", "stays"),
    [
        ({}, 7, False),
        ({"kernel": (7, 7), "stride": (2, 2), "pad": (3, 3)}, 20, False),
        ({"kernel": (7, 1), "pad": (3, 0)}, 20, False),
        ({"kernel": (1, 7), "pad": (0, 3), "stride": (2, 2)}, 20, True),  # computed wrongly
        ({}, 3, True),  # reads behind its input
        ({"kernel": (11, 11), "stride": (4, 4), "pad": (2, 2)}, 20, True),  # and these not tried
        ({"kernel": (2, 2)}, 20, True),
        ({"kernel": (3, 3), "dilate": (2, 2)}, 20, True),
        ({"kernel": (3, 3), "pad": (2, 2)}, 20, True),
        ({"layout": "NHWC"}, 20, True),
    ],
)
def test_convolutions_that_are_not_known_to_be_right_stay_in_float32(attributes, side, stays):
    convolution = mx.sym.Convolution(
        mx.sym.Variable("data"),
        **{"name": "conv1", "num_filter": 8, "kernel": (1, 1), **attributes},
    )
    nodes = network.read_nodes(convolution)
    assert amx.steer(nodes, {"conv1": (2, 8, side, side)}) == ["conv1"] * stays


def test_a_network_that_does_not_take_such_images_is_told_of_by_who_binds_it():
    symbol = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(7, 7), num_filter=8, name="conv1")
    assert network._output_shapes(symbol, (3, 5, 5)) == {}
    assert network._output_shapes(symbol, (3, 9, 9))["conv1"] == (1, 8, 3, 3)
