"""The short way of a request that comes whole: it answers as the long one does, in order, and lets go who has left."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import pytest

from modelkeep.serve.http.direct import Direct, _target
from modelkeep.serve.http.infer import target
from modelkeep.serve.protocol.keys import Ring
from modelkeep.serve.server import Running
from modelkeep.settings import Settings
from tests.waiting import until

PATH = "/v2/models/m/infer"


def request(value: float, *extra: str, path: str = PATH, version: str = "1.1", body: bytes | None = None) -> bytes:
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [value]}
    body = json.dumps({"id": f"r{value:g}", "inputs": [tensor]}).encode() if body is None else body
    lines = [f"POST {path} HTTP/{version}", "host: x", f"content-length: {len(body)}", *extra]
    return "\r\n".join(lines).encode() + b"\r\n\r\n" + body


class Talk:
    """One connection, and whole answers from it."""

    def __init__(self, server: Running) -> None:
        host, port = server.url.removeprefix("http://").split(":")
        self.sock = socket.create_connection((host, int(port)), timeout=20)
        self.file = self.sock.makefile("rb")

    def __enter__(self) -> Talk:
        return self

    def __exit__(self, *_: object) -> None:
        self.file.close()
        self.sock.close()

    def send(self, *parts: bytes) -> None:
        self.sock.sendall(b"".join(parts))

    def answer(self) -> tuple[int, dict[str, str], bytes]:
        status = int(self.file.readline().split()[1])
        heads: dict[str, str] = {}
        while line := self.file.readline().strip().decode():
            name, _, value = line.partition(": ")
            heads[name] = value
        return status, heads, self.file.read(int(heads["content-length"]))

    def value(self) -> float:
        status, _, body = self.answer()
        assert status == 200, body
        return float(json.loads(body)["outputs"][0]["data"][0])


@pytest.fixture
def taken(monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """One entry for each request that took the short way."""
    ways: list[bool] = []
    ask = Direct.ask

    def counted(self: Direct, *given: Any) -> None:
        ways.append(True)
        ask(self, *given)

    monkeypatch.setattr(Direct, "ask", counted)
    return ways


@pytest.fixture
def server(fakes: SimpleNamespace, taken: list[bool]) -> Iterator[Running]:
    running = Running({"m": fakes.Fake(add=1.0)})
    with running:
        yield running


def test_both_ways_say_the_same(server: Running, taken: list[bool]) -> None:
    whole = request(3.0)
    with Talk(server) as talk:
        talk.send(whole)
        short = talk.answer()
        assert taken == [True]
        talk.send(whole[:-5])
        time.sleep(0.05)
        talk.send(whole[-5:])
        long = talk.answer()
        assert taken == [True]
    for _, heads, _ in (short, long):
        del heads["server-timing"], heads["date"]
    assert short == long
    assert json.loads(short[2])["outputs"][0]["data"] == [4.0]


@pytest.mark.parametrize(
    "odd",
    [
        request(1.0, "content-encoding: gzip", body=gzip.compress(request(1.0).partition(b"\r\n\r\n")[2])),
        request(1.0, version="1.0"),
        request(1.0, path=f"{PATH}?x=1"),
        request(1.0, path="/v2/models/%6d/infer"),
    ],
    ids=["packed", "HTTP/1.0", "a query", "a masked name"],
)
def test_what_is_not_plain_takes_the_long_way(server: Running, taken: list[bool], odd: bytes) -> None:
    with Talk(server) as talk:
        talk.send(odd)
        assert talk.value() == 2.0
    assert taken == []


def test_expect_continue_is_answered_first(server: Running) -> None:
    head, _, body = request(1.0, "expect: 100-continue").partition(b"\r\n\r\n")
    with Talk(server) as talk:
        talk.send(head, b"\r\n\r\n")
        assert talk.file.readline().startswith(b"HTTP/1.1 100")
        talk.file.readline()
        talk.send(body)
        assert talk.value() == 2.0


def test_an_offer_of_another_protocol_costs_no_body(server: Running, taken: list[bool]) -> None:
    offer = (
        "connection: Upgrade, HTTP2-Settings",
        "upgrade: h2c",
        "http2-settings: AAMAAABkAAQCAAAAAAIAAAAA",
    )  # Java's
    with Talk(server) as talk:
        talk.send(request(1.0, *offer))
        assert talk.value() == 2.0
        assert taken == [True]
        head, _, body = request(2.0, *offer).partition(b"\r\n\r\n")
        talk.send(head, b"\r\n\r\n")
        time.sleep(0.05)
        talk.send(body)
        assert talk.value() == 3.0
        size = f"{len(body):x}".encode()
        chunked = head.replace(b"content-length: %d" % len(body), b"transfer-encoding: chunked")
        talk.send(chunked, b"\r\n\r\n", size, b"\r\n", body, b"\r\n0\r\n\r\n", request(3.0, *offer), request(4.0))
        assert [talk.value() for _ in range(3)] == [3.0, 4.0, 5.0]
        talk.send(b"\r\n".join([b"GET /v2/health/live HTTP/1.1", *(line.encode() for line in offer)]), b"\r\n\r\n")
        assert talk.answer()[0] == 200
        talk.send(b"CONNECT /v2/models/m/infer HTTP/1.1\r\nhost: m\r\n\r\n" + request(1.0))
        assert talk.answer()[0] == 405


def test_requests_behind_one_another_are_answered_in_order(server: Running) -> None:
    look = b"GET /v2/health/live HTTP/1.1\r\nhost: x\r\n\r\n"
    with Talk(server) as talk:
        talk.send(request(1.0), request(2.0), look, request(3.0))
        assert [talk.value(), talk.value()] == [2.0, 3.0]
        assert talk.answer()[0] == 200
        assert talk.value() == 4.0


def test_an_error_is_a_sentence_and_the_connection_goes_on(server: Running) -> None:
    with Talk(server) as talk:
        for body, status in ((b"{", 400), (b'{"inputs": [{"name": "q"}]}', 400), (b"[]", 400)):
            talk.send(request(0.0, body=body))
            got, _, said = talk.answer()
            assert (got, list(json.loads(said))) == (status, ["error"])
        talk.send(request(0.0, path="/v2/models/nobody/infer"))
        assert talk.answer()[0] == 404
        talk.send(request(1.0))
        assert talk.value() == 2.0


def test_a_defect_is_told_without_its_traceback(server: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("inner secrets")

    monkeypatch.setattr("modelkeep.serve.protocol.codec.decode", broken)
    with Talk(server) as talk:
        talk.send(request(1.0))
        status, _, said = talk.answer()
    assert status == 500
    assert b"secrets" not in said


def test_a_client_that_asks_for_the_end_gets_it(server: Running) -> None:
    with Talk(server) as talk:
        talk.send(request(1.0, "connection: close"))
        _, heads, _ = talk.answer()
        assert heads["connection"] == "close"
        assert talk.file.read() == b""


def test_a_large_answer_is_packed_for_who_takes_that(fakes: SimpleNamespace) -> None:
    running = Running({"m": fakes.Fake()})
    tensor = {"name": "x", "shape": [1, 9000], "datatype": "FP32", "data": [0.5] * 9000}
    body = json.dumps({"inputs": [tensor]}).encode()
    with running, Talk(running) as talk:
        talk.send(request(0.0, "accept-encoding: gzip", body=body))
        status, heads, packed = talk.answer()
        assert (status, heads["content-encoding"]) == (200, "gzip")
        assert json.loads(gzip.decompress(packed))["outputs"][0]["data"] == [0.5] * 9000


@pytest.mark.parametrize(
    ("extra", "behind"),
    [((), ()), ((), (20.0, 30.0)), (("expect: 100-continue",), (20.0, 30.0))],
    ids=["alone", "with others behind it", "with others behind it, and slow"],
)
def test_who_leaves_frees_the_place(
    fakes: SimpleNamespace, extra: tuple[str, ...], behind: tuple[float, ...], capfd: pytest.CaptureFixture[str]
) -> None:
    fake = fakes.Fake(gate=True)
    running = Running({"m": fake})
    with running, Talk(running) as first:
        first.send(request(1.0))
        assert fake.entered.acquire(timeout=20)
        for number in range(8):
            with Talk(running) as talk:
                talk.send(request(10.0 + number, *extra), *(request(one + number) for one in behind))
        labels = {"model": "m", "version": "1", "track": "live", "outcome": "cancelled"}
        try:
            until(lambda: running.plane.metrics.value("modelkeep_requests_total", **labels) == 8.0)
            assert running.plane.limits.requests == 1
        finally:
            fake.gate.set()
        assert first.value() == 1.0
    assert len(fake.runs) == 1
    assert "Traceback" not in capfd.readouterr().err


def test_a_trailer_is_no_header(server: Running) -> None:
    """Whether it comes with the head or after it."""
    head, _, body = request(1.0).partition(b"\r\n\r\n")
    head = head.replace(b"content-length: %d" % len(body), b"transfer-encoding: chunked") + b"\r\n\r\n"
    rest = b"%x\r\n%b\r\n0\r\ncontent-encoding: gzip\r\n\r\n" % (len(body), body)
    with Talk(server) as talk:
        talk.send(head, rest)
        assert talk.value() == 2.0


@pytest.mark.parametrize(("last", "status"), [("good", 200), ("bad", 401)])
def test_of_two_keys_the_last_counts_on_both_ways(
    fakes: SimpleNamespace, tmp_path: Any, last: str, status: int
) -> None:
    ring = Ring(tmp_path / "keys.json")
    given = {"good": f"authorization: Bearer {ring.add('me', ['infer'])}", "bad": "authorization: Bearer mk_wrong"}
    first = "bad" if last == "good" else "good"
    whole = request(1.0, given[first], given[last])
    running = Running({"m": fakes.Fake()}, settings=Settings(keys=str(ring.path)))
    with running:
        for parts in ((whole,), (whole[:-5], whole[-5:])):
            with Talk(running) as talk:
                for part in parts:
                    talk.send(part)
                    time.sleep(0.05)
                assert talk.answer()[0] == status


def test_a_key_is_asked_for(fakes: SimpleNamespace, tmp_path: Any, taken: list[bool]) -> None:
    ring = Ring(tmp_path / "keys.json")
    key, looking = ring.add("me", ["infer"]), ring.add("other", ["read"])
    running = Running({"m": fakes.Fake(add=1.0)}, settings=Settings(keys=str(ring.path)))
    with running:
        for given, status in (("", 401), ("Bearer mk_wrong", 401), (f"Bearer {looking}", 403)):
            with Talk(running) as talk:
                talk.send(request(1.0, *([f"authorization: {given}"] if given else [])))
                assert talk.answer()[0] == status
        assert taken == []
        with Talk(running) as talk:
            talk.send(request(1.0, f"authorization: Bearer {key}"))
            assert talk.value() == 2.0
        assert taken == [True]


def test_what_is_long_is_answered_and_not_remembered(server: Running) -> None:
    """Or a client without a key could fill a server's memory with names that no model has."""
    _target.cache_clear()
    target.cache_clear()
    with Talk(server) as talk:
        for path in (f"/v2/models/{'a' * 600}/infer", f"/v2/models/{'a' * 600}/infer?b=c"):
            talk.send(request(1.0, path=path))
            status, _, said = talk.answer()
            assert (status, b"no model is called 'aaaa" in said) == (404, True)
    assert _target.cache_info().currsize == target.cache_info().currsize == 0


def test_a_target_is_a_plain_path() -> None:
    assert _target(b"/v2/models/m/versions/3/infer") == {"model": "m", "version": 3}
    for other in (b"/v2/models/m", b"/v2/models/a%2fb/infer", b"/v2/models/m/infer?a", b"http://x/v2/models/m/infer"):
        assert _target(other) is None
