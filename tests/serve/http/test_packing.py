"""Replies packed for those who ask, and for nobody else."""

from __future__ import annotations

import asyncio
import gzip
import zlib
from types import SimpleNamespace

import httpx
import pytest

from modelkeep.serve.http import packing
from modelkeep.serve.server import Running


@pytest.mark.parametrize(
    ("accepted", "chosen"),
    [
        (None, None),
        ("", None),
        ("br", None),
        ("identity", None),
        ("gzip", "gzip"),
        ("br, deflate;q=0.5, gzip", "deflate"),
        ("gzip;q=0, deflate", "deflate"),
        ("gzip; q=0", None),
        ("gzip;Q=0.000, deflate ;q=0.001", "deflate"),
        ("GZip;q=1.0", "gzip"),
    ],
)
def test_the_first_that_is_known_and_not_refused(accepted: str | None, chosen: str | None) -> None:
    assert packing.chosen(accepted) == chosen


@pytest.mark.parametrize("size", [10, packing.LONG + 1])
def test_what_is_packed_can_be_unpacked(size: int) -> None:
    body = b"ab" * size
    assert gzip.decompress(asyncio.run(packing.packed(body, "gzip"))) == body
    assert zlib.decompress(asyncio.run(packing.packed(body, "deflate"))) == body


def test_small_replies_are_sent_as_they_are(fakes: SimpleNamespace) -> None:
    with Running({"m": fakes.Fake()}) as url, httpx.Client(base_url=url, timeout=20) as client:
        for columns, encoding in ((4, None), (packing.LEAST, "gzip")):
            data = [0.5] * columns
            tensor = {"name": "x", "shape": [1, columns], "datatype": "FP32", "data": data}
            answer = client.post("/v2/models/m/infer", json={"inputs": [tensor]}, headers={"accept-encoding": "gzip"})
            assert answer.headers.get("content-encoding") == encoding
            assert answer.json()["outputs"][0]["data"] == data
            old = client.post("/v1/models/m:predict", json={"instances": [data]}, headers={"accept-encoding": "gzip"})
            assert old.headers.get("content-encoding") == encoding
            assert old.json() == {"predictions": [data]}
