"""The client against a real server: arrays in and out, errors as they are here, what is sent again and what is not."""

from __future__ import annotations

import asyncio
import os
import socket
import threading
import time
from collections.abc import Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

import numpy as np
import pytest

import modelkeep
from modelkeep import AsyncClient, Client
from modelkeep.client import pack, unpack
from modelkeep.errors import BadInput, ModelkeepError, NotFound, NotReady, Overloaded, TooLate, Unauthenticated
from modelkeep.serve.protocol.keys import Ring
from modelkeep.serve.server import Running
from modelkeep.settings import Settings
from modelkeep.types import Signature, TensorSpec

DTYPES = ("bool", "int8", "uint16", "int64", "uint64", "float16", "float32", "float64")


class Echo:
    """y is x, after ``seconds``."""

    def __init__(self, dtype: str, seconds: float = 0.0) -> None:
        shape = (None, None)
        self.signature = Signature((TensorSpec("x", dtype, shape),), (TensorSpec("y", dtype, shape),))
        self.seconds = seconds

    def run(self, inputs: Any) -> dict[str, Any]:
        time.sleep(self.seconds)
        return {"y": inputs["x"].copy()}

    def close(self) -> None:
        pass


@pytest.fixture(scope="module")
def url() -> Iterator[str]:
    models: dict[str, Any] = {dtype: Echo(dtype) for dtype in (*DTYPES, "str")} | {"slow": Echo("float32", 2.0)}
    with Running(models) as url:
        yield url


@pytest.fixture
def client(url: str) -> Iterator[Client]:
    with Client(url, timeout=20) as client:
        yield client


class Script(HTTPServer):
    """Answers each request with the next status of a list, 200 after the last, and counts them."""

    def __init__(self, *statuses: int, retry_after: str | None = None) -> None:
        super().__init__(("127.0.0.1", 0), _Handler)
        self.statuses, self.retry_after, self.asked = list(statuses), retry_after, 0
        self.allowed: list[float] = []
        self.url = f"http://127.0.0.1:{self.server_port}"
        self.thread = threading.Thread(target=self.serve_forever, args=(0.01,), daemon=True)

    def __enter__(self) -> Script:
        self.thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.shutdown()
        self.thread.join()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Script

    def do_POST(self) -> None:
        self.rfile.read(int(self.headers["content-length"]))
        self.server.allowed.append(float(self.headers["x-modelkeep-timeout"]))
        self.server.asked += 1
        status = self.server.statuses.pop(0) if self.server.statuses else 200
        body = b'{"model_name": "m", "model_version": "3", "outputs": [], "error": "not now"}'
        if status == 0:  # the connection breaks once the request was read
            self.connection.shutdown(socket.SHUT_RDWR)
            return
        self.send_response(status)
        self.send_header("content-length", str(len(body)))
        if self.server.retry_after and status != 200:
            self.send_header("retry-after", self.server.retry_after)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


X = {"x": np.ones((1, 1), np.float32)}


@pytest.mark.parametrize("dtype", DTYPES)
def test_arrays_come_back_as_they_went(client: Client, dtype: str) -> None:
    array = np.arange(6).reshape(2, 3).astype(dtype)
    reply = client.infer(dtype, {"x": array})
    assert reply.outputs["y"].dtype == array.dtype
    assert np.array_equal(reply.outputs["y"], array)
    assert (reply.model, reply.version) == (dtype, 1)
    assert reply.id


def test_text_of_any_kind(client: Client) -> None:
    for array in (np.array([["a", "grüße 🙂"]]), np.array([["", b"x"]], object)):
        found = client.infer("str", {"x": array}).outputs["y"]
        assert found.tolist() == [[t.decode() if isinstance(t, bytes) else t for t in row] for row in array.tolist()]


@pytest.mark.parametrize("odd", [None, float("nan"), 1])
def test_what_is_no_text_is_not_sent_as_one(client: Client, odd: Any) -> None:
    """A column with a hole in it, say: the model would read the text 'None'."""
    with pytest.raises(BadInput, match=f"input 'x' holds {odd}, which is no text; give text throughout"):
        client.infer("str", {"x": np.array([["a", odd]], object)})


def test_a_version_and_an_output_can_be_asked_for(client: Client) -> None:
    assert set(client.infer("float32", X, version=1, outputs=["y"]).outputs) == {"y"}
    with pytest.raises(NotFound, match="float32@9"):
        client.infer("float32", X, version=9)
    with pytest.raises(BadInput, match="no output is called 'z'"):
        client.infer("float32", X, outputs=["z"])


def test_errors_are_what_they_are_in_process(client: Client) -> None:
    with pytest.raises(NotFound, match="no model is called 'nobody'"):
        client.infer("nobody", X)
    with pytest.raises(BadInput, match="input 'x' is float64"):
        client.infer("float32", {"x": np.ones((1, 1))})
    with pytest.raises(BadInput, match="no datatype for complex128"):
        client.infer("float32", {"x": np.ones((1, 1), complex)})
    with pytest.raises(TooLate):
        client.infer("slow", X, timeout=0.2)


def test_readiness_and_metadata(client: Client) -> None:
    assert client.ready()
    assert client.ready("float32")
    assert not client.ready("nobody")
    assert client.metadata("float32")["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, -1]}]
    with Client("http://127.0.0.1:9", timeout=1) as nowhere:
        assert not nowhere.ready()


def test_a_key_is_sent_and_never_shown(tmp_path: Any) -> None:
    ring = Ring(tmp_path / "keys.json")
    token = ring.add("me", ["infer"])
    with Running({"m": Echo("float32")}, settings=Settings(keys=str(ring.path))) as url:
        with Client(url, key=token) as known:
            assert known.infer("m", X).version == 1
            assert token not in repr(known)
        with Client(url) as stranger, pytest.raises(Unauthenticated, match="API key is missing"):
            stranger.infer("m", X)


@pytest.mark.parametrize("status", [429, 503])
def test_what_was_turned_away_is_sent_again(status: int) -> None:
    with Script(status, status) as server, Client(server.url) as client:
        assert client.infer("m", X).version == 3
    assert server.asked == 3


@pytest.mark.parametrize("dated", [False, True])
def test_the_server_says_how_late(dated: bool) -> None:
    then = int(time.time()) + 2
    with (
        Script(503, retry_after=formatdate(then, usegmt=True) if dated else "1") as server,
        Client(server.url) as client,
    ):
        began = time.monotonic()
        client.infer("m", X)
        assert time.time() >= then if dated else time.monotonic() - began >= 1.0


def test_each_time_the_server_is_told_what_is_left() -> None:
    with Script(503, 503) as server, Client(server.url, timeout=20) as client:
        client.infer("m", {"x": np.zeros((1, 1), np.float32)})
    first, second, third = server.allowed
    assert first <= 20
    assert (second <= first - 0.1, third <= second - 0.2) == (True, True)


def test_there_is_an_end_to_it() -> None:
    with Script(*[429] * 9, retry_after="1") as server:
        with Client(server.url, retries=0) as client, pytest.raises(Overloaded, match="not now") as told:
            client.infer("m", X)
        assert told.value.retry_after == 1.0
        assert server.asked == 1
        with Client(server.url, timeout=0.9) as client, pytest.raises(Overloaded):
            client.infer("m", X)  # there is no time to wait for as long as the server says
        assert server.asked == 2


@pytest.mark.parametrize("status", [0, 500, 400, 504])
def test_what_the_server_may_have_begun_with_is_not_sent_again(status: int) -> None:
    with Script(status) as server, Client(server.url) as client:
        with pytest.raises(ModelkeepError):
            client.infer("m", X)
        assert server.asked == 1


def test_a_server_that_is_just_starting_is_waited_for() -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    with (
        Client(f"http://127.0.0.1:{port}", retries=0) as client,
        pytest.raises(NotReady, match="is the server running"),
    ):
        client.infer("m", X)
    running = Running({"m": Echo("float32")}, port=port)
    starting = threading.Timer(0.15, running.__enter__)
    starting.start()
    try:
        with Client(running.url, retries=6) as client:
            assert client.infer("m", X).version == 1
    finally:
        starting.join()
        running.stop()


def test_the_same_for_asyncio(url: str) -> None:
    async def run() -> None:
        async with AsyncClient(url, timeout=20) as client:
            assert await client.ready("float32")
            assert not await client.ready("nobody")
            assert (await client.metadata("float32"))["name"] == "float32"
            asked = [client.infer("float32", {"x": np.full((1, 2), n, np.float32)}) for n in range(20)]
            for n, reply in enumerate(await asyncio.gather(*asked)):
                assert (reply.outputs["y"] == n).all()
            with pytest.raises(NotFound):
                await client.infer("nobody", X)
            with pytest.raises(TooLate):
                await client.infer("slow", X, timeout=0.2)
        with Script(503) as server:
            async with AsyncClient(server.url) as client:
                assert (await client.infer("m", X)).version == 3
            assert server.asked == 2

    asyncio.run(run())


def _own(client: Client, first: int) -> bool:
    """Whether a hundred questions got their own answers."""
    asked = (np.full((1, 1), first + n, np.float32) for n in range(100))
    return all(np.array_equal(client.infer("float32", {"x": x}).outputs["y"], x) for x in asked)


def test_a_fork_gets_its_own_answers(client: Client) -> None:
    """As workers of a web server do, whose client was made before they were. They shared its connection, and each read
    what the other had asked.
    """
    client.infer("float32", X)
    child = os.fork()
    if not child:
        try:
            os._exit(0 if _own(client, 1000) else 1)
        finally:
            os._exit(2)
    mine = _own(client, 2000)
    assert (mine, os.waitpid(child, 0)[1]) == (True, 0)


def test_asyncio_run_may_come_twice(url: str) -> None:
    """It ended in 'Event loop is closed': the connection was the first loop's."""
    client = AsyncClient(url)
    for _ in range(3):
        assert asyncio.run(client.infer("float32", X)).version == 1
        assert asyncio.run(client.ready())
    asyncio.run(client.close())


def test_replies_in_json_and_in_both_forms_are_read_too() -> None:
    head = b'{"model_name": "m", "outputs": [{"name": "y", "datatype": "FP32", "shape": [2], "data": [1.5, null]}]}'
    found = unpack(head, None)
    assert found.version == 0
    assert found.outputs["y"][0] == 1.5
    assert np.isnan(found.outputs["y"][1])
    for body in (b"", b"[]", b'{"outputs": [{}]}', b'{"outputs": 3, "model_name": "m"}'):
        with pytest.raises(ModelkeepError, match="none of the Open Inference Protocol"):
            unpack(body, None)


def test_packing_names_only_what_was_asked_for() -> None:
    body, length = pack({"x": np.ones((1, 2), np.float32)})
    assert b'"outputs"' not in body[:length]
    assert len(body) - length == 8
    assert {"Client", "AsyncClient"} <= set(modelkeep.__all__)


@pytest.mark.parametrize("kind", [Client, AsyncClient])
def test_an_address_without_a_scheme_is_told_at_once(kind: type[Client | AsyncClient]) -> None:
    with pytest.raises(BadInput, match="write http://localhost:8080"):
        kind("localhost:8080")


def test_numbers_of_numpy_go_as_numbers(tmp_path: Any) -> None:
    """Labels, say, that are elements of an array."""
    body, length = pack({"x": np.zeros(1, np.float32)}, parameters={"a": np.float32(1.5), "b": np.bool_(True)})
    assert b'"a": 1.5, "b": true' in body[:length]
    with Running({"m": Echo("float32")}, traffic=tmp_path / "traffic.db") as url, Client(url) as client:
        asked = [client.infer("m", {"x": np.zeros((1, 2), np.float32)}).id for _ in range(2)]
        assert client.label("m", dict(zip(asked, np.array([3, 4]), strict=True))) == 2


@pytest.mark.parametrize("odd", [np.float32("nan"), object(), b"bytes", {1, 2}])
def test_what_json_has_not_is_refused_before_it_is_sent(odd: Any) -> None:
    with pytest.raises(BadInput, match="JSON cannot carry this"):
        pack({"x": np.zeros(1, np.float32)}, parameters={"a": odd})


def test_a_name_is_one_part_of_a_path(client: Client) -> None:
    assert not client.ready("float32/ready?")
    with pytest.raises(NotFound):
        client.metadata("float32?")
