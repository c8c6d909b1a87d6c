"""Spans: the client's trace goes on, stages lie inside their request, and nothing is traced unless asked."""

from __future__ import annotations

from collections.abc import Iterator
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from modelkeep.errors import BadSettings, MissingExtra
from modelkeep.serve.observers.tracing import Tracing
from modelkeep.serve.plane.plane import Told
from modelkeep.serve.server import Running
from modelkeep.types import Request

ID, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


def told(trace: str = "", **changes: Any) -> Told:
    given: dict[str, Any] = {"at": 1000.0, "version": 2, "track": "live", "outcome": "ok", "seconds": 0.5}
    given |= {"timings": {"queue": 0.1, "compute": 0.2}, "why": ""} | changes
    return Told(Request("mine", "m", {"x": np.zeros((1, 3))}, trace=trace), **given)


@pytest.fixture
def exporter() -> InMemorySpanExporter:
    return InMemorySpanExporter()


@pytest.fixture
def tracing(exporter: InMemorySpanExporter) -> Iterator[Tracing]:
    tracing = Tracing("", exporter=exporter)
    yield tracing
    tracing.close()


def spans(tracing: Tracing, exporter: InMemorySpanExporter) -> dict[str, Any]:
    tracing._provider.force_flush()
    return {span.name: span for span in exporter.get_finished_spans()}


def test_the_clients_trace_goes_on(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    tracing(told(f"00-{ID}-{PARENT}-01"))
    found = spans(tracing, exporter)
    request = found["infer m"]
    assert f"{request.context.trace_id:032x}" == ID
    assert f"{request.parent.span_id:016x}" == PARENT
    assert request.attributes["modelkeep.version"] == 2
    assert (request.start_time, request.end_time) == (round(999.5e9), round(1000e9))
    for stage in ("queue", "compute"):
        assert found[stage].parent.span_id == request.context.span_id
        assert request.start_time <= found[stage].start_time < found[stage].end_time <= request.end_time
    assert found["queue"].end_time == found["compute"].start_time


def test_a_trace_that_is_not_to_be_sampled_is_not(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    tracing(told(f"00-{ID}-{PARENT}-00"))
    assert spans(tracing, exporter) == {}


@pytest.mark.parametrize("trace", ["", "nonsense", f"00-{'0' * 32}-{PARENT}-01"])
def test_without_a_trace_one_begins(tracing: Tracing, exporter: InMemorySpanExporter, trace: str) -> None:
    tracing(told(trace))
    request = spans(tracing, exporter)["infer m"]
    assert request.parent is None


def test_a_failure_is_an_error_of_the_span(tracing: Tracing, exporter: InMemorySpanExporter) -> None:
    tracing(told(outcome="error", timings={}, why="it failed"))
    found = spans(tracing, exporter)
    assert set(found) == {"infer m"}
    assert not found["infer m"].status.is_ok
    assert found["infer m"].status.description == "it failed"


def test_over_a_socket(tracing: Tracing, exporter: InMemorySpanExporter, fakes: SimpleNamespace) -> None:
    running = Running({"m": fakes.Fake()})
    with running, httpx.Client(base_url=running.url, timeout=20) as client:
        running.plane.observers.append(tracing)
        tensor = {"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}
        head = {"traceparent": f"00-{ID}-{PARENT}-01"}
        client.post("/v2/models/m/infer", json={"inputs": [tensor]}, headers=head)
        client.post("/v1/models/m:predict", json={"instances": [[1.0]]}, headers=head)
    tracing._provider.force_flush()
    found = [s for s in exporter.get_finished_spans() if s.name == "infer m"]
    assert [f"{s.context.trace_id:032x}" for s in found] == [ID, ID]


def test_what_is_no_address_is_refused_before_anything_is_sent() -> None:
    with pytest.raises(BadSettings, match=r"http:// or https:// address or to 'console', not to 'collector:4318'"):
        Tracing("collector:4318")


def test_without_the_library_it_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "opentelemetry.sdk.trace", None)
    with pytest.raises(MissingExtra, match=r"modelkeep\[traces\]"):
        Tracing("console")
