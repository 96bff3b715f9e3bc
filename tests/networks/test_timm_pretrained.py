"""Pretrained networks of timm: fetched from a hub on this machine, put there by hand, files."""

import hashlib
import http.server
import importlib.util
import json
import os
import sys
import threading

import numpy as np
import pytest

from common.base.files import UserError
from common.networks import timm_files, timm_pretrained
from tests.conftest import run_python
from tests.networks.test_timm_files import ARRAYS, CONFIG, tiny_network
from tests.torch_writer import Tensor, save_zip

NAME = "tiny.of_tests"
BROKEN_AT = 11_000_000  # huggingface_hub keeps whole pieces of 10 MiB
needs_hub = pytest.mark.skipif(
    importlib.util.find_spec("huggingface_hub") is None, reason="huggingface_hub is not installed"
)


@pytest.fixture
def files(tmp_path):
    """A folder with the two files of a network on the hub."""
    folder = tmp_path / "hub"
    folder.mkdir()
    (folder / "config.json").write_text(json.dumps(CONFIG))
    arrays = {**ARRAYS, "big.weight": np.ones((2800, 1000), np.float32)}
    timm_files.write_safetensors(str(folder / "model.safetensors"), arrays)
    return folder


class Hub:
    """A hub of one network: `log` holds (method, file, first byte); it can break connections."""

    def __init__(self, folder):
        self.folder, self.log, self.breaks = folder, [], 0

    def answer(self, handler):
        """Answer a request for /timm/NAME/resolve/main/FILE, as the hub does."""
        path = handler.path.partition(f"/timm/{NAME}/resolve/main/")[2]
        if not path or not (self.folder / path).exists():
            handler.send_error(404)
            return
        data = (self.folder / path).read_bytes()
        begin = int(handler.headers.get("Range", "bytes=0-")[6:].partition("-")[0])
        self.log.append((handler.command, path, begin))
        handler.send_response(206 if begin else 200)
        headers = {
            "Content-Length": len(data) - begin,
            "Content-Range": f"bytes {begin}-{len(data) - 1}/{len(data)}",
            "ETag": f'"{hashlib.sha256(data).hexdigest()}"',
            "X-Repo-Commit": "0" * 40,
        }
        for key, value in headers.items():
            handler.send_header(key, str(value))
        handler.end_headers()
        if handler.command == "HEAD":
            return
        if self.breaks and path == "model.safetensors":
            self.breaks -= 1
            handler.wfile.write(data[begin : begin + BROKEN_AT])
            handler.close_connection = True
            return
        handler.wfile.write(data[begin:])


@pytest.fixture
def hub(files):
    """A `Hub` that answers at `hub.address`."""
    found = Hub(files)

    class Handler(http.server.BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self):
            found.answer(self)

        do_HEAD = do_GET  # noqa: N815

        def log_message(self, *_):
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        found.address = f"http://127.0.0.1:{server.server_address[1]}"
        yield found
        server.shutdown()


@pytest.fixture
def fetch(tmp_path):
    """Run `python -m common.modelzoo fetch timm:NAME` with a hub; return (status, out, err)."""

    def run(address, name=NAME, **environ):
        settings = {"HF_ENDPOINT": address, "HF_HOME": tmp_path / "cache", **environ}
        return run_python(
            *("-m", "common.modelzoo", "fetch", f"timm:{name}"),
            *("--model-dir", tmp_path / "model"),
            HF_HUB_DISABLE_PROGRESS_BARS=1,
            **settings,
        )

    return run


def no_config(name):
    raise AssertionError(f"timm was asked for {name}")


@needs_hub
def test_a_network_is_fetched_once_from_the_hub(hub, fetch):
    status, output, errors = fetch(hub.address)
    assert status == 0, errors
    config, weights = output.split()[0], output.split()[2]
    network = timm_files.read_files(config, weights)
    assert network.architecture == "tiny"
    assert network.params["big.weight"].shape == (2800, 1000)
    hub.log.clear()
    assert fetch(hub.address)[:2] == (status, output)
    assert "GET" not in [method for method, *_ in hub.log]
    # Without a hub, what was fetched is found.
    assert fetch("http://127.0.0.1:9", HF_HUB_OFFLINE=1)[:2] == (status, output)


@needs_hub
def test_a_broken_download_is_resumed(hub, fetch):
    hub.breaks = 1
    status, _, errors = fetch(hub.address)
    assert status == 0, errors
    begins = [begin for method, path, begin in hub.log if (method, path[:5]) == ("GET", "model")]
    assert len(begins) == 2
    assert begins[0] == 0 < begins[1] <= BROKEN_AT


@needs_hub
def test_a_file_that_is_not_what_the_hub_announced_is_refused(hub, fetch):
    assert fetch(hub.address)[0] == 0
    blob = next(
        os.path.join(folder, name)
        for folder, _, names in os.walk(hub.folder.parent / "cache")
        for name in names
        if os.path.getsize(os.path.join(folder, name)) > 1_000_000
    )
    with open(blob, "r+b") as stream:
        stream.seek(1_000_000)
        stream.write(b"\xff\xff\xff\xff")
    status, _, errors = fetch(hub.address)
    assert status == 2
    assert "is damaged: its sha256 is not its name; remove it" in errors.splitlines()[-1]


@needs_hub
def test_without_a_network_one_line_says_what_to_fetch_and_where_to_put_it(fetch, tmp_path):
    status, output, errors = fetch("https://hub.example", HF_HUB_OFFLINE=1)
    assert (status, output) == (2, "")
    last = errors.splitlines()[-1]
    for file_name in timm_pretrained.FILES:
        assert f"https://hub.example/timm/{NAME}/resolve/main/{file_name}" in last
    assert f"put both into {tmp_path / 'model' / NAME}, and run this again" in last


@needs_hub
def test_a_network_that_the_hub_does_not_have_is_one_line(hub, fetch):
    status, _, errors = fetch(hub.address, "nothing.of_this_name")
    assert status == 2
    assert "timm/nothing.of_this_name: could not be fetched" in errors.splitlines()[-1]


def test_without_its_package_one_line_says_what_to_install(stand_in, tmp_path, monkeypatch):
    stand_in("huggingface_hub", "raise ImportError")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "huggingface_hub", raising=False)
    with pytest.raises(UserError, match=r"pip install huggingface_hub; or fetch https?://"):
        timm_pretrained.fetch_network(NAME, model_dir=str(tmp_path))


def test_what_was_put_there_by_hand_is_taken(files, tmp_path):
    folder = tmp_path / "model" / NAME
    folder.parent.mkdir()
    files.rename(folder)
    network = timm_pretrained.load_pretrained(
        f"timm:{NAME}", no_config, model_dir=str(folder.parent)
    )
    np.testing.assert_array_equal(network.params["stem.weight"], ARRAYS["stem.weight"])
    (folder / "config.json").unlink()
    with pytest.raises(UserError, match=r"config\.json: not found"):
        timm_pretrained.load_pretrained(f"timm:{NAME}", no_config, model_dir=str(folder.parent))


def test_a_name_without_a_tag_gets_timms_first_one(files, tmp_path):
    folder = tmp_path / NAME
    files.rename(folder)
    config = {"architecture": "tiny", "pretrained_cfg": {"tag": "of_tests"}}
    paths = timm_pretrained.fetch_network("tiny", lambda name: config, str(tmp_path))
    assert paths == [str(folder / name) for name in timm_pretrained.FILES]


@pytest.mark.parametrize("name", ["", "../x", "a/b/c", "a b"])
def test_what_is_not_a_name_is_refused(name):
    with pytest.raises(UserError, match="not a name such as timm:"):
        timm_pretrained.fetch_network(name)


@pytest.mark.parametrize("ending", [".safetensors", ".pth"])
def test_a_file_is_taken_as_the_architecture_that_is_named(tmp_path, ending):
    path = str(tmp_path / f"weights{ending}")
    if ending == ".pth":  # as training scripts write it
        tensors = {f"module.{key}": Tensor(array, key) for key, array in ARRAYS.items()}
        save_zip(path, {"state_dict": tensors, "epoch": 3})
    else:
        timm_files.write_safetensors(path, ARRAYS)
    config = {"architecture": "tiny", "pretrained_cfg": {**CONFIG["pretrained_cfg"]}}
    network = timm_pretrained.load_pretrained(path, lambda name: config, architecture="tiny")
    assert network.num_classes == 2  # of the file, not the thousand of the architecture
    assert network.shapes() == tiny_network().shapes()


def test_a_run_of_this_project_is_a_pretrained_network_too(tmp_path):
    prefix = str(tmp_path / "run")
    for epoch in (1, 2):
        timm_files.write(prefix, epoch, tiny_network())
    assert timm_pretrained.is_meant(prefix)
    assert timm_pretrained.load_pretrained(prefix, no_config, epoch=2).num_classes == 2
    with pytest.raises(UserError, match="choose the epoch with --pretrained-epoch"):
        timm_pretrained.load_pretrained(prefix, no_config)


def test_nan_in_pretrained_weights_is_named(tmp_path):
    path = str(tmp_path / "weights.safetensors")
    timm_files.write_safetensors(path, {**ARRAYS, "scale": np.float32("inf").reshape(())})
    with pytest.raises(UserError, match="scale holds NaN"):
        timm_pretrained.load_pretrained(path, lambda name: CONFIG, architecture="tiny")


def test_networks_of_other_sources_are_not_timms():
    assert timm_pretrained.is_meant("timm:convnext_tiny")
    assert timm_pretrained.is_meant("weights.pth", "convnext_tiny")
    assert not timm_pretrained.is_meant("weights.pth")
    assert not timm_pretrained.is_meant("model/resnet-152")
