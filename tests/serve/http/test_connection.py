"""Clients that are slow, too large or too many, over raw sockets: each is cut off, and the others are answered."""

from __future__ import annotations

import contextlib
import gc
import json
import socket
import time
import weakref
from collections.abc import Iterator
from types import SimpleNamespace

import numpy as np
import pytest

from modelkeep.serve.http import listener
from modelkeep.serve.http.connection import BEHIND, Connection
from modelkeep.serve.server import Running
from modelkeep.settings import Settings
from modelkeep.types import Signature, TensorSpec
from tests.waiting import until

ALIVE = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}]}).encode()
ASKED = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%b" % (len(BODY), BODY)
WIDE = 4_000_000
"""Floats of one answer: more than all the buffers between a server and a client that does not read."""


@pytest.fixture(scope="module")
def fakes_module() -> SimpleNamespace:
    class Wide:
        """One number in, many out."""

        signature = Signature((TensorSpec("x", "float32", (None, 1)),), (TensorSpec("y", "float32", (None, None)),))

        def run(self, inputs: object) -> dict[str, object]:
            return {"y": np.zeros((1, WIDE), np.float32)}

        def close(self) -> None:
            pass

    return SimpleNamespace(Wide=Wide)


@pytest.fixture(scope="module")
def server(fakes_module: SimpleNamespace) -> Iterator[Running]:
    settings = Settings(max_head_bytes=2000, head_timeout=0.6, max_connections=12, request_timeout=1.5)
    running = Running({"m": fakes_module.Wide()}, settings=settings)
    with running:
        yield running


def connect(server: Running) -> socket.socket:
    host, port = server.url.removeprefix("http://").split(":")
    return socket.create_connection((host, int(port)), timeout=20)


def all_of(sock: socket.socket) -> bytes:
    """What the server says until it closes; a reset after its words is a close too."""
    got = b""
    try:
        while more := sock.recv(65536):
            got += more
    except ConnectionResetError:
        pass
    return got


def status_and_error(answer: bytes) -> tuple[int, str]:
    head, _, body = answer.partition(b"\r\n\r\n")
    return int(head.split()[1]), json.loads(body)["error"]


def alive(server: Running) -> bool:
    with connect(server) as sock:
        sock.sendall(ALIVE)
        return sock.recv(100).startswith(b"HTTP/1.1 200")


def test_a_client_that_says_nothing_is_let_go(server: Running) -> None:
    with connect(server) as sock:
        began = time.monotonic()
        status, error = status_and_error(all_of(sock))
    assert status == 408
    assert "0.6 s (head_timeout)" in error
    assert 0.4 < time.monotonic() - began < 10


def test_a_head_that_drips_is_not_waited_for(server: Running) -> None:
    with connect(server) as sock:
        sock.sendall(b"GET /v2/health/live HTTP/1.1\r\n")
        for number in range(40):
            try:
                sock.sendall(b"x-%d: y\r\n" % number)
            except OSError:
                break
            time.sleep(0.05)
        assert status_and_error(all_of(sock))[0] == 408
    assert alive(server)


def test_a_kept_connection_may_rest_and_its_next_head_is_timed_too(server: Running) -> None:
    with connect(server) as sock:
        sock.sendall(ALIVE)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        time.sleep(0.9)  # longer than head_timeout: resting is no head
        sock.sendall(ALIVE)
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
        sock.sendall(b"GET /v2/hea")
        assert status_and_error(all_of(sock))[0] == 408


@pytest.mark.parametrize(
    "head",
    [
        b"GET /" + b"a" * 3000 + b" HTTP/1.1\r\n\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"a" * 3000 + b"\r\n\r\n",
        b"GET / HTTP/1.1\r\n" + b"".join(b"x-%d: y\r\n" % n for n in range(300)) + b"\r\n",
        b"GET / HTTP/1.1\r\nx: " + b"a" * 3000,
    ],
    ids=["target", "one field", "many fields", "no end"],
)
def test_a_head_that_is_too_large(server: Running, head: bytes) -> None:
    with connect(server) as sock:
        sock.sendall(head)
        status, error = status_and_error(all_of(sock))
    assert status in (431, 408)
    assert status == 431 or head.endswith(b"a")  # without an end nothing is parsed; then the time runs out
    assert "(max_head_bytes)" in error or "(head_timeout)" in error
    assert alive(server)


@pytest.mark.parametrize(
    "said", [b"no http at all\r\n\r\n", b"\x16\x03\x01\x02\x00\x01\x00", b"GET / HTTP/9.9\r\n\r\n"]
)
def test_what_is_no_http(server: Running, said: bytes) -> None:
    with connect(server) as sock:
        sock.sendall(said)
        status, error = status_and_error(all_of(sock))
    assert (status, error) == (400, "the request is not HTTP/1.1")


def test_of_what_is_no_http_nothing_is_logged_and_all_is_counted(
    server: Running, caplog: pytest.LogCaptureFixture
) -> None:
    before = server.plane.metrics.value("modelkeep_rejections_total", reason="malformed")
    for _ in range(5):
        with connect(server) as sock:
            sock.sendall(b"no http at all\r\n\r\n")
            all_of(sock)
    with connect(server) as sock:
        sock.sendall(b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n")
        assert sock.recv(1000).startswith(b"HTTP/1.1 200")
    assert server.plane.metrics.value("modelkeep_rejections_total", reason="malformed") == before + 5
    assert caplog.messages == []


def test_one_connection_too_many(server: Running) -> None:
    held = []
    try:
        for _ in range(12):
            sock = connect(server)
            sock.sendall(ALIVE)
            assert sock.recv(1000).startswith(b"HTTP/1.1 200")
            held.append(sock)
        with connect(server) as extra:
            status, error = status_and_error(all_of(extra))
        assert status == 503
        assert "12 connections" in error
        held[0].sendall(ALIVE)
        assert held[0].recv(1000).startswith(b"HTTP/1.1 200")
    finally:
        for sock in held:
            sock.close()


def test_a_client_that_does_not_read_its_answer_is_cut_off(server: Running) -> None:
    body = json.dumps(
        {
            "inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}],
            "parameters": {"binary_data_output": True},
        }
    ).encode()
    with connect(server) as sock:
        sock.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body) + body)
        time.sleep(3.0)  # twice request_timeout
        assert len(all_of(sock)) < 4 * WIDE
    assert alive(server)


UNREAD = b"POST /v2/models/nobody/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n"


@pytest.mark.parametrize(
    ("asked", "then"),
    [(ALIVE, b"\r\n"), (UNREAD, b"a"), (UNREAD.replace(b"nobody/infer", b"m/labels"), b"a")],
    ids=["empty lines", "a body that nobody reads", "a body that stops"],
)
def test_what_is_no_request_keeps_no_connection_open(
    fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, asked: bytes, then: bytes
) -> None:
    """Or a client could hold all connections that there are, for nothing."""
    monkeypatch.setattr("modelkeep.serve.http.listener.KEEP_ALIVE", 1)
    settings = Settings(request_timeout=0.5)
    with (
        Running({"m": fakes.Fake()}, settings=settings) as url,
        socket.create_connection(tuple(url[7:].split(":")), timeout=0.3) as sock,
    ):
        sock.sendall(asked)
        began = time.monotonic()
        said = b""
        while time.monotonic() < began + 15:
            try:
                sock.sendall(then)
                got = sock.recv(1000)
            except TimeoutError:
                continue
            except ConnectionError:
                break
            said += got
            if not got:
                break
        assert said.startswith(b"HTTP/1.1 ")
        assert time.monotonic() < began + 10


def test_a_body_that_is_no_http_is_told_so(server: Running) -> None:
    with connect(server) as sock:
        sock.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n")
        time.sleep(0.1)
        sock.sendall(b"no length\r\n")
        assert status_and_error(all_of(sock)) == (400, "the request is not HTTP/1.1")


def test_an_idle_connection_is_closed_and_a_busy_one_is_not(
    fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The timer that the first answer set comes due while the connection is in use."""
    monkeypatch.setattr("modelkeep.serve.http.listener.KEEP_ALIVE", 1)
    with Running({"m": fakes.Fake()}) as url, socket.create_connection(tuple(url[7:].split(":")), timeout=20) as sock:
        began = time.monotonic()
        while time.monotonic() < began + 1.6:
            sock.sendall(ALIVE)
            got = sock.recv(1000)
            while not got.endswith(b"}"):  # head and body may come one after the other
                got += sock.recv(1000)
            assert got.startswith(b"HTTP/1.1 200")
            time.sleep(0.2)
        last = time.monotonic()
        assert all_of(sock) == b""
        assert 0.7 < time.monotonic() - last < 15


def test_a_server_that_ends_waits_for_no_body_that_does_not_come(
    fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(listener, "PATIENCE", 0.5)
    running = Running({"m": fakes.Fake()}, settings=Settings(request_timeout=30.0))
    with running, connect(running) as sock:
        sock.sendall(b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: 1000\r\n\r\n{")
        while not any(c.cycle for c in running.service._listener.server_state.connections):  # type: ignore[union-attr]
            time.sleep(0.005)
        began = time.monotonic()
        running.stop()
        assert time.monotonic() - began < 15.0
        status, said = status_and_error(all_of(sock))
    assert (status, said.partition(",")[0]) == (503, "the server is stopping")


def test_a_connection_that_is_closed_is_freed_at_once(server: Running) -> None:
    body = json.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1]}]}).encode()
    head = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(body)
    seen: list[weakref.ref[object]] = []
    gc.disable()
    try:
        for asked in (head + body, head + b"{", ALIVE, b"no http\r\n\r\n"):
            sock = connect(server)
            sock.sendall(asked)
            assert sock.recv(1000).startswith(b"HTTP/1.1 ")
            seen += [weakref.ref(one) for one in gc.get_objects() if isinstance(one, Connection)]
            sock.close()
        assert len(seen) >= 3  # the last one may be gone already
        until(lambda: not [one for one in seen if one()])
    finally:
        gc.enable()


@pytest.mark.parametrize(
    "garbage", [b"BAD\r\n\r\n", b"GET / HTTP/1.1\r\nx: %b\r\n\r\n" % (b"x" * 3000)], ids=["no HTTP", "too large"]
)
@pytest.mark.parametrize("before", [1, 3])
def test_what_came_before_something_that_is_no_http_is_answered(server: Running, garbage: bytes, before: int) -> None:
    with connect(server) as sock:
        sock.sendall(ALIVE * before + garbage)
        said = all_of(sock)
    assert said.count(b"HTTP/1.1 200 OK") == said.count(b'{"live":true}') == before
    assert said.count(b"HTTP/1.1 ") == before
    assert b"connection: close" in said


def test_what_came_before_a_head_that_drips_is_answered(fakes: SimpleNamespace) -> None:
    fake, tensor = fakes.Fake(gate=True), {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}
    body = json.dumps({"inputs": [tensor]}).encode()
    head = f"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ncontent-length: {len(body)}\r\n\r\n".encode()
    running = Running({"m": fake}, settings=Settings(head_timeout=0.2))
    with running, connect(running) as sock:
        try:
            sock.sendall(head + body + b"GET /v2 HT")
            time.sleep(0.6)
        finally:
            fake.gate.set()
        said = all_of(sock)
    assert said.startswith(b"HTTP/1.1 200 OK")
    assert said.count(b"HTTP/1.1 ") == 1


def test_what_waits_behind_a_request_is_bounded(fakes: SimpleNamespace) -> None:
    """Or one client could fill the memory: each answer let in thousands of requests more."""
    fake = fakes.Fake(gate=True)
    running = Running({"m": fake})
    with running, connect(running) as sock:
        try:
            sock.sendall(ASKED + ALIVE * (BEHIND + 2000))
            assert fake.entered.acquire(timeout=20)
            assert alive(running)
        finally:
            fake.gate.set()
        said = all_of(sock)
        assert said.count(b"HTTP/1.1 200 OK") == 1 + BEHIND
        assert said.count(b"connection: close") == 1


def test_of_a_body_behind_other_requests_little_is_read(fakes: SimpleNamespace) -> None:
    fake = fakes.Fake(gate=True)
    running = Running({"m": fake}, settings=Settings(request_timeout=20.0))
    with running, connect(running) as sock:
        try:
            head = ASKED.partition(b"content-length")[0] + b"content-length: 50000000\r\n\r\n"
            sock.sendall(ASKED + ALIVE * 3 + head)
            assert fake.entered.acquire(timeout=20)
            sock.settimeout(0.3)
            sent = 0
            with contextlib.suppress(TimeoutError):
                while sent < 50_000_000:
                    sent += sock.send(b"x" * 100_000)
        finally:
            fake.gate.set()
        assert sent < 20_000_000, "what lies in the buffers between"
        sock.settimeout(20)
        said = b""
        while said.count(b"HTTP/1.1 200 OK") < 4:
            said += sock.recv(65536)
        sock.sendall(b"x" * (50_000_000 - sent))
        assert b"the body is not JSON" in sock.recv(1000)


CHUNKED = b"POST / HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n1\r\n{\r\n"


@pytest.mark.parametrize(
    "begin",
    [b"GET / HTTP/1.1\r\nx: ", b"GET / HTTP/1.1\r\n", CHUNKED + b"0\r\nx: ", CHUNKED + b"1;"],
    ids=["value", "name", "trailer", "extension"],
)
def test_a_word_that_does_not_end_is_not_kept(server: Running, begin: bytes) -> None:
    """The parser keeps it until it is whole."""
    sent = 0
    with connect(server) as sock:
        sock.sendall(begin)
        time.sleep(0.05)
        with contextlib.suppress(OSError):
            while sent < 50_000_000:
                sent += sock.send(b"x" * 100_000)
        said = all_of(sock)
    assert sent < 20_000_000, "what lies in the buffers between"
    assert b"HTTP/1.1 431 " in said
    assert b"the head of the request is larger than 2000 bytes (max_head_bytes)" in said


@pytest.mark.parametrize("coded", ["gzip, chunked", "gzip\r\ntransfer-encoding: chunked"])
def test_a_transfer_coding_that_is_not_known_is_refused_not_overlooked(server: Running, coded: str) -> None:
    with connect(server) as sock:
        head = f"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\ntransfer-encoding: {coded}\r\n\r\n"
        sock.sendall(head.encode() + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
        status, why = status_and_error(all_of(sock))
    assert (status, "is not known here; send chunked" in why) == (501, True)


def test_chunked_in_capitals_is_chunked(server: Running) -> None:
    with connect(server) as sock:
        head = b"POST /v2/models/m/infer HTTP/1.1\r\nhost: x\r\nconnection: close\r\ntransfer-encoding: Chunked\r\n\r\n"
        sock.sendall(head + b"%x\r\n%b\r\n0\r\n\r\n" % (len(BODY), BODY))
        assert all_of(sock).startswith(b"HTTP/1.1 200 ")
