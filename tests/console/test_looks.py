"""What monitor finds, with before and after by feature; and a look that many share."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from modelkeep.console import looks as looks_
from modelkeep.console.looks import Looks, charts, measured, moved
from modelkeep.data.traffic import Exchange, TrafficLog
from modelkeep.keep import Keep
from modelkeep.monitor.look import Checked
from modelkeep.types import Finding

ROW = {"feature": "pixels[0]", "moved": 0.4, "bins": ["< 0", "≥ 0"], "before": [0.5, 0.5], "after": [0.1, 0.9]}


def test_before_and_after_come_from_findings_and_numbers() -> None:
    found = Finding("drift", "inputs", "it moved", {"most_moved": [ROW]})
    later = {**ROW, "moved": 0.2}
    numbers = {"answers": {"most_moved": [{**ROW, "feature": "class"}]}, "inputs": {"most_moved": [later]}}
    rows = moved(Checked("digits@1", 100, 0.0, (found, Finding("health", "errors", "slow")), numbers))
    assert [(m.subject, m.feature, m.moved) for m in rows] == [("inputs", "pixels[0]", 0.4), ("answers", "class", 0.4)]
    assert rows[0].raised
    assert rows[0].bins == (("< 0", 0.5, 0.1), ("≥ 0", 0.5, 0.9))
    assert moved(Checked("digits@1", 0, None, (), {"inputs": {"most_moved": "pixels[0]"}})) == []


def test_many_readers_cost_one_look(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def check(version: Any, *_: Any, **__: Any) -> Checked:
        looked.append(version.ref)
        return Checked(version.ref, 0, None, ())

    monkeypatch.setattr(looks_.look, "check", check)
    looks = Looks(keep)
    first, second = keep.get("digits@1"), keep.get("digits@2")
    assert looks.at(first) is looks.at(first)
    looks.at(second)
    assert looked == ["digits@1", "digits@2"]
    monkeypatch.setattr(looks_, "FRESH", -1.0)
    looks.at(first)
    assert looked == ["digits@1", "digits@2", "digits@1"]
    monkeypatch.setattr(looks_, "KEPT", 1)
    looks.at(second)
    assert list(looks._known) == ["digits@2"]


def test_traffic_that_moved_is_drawn(keep: Keep, serve: Callable[[], Any], browse: Callable[[str], Any]) -> None:
    served = serve()
    served.ask(300, shift=3.0)
    served.running.service._log.flush()
    before = len(keep.registry.journal())
    page = browse(f"{served.url}/console").get("/models/digits/monitor").text
    assert "Inputs: before and after" in page
    assert "pixels[0]" in page
    assert '<svg class="bar after"' in page
    assert len(keep.registry.journal()) == before, "to look writes nothing down"


def test_a_page_holds_a_version_to_what_the_settings_promise(
    keep: Keep, serve: Callable[[], Any], browse: Callable[[str], Any]
) -> None:
    keep.settings = replace(keep.settings, slo=0.999, min_accuracy=0.9, silence=1e-9)
    served = serve()
    served.ask(2)
    served.running.service._log.flush()
    look = Looks(keep).at
    assert look(keep.get("digits@1")).numbers["health"]["slo"]["objective"] == 0.999
    assert [(f.kind, f.subject) for f in look(keep.get("digits@1")).findings] == [("no-data", "traffic")]
    assert "where 1e-09 s may pass" in look(keep.get("digits@1")).findings[0].why
    page = browse(f"{served.url}/console").get("/models/digits/monitor").text
    assert "Error budget" in page
    assert "99.900% promised" in page

    keep.promote("digits@2")
    assert look(keep.get("digits@1")).findings != (), "a look is good for a moment"
    assert Looks(keep).at(keep.get("digits@1")).findings == (), "no silence of a version that is not served"


def test_a_version_without_reference_rows_is_compared_with_none(
    keep: Keep, serve: Callable[[], Any], browse: Callable[[str], Any]
) -> None:
    keep.settings = replace(keep.settings, slo=0.999)
    keep.promote("other@1")
    log = TrafficLog(keep.traffic, rate=1e9)
    for at in range(20):
        log.offer(Exchange(f"r{at}", 1e9 + at, "other", 1, "live", "ok", 0.3, {}))
    log.close()
    looking = browse(f"{serve().url}/console")
    page = looking.get("/models/other/monitor").text
    assert "drift is not judged: the version keeps no reference rows" in page
    assert "compared with the version's reference rows" not in page
    assert "distribution is known" not in page
    assert '<th scope="row">5m</th><td class="n">0</td><td class="n">–</td>' in page
    assert "compared with the version's reference rows" in looking.get("/models/digits/monitor").text


def test_quality_with_labels_and_estimated_side_by_side() -> None:
    f1, rmse = {"value": 0.8, "low": 0.7, "high": 0.9}, {"value": 2.0, "low": None, "high": None}
    quality = {"n": 50, "coverage": 0.5, "accuracy": 0.9, "low": 0.8, "high": 0.95, "f1": f1, "rmse": rmse}
    estimated = {"n": 100, "assumes": "calibration", "accuracy": {"value": 0.88, "low": 0.8, "high": 0.93, "n": 100}}
    rows = measured(Checked("digits@1", 100, 0.0, (), {"quality": quality, "estimated": estimated}))
    assert [(row.name, row.share) for row in rows] == [("accuracy", True), ("f1", True), ("rmse", False)]
    assert rows[0].labelled == {"value": 0.9, "low": 0.8, "high": 0.95}
    assert rows[0].estimated is estimated["accuracy"]
    assert (rows[1].labelled, rows[1].estimated) == (f1, None)
    assert measured(Checked("digits@1", 0, None, (), {"quality": {"n": 0, "coverage": 0.0, "floor": None}})) == []


def test_how_it_went_is_drawn_of_what_is_there() -> None:
    plots = {
        "quality": [{"at": 1.0, "n": 5, "value": 0.9, "low": 0.5, "high": 1.0}],
        "seconds": [{"at": 1.0, "p50": 0.001, "p99": 0.02}],
        "minutes": [{"at": 60.0, "requests": 10.0, "failed": 1.0}, {"at": 120.0, "requests": 0.0, "failed": 0.0}],
        "memory": [{"at": 1.0, "bytes": 5e7}],
    }
    accuracy, latency, failed, memory = charts(Checked("digits@1", 1, 0.0, (), plots=plots))
    assert accuracy.band
    assert [name for name, _, _ in accuracy.lines] == ["accuracy", "low", "high"]
    assert latency.to_json() == {
        "x": [1.0],
        "lines": [("p50", "before", [0.001]), ("p99", "live", [0.02])],
        "band": False,
        "unit": 1000.0,
    }
    assert failed.lines[0][2] == [0.1, 0.0]
    assert memory.unit == 1e-6
    assert charts(Checked("digits@1", 0, None, ())) == []


def test_the_page_says_how_good_and_how_that_went(
    keep: Keep, serve: Callable[[], Any], browse: Callable[[str], Any]
) -> None:
    served = serve()
    served.ask(60)
    served.running.service._log.flush()
    page = browse(f"{served.url}/console").get("/models/digits/monitor").text
    assert "Estimated without" in page
    assert "Estimates assume that" in page
    assert "How it went" in page
    assert "data-series=" in page
