"""Versions in a path."""

from __future__ import annotations

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Route
from starlette.testclient import TestClient

from modelkeep.serve.http.convertors import VERSION


@pytest.mark.parametrize(
    ("path", "status", "said"),
    [("7", 200, "7"), ("007", 200, "7"), ("9" * 9, 200, "9" * 9), ("9" * 10, 404, ""), ("9" * 5000, 404, "")],
)
def test_a_number_that_no_version_has_is_no_path(path: str, status: int, said: str) -> None:
    def told(request: Request) -> PlainTextResponse:
        return PlainTextResponse(str(request.path_params["number"]))

    client = TestClient(Starlette(routes=[Route(f"/{{number:{VERSION}}}", told)]))
    reply = client.get(f"/{path}")
    assert reply.status_code == status
    assert not said or reply.text == said
