"""Bodies that are packed: whole whatever their size, and nobody waits while a large one is unpacked."""

from __future__ import annotations

import gzip
import json
import threading
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from modelkeep.serve.http import body
from modelkeep.serve.server import Running
from modelkeep.settings import Settings

INFER = "/v2/models/m/infer"
PACKED = {"content-encoding": "gzip"}


def question(size: int = 0) -> bytes:
    """One row, in a body of so many bytes."""
    tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}
    return json.dumps({"inputs": [tensor]}).encode().ljust(size)


@pytest.mark.parametrize("size", [0, body.AT_ONCE - 1, body.AT_ONCE, body.AT_ONCE + 1, 3 * body.AT_ONCE])
@pytest.mark.parametrize("pack", [gzip.compress, zlib.compress])
def test_what_is_packed_is_whole_and_bounded(fakes: SimpleNamespace, size: int, pack: Callable[[bytes], bytes]) -> None:
    plain = question(size)
    packed = pack(plain)
    with Running({"m": fakes.Fake()}, settings=Settings(max_body_bytes=max(len(plain), 1000))) as url:
        ask = [
            httpx.post(url + INFER, content=c, headers=PACKED) for c in (packed, packed[:-3], pack(plain + b" " * 1000))
        ]
    assert [answer.status_code for answer in ask] == [200, 400, 413]
    assert ask[1].json() == {"error": "the gzip body breaks off before its end"}


def test_while_a_large_body_is_unpacked_others_are_answered_and_one_is_unpacked_at_a_time(
    fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    entered, gate, inside = threading.Semaphore(0), threading.Event(), []

    class Slow:
        def __init__(self, wbits: int) -> None:
            self.real = zlib.decompressobj(wbits=wbits)

        def decompress(self, packed: bytes, most: int) -> bytes:
            if most > body.AT_ONCE:
                inside.append(1)
                entered.release()
                assert gate.wait(20)
            return self.real.decompress(packed, most)

        def __getattr__(self, name: str) -> Any:
            return getattr(self.real, name)

    monkeypatch.setattr(body, "zlib", SimpleNamespace(decompressobj=Slow, error=zlib.error))
    packed = gzip.compress(question(40 * body.AT_ONCE))
    with Running({"m": fakes.Fake()}) as url, ThreadPoolExecutor(3) as clients:
        try:
            asked = [clients.submit(httpx.post, url + INFER, content=packed, headers=PACKED, timeout=30) for _ in "123"]
            assert entered.acquire(timeout=20)
            assert httpx.post(url + INFER, content=question(), timeout=20).status_code == 200
            assert len(inside) == 1
        finally:
            gate.set()
        assert [one.result().status_code for one in asked] == [200] * 3
