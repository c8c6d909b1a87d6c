"""The dashboards that are shipped: those that scripts/dashboards writes, and sound without any Prometheus."""

from __future__ import annotations

import json
import re
from importlib import resources
from itertools import combinations
from pathlib import Path
from typing import Any

import pytest

from modelkeep.monitor.prometheus import write
from scripts import dashboards

FILES = sorted((resources.files("modelkeep.monitor.prometheus") / write.DASHBOARDS).iterdir(), key=str)
PAGES: dict[str, dict[str, Any]] = {file.name: json.loads(file.read_text(encoding="utf-8")) for file in FILES}


def test_what_is_shipped_is_what_the_script_writes(tmp_path: Path) -> None:
    dashboards.write(tmp_path)
    written = {file.name: file.read_text(encoding="utf-8") for file in tmp_path.iterdir()}
    shipped = {file.name: file.read_text(encoding="utf-8") for file in FILES}
    assert written == shipped, "run: python -m scripts.dashboards"


def test_there_is_one_for_each_question() -> None:
    assert set(PAGES) == {"service.json", "answers.json", "quality.json", "rollout.json", "machine.json"}
    assert {page["schemaVersion"] for page in PAGES.values()} == {41}  # Grafana 11.6
    assert len({page["uid"] for page in PAGES.values()}) == len(PAGES)


@pytest.mark.parametrize("page", PAGES)
def test_panels_lie_beside_each_other_and_not_on_each_other(page: str) -> None:
    places = [panel["gridPos"] for panel in PAGES[page]["panels"]]
    assert all(place["x"] + place["w"] <= 24 for place in places)
    for one, other in combinations(places, 2):
        apart = one["x"] + one["w"] <= other["x"] or other["x"] + other["w"] <= one["x"]
        assert apart or one["y"] + one["h"] <= other["y"] or other["y"] + other["h"] <= one["y"], (one, other)


@pytest.mark.parametrize("page", PAGES)
def test_each_panel_has_a_title_a_unit_and_a_query(page: str) -> None:
    panels = [panel for panel in PAGES[page]["panels"] if panel["type"] != "row"]
    assert panels
    for panel in panels:
        assert panel["title"]
        assert panel["fieldConfig"]["defaults"]["unit"]
        assert panel["targets"]
        assert all(target["datasource"]["uid"] == "${datasource}" for target in panel["targets"])


@pytest.mark.parametrize("page", PAGES)
def test_a_counter_is_shown_as_a_rate_and_a_missing_latency_not_as_zero(page: str) -> None:
    for panel in PAGES[page]["panels"]:
        for target in panel.get("targets", ()):
            for name in re.findall(r"modelkeep_\w+_total", target["expr"]):
                assert re.search(rf"(rate|increase)\({name}", target["expr"]), target["expr"]
            assert "vector(0)" not in target["expr"]
