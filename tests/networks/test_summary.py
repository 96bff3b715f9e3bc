"""The layers of a network as a table and as a drawing: the same with each engine."""

import math

import pytest

from common import engines
from common.base.files import UserError
from common.networks import graph, summary
from common.networks.resnet import build_resnet

SHAPE = (3, 64, 64)
GRAPH = build_resnet(10, 9, width=8)


@pytest.fixture(params=engines.ENGINES)
def shapes(request):
    """The shapes of the layers and of the parameters, as one engine finds them."""
    if request.param not in engines.installed():
        pytest.skip(f"{request.param} is not installed")
    engine = engines.load(request.param)
    return engine.layer_shapes(GRAPH, SHAPE), engine.infer_shapes(GRAPH, SHAPE)


def test_a_layer_is_a_line_with_its_output_and_parameters(shapes):
    lines = [line.split() for line in summary.table(GRAPH, *shapes).splitlines()]
    rows = {words[0]: words[1:] for words in lines}
    assert rows["conv0"] == ["Convolution", "8x32x32", f"{8 * 3 * 7 * 7:,}", "bn_data"]
    assert rows["fc1"] == ["FullyConnected", "9", f"{9 * 64 + 9:,}", "flatten0"]
    assert rows["softmax"] == ["SoftmaxOutput", "9", "0", "fc1"]
    trained = sum(math.prod(s) for name, s in shapes[1].items() if "moving" not in name)
    assert sum(int(words[3].replace(",", "")) for words in lines[1:]) == trained


def test_a_drawing_has_the_layers_and_what_flows_between_them(shapes):
    drawn = summary.drawing(GRAPH, shapes[0])
    assert 'label="conv0\\nConvolution\\nkernel (7, 7)\\nstride (2, 2)\\nnum_filter 8"' in drawn
    assert '"flatten0" -> "fc1" [label="64"];' in drawn
    assert '"data" -> "bn_data"' in drawn
    assert "conv0_weight" not in drawn


@pytest.mark.parametrize("name", engines.ENGINES)
def test_a_size_that_the_network_cannot_take_is_one_line(name):
    if name not in engines.installed():
        pytest.skip(f"{name} is not installed")
    too_large = graph.edit(GRAPH, {"conv0": {"kernel": "(99, 99)", "pad": "(0, 0)"}})
    with pytest.raises(UserError, match=r"^--image-size 64: "):
        engines.load(name).layer_shapes(too_large, SHAPE)
