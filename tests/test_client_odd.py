"""The client among what is odd: keys, times and texts that cannot be sent, and servers that are none."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from modelkeep import AsyncClient, Client
from modelkeep.client import pack, unpack
from modelkeep.errors import BadInput, ModelkeepError, NotReady, TooLate

X = {"x": np.ones((1, 1), np.float32)}
OUTPUT = b'{"name": "y", "datatype": "FP32", "shape": [1], "data": [7], "parameters": null}'
ANSWER = b'{"model_name": "m", "outputs": [' + OUTPUT + b"]}"


class Proxy(ThreadingHTTPServer):
    """Gives ``body`` for an answer, a byte each ``pause`` seconds, with ``coding`` where there is one."""

    daemon_threads = True
    body, coding, pause = b"", "", 0.0

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_port}"


class Handler(BaseHTTPRequestHandler):
    server: Proxy

    def do_GET(self) -> None:
        self.rfile.read(int(self.headers.get("content-length", 0)))
        self.send_response(200)
        if self.server.coding:
            self.send_header("content-encoding", self.server.coding)
        self.send_header("content-length", str(len(self.server.body)))
        self.end_headers()
        try:
            for at in range(len(self.server.body)):
                self.wfile.write(self.server.body[at : at + 1])
                time.sleep(self.server.pause)
        except OSError:
            pass  # the client left

    do_POST = do_GET  # noqa: N815 - as http.server wants it

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def proxy() -> Iterator[Proxy]:
    with Proxy(("127.0.0.1", 0), Handler) as made:
        thread = threading.Thread(target=made.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        yield made
        made.shutdown()
        thread.join()


def test_a_key_from_a_file_ends_in_a_line(proxy: Proxy) -> None:
    proxy.body = ANSWER
    with Client(proxy.url, key="mk_me\n") as client:
        assert client.infer("m", X).outputs["y"] == 7


@pytest.mark.parametrize("key", ["schlüssel", "two words", "a\x00b"])
def test_a_key_that_is_none_is_told_at_once_and_not_shown(key: str) -> None:
    with pytest.raises(BadInput, match="no key has") as told:
        Client("http://127.0.0.1", key=key)
    assert key not in str(told.value)


@pytest.mark.parametrize("timeout", [0, -1, float("nan"), float("inf")])
def test_a_time_that_is_none(timeout: float) -> None:
    """0 was taken for the default, half a minute, and infinity ended in an OverflowError."""
    with pytest.raises(BadInput, match="give seconds above 0"):
        Client("http://127.0.0.1", timeout=timeout)
    with Client("http://127.0.0.1:9") as client, pytest.raises(BadInput, match="give seconds above 0"):
        client.infer("m", X, timeout=timeout)


def test_an_address_that_is_none() -> None:
    with pytest.raises(BadInput, match="is no address of a server"):
        Client("http://[::1")


def test_half_a_character_is_no_text() -> None:
    with pytest.raises(BadInput, match="input 'x' holds text that UTF-8 cannot carry"):
        pack({"x": np.array(["\ud800"], object)})


@pytest.mark.parametrize("body", [b"<html>welcome</html>", b"[]", b"{}"])
def test_a_page_is_no_answer(proxy: Proxy, body: bytes) -> None:
    proxy.body = body
    with Client(proxy.url) as client:
        with pytest.raises(ModelkeepError, match="none of the Open Inference Protocol"):
            client.infer("m", X)
        with pytest.raises(ModelkeepError, match="no answer of an inference server"):
            client.label("m", {"a": 1})
        if body != b"{}":
            with pytest.raises(ModelkeepError, match="no answer of an inference server"):
                client.metadata("m")


def test_an_answer_that_says_it_is_packed_and_is_not(proxy: Proxy) -> None:
    proxy.body, proxy.coding = ANSWER, "gzip"
    with Client(proxy.url) as client, pytest.raises(ModelkeepError, match="cannot be unpacked") as told:
        client.infer("m", X)
    assert not isinstance(told.value, NotReady)  # it was reached


def test_an_answer_in_many_parts_ends_in_time(proxy: Proxy) -> None:
    """Each part came within the time, all of them in seven times as much."""
    proxy.body, proxy.pause = ANSWER, 0.1
    began = time.monotonic()
    with Client(proxy.url, timeout=1) as client:
        with pytest.raises(TooLate):
            client.infer("m", X)
        assert not client.ready()
    other = AsyncClient(proxy.url, timeout=1)
    with pytest.raises(TooLate):
        asyncio.run(other.infer("m", X))
    assert not asyncio.run(other.ready())
    assert time.monotonic() - began < 10


def test_parameters_that_are_null() -> None:
    assert unpack(ANSWER, None).outputs["y"] == 7


@pytest.mark.parametrize("body", [b'{"model_name": "m", "outputs": ["y"]}', b'{"outputs": {"y": 1}}'])
def test_outputs_that_are_none(body: bytes) -> None:
    with pytest.raises(ModelkeepError, match="none of the Open Inference Protocol"):
        unpack(body, None)


def test_metadata_is_what_the_server_says(proxy: Proxy) -> None:
    proxy.body = b'{"name": "m"}'
    found: Any = Client(proxy.url).metadata("m")
    assert found == {"name": "m"}
