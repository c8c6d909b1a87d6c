"""What Alertmanager tells, as Findings; and nonsense, as one sentence."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from modelkeep.errors import BadInput
from modelkeep.monitor.prometheus import webhook
from modelkeep.registry import Registry
from modelkeep.settings import Settings
from modelkeep.types import Finding


def alert(**changes: Any) -> dict[str, Any]:
    labels = {"alertname": "ModelkeepNoWorkers", "kind": "health", "subject": "workers", "model": "m", "version": "2"}
    return {
        "status": "firing",
        "labels": {**labels, "severity": "page", "instance": "a:1"},
        "annotations": {"summary": "m@2 has no worker", "description": "No worker process of m@2 can be started"},
        "startsAt": "2026-11-24T10:00:00.123456789Z",
        "endsAt": "0001-01-01T00:00:00Z",
        "fingerprint": "c0ffee",
    } | changes


def test_an_alert_becomes_a_finding() -> None:
    [told] = webhook.read({"version": "4", "alerts": [alert()]})
    assert told.finding == Finding(
        "health",
        "workers",
        "No worker process of m@2 can be started",
        {
            "alertname": "ModelkeepNoWorkers",
            "severity": "page",
            "instance": "a:1",
            "summary": "m@2 has no worker",
            "description": "No worker process of m@2 can be started",
        },
        1795514400.123456,
    )
    assert (told.model, told.version, told.over) == ("m", 2, False)


def test_the_end_of_it_has_the_same_key_and_another_outbreak_has_not() -> None:
    first, over, again = webhook.read(
        {"alerts": [alert(), alert(status="resolved"), alert(startsAt="2026-11-25T10:00:00Z")]}
    )
    assert first.key == over.key != again.key
    assert over.over


def test_an_alert_of_somebody_elses_rules_is_taken_too() -> None:
    labels = {"alertname": "NodeDown", "version": "1.2.3"}
    [told] = webhook.read({"alerts": [{"labels": labels, "startsAt": "2026-11-24T10:00:00Z"}]})
    assert (told.finding.kind, told.finding.subject, told.finding.why) == ("alert", "NodeDown", "NodeDown")
    assert (told.model, told.version) == (None, None)


def test_what_modelkeep_found_itself_does_not_come_back() -> None:
    assert webhook.read({"alerts": [alert(labels={"alertname": "ModelkeepDrift", "origin": "modelkeep"})]}) == []


def test_only_what_may_be_the_same_outbreak_is_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Findings of years, and of all models, came in between each alert and its entry."""
    with Registry.open(Settings(home=tmp_path)) as registry:
        for name, at in (("m", 1795514400.0 - 2 * webhook.AMISS), ("m", 1795514500.0), ("other", 1795514500.0)):
            monkeypatch.setattr("time.time", lambda at=at: at)
            registry.note(name, "finding", "drift", {})
        read: list[Any] = []
        journal = registry.journal
        monkeypatch.setattr(registry, "journal", lambda *a, **k: (read.append(journal(*a, **k)), read[-1])[1])
        assert webhook.record(registry, {"alerts": [alert()]}) == 1
        assert [[entry.at for entry in entries] for entries in read] == [[1795514500.0]]
        monkeypatch.setattr("time.time", lambda: 1795514400.0 - 1000.0)
        assert webhook.record(registry, {"alerts": [alert()]}) == 0, "also where Prometheus is ahead of this clock"
        assert webhook.record(registry, {"alerts": []}) == 0


@pytest.mark.parametrize(
    ("document", "said"),
    [
        ([], "no notification of Alertmanager"),
        ({}, "needs a list 'alerts'"),
        ({"alerts": {}}, "needs a list 'alerts'"),
        ({"alerts": [1]}, "must be an object"),
        ({"alerts": [{"labels": []}]}, "startsAt"),
        ({"alerts": [{"labels": [1]}]}, "'labels' of an alert must be an object"),
        ({"alerts": [{"labels": {}, "startsAt": None}]}, "no time as in RFC 3339: null"),
        ({"alerts": [{"labels": {}, "startsAt": 3}]}, "no time as in RFC 3339: 3"),
        ({"alerts": [{"labels": {}, "startsAt": "soon"}]}, "no time as in RFC 3339: 'soon'"),
        ({"alerts": [{}] * 1001}, "1001 alerts are more than the 1000"),
    ],
)
def test_anything_else_is_refused(document: Any, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        webhook.read(document)
