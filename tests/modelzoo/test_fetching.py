"""Networks of the catalogue: their names, what is fetched, and from where."""

import dataclasses
import functools
import http.server
import os
import re
import shutil
import threading

import numpy as np
import pytest

from common import engines
from common.base.files import UserError
from common.networks import catalogue, graph, pretrained
from common.networks.edits import find_head
from common.networks.resnet import build_resnet
from common.tools import modelzoo
from tests.modelzoo.conftest import LITE0, infer_shapes, load_pretrained
from tests.torch_writer import resnet_state, save_legacy

pytestmark = pytest.mark.skipif(not engines.installed(), reason="no engine is installed")
ENTRY = catalogue.CATALOGUE["imagenet1k-resnet-18"]
fetch_network = functools.partial(pretrained.fetch_network, infer_shapes=infer_shapes)


@pytest.fixture
def mirror(tmp_path, tiny_network):
    """An entry of the catalogue whose mirrors are a dead port and a server on loopback."""
    folder = tmp_path / "mirror"
    folder.mkdir()
    for suffix in ("-symbol.json", "-0000.params"):
        shutil.copy(tiny_network + suffix, folder / f"resnet-18{suffix}")
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        sources = tuple(
            dataclasses.replace(
                source,
                urls=tuple(
                    f"http://127.0.0.1:{port}/{os.path.basename(source.urls[0])}"
                    for port in (9, server.server_address[1])
                ),
            )
            for source in ENTRY.sources
        )
        yield dataclasses.replace(ENTRY, sources=sources), folder
        server.shutdown()


def test_the_catalogue_has_every_name_of_mxnets_example():
    ours = set(catalogue.CATALOGUE)
    assert {f"imagenet1k-resnet-{depth}" for depth in (18, 34, 50, 101, 152)} <= ours
    assert {f"imagenet1k-resnext-{depth}" for depth in ("50", "101", "101-64x4d")} <= ours
    assert {f"imagenet11k-place365ch-resnet-{depth}" for depth in (50, 152)} <= ours
    assert {"imagenet1k-inception-bn", "imagenet11k-resnet-152"} <= ours
    source = catalogue.CATALOGUE["imagenet11k-resnet-152"].sources[1]
    assert source.file_name == "imagenet11k-resnet-152-0000.params"
    assert source.urls[0] == (
        "http://data.mxnet.io/models/imagenet-11k/resnet-152/resnet-152-0000.params"
    )


def test_what_the_catalogue_fetches_has_a_checksum_or_says_that_it_has_none():
    for entry in catalogue.CATALOGUE.values():
        for source in entry.sources:
            is_tls = all(url.startswith("https://") for url in source.urls)
            assert is_tls == bool(re.fullmatch("[0-9a-f]{8}", source.sha256 or "")), source


@pytest.mark.parametrize(
    ("name", "depth"), [("imagenet1k-resnet-50", 50), ("imagenet11k-resnet-152", 152)]
)
def test_the_catalogues_parameters_are_those_of_the_networks(name, depth):
    entry = catalogue.CATALOGUE[name]
    resnet = build_resnet(depth, entry.num_classes)
    shapes = infer_shapes(resnet, (3, 224, 224))
    weights = set(shapes) & set(graph.arguments(resnet))
    assert sum(int(np.prod(shapes[weight])) for weight in weights) == entry.num_parameters


def test_a_wrong_name_is_answered_with_the_close_ones(zoo):
    said = zoo("info", "imagenet1k-resnet-51", status=2)
    assert "close names: imagenet1k-resnet-50" in said


def test_a_network_of_the_catalogue_is_fetched_and_verified(mirror, tmp_path):
    entry, _ = mirror
    prefix = fetch_network(entry, model_dir=str(tmp_path / "model"))
    assert "fit the symbol; its sha256 is the one that was fetched" in modelzoo.verify(prefix)
    assert sorted(os.listdir(tmp_path / "model")) == [
        "imagenet1k-resnet-18-0000.params",
        "imagenet1k-resnet-18-0000.params.sha256",
        "imagenet1k-resnet-18-symbol.json",
        "imagenet1k-resnet-18-symbol.json.sha256",
    ]


@pytest.mark.parametrize("damage", ["cut", "header", "symbol", "page"])
def test_a_damaged_download_leaves_nothing_behind(mirror, tmp_path, lite0, damage):
    entry, served = mirror
    params = served / "resnet-18-0000.params"
    whole = params.read_bytes()
    if damage == "symbol":
        shutil.copy(f"{lite0}-symbol.json", served / "resnet-18-symbol.json")
    else:
        flipped = whole[:8] + b"\x01" + whole[9:]
        params.write_bytes({"cut": whole[:-99], "header": flipped, "page": b"<html>"}[damage])
    with pytest.raises(UserError, match=r"put each file where it says"):
        fetch_network(entry, model_dir=str(tmp_path / "model"))
    assert not [name for name in os.listdir(tmp_path / "model") if "params" in name]


def test_what_comes_without_tls_and_checksum_is_said_to_be_unproven(mirror, tmp_path, caplog):
    fetch_network(mirror[0], model_dir=str(tmp_path / "model"))
    warned = [line for line in caplog.messages if "comes over plain HTTP and no checksum" in line]
    params = tmp_path / "model" / f"{ENTRY.name}-0000.params"
    assert [line.split(": ")[0] for line in warned][1:] == [str(params)]
    os.remove(params)  # and its sha256 stays: by it the next one is checked
    caplog.clear()
    fetch_network(mirror[0], model_dir=str(tmp_path / "model"))
    assert "plain HTTP" not in caplog.text
    os.remove(params)
    (mirror[1] / "resnet-18-0000.params").write_bytes(b"another file")
    with pytest.raises(UserError, match="is another file: its sha256 is"):
        fetch_network(mirror[0], model_dir=str(tmp_path / "model"))


def test_a_pytorch_network_of_the_catalogue_is_fetched_and_imported(mirror, tmp_path):
    source = mirror[0].sources[0]
    name = os.path.basename(LITE0)
    shutil.copy(LITE0, mirror[1] / name)
    url = source.urls[1].rpartition("/")[0] + f"/{name}"
    entry = catalogue.CATALOGUE["timm-tf_efficientnet_lite0"]
    right = catalogue.Source(name, (url,), sha256="57934424")
    prefix = fetch_network(dataclasses.replace(entry, sources=(right,)), model_dir=str(tmp_path))
    assert pretrained.load_verified(prefix, infer_shapes, 0)
    os.remove(tmp_path / name)
    wrong = catalogue.Source(name, (url,), sha256="0aa007d2")
    with pytest.raises(UserError, match="is another file: its sha256 is 57934424"):
        fetch_network(dataclasses.replace(entry, sources=(wrong,)), model_dir=str(tmp_path))


def test_a_published_file_that_was_damaged_on_its_way_is_found(tmp_path):
    """In the older format of PyTorch only the name reveals a flipped bit."""
    path = str(tmp_path / "resnet18-f37072fd.pth")
    save_legacy(path, resnet_state((1, 1, 1, 1), num_classes=9))
    with pytest.raises(UserError, match=r"f37072fd.pth: is damaged, or another file of that name"):
        load_pretrained(path)


def test_a_network_that_comes_as_a_python_package_needs_no_import(tmp_path):
    network = load_pretrained("efficientnet-lite0", model_dir=str(tmp_path))
    assert find_head(network.graph)[0] == "fc1"
    assert (tmp_path / "efficientnet-lite0-0000.params").exists()


def test_without_a_network_the_addresses_and_names_are_told(tmp_path):
    dead = tuple(
        dataclasses.replace(source, urls=("http://127.0.0.1:9/" + source.file_name,))
        for source in ENTRY.sources
    )
    with pytest.raises(UserError) as caught:
        fetch_network(dataclasses.replace(ENTRY, sources=dead), model_dir=str(tmp_path))
    for suffix in ("-symbol.json", "-0000.params"):
        assert f"http://127.0.0.1:9/imagenet1k-resnet-18{suffix}\n" in f"{caught.value}\n"
        assert f"as {tmp_path}/imagenet1k-resnet-18{suffix}" in str(caught.value)
    assert os.listdir(tmp_path) == []


def test_files_shipped_by_hand_are_found_under_the_catalogues_name(resnet):
    for suffix in ("-symbol.json", "-0000.params"):
        shutil.copy(resnet + suffix, os.path.join(os.path.dirname(resnet), ENTRY.name + suffix))
    assert load_pretrained(ENTRY.name, model_dir=os.path.dirname(resnet))


def test_the_list_and_the_layers_are_shown(zoo, lite0):
    listed = zoo("list", "--model-dir", os.path.dirname(lite0))
    assert "imagenet11k-resnet-152" in listed
    assert any(
        line.startswith("efficientnet-lite0 ") and "yes" in line for line in listed.split("\n")
    )
    shown = zoo("info", lite0)
    assert "block15_depthwise_conv" in shown and "4,652,014 parameters" in shown
