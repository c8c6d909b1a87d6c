"""The files at work: Prometheus scrapes a real service, each panel shows something, and an alert becomes a Finding."""

from __future__ import annotations

import contextlib
import json
import re
import shutil
from collections.abc import Iterator
from importlib import resources
from typing import Any

import pytest

from modelkeep import Keep
from modelkeep.monitor.prometheus import run, write
from tests.waiting import until

MISSING = [name for name, names in run.PROGRAMS.items() if not any(map(shutil.which, names))]
pytestmark = [
    pytest.mark.prometheus,
    pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)} ({run.INSTALL})"),
]
VARIABLES = {"$__rate_interval": "10s", "$model": ".+", "${datasource}": "modelkeep"}


def pages() -> Iterator[tuple[str, dict[str, Any]]]:
    for file in sorted((resources.files("modelkeep.monitor.prometheus") / write.DASHBOARDS).iterdir(), key=str):
        yield file.name, json.loads(file.read_text(encoding="utf-8"))


def targets() -> Iterator[tuple[str, str, str]]:
    """Page, panel and expression of every query, with the variables replaced."""
    for name, page in pages():
        for panel in page["panels"]:
            for target in panel.get("targets", ()):
                expr = target["expr"]
                for variable, value in VARIABLES.items():
                    expr = expr.replace(variable, value)
                yield name, panel["title"], expr


def test_prometheus_scrapes_the_service_behind_its_key(watched: Any) -> None:
    [up] = until(lambda: [one for one in watched.query("up") if one["value"][1] == "1"], 20)
    assert up["metric"]["job"] == "modelkeep"
    assert f"http://{up['metric']['instance']}" == watched.url


@pytest.mark.parametrize(("page", "panel", "expr"), list(targets()))
def test_each_panel_shows_something(page: str, panel: str, expr: str, watched: Any) -> None:
    assert "$" not in expr, "a variable that this test does not know"
    found = until(lambda: watched.query(expr), 40)
    assert any(one["value"][1] != "NaN" for one in found), f"{page}, '{panel}' is all NaN: {expr}"


def test_the_variables_offer_what_is_there(watched: Any) -> None:
    asked = {
        variable["query"]
        for _, page in pages()
        for variable in page["templating"]["list"]
        if variable["type"] == "query"
    }
    for query in asked:
        given = re.fullmatch(r"label_values\((\S+), (\S+)\)", query)
        assert given
        assert watched.values(given[1], given[2]) == ["digits"]


def test_rules_are_all_healthy(watched: Any) -> None:
    def rules() -> list[dict[str, Any]]:
        found = [rule for group in watched._get("rules")["groups"] for rule in group["rules"]]
        return [] if any(rule["health"] == "unknown" for rule in found) else found

    found = until(rules, 20)
    assert len(found) > 40
    assert [(rule["name"], rule.get("lastError")) for rule in found if rule["health"] != "ok"] == []


def test_an_alert_becomes_a_finding_once(watched: Any) -> None:
    """Requests come too late → the error budget burns → Prometheus → Alertmanager → the service → its journal."""
    watched.late.set()

    def told() -> list[Any]:
        with Keep(watched.settings) as keep:
            return [e for e in keep.registry.journal("digits", kind="finding") if e.who == "alertmanager"]

    def pages() -> list[Any]:
        return [e for e in told() if e.data["evidence"]["alertname"] == "ModelkeepAvailabilityBurnPage"]

    try:
        [burn] = until(pages)  # another may come before it
        found = told()
    finally:
        watched.late.clear()
    assert (burn.data["kind"], burn.data["subject"], burn.data["evidence"]["severity"]) == (
        "health",
        "availability",
        "page",
    )
    assert re.match(r"[\d.]+% of the requests fail, are turned away or come too late, where 0\.1 % may", burn.why)
    assert burn.data["since"] <= burn.at
    with contextlib.suppress(AssertionError):  # Alertmanager tells it again where its group changes, if it does
        until(lambda: len(told()) > len(found), 3)
    names = [e.data["alert"] for e in told()]
    assert len(names) == len(set(names))
