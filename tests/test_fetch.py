"""Downloads, from a real server on loopback that behaves as bad servers do."""

import email.utils
import hashlib
import http.server
import os
import threading
import time

import pytest

from common.base import fetch
from common.base.files import UserError

CONTENT = bytes(range(256)) * 4000  # 1 MB


class Server(http.server.ThreadingHTTPServer):
    """Serves CONTENT at /good and misbehaves at the other addresses; remembers the requests."""

    daemon_threads = True

    def __init__(self):
        super().__init__(("127.0.0.1", 0), Handler)
        self.requests = []
        threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True).start()

    def url(self, name):
        return f"http://127.0.0.1:{self.server_address[1]}/{name}"

    def handle_error(self, request, client_address):
        """A client that hangs up is part of these tests."""


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *_):
        pass

    def do_GET(self):
        name, span = self.path[1:], self.headers.get("Range")
        self.server.requests.append((name, span))
        start = int(span[6:-1]) if span and name != "no-ranges" else 0
        if name == "missing":
            self.send_error(404)
        elif name == "html":
            self.answer(b"<html>moved</html>", content_type="text/html")
        elif name == "busy" and len(self.server.requests) < 3:
            self.refuse(503, {"Retry-After": "0"})
        elif name == "busy-after-a-part" and start:
            self.refuse(429, {})
        elif name == "busy-after-a-part":
            self.answer(CONTENT[:300_000], claimed=len(CONTENT))
        elif name == "busy-for-an-hour":
            date = email.utils.formatdate(time.time() + 3600, usegmt=True)
            self.refuse(429, {"Retry-After": date})
        elif name == "without-end":
            self.send_chunks()
        elif name == "more-than-the-range":
            self.answer(CONTENT[start:] + b"more", start)
        elif name == "silent":
            time.sleep(1)
        elif name == "too-long":
            self.answer(CONTENT[start:], claimed=len(CONTENT[start:]) + 1000)
        elif name == "too-short":
            self.answer(CONTENT[: len(CONTENT) // 2])
        elif name == "breaks" and start < 600_000:
            self.answer(CONTENT[start : start + 300_000], start, len(CONTENT) - start)
        else:
            self.answer(CONTENT[start:], start)

    def refuse(self, status, headers):
        self.send_response(status)
        for header, value in headers.items():
            self.send_header(header, value)
        self.end_headers()

    def send_chunks(self):
        self.send_response(200)
        self.end_headers()
        for _ in range(10):  # HTTP/1.0: without a length, until the connection ends
            self.wfile.write(CONTENT)

    def answer(self, body, start=0, claimed=None, content_type="application/octet-stream"):
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body) if claimed is None else claimed))
        self.send_header("ETag", '"one"')
        if start:
            self.send_header("Content-Range", f"bytes {start}-{len(CONTENT) - 1}/{len(CONTENT)}")
        self.end_headers()
        self.wfile.write(body)


@pytest.fixture
def server():
    with Server() as server:
        yield server
        server.shutdown()


def require_whole(path):
    with open(path, "rb") as stream:
        if stream.read() != CONTENT:
            raise UserError(f"{path}: is cut off")


def get(server, names, path, **options):
    urls = [server.url(name) for name in names]
    # A good answer may take a while on a busy machine: only silence is cut short.
    timeout = 0.3 if "silent" in names else 30
    options = {"check": require_whole, "timeout": timeout, "pause": 0.01, **options}
    fetch.fetch(urls, str(path), **options)


def test_a_file_is_fetched_and_its_sha256_kept_beside_it(server, tmp_path):
    get(server, ["good"], tmp_path / "a.params")
    assert (tmp_path / "a.params").read_bytes() == CONTENT
    digest = hashlib.sha256(CONTENT).hexdigest()
    assert (tmp_path / "a.params.sha256").read_text() == f"{digest}  a.params\n"
    assert fetch.verify_sha256(str(tmp_path / "a.params")) == digest
    assert sorted(os.listdir(tmp_path)) == ["a.params", "a.params.sha256"]


def test_a_broken_connection_is_continued_where_it_broke(server, tmp_path):
    get(server, ["breaks"], tmp_path / "a.params")
    assert [span for _, span in server.requests] == [None, "bytes=300000-", "bytes=600000-"]


def test_a_killed_download_is_continued_by_the_next_run(server, tmp_path):
    path = str(tmp_path / "a.params")
    part = fetch._part_name(path, server.url("good"))
    with open(part, "wb") as stream:
        stream.write(CONTENT[:500_000])
    get(server, ["good"], path)
    assert server.requests == [("good", "bytes=500000-")]


def test_a_server_without_ranges_sends_the_whole_file_again(server, tmp_path):
    path = str(tmp_path / "a.params")
    with open(fetch._part_name(path, server.url("no-ranges")), "wb") as stream:
        stream.write(b"something else")
    get(server, ["no-ranges"], path)
    assert server.requests == [("no-ranges", "bytes=14-")]


def test_a_wrong_beginning_from_an_earlier_run_is_not_accepted(server, tmp_path):
    path = str(tmp_path / "a.params")
    with open(fetch._part_name(path, server.url("good")), "wb") as stream:
        stream.write(b"x" * 1000)
    with pytest.raises(UserError, match="is cut off"):
        get(server, ["good"], path)
    get(server, ["good"], path)  # the bad part is gone


def test_the_next_mirror_is_asked_where_one_fails(server, tmp_path):
    names = ["missing", "html", "silent", "too-long", "too-short", "good"]
    get(server, names, tmp_path / "a.params")
    assert {name for name, _ in server.requests} == set(names)


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        ("missing", "answers 404"),
        ("html", "sends a web page"),
        ("silent", "timed out"),
        ("too-long", "the connection broke"),
        ("too-short", "is cut off"),
    ],
)
def test_a_bad_server_is_named_with_its_reason_and_nothing_changes(server, tmp_path, name, reason):
    (tmp_path / "a.params").write_bytes(b"what was there before")
    with pytest.raises(UserError, match=f"a.params: could not be fetched.*/{name}: .*{reason}"):
        get(server, [name], tmp_path / "a.params")
    assert (tmp_path / "a.params").read_bytes() == b"what was there before"


def test_nobody_listening_is_a_reason_too(tmp_path):
    with pytest.raises(UserError, match="refused"):
        fetch.fetch(["http://127.0.0.1:9/a"], str(tmp_path / "a"), check=require_whole, pause=0)


def test_a_file_of_another_sha256_is_not_accepted(server, tmp_path):
    right = hashlib.sha256(CONTENT).hexdigest()[:8]
    get(server, ["good"], tmp_path / "a.params", sha256=right)
    with pytest.raises(UserError, match="is another file: its sha256"):
        get(server, ["good"], tmp_path / "b.params", sha256="00000000")
    assert not (tmp_path / "b.params").exists()


def test_a_file_that_changed_after_it_was_fetched_is_found(server, tmp_path):
    get(server, ["good"], tmp_path / "a.params")
    (tmp_path / "a.params").write_bytes(CONTENT[:-1] + b"x")
    with pytest.raises(UserError, match="has changed since it was fetched"):
        fetch.verify_sha256(str(tmp_path / "a.params"))


def test_a_busy_server_is_asked_again(server, tmp_path):
    get(server, ["busy"], tmp_path / "a.params")
    assert len(server.requests) == 3


def test_the_part_that_came_is_kept_where_the_server_becomes_busy(server, tmp_path):
    path = str(tmp_path / "a.params")
    with pytest.raises(UserError, match=r"answers 429 .*; the 300000 bytes received are kept"):
        get(server, ["busy-after-a-part"], path)
    part = fetch._part_name(path, server.url("busy-after-a-part"))
    assert os.path.getsize(part) == 300_000


@pytest.mark.parametrize("name", ["missing", "html"])
def test_no_refusal_throws_away_the_part_of_an_earlier_run(server, tmp_path, name):
    path = str(tmp_path / "a.params")
    part = fetch._part_name(path, server.url(name))
    with open(part, "wb") as stream:
        stream.write(CONTENT[:500_000])
    with pytest.raises(UserError, match="the 500000 bytes received are kept for the next run"):
        get(server, [name], path)
    assert os.path.getsize(part) == 500_000


def test_another_mirror_is_asked_at_once_where_one_is_busy_for_long(server, tmp_path, caplog):
    get(server, ["busy-for-an-hour", "good"], tmp_path / "a.params")
    assert [name for name, _ in server.requests] == ["busy-for-an-hour", "good"]
    assert "answers 429 Too Many Requests and asks to come back in 3" in caplog.text


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("7", 7), (" 120 ", 120), ("soon", 0), ("", 0), ("Wed, 21 Oct 2015 07:28:00 GMT", 0)],
)
def test_what_a_busy_server_asks_for_is_understood(text, seconds):
    assert fetch._retry_after({"Retry-After": text}) == seconds


def test_a_body_without_a_length_ends_at_the_most_that_a_network_can_have(server, tmp_path):
    with pytest.raises(UserError, match="/without-end: sends more than 2000000 bytes"):
        get(server, ["without-end"], tmp_path / "a.params", most_bytes=2_000_000)
    assert os.listdir(tmp_path) == []


def test_a_body_that_announces_too_much_is_not_asked_for(server, tmp_path):
    with pytest.raises(UserError, match="/good: announces 1024000 bytes, more than 1000"):
        get(server, ["good"], tmp_path / "a.params", most_bytes=1000)


def test_a_body_larger_than_announced_is_refused(server, tmp_path):
    path = str(tmp_path / "a.params")
    part = fetch._part_name(path, server.url("more-than-the-range"))
    with open(part, "wb") as stream:
        stream.write(CONTENT[:500_000])
    with pytest.raises(UserError, match="sends more than 1024000 bytes"):
        get(server, ["more-than-the-range"], path)
    assert os.listdir(tmp_path) == []


def test_a_sha256_that_lies_there_before_the_file_is_what_it_must_have(server, tmp_path):
    wrong, right = "0" * 64, hashlib.sha256(CONTENT).hexdigest()
    (tmp_path / "a.params.sha256").write_text(f"{wrong}  a.params\n")
    with pytest.raises(UserError, match=rf"sha256 is {right}; .*a.params.sha256 says {wrong}"):
        get(server, ["good"], tmp_path / "a.params")
    assert os.listdir(tmp_path) == ["a.params.sha256"]
    (tmp_path / "a.params.sha256").write_text(f"{right}  a.params\n")
    get(server, ["good"], tmp_path / "a.params")
    assert fetch.verify_sha256(str(tmp_path / "a.params")) == right


def test_a_link_in_the_place_of_the_part_is_not_written_through(server, tmp_path):
    path = str(tmp_path / "a.params")
    (tmp_path / "precious").write_bytes(b"precious")
    os.symlink("precious", fetch._part_name(path, server.url("good")))
    with pytest.raises(UserError, match="is a link, and the file behind it would be changed"):
        get(server, ["good"], path)
    assert (tmp_path / "precious").read_bytes() == b"precious"
