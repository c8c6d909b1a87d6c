"""Triton's statistics: exact numbers of what was answered, what failed, and the sizes of the runs."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from types import SimpleNamespace
from typing import Any

import httpx
import pytest

from modelkeep.errors import NotFound
from modelkeep.serve.protocol import statistics
from modelkeep.serve.server import Running
from modelkeep.settings import Settings
from tests.waiting import until


def ask(client: httpx.Client, rows: int, value: float = 1.0) -> int:
    tensor = {"name": "x", "shape": [rows, 1], "datatype": "FP32", "data": [value] * rows}
    return client.post("/v2/models/m/infer", json={"inputs": [tensor]}).status_code


def test_what_was_answered_and_what_failed_is_counted_apart(fakes: SimpleNamespace) -> None:
    running = Running({"m": fakes.Fake(), "other": fakes.Fake()})
    with running, httpx.Client(base_url=running.url, timeout=20) as client:
        assert [ask(client, rows) for rows in (1, 1, 3)] == [200, 200, 200]
        assert ask(client, 1, fakes.POISON) == 500

        def found(path: str) -> list[dict[str, Any]]:
            return list(client.get(path).json()["model_stats"])

        (m,) = found("/v2/models/m/stats")
        assert m == found("/v2/models/m/versions/1/stats")[0]
        assert {row["name"] for row in found("/v2/models/stats")} == {"m", "other"}
        assert client.get("/v2/models/nobody/stats").status_code == 404
        with pytest.raises(NotFound):
            statistics.of(running.plane, "m", 9)
    stats = m["inference_stats"]
    assert (m["name"], m["version"], m["inference_count"], m["execution_count"]) == ("m", "1", 5, 3)
    assert (stats["success"]["count"], stats["fail"]["count"]) == (3, 1)
    assert 0 < stats["compute_infer"]["ns"] < stats["success"]["ns"]
    assert [(b["batch_size"], b["compute_infer"]["count"]) for b in m["batch_stats"]] == [(1, 2), (3, 1)]
    assert m["last_inference"] > 1.7e12  # milliseconds since 1970


def test_requests_that_share_a_run_each_count_with_the_whole_of_it(fakes: SimpleNamespace) -> None:
    fake = fakes.Fake(gate=True)
    running = Running({"m": fake})
    with running, ThreadPoolExecutor(8) as together, httpx.Client(base_url=running.url, timeout=20) as client:
        asking = [together.submit(ask, client, 1) for _ in range(8)]
        until(lambda: running.plane.limits.requests == 8)
        fake.gate.set()
        assert {one.result() for one in asking} == {200}
        (m,) = statistics.of(running.plane)
    stats, runs = m["inference_stats"], m["batch_stats"]
    assert m["execution_count"] == sum(run["compute_infer"]["count"] for run in runs) < 8
    assert {stats[stage]["count"] for stage in ("success", "queue", "compute_input", "compute_infer")} == {8}
    assert stats["compute_infer"]["ns"] > sum(run["compute_infer"]["ns"] for run in runs)


def test_what_the_cache_knew_is_counted_apart_from_what_ran(fakes: SimpleNamespace) -> None:
    running = Running({"m": fakes.Fake()}, settings=Settings(cache_bytes=10_000))
    with running, httpx.Client(base_url=running.url, timeout=20) as client:
        assert [ask(client, rows) for rows in (1, 1, 3, 1)] == [200] * 4
        (m,) = statistics.of(running.plane)
    stats = m["inference_stats"]
    assert (stats["success"]["count"], m["execution_count"], stats["compute_input"]["count"]) == (4, 2, 2)
    assert (stats["cache_hit"]["count"], stats["cache_miss"]["count"]) == (2, 2)
    assert 0 < stats["cache_hit"]["ns"] < stats["success"]["ns"]


def test_a_version_that_was_never_asked(fakes: SimpleNamespace) -> None:
    running = Running({"m": fakes.Fake()})
    with running:
        (m,) = statistics.of(running.plane)
    assert m["last_inference"] == m["inference_count"] == 0
    assert m["batch_stats"] == []
