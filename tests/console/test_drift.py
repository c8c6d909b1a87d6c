"""What monitor finds, with before and after by feature; and a look that many share."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelkeep.console import drift
from modelkeep.console.drift import Looks, moved
from modelkeep.keep import Keep
from modelkeep.monitor.watch import Checked
from modelkeep.types import Finding

ROW = {"feature": "pixels[0]", "moved": 0.4, "bins": ["< 0", "≥ 0"], "before": [0.5, 0.5], "after": [0.1, 0.9]}


def test_before_and_after_come_from_findings_and_numbers() -> None:
    found = Finding("drift", "inputs", "it moved", {"most_moved": [ROW]})
    later = {**ROW, "moved": 0.2}
    numbers = {"answers": {"most_moved": [{**ROW, "feature": "class"}]}, "inputs": {"most_moved": [later]}}
    rows = moved(Checked("digits@1", 100, 0.0, (found, Finding("health", "errors", "slow")), numbers))
    assert [(m.subject, m.feature, m.moved) for m in rows] == [("inputs", "pixels[0]", 0.4), ("answers", "class", 0.4)]
    assert rows[0].bins == (("< 0", 0.5, 0.1), ("≥ 0", 0.5, 0.9))
    assert moved(Checked("digits@1", 0, None, (), {"inputs": {"most_moved": "pixels[0]"}})) == []


def test_many_readers_cost_one_look(keep: Keep, monkeypatch: pytest.MonkeyPatch) -> None:
    looked: list[str] = []

    def check(version: Any, *_: Any) -> Checked:
        looked.append(version.ref)
        return Checked(version.ref, 0, None, ())

    monkeypatch.setattr(drift.watch, "check", check)
    looks = Looks(keep)
    first, second = keep.get("digits@1"), keep.get("digits@2")
    assert looks.at(first) is looks.at(first)
    looks.at(second)
    assert looked == ["digits@1", "digits@2"]
    monkeypatch.setattr(drift, "FRESH", -1.0)
    looks.at(first)
    assert looked == ["digits@1", "digits@2", "digits@1"]
    monkeypatch.setattr(drift, "KEPT", 1)
    looks.at(second)
    assert list(looks._known) == ["digits@2"]


def test_traffic_that_moved_is_drawn(keep: Keep, serve: Callable[[], Any], browse: Callable[[str], Any]) -> None:
    served = serve()
    served.ask(300, shift=3.0)
    served.running.service._log.flush()
    before = len(keep.registry.journal())
    page = browse(f"{served.url}/console").get("/models/digits/drift").text
    assert "Inputs: before and after" in page
    assert "pixels[0]" in page
    assert '<svg class="bar after"' in page
    assert len(keep.registry.journal()) == before, "to look writes nothing down"
