"""Over a socket: every route, every status with its sentence, and clients that leave."""

from __future__ import annotations

import asyncio
import gzip
import json
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest

from modelkeep.data.traffic import read
from modelkeep.errors import BadInput
from modelkeep.serve.plane.router import STICKY, Router
from modelkeep.serve.server import Running
from modelkeep.settings import Settings
from modelkeep.types import ServeConfig
from tests.waiting import until

INFER = "/v2/models/m/infer"


def body(*values: float, **head: Any) -> dict[str, Any]:
    data = list(values or (1.0, 2.0))
    return {"inputs": [{"name": "x", "shape": [1, len(data)], "datatype": "FP32", "data": data}], **head}


@pytest.fixture(scope="module")
def traffic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("home") / "traffic.db"


@pytest.fixture(scope="module")
def server(traffic: Path) -> Iterator[Running]:
    from importlib import util

    spec = util.spec_from_file_location("serve_conftest", Path(__file__).parents[1] / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    fakes = util.module_from_spec(spec)
    spec.loader.exec_module(fakes)
    running = Running({"m": fakes.Fake(add=1.0)}, settings=Settings(max_body_bytes=100_000), traffic=traffic)
    with running:
        yield running


@pytest.fixture
def client(server: Running) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=server.url, timeout=20) as client:
        yield client


# ── answers ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_json_in_and_out(client: httpx.Client) -> None:
    reply = client.post(INFER, json=body(1, 2, id="mine"))
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/json"
    assert reply.json() == {
        "model_name": "m",
        "model_version": "1",
        "id": "mine",
        "outputs": [{"name": "y", "datatype": "FP32", "shape": [1, 2], "data": [2.0, 3.0]}],
    }
    stages = dict(part.split(";dur=") for part in reply.headers["server-timing"].split(", "))
    assert set(stages) == {"queue", "compute"}
    assert all(float(ms) >= 0 for ms in stages.values())


def test_ids_are_made_where_none_is_given(client: httpx.Client) -> None:
    ids = {client.post(INFER, json=body()).json()["id"] for _ in range(5)}
    assert len(ids) == 5
    assert all(len(i) == 32 for i in ids)


def test_bytes_in_and_out(client: httpx.Client) -> None:
    x = np.array([[1.5, 2.5]], np.float32)
    head = {
        "inputs": [{"name": "x", "shape": [1, 2], "datatype": "FP32", "parameters": {"binary_data_size": x.nbytes}}],
        "parameters": {"binary_data_output": True},
    }
    text = json.dumps(head).encode()
    length = {"Inference-Header-Content-Length": str(len(text))}
    reply = client.post(INFER, content=text + x.tobytes(), headers=length)  # no content type, as tritonclient sends
    assert reply.status_code == 200
    assert reply.headers["content-type"] == "application/octet-stream"
    size = int(reply.headers["Inference-Header-Content-Length"])
    assert json.loads(reply.content[:size])["outputs"] == [
        {"name": "y", "datatype": "FP32", "shape": [1, 2], "parameters": {"binary_data_size": 8}}
    ]
    assert struct.unpack("<2f", reply.content[size:]) == (2.5, 3.5)


def test_a_version_may_be_asked_and_outputs_named(client: httpx.Client) -> None:
    reply = client.post("/v2/models/m/versions/1/infer", json=body(outputs=[{"name": "y"}]))
    assert reply.json()["model_version"] == "1"


@pytest.mark.parametrize(("encoding", "pack"), [("gzip", gzip.compress), ("deflate", zlib.compress)])
def test_packed_bodies(client: httpx.Client, encoding: str, pack: Any) -> None:
    sent = pack(json.dumps(body()).encode())
    assert client.post(INFER, content=sent, headers={"content-encoding": encoding}).status_code == 200
    torn = client.post(INFER, content=sent[:-6], headers={"content-encoding": encoding})
    assert (torn.status_code, torn.json()) == (400, {"error": f"the {encoding} body breaks off before its end"})
    bomb = pack(b" " * 10_000_000)
    assert client.post(INFER, content=bomb, headers={"content-encoding": encoding}).status_code == 413


def test_what_follows_a_packed_body_is_not_dropped_without_a_word(client: httpx.Client) -> None:
    packed = gzip.compress(json.dumps(body()).encode()) + gzip.compress(b"more")
    reply = client.post(INFER, content=packed, headers={"content-encoding": "GZIP"})
    assert reply.status_code == 400
    assert "bytes follow the end of the gzip body" in reply.json()["error"]


def test_bodies_that_come_in_parts(client: httpx.Client) -> None:
    text = json.dumps(body()).encode()
    parts = (text[i : i + 7] for i in range(0, len(text), 7))
    assert client.post(INFER, content=parts).status_code == 200


def test_what_is_here(client: httpx.Client) -> None:
    front = client.get("/")
    assert "m: live m@1" in front.text
    assert "POST /v2/models/NAME/infer" in front.text
    assert {"binary_tensor_data", "classification", "statistics"} <= set(client.get("/v2").json()["extensions"])
    assert client.get("/v2/health/live").json() == {"live": True}
    assert client.get("/v2/health/ready").json() == {"ready": True}
    for path in ("/v2/models/m/ready", "/v2/models/m/versions/1/ready"):
        assert client.get(path).json() == {"name": "m", "ready": True}
    found = client.get("/v2/models/m").json()
    assert (found["name"], found["versions"]) == ("m", ["1"])
    assert found["inputs"] == [{"name": "x", "datatype": "FP32", "shape": [-1, -1]}]
    assert found["outputs"] == [{"name": "y", "datatype": "FP32", "shape": [-1, -1]}]
    assert found["modelkeep"]["live"] == found["modelkeep"]["version"] == 1
    assert client.get("/v2/models/m/versions/1").json() == found


def test_metrics_are_for_prometheus(client: httpx.Client) -> None:
    client.post(INFER, json=body())
    reply = client.get("/metrics")
    assert reply.headers["content-type"].startswith("text/plain; version=0.0.4")
    for name in (
        "requests_total",
        "request_duration_seconds_bucket",
        "queue_duration_seconds_bucket",
        "compute_duration_seconds_bucket",
        "batch_size_bucket",
        "requests_in_flight",
        "queue_depth",
        "rejections_total",
        "output_class_total",
        "output_invalid_total",
        "model_info",
        "route_weight_ratio",
        "traffic_dropped_total",
        "traffic_without_inputs_total",
    ):
        assert f"\nmodelkeep_{name}" in reply.text


def test_labels_find_the_request_just_answered(client: httpx.Client, traffic: Path) -> None:
    asked = client.post(INFER, json=body()).json()["id"]
    reply = client.post("/v2/models/m/labels", json={"labels": {asked: 7, "never-asked": 1}})
    assert (reply.status_code, reply.json()) == (200, {"new": 2, "changed": 0, "matched": 1, "unmatched": 1})
    (kept,) = [e for e in read(traffic, "m") if e.id == asked]
    assert (kept.label, kept.version, kept.track, kept.outcome) == (7, 1, "live", "ok")


DEEP = b"[" * 1000 + b"]" * 1000
"""As deep as the parser of JSON goes, and deeper than Python prints."""

# ── errors ───────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("method", "path", "sent", "status", "said"),
    [
        ("POST", INFER, b"{", 400, "the body is not JSON"),
        ("POST", INFER, b"", 400, "the body is not JSON"),
        ("POST", INFER, b"[]", 400, "the body is a JSON list; send an object"),
        ("POST", INFER, {}, 400, "the request has no inputs"),
        ("POST", INFER, body() | {"id": 1}, 400, "the request's id is 1"),
        ("POST", INFER, {"inputs": [body()["inputs"][0] | {"name": "q"}]}, 400, "no input is called 'q'"),
        ("POST", INFER, {"inputs": [body()["inputs"][0] | {"datatype": "FP64"}]}, 400, "input 'x' is float64"),
        ("POST", INFER, {"inputs": [body()["inputs"][0] | {"shape": [2]}]}, 400, "input 'x' has shape [2]"),
        ("POST", INFER, {"inputs": [body()["inputs"][0] | {"shape": [3, 1]}]}, 400, "make them agree"),
        ("POST", INFER, body() | {"outputs": [{"name": "q"}]}, 400, "no output is called 'q'; the model gives y"),
        ("POST", INFER, body(666), 500, "m@1 failed on this request: ValueError: poison in the batch"),
        ("POST", INFER, b" " * 100_001, 413, "the body is larger than 100000 bytes (max_body_bytes)"),
        ("GET", INFER, None, 405, "GET is not possible at /v2/models/m/infer; POST is"),
        ("DELETE", "/v2/models/m", None, 405, "DELETE is not possible at /v2/models/m"),
        ("GET", "/nowhere", None, 404, "there is nothing at /nowhere; GET / says what there is"),
        (
            "POST",
            "/v2/models/m/infer/",
            body(),
            404,
            "there is nothing at /v2/models/m/infer/; GET / says what there is",
        ),
        ("GET", "/v2/models/q", None, 404, "no model is called 'q' here; this server answers for m"),
        ("GET", "/v2/models/q/ready", None, 404, "no model is called 'q' here"),
        ("POST", "/v2/models/q/infer", body(), 404, "no model is called 'q' here"),
        ("POST", "/v2/models/q/labels", {"labels": {}}, 404, "no model is called 'q' here"),
        ("POST", "/v2/models/m/versions/9/infer", body(), 404, "m@9 is not served; this server holds m@1"),
        ("GET", "/v2/models/m/versions/9", None, 404, "m@9 is not served"),
        ("GET", "/v2/models/m/versions/9/ready", None, 404, "m@9 is not served"),
        ("POST", "/v2/models/m/labels", {"labels": [1]}, 400, 'send {"labels": {"<request id>": label}}'),
        ("POST", "/v2/models/m/labels", {"labels": {"a": {}}}, 400, "the label of request 'a' is {}"),
        ("POST", "/v2/models/m/labels", b'{"labels": {"a": ' + DEEP + b"}}", 400, "the label of request 'a' is [[[["),
        ("POST", "/v1/models/m:predict", b'{"instances": ' + DEEP + b"}", 400, "are not of one shape"),
        ("POST", "/v2/models/m/config", b'{"p99": ' + DEEP + b"}", 400, "'p99' is [[[["),
        ("POST", f"/v2/models/m/versions/{'9' * 5000}/infer", body(), 404, "there is nothing at"),
        ("GET", f"/v2/models/m/versions/{'9' * 5000}", None, 404, "there is nothing at"),
    ],
)
def test_every_error_says_what_to_do(
    client: httpx.Client, method: str, path: str, sent: Any, status: int, said: str
) -> None:
    content = sent if isinstance(sent, bytes) or sent is None else json.dumps(sent).encode()
    reply = client.request(method, path, content=content)
    assert reply.status_code == status
    assert list(reply.json()) == ["error"]
    assert said in reply.json()["error"]
    assert "Traceback" not in reply.text
    assert client.get("/v2/health/live").status_code == 200  # the connection is still good


@pytest.mark.parametrize(
    ("header", "value", "said"),
    [
        ("x-modelkeep-timeout", "soon", "header x-modelkeep-timeout is 'soon'; give a number, 0 or more"),
        ("x-modelkeep-timeout", "nan", "header x-modelkeep-timeout is 'nan'"),
        ("x-modelkeep-timeout", "x" * 3000, "xxx...xxx"),
        ("inference-header-content-length", "-1", "header inference-header-content-length is '-1'"),
        ("inference-header-content-length", "1_0", "header inference-header-content-length is '1_0'"),
        ("inference-header-content-length", "9999", "Inference-Header-Content-Length is 9999"),
        ("content-encoding", "br", "Content-Encoding 'br' is not known here; send gzip, deflate or none"),
        ("content-encoding", "gzip", "the body is not gzip"),
    ],
)
def test_headers_that_do_not_fit(client: httpx.Client, header: str, value: str, said: str) -> None:
    reply = client.post(INFER, content=json.dumps(body()), headers={header: value})
    assert reply.status_code == 400
    assert said in reply.json()["error"]


def test_a_raw_body_needs_a_shape_that_can_be_told(client: httpx.Client) -> None:
    x = np.array([1.0, 2.0], np.float32).tobytes()
    reply = client.post(INFER, content=x, headers={"inference-header-content-length": "0"})
    assert reply.status_code == 200
    size = int(reply.headers["inference-header-content-length"])
    assert struct.unpack("<2f", reply.content[size:]) == (2.0, 3.0)


def test_a_defect_of_ours_is_a_sentence_too(server: Running, client: httpx.Client, monkeypatch: Any) -> None:
    monkeypatch.setattr(server.plane, "ask", None)
    reply = client.post(INFER, json=body())
    assert (reply.status_code, reply.json()) == (500, {"error": "the server failed on this request; its log says why"})


def test_alerts_are_handed_on_and_need_somewhere_to_go(fakes: SimpleNamespace) -> None:
    told: list[Any] = []

    def alerted(document: Any) -> int:
        if "alerts" not in document:
            raise BadInput("this is no notification")
        told.append(document)
        return 1

    with Running({"m": fakes.Fake()}, alerted=alerted) as url:
        reply = httpx.post(f"{url}/monitor/alerts", json={"alerts": []})
        assert (reply.status_code, reply.json(), told) == (200, {"new": 1}, [{"alerts": []}])
        assert httpx.post(f"{url}/monitor/alerts", json={}).json() == {"error": "this is no notification"}
        assert httpx.post(f"{url}/monitor/alerts", content=b"{").status_code == 400
    with Running({"m": fakes.Fake()}) as url:
        reply = httpx.post(f"{url}/monitor/alerts", json={"alerts": []})
    assert reply.status_code == 400
    assert "no journal that alerts could go to" in reply.json()["error"]


def test_labels_need_traffic(fakes: SimpleNamespace) -> None:
    with Running({"m": fakes.Fake()}) as url:
        reply = httpx.post(f"{url}/v2/models/m/labels", json={"labels": {}})
    assert reply.status_code == 400
    assert "this server keeps no traffic that labels could belong to" in reply.json()["error"]


# ── load, deadlines, and clients that leave ──────────────────────────────────────────────────────────────────────────


def test_a_burst_is_shed_and_every_refusal_counted(fakes: SimpleNamespace) -> None:
    runner = fakes.Fake(gate=True)
    running = Running({"m": runner}, settings=Settings(max_queue_requests=20))

    async def burst(url: str) -> list[httpx.Response]:
        limits = httpx.Limits(max_connections=None)
        async with httpx.AsyncClient(base_url=url, timeout=20, limits=limits) as client:
            tasks = [asyncio.create_task(client.post(INFER, json=body(i))) for i in range(100)]
            while sum(t.done() for t in tasks) < 80:
                await asyncio.sleep(0.01)
            runner.gate.set()
            return await asyncio.gather(*tasks)

    with running as url:
        replies = asyncio.run(burst(url))
        shed = [r for r in replies if r.status_code == 429]
        assert len(shed) == 80
        assert all(int(r.headers["retry-after"]) >= 1 for r in shed)
        assert all("20 requests are in the server already" in r.json()["error"] for r in shed)
        assert [r.status_code for r in replies].count(200) == 20
        reasons = ("queue_full", "queue_bytes", "deadline_hopeless", "deadline_passed", "not_ready", "body_too_large")
        counted = [running.plane.metrics.value("modelkeep_rejections_total", reason=r) for r in reasons]
        assert sum(counted) == len(shed)


def test_abandoned_requests_are_not_run(fakes: SimpleNamespace) -> None:
    runner = fakes.Fake(gate=True)
    running = Running({"m": runner}, configs={"m": ServeConfig(max_batch=4)})

    async def abandon(url: str) -> None:
        async with httpx.AsyncClient(base_url=url, limits=httpx.Limits(max_connections=None)) as client:
            asked = [client.post(INFER, json=body(i), timeout=0.3) for i in range(40)]
            errors = await asyncio.gather(*asked, return_exceptions=True)
        assert all(isinstance(e, httpx.TimeoutException) for e in errors)

    with running as url:
        held = threading.Thread(target=lambda: httpx.post(url + INFER, json=body(99), timeout=20))
        held.start()
        assert runner.entered.acquire(timeout=20)
        asyncio.run(abandon(url))
        until(lambda: running.plane.limits.requests == 1)
        runner.gate.set()
        held.join()
        assert httpx.post(url + INFER, json=body(100), timeout=20).status_code == 200
    assert [float(x[0, 0]) for x in runner.runs] == [99.0, 100.0]


@pytest.mark.parametrize("how", ["header", "parameter"])
def test_a_deadline_is_kept_also_while_the_model_runs(fakes: SimpleNamespace, how: str) -> None:
    runner = fakes.Fake(gate=True)
    headers = {"x-modelkeep-timeout": "0.2"} if how == "header" else {}
    parameters = {"timeout": 200_000} if how == "parameter" else {}
    with Running({"m": runner}) as url:
        began = time.monotonic()
        reply = httpx.post(url + INFER, json=body(parameters=parameters), headers=headers, timeout=20)
        assert 0.15 < time.monotonic() - began < 10
        runner.gate.set()
    assert reply.status_code == 504
    assert "m@1 had no answer within" in reply.json()["error"]
    assert int(reply.headers["retry-after"]) >= 1


def test_a_deadline_of_nothing_is_too_late(client: httpx.Client) -> None:
    reply = client.post(INFER, json=body(), headers={"x-modelkeep-timeout": "0"})
    assert reply.status_code == 504
    assert "the deadline had passed before the request could be queued" in reply.json()["error"]


def test_not_ready_is_503_with_retry_after(fakes: SimpleNamespace) -> None:
    running = Running({"m": fakes.Fake()})
    with running as url:
        running.plane.expect("n")
        for reply in (httpx.post(f"{url}/v2/models/n/infer", json=body()), httpx.get(f"{url}/v2/health/ready")):
            assert reply.status_code == 503
            assert reply.headers["retry-after"] == "1"
            assert reply.json()["error"] == "no version of 'n' is loaded; send the request again later"
        assert httpx.get(f"{url}/v2/models/m/ready").status_code == 200
        assert "n: no version of 'n' is loaded" in httpx.get(url).text


def test_a_body_that_stops_coming_is_408_and_holds_no_bytes(fakes: SimpleNamespace) -> None:
    running = Running({"m": fakes.Fake()}, settings=Settings(request_timeout=0.2))

    def slow() -> Iterator[bytes]:
        yield b'{"inputs": ['
        time.sleep(0.6)
        yield b"]}"

    with running as url:
        reply = httpx.post(url + INFER, content=slow(), timeout=20)
        assert reply.status_code == 408
        assert "the body took longer than 0.2 s (request_timeout)" in reply.json()["error"]
        until(lambda: running.plane.limits.bytes == 0)


def test_bodies_on_their_way_count_as_bytes(fakes: SimpleNamespace) -> None:
    running = Running({"m": fakes.Fake()}, settings=Settings(max_queue_bytes=1000))
    first, second = threading.Event(), threading.Event()

    def large() -> Iterator[bytes]:
        yield b" " * 900
        first.set()
        second.wait(20)
        yield b"{}"

    def slowly() -> Iterator[bytes]:
        yield b" " * 150
        time.sleep(0.2)  # so that it comes in parts
        yield b"{}"

    with running as url:
        thread = threading.Thread(target=lambda: httpx.post(url + INFER, content=large(), timeout=20))
        thread.start()
        first.wait(20)
        until(lambda: running.plane.limits.bytes == 900)
        reply = httpx.post(url + INFER, content=slowly(), timeout=20)
        second.set()
        thread.join()
    assert reply.status_code == 429
    assert "900 bytes of requests are in the server already, of 1000 at most" in reply.json()["error"]
    assert running.plane.limits.bytes == 0


def test_the_sticky_header_reaches_the_router(client: httpx.Client, monkeypatch: Any) -> None:
    seen = []
    pick = Router.pick

    def spy(router: Router, key: str, version: int | None = None) -> Any:
        seen.append(key)
        return pick(router, key, version)

    monkeypatch.setattr(Router, "pick", spy)
    assert client.post(INFER, json=body(), headers={STICKY: "user-7"}).status_code == 200
    assert client.post(INFER, json=body(id="mine")).status_code == 200
    assert seen == ["user-7", ""]
