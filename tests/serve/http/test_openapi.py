"""The OpenAPI document: every route is in it, and a fuzzer that believes it is never answered otherwise."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.applications import Starlette

from modelkeep.serve.http import openapi, routes
from modelkeep.serve.http.convertors import VERSION
from modelkeep.serve.server import Running

EXAMPLES = 40
"""Requests for each route. What a model takes is its own affair, so that a valid document may well be refused."""


@pytest.fixture(scope="module")
def server() -> Iterator[Running]:
    from importlib import util
    from pathlib import Path

    spec = util.spec_from_file_location("serve_conftest", Path(__file__).parents[1] / "conftest.py")
    assert spec is not None
    assert spec.loader is not None
    fakes = util.module_from_spec(spec)
    spec.loader.exec_module(fakes)
    running = Running({"m": fakes.Fake(add=1.0)})
    with running:
        yield running


def test_every_route_is_documented(server: Running) -> None:
    app: Starlette = routes.app(server.plane)
    served = {
        (method.lower(), route.path.replace(f":{VERSION}", ""))  # type: ignore[attr-defined]
        for route in app.routes
        for method in route.methods - {"HEAD"}  # type: ignore[attr-defined]
    }
    document = openapi.document(server.plane)
    assert served == {(verb, path) for path, item in document["paths"].items() for verb in item if verb != "parameters"}


def test_whoever_sends_a_body_may_be_too_slow_or_send_too_much(server: Running) -> None:
    asking = [ways["post"] for ways in openapi.document(server.plane)["paths"].values() if "post" in ways]
    assert len(asking) >= 8
    assert all({"408", "413", "429"} <= one["responses"].keys() for one in asking)


def test_it_names_the_models_that_are_here(server: Running) -> None:
    document = httpx.get(f"{server.url}/openapi.json", timeout=20).json()
    assert document["paths"]["/v2/models/{model}/infer"]["parameters"][0]["schema"]["examples"] == ["m"]
    assert document["openapi"].startswith("3.1")


def test_a_fuzzer_finds_no_answer_that_is_not_promised(server: Running) -> None:
    document = openapi.document(server.plane)
    for path in ("/metrics",):  # asked so often, it would be the whole of the test
        del document["paths"][path]
    schema = schemathesis.openapi.from_dict(document)
    asked: dict[str, int] = {}
    for found in schema.get_all_operations():
        _fuzz(found.ok(), server.url, asked)
    assert len(asked) == sum(len(set(item) - {"parameters"}) for item in document["paths"].values())
    assert min(asked.values()) >= 1
    assert sum(asked.values()) > 300


def _fuzz(operation: Any, url: str, asked: dict[str, int]) -> None:
    from hypothesis import given

    @given(case=operation.as_strategy())
    @settings(
        max_examples=EXAMPLES,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    def one(case: Any) -> None:
        case.call_and_validate(base_url=url, excluded_checks=[positive_data_acceptance], timeout=20)
        asked[operation.label] = asked.get(operation.label, 0) + 1

    one()
