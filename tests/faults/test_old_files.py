"""Files of other tools and other years are read, although they have none of our checksums.

A network is rewritten in the format of its time, byte for byte. What is trained from it and
predicted with it must equal the results of the file that this project writes. `old/` holds what
`write_with_mxnet` saves with MXNet 1.5.0 and 1.9.1.
"""

import csv
import json
import os
import shutil
import struct

import numpy as np
import pytest

from common.data.image import decode, eval_image, eval_side
from common.networks import params_file
from tests.faults import workplace
from tests.faults.workplace import PREDICT, SIZE, TRAIN
from tests.made_up_challenge import peer_probabilities

OLD = os.path.join(os.path.dirname(os.path.abspath(__file__)), "old")
FINE_TUNE = ["fine-tune.py", *TRAIN, "--num-epochs", "1", "--lr-step-epochs", ""]
SUBMIT = ["sub.py", "1", "cpu", *PREDICT]
SLOW = pytest.mark.slow
MAGIC = {"2017": 0xF993FAC8, "1.5.0": 0xF993FAC9}


@pytest.fixture
def folder(challenge, tmp_path):
    return workplace.copy(challenge, tmp_path / "data")


@pytest.fixture
def run(folder, scripts):
    """Run a script that must succeed; return what it leaves."""

    def call(*command):
        done = scripts(folder, *command)
        assert done.status == 0, done.stderr
        return workplace.contents(folder)

    return call


# --- Networks ------------------------------------------------------------------------------------


def write_params(path, arrays, year):
    """Write `{name: float32 array}` as MXNet did: in 2016 without a magic number per array."""
    with open(path, "wb") as stream:
        stream.write(struct.pack("<QQQ", 0x112, 0, len(arrays)))
        for array in arrays.values():
            if year == "2016":
                stream.write(struct.pack(f"<I{array.ndim}I", array.ndim, *array.shape))
            else:
                storage = struct.pack("<i", 0) if year == "1.5.0" else b""
                stream.write(struct.pack("<I", MAGIC[year]) + storage)
                stream.write(struct.pack(f"<I{array.ndim}q", array.ndim, *array.shape))
            stream.write(struct.pack("<iii", 1, 0, 0) + array.astype("<f4").tobytes())
        stream.write(struct.pack("<Q", len(arrays)))
        for name in arrays:
            stream.write(struct.pack("<Q", len(name)) + name.encode())


def old_symbol(text, year):
    """Return a network's JSON as MXNet wrote it in another year."""
    graph = json.loads(text)
    graph["attrs"] = {"mxnet_version": ["int", {"2017": 905, "1.5.0": 10500}.get(year, 0)]}
    if year == "1.5.0":
        return json.dumps(graph, indent=2)
    attributes = "attr" if year == "2017" else "param"
    for node in graph["nodes"]:
        if "attrs" in node:
            node[attributes] = node.pop("attrs")
    del graph["node_row_ptr"]
    if year == "2016":
        without_states(graph)
    return json.dumps(graph, indent=2)


def without_states(graph):
    """Leave out what was not part of a graph in 2016: versions, and the states of BatchNorm."""
    del graph["attrs"]
    states = {i for i, n in enumerate(graph["nodes"]) if n["name"].endswith(("_mean", "_var"))}
    kept = [i for i in range(len(graph["nodes"])) if i not in states]
    number = {old: new for new, old in enumerate(kept)}
    graph["nodes"] = [graph["nodes"][i] for i in kept]
    for node in graph["nodes"]:
        node["inputs"] = [[number[i], out] for i, out, _ in node["inputs"] if i in number]
        node["backward_source_id"] = -1
        node.setdefault("param", {})
    graph["heads"] = [[number[i], out] for i, out, *_ in graph["heads"]]
    graph["arg_nodes"] = [number[i] for i in graph["arg_nodes"] if i in number]


def write_as_of(year, folder, prefix, epoch):
    """Rewrite a checkpoint of this project in the format of a year."""
    path = str(folder / f"{prefix}-{epoch:04d}.params")
    write_params(path, params_file.read(path), year)
    symbol = folder / f"{prefix}-symbol.json"
    symbol.write_text(old_symbol(symbol.read_text(), year))


@pytest.mark.parametrize("year", ["2016", *(pytest.param(y, marks=SLOW) for y in MAGIC)])
def test_a_network_of_another_year_is_trained_and_predicts_as_ours(
    folder, run, engine, year, cases
):
    cases(2)
    submit, train = ([*command, "--engine", engine] for command in (SUBMIT, FINE_TUNE))
    ours = run(*submit)["out.csv"]
    write_as_of(year, folder, "run", 1)
    assert b"crc32" not in (folder / "run-symbol.json").read_bytes()
    assert run(*submit)["out.csv"] == ours
    weights = run(*train, "--pretrained-model", "zoo")["run-0001.params"]
    write_as_of(year, folder, "zoo", 0)
    assert run(*train, "--pretrained-model", "zoo")["run-0001.params"] == weights


def write_with_mxnet(mx, prefix):
    """Write a tiny network with MXNet alone, like the files in `old/`; return its prefix."""
    body = mx.sym.Convolution(mx.sym.Variable("data"), num_filter=4, kernel=(3, 3), name="conv0")
    body = mx.sym.Activation(mx.sym.BatchNorm(body, name="bn0"), act_type="relu", name="relu0")
    body = mx.sym.Pooling(body, global_pool=True, kernel=(1, 1), pool_type="avg", name="pool0")
    body = mx.sym.FullyConnected(mx.sym.Flatten(body), num_hidden=6, name="fc1")
    symbol = mx.sym.SoftmaxOutput(body, name="softmax")
    shapes, _, states = symbol.infer_shape(data=(1, 3, SIZE, SIZE))
    random = np.random.RandomState(3)
    arrays = {
        name: mx.nd.array(np.abs(random.standard_normal(shape)) * 1e-3)
        for name, shape in zip(symbol.list_arguments(), shapes)
        if name not in ("data", "softmax_label")
    }
    arrays["fc1_weight"] = mx.nd.array(random.standard_normal((6, 4)) * 0.3)
    means = {name: mx.nd.ones(shape) for name, shape in zip(symbol.list_auxiliary_states(), states)}
    mx.model.save_checkpoint(prefix, 1, symbol, arrays, means)
    return prefix


def pixels(folder):
    """Return the test photographs as the network sees them, (N, 3, H, W) float32."""
    images = []
    for image in json.loads((folder / "test2017.json").read_text())["images"]:
        data = (folder / image["file_name"]).read_bytes()
        image = eval_image(decode(data), SIZE, SIZE, eval_side(SIZE, SIZE))
        images.append(image[:, :, ::-1].transpose(2, 0, 1))
    return np.array(images, np.float32)


@pytest.mark.parametrize("writer", ["mxnet-1.5.0", "mxnet-1.9.1", "this MXNet"])
def test_a_checkpoint_that_mxnet_itself_wrote_is_read(folder, run, engine, writer, cases, request):
    cases(2)
    prefix = str(folder / "old")
    if writer == "this MXNet":
        write_with_mxnet(request.getfixturevalue("mx"), prefix)
    else:
        for ending in ("-symbol.json", "-0001.params"):
            shutil.copy(os.path.join(OLD, writer + ending), prefix + ending)
    submit = ["old" if word == "run" else word for word in SUBMIT]
    left = run(*submit, "--save-probs", "old.npz", "--engine", engine)
    with np.load(folder / "old.npz") as arrays:
        ours = arrays["probabilities"]
    np.testing.assert_allclose(ours, peer_probabilities(prefix, 1, pixels(folder)), atol=1e-3)
    assert len(list(csv.reader(left["out.csv"].decode().splitlines()))) == 1 + 6
    run(*FINE_TUNE, "--pretrained-model", "old", "--engine", engine)


# --- Records and lists ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    "with_index",
    [pytest.param(True, marks=SLOW, id="with index"), pytest.param(False, id="without index")],
)
def test_records_that_mxnet_s_tool_packed_are_trained_and_predicted_as_ours(
    folder, run, peer, monkeypatch, with_index, cases
):
    cases(3)
    run("im2rec.py", "test", ".")
    validate = ["sub.py", "1", "cpu", "--set", "val", *PREDICT]
    ours = [run(*FINE_TUNE, "--pretrained-model", "zoo")["run-0001.params"]]
    ours += [run(*command)["out.csv"] for command in (SUBMIT, validate)]
    monkeypatch.chdir(folder)
    for name in ("train", "val", "test"):
        os.remove(f"{name}.rec")
        peer(name, ".")
        assert os.path.getsize(f"{name}.rec")
        if not with_index:
            os.remove(f"{name}.idx")
    theirs = [run(*FINE_TUNE, "--pretrained-model", "zoo")["run-0001.params"]]
    theirs += [run(*command)["out.csv"] for command in (SUBMIT, validate)]
    assert theirs == ours


def test_a_list_that_mxnet_s_tool_made_is_packed(folder, run, peer, monkeypatch):
    monkeypatch.chdir(folder)
    peer("--list", "--recursive", "theirs", "train_val_images")
    run("im2rec.py", "theirs", "train_val_images")
    assert len((folder / "theirs.idx").read_text().splitlines()) == 18
