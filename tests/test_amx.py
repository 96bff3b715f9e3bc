"""Intel's matrix unit: what is computed with it is right, and what is not stays away from it."""

import copy
import os
import subprocess
import sys

import numpy as np
import pytest

from common.base.files import ROOT
from common.base.processor import cpu_flags
from common.engines.mxnet import amx
from common.engines.mxnet.precision import _output_shapes, convert, to_graph, to_symbol
from common.engines.mxnet.runtime import mx

needs_amx = pytest.mark.skipif(
    "amx_bf16" not in cpu_flags() or mx.__version__ != "1.9.1",
    reason="needs a processor with AMX, and MXNet 1.9.1",
)

# What a process of its own begins with: oneDNN asks for AMX once.
BEGIN = """
    import numpy as np
    from common.base.help import Parser
    from common.data.loader import Batch
    from common.engines import TrainerOptions
    from common.engines.mxnet import amx
    from common.engines.mxnet.precision import to_graph
    from common.engines.mxnet.runtime import mx
    from common.engines.mxnet.trainer import Trainer
    from common.engines.mxnet.workers import Workers
    from common.networks import Network, edits
    from common.networks.resnet import build_resnet
    from common.training import schedule

    amx.allow()
    assert amx.is_allowed()

    def gradients(graph, shape, dtype):
        random = np.random.RandomState(0)
        parser = Parser()
        schedule.add_schedule_args(parser)
        steps = schedule.of_flags(parser.parse_args(["--lr", "1"]), 1)
        options = TrainerOptions(shape[0], shape[1:], steps, dtype)
        devices = [mx.cpu()]
        trainer = Trainer(Network(graph, {}, {}), devices, options, Workers("device", devices))
        before = trainer.state().params
        images = random.randint(0, 256, shape).astype(np.uint8)
        labels = random.randint(0, 5, shape[0]).astype(np.float32)
        trainer.step(Batch(images, labels, None, pad=0, missing=[]), 1.0)
        after = trainer.state().params
        return {name: before[name] - after[name] for name in before}

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
        return edits.take_raw_images(to_graph(symbol)), (4, 3, side, side)

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
    graph = edits.take_raw_images(build_resnet(50, 5))
    shape = (3, 3, 160, 160)
    for _ in range(3):
        exact, got = (gradients(graph, shape, dtype) for dtype in ("float32", "bfloat16"))
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
    code = "from common.engines.mxnet import amx; amx.allow(); print(amx.is_allowed())"
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
    graph = to_graph(symbol)
    shapes = {f"conv{number}": (2, 16, 7, 7) for number in (1, 2, 3)}
    assert amx.steer(graph["nodes"], shapes) == []
    ops = [node["op"] for node in graph["nodes"]]
    assert "mean" in ops and "Pooling" not in ops
    steered = to_symbol(graph)
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
    nodes = to_graph(convolution)["nodes"]
    assert amx.steer(nodes, {"conv1": (2, 8, side, side)}) == ["conv1"] * stays


def test_a_network_that_does_not_take_such_images_is_reported_by_who_binds_it():
    symbol = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(7, 7), num_filter=8, name="conv1")
    graph = to_graph(symbol)
    assert _output_shapes(graph, (3, 5, 5)) == {}
    assert _output_shapes(graph, (3, 9, 9))["conv1"] == (1, 8, 3, 3)


@pytest.mark.skipif(mx.__version__ < "1.9", reason="bfloat16 needs MXNet 1.9")
def test_a_network_is_steered_where_amx_is_allowed_and_its_graph_stays(monkeypatch):
    """What is computed in bfloat16 with AMX; on other processors the graph alone is looked at."""
    body = mx.sym.Convolution(mx.sym.Variable("data"), kernel=(3, 3), num_filter=8, name="conv0")
    body = mx.sym.Convolution(body, kernel=(1, 1), num_filter=8, name="conv1")
    body = mx.sym.Convolution(body, kernel=(2, 2), num_filter=8, name="conv2")
    logits = mx.sym.FullyConnected(mx.sym.Flatten(body), num_hidden=5, name="fc1")
    graph = to_graph(mx.sym.SoftmaxOutput(logits, name="softmax"))
    before = copy.deepcopy(graph)
    monkeypatch.setattr(amx, "is_allowed", lambda: True)
    nodes = {node["name"]: node for node in convert(graph, "bfloat16", (3, 16, 16))["nodes"]}
    assert graph == before
    assert nodes["conv1"]["attrs"]["dilate"] == "(2, 2)"
    sources = {
        name: list(nodes)[nodes[name]["inputs"][0][0]] for name in ("conv0", "conv1", "conv2")
    }
    assert ["bfloat16" in source for source in sources.values()] == [False, True, False]
