"""Nobody waits while a large question is read, and what waits to be read counts against the queue's bytes."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from modelkeep.serve.protocol import codec
from modelkeep.serve.protocol.apart import LARGE, LARGEST
from modelkeep.serve.server import Running
from modelkeep.settings import Settings

INFER = "/v2/models/m/infer"
SIZE = LARGE + 1000


def question(size: int = 0) -> bytes:
    """One row, in a body of so many bytes."""
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}
    return json.dumps({"inputs": [tensor]}).encode().ljust(size)


class Gate:
    """Large questions wait for it where they are read."""

    def __init__(self) -> None:
        self.least = LARGE
        self.entered, self.open = threading.Semaphore(0), threading.Event()

    def before(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def read(body: bytes, *more: Any) -> Any:
            if len(body) > self.least:
                self.entered.release()
                assert self.open.wait(20)
            return real(body, *more)

        return read


@pytest.fixture
def gate() -> Iterator[Gate]:
    made = Gate()
    yield made
    made.open.set()


def test_a_large_body_keeps_nobody_waiting(fakes: SimpleNamespace, gate: Gate, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codec, "decode", gate.before(codec.decode))
    settings = Settings(max_queue_bytes=2 * SIZE + 1000, max_body_bytes=2 * SIZE)
    running = Running({"m": fakes.Fake()}, settings=settings)
    with running as url, ThreadPoolExecutor(2) as clients:
        try:
            large = [clients.submit(httpx.post, url + INFER, content=question(SIZE), timeout=30) for _ in "12"]
            assert gate.entered.acquire(timeout=20)
            assert httpx.post(url + INFER, content=question(), timeout=20).status_code == 200
            while running.plane.limits.bytes < 2 * SIZE:
                assert not any(one.done() for one in large)
            third = httpx.post(url + INFER, content=question(SIZE), timeout=20)
            assert (third.status_code, "(max_queue_bytes)" in third.json()["error"]) == (429, True)
        finally:
            gate.open.set()
        assert [one.result().status_code for one in large] == [200] * 2
        assert running.plane.limits.bytes == 0


def test_kserves_first_protocol_keeps_nobody_waiting(
    fakes: SimpleNamespace, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(codec, "parse", gate.before(codec.parse))
    body = json.dumps({"instances": [[1.0]]}).encode().ljust(SIZE)
    with Running({"m": fakes.Fake()}) as url, ThreadPoolExecutor(1) as client:
        try:
            large = client.submit(httpx.post, url + "/v1/models/m:predict", content=body, timeout=30)
            assert gate.entered.acquire(timeout=20)
            assert httpx.post(url + INFER, content=question(), timeout=20).status_code == 200
        finally:
            gate.open.set()
        assert large.result().json() == {"predictions": [[1.0]]}


def test_who_sends_a_picture_does_not_wait_for_the_largest(
    fakes: SimpleNamespace, gate: Gate, monkeypatch: pytest.MonkeyPatch
) -> None:
    gate.least = LARGEST
    monkeypatch.setattr(codec, "decode", gate.before(codec.decode))
    with Running({"m": fakes.Fake()}) as url, ThreadPoolExecutor(1) as client:
        try:
            largest = client.submit(httpx.post, url + INFER, content=question(LARGEST + 1), timeout=30)
            assert gate.entered.acquire(timeout=20)
            assert httpx.post(url + INFER, content=question(SIZE), timeout=20).status_code == 200
            assert not largest.done()
        finally:
            gate.open.set()
        assert largest.result().status_code == 200
