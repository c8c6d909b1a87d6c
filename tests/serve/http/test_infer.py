"""The hot path: which paths it takes, and that it says in every case what the table of routes would."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from types import SimpleNamespace

import httpx
import pytest

from modelkeep.serve.http import infer, routes
from modelkeep.serve.server import Running

ASK = {"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [1.0]}]}


@pytest.mark.parametrize(
    ("path", "found"),
    [
        ("/v2/models/m/infer", {"model": "m"}),
        ("/v2/models/a.b-c_d/versions/12/infer", {"model": "a.b-c_d", "version": 12}),
        ("/v2/models/m/infer/", None),
        ("/v2/models/m/versions//infer", None),
        ("/v2/models/m/versions/x/infer", None),
        ("/v2/models/m/versions/-1/infer", None),
        ("/v2/models/m/versions/9999999999/infer", None),
        ("/v2/models//infer", None),
        ("/v2/models/a/b/infer", None),
        ("/v1/models/m/infer", None),
        ("/v2/models/m/infer\n", None),
    ],
)
def test_which_paths_are_hot(path: str, found: dict[str, object] | None) -> None:
    assert infer.target(path) == found


@pytest.fixture
def server(fakes: SimpleNamespace) -> Iterator[Running]:
    running = Running({"m": fakes.Fake(add=1.0)})
    with running:
        yield running


def test_the_table_of_routes_answers_alike(server: Running) -> None:
    """Past the door, Starlette finds the same application."""

    async def through_the_table() -> list[tuple[int, bytes]]:
        found = []
        transport = httpx.ASGITransport(routes.app(server.plane))
        async with httpx.AsyncClient(transport=transport, base_url="http://x") as client:
            for path in ("/v2/models/m/infer", "/v2/models/m/versions/1/infer", "/v2/models/nobody/infer"):
                answer = await client.post(path, json={**ASK, "id": "mine"})
                found.append((answer.status_code, answer.content))
        return found

    table = server.call(through_the_table())
    with httpx.Client(base_url=server.url, timeout=20) as client:
        for path, (status, content) in zip(
            ("/v2/models/m/infer", "/v2/models/m/versions/1/infer", "/v2/models/nobody/infer"), table, strict=True
        ):
            answer = client.post(path, json={**ASK, "id": "mine"})
            assert (answer.status_code, answer.content) == (status, content)
    assert [status for status, _ in table] == [200, 200, 404]


@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_another_method_is_405_with_those_that_are_possible(server: Running, method: str) -> None:
    answer = httpx.request(method, f"{server.url}/v2/models/m/infer", timeout=20)
    assert answer.status_code == 405
    assert answer.headers["allow"] == "POST"
    assert "POST" in answer.json()["error"]


def test_a_defect_is_logged_and_not_told(
    server: Running, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise RuntimeError("a secret of the server")

    monkeypatch.setattr(infer.codec, "encode", broken)
    with caplog.at_level(logging.ERROR):
        answer = httpx.post(f"{server.url}/v2/models/m/infer", json=ASK, timeout=20)
    assert answer.status_code == 500
    assert "secret" not in answer.text
    assert "its log says why" in answer.json()["error"]
    assert "a secret of the server" in caplog.text
