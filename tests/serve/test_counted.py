"""What clients are told is counted, be it their own mistake: each refusal once, as a request or as a rejection."""

from __future__ import annotations

import json
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from modelkeep import metrics
from modelkeep.serve.server import Running

X = {"name": "x", "datatype": "FP32", "shape": [1, 2], "data": [1.0, 2.0]}
GZIP = {"content-encoding": "gzip"}


def refused(running: Running) -> dict[str, float]:
    """What is counted of questions that had no answer."""
    value = running.plane.metrics.value
    found = {reason: value("modelkeep_rejections_total", reason=reason) or 0.0 for reason in metrics.REASONS}
    series = {"model": "m", "version": "1", "track": "live"}
    found |= {o: value("modelkeep_requests_total", outcome=o, **series) or 0.0 for o in metrics.OUTCOMES if o != "ok"}
    return {what: count for what, count in found.items() if count}


def infer(of: str = "m", **fields: Any) -> tuple[str, bytes, dict[str, str]]:
    return f"/v2/models/{of}/infer", json.dumps({"inputs": [{**X, **fields}]}).encode(), {}


@pytest.mark.parametrize("whole", [True, False])
@pytest.mark.parametrize(
    ("asked", "status", "counted"),
    [
        (("/v2/models/m/infer", b"{bad", {}), 400, "malformed"),
        (infer(data=[1.0]), 400, "malformed"),
        (infer(datatype="FP31"), 400, "malformed"),
        ((*infer()[:2], {"inference-header-content-length": "x"}), 400, "malformed"),
        (("/v2/models/m/infer", b"12345", {"inference-header-content-length": "0"}), 400, "malformed"),
        (("/v1/models/m:predict", b'{"instances": [["a"]]}', {}), 400, "malformed"),
        ((*infer()[:2], GZIP), 400, "malformed"),
        (infer(name="z"), 400, "bad_input"),
        (infer("nobody"), 404, "not_found"),
        (infer("m/versions/7"), 404, "not_found"),
        (("/v2/models/nobody/infer", b"12345678", {"inference-header-content-length": "0"}), 404, "not_found"),
        (("/v1/models/nobody:predict", b"{}", {}), 404, "not_found"),
    ],
)
def test_over_http(fakes: SimpleNamespace, asked: Any, status: int, counted: str, whole: bool) -> None:
    """As one piece, and in chunks, which take another way through the server."""
    path, content, headers = asked
    running = Running({"m": fakes.Fake()})
    with running as url:
        sent = content if whole else iter([content[:3], content[3:]])
        assert httpx.post(url + path, content=sent, headers=headers).status_code == status
        assert refused(running) == {counted: 1}


@pytest.mark.parametrize(
    ("fields", "status", "counted"),
    [
        ({"model_name": "nobody"}, "NOT_FOUND", "not_found"),
        ({"model_version": "7"}, "NOT_FOUND", "not_found"),
        ({"model_version": "x"}, "INVALID_ARGUMENT", "malformed"),
        ({"shape": [1, 3]}, "INVALID_ARGUMENT", "malformed"),
        ({"name": "z"}, "INVALID_ARGUMENT", "bad_input"),
    ],
)
def test_over_grpc(fakes: SimpleNamespace, fields: dict[str, Any], status: str, counted: str) -> None:
    grpc: Any = pytest.importorskip("grpc")
    from tests.serve.grpc.client import Client, listen, question

    message = question(**{k: v for k, v in fields.items() if k.startswith("model")})
    message.inputs[0].name = fields.get("name", "x")
    message.inputs[0].shape[:] = fields.get("shape", [1, 2])
    running = Running({"m": fakes.Fake()})
    with running:
        endpoint, port = listen(running)
        with grpc.insecure_channel(f"127.0.0.1:{port}") as channel:
            assert Client(channel).refused(message)[0] == status
        assert refused(running) == {counted: 1}
        running.call(endpoint.stop(5.0))
