"""What Alertmanager tells a webhook (version 4 of its document), as Findings in the journal."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

from modelkeep.errors import BadInput, brief
from modelkeep.monitor.telling import FOUND, OVER
from modelkeep.types import Finding

if TYPE_CHECKING:
    from modelkeep.registry import Registry

OWN = ("kind", "subject", "model", "version", "origin")
"""Labels that are said elsewhere in a Finding."""
KINDS = (FOUND, OVER)
"""Of entries in the journal: for an alert, and for its end."""
SERVICE = "service"
"""The name in the journal of what is about no model."""
AMISS = 86_400.0
"""Seconds by which the clock of Prometheus, which says when an alert began, may be wrong."""
MOST = 1000
"""Alerts of one document; Alertmanager's default has no bound."""


@dataclass(frozen=True)
class Told:
    """One alert. ``model`` and ``version`` are None where it is about the service; ``key`` is the same whenever the
    same outbreak of it is told again; ``over`` says that it has ended.
    """

    finding: Finding
    model: str | None
    version: int | None
    key: str
    over: bool


def record(registry: Registry, document: Any) -> int:
    """Write each alert of a document once, and once more when it is over; how many are new. Raises BadInput."""
    told, new = read(document), 0
    since = min([time.time(), *(one.finding.since or 0.0 for one in told)]) - AMISS
    names = {one.model or SERVICE for one in told}
    before = [entry for name in names for entry in registry.journal(name, kind=KINDS, since=since)]
    known = {(entry.kind, entry.data.get("alert")) for entry in before}
    for one in told:
        kind = KINDS[one.over]
        if (kind, one.key) in known or (one.over and (FOUND, one.key) not in known):
            continue
        data = {**one.finding.to_json(), "version": one.version, "alert": one.key}
        registry.note(one.model or SERVICE, kind, one.finding.why, data, who="alertmanager")
        known.add((kind, one.key))
        new += not one.over
    return new


def read(document: Any) -> list[Told]:
    """The alerts of a document, without those that came of a Finding of modelkeep's own. Raises BadInput."""
    if not isinstance(document, Mapping) or not isinstance(document.get("alerts"), list):
        raise BadInput("this is no notification of Alertmanager: it needs a list 'alerts' (webhook, version 4)")
    if len(document["alerts"]) > MOST:
        raise BadInput(f"{len(document['alerts'])} alerts are more than the {MOST} that are taken at a time")
    return [_told(alert) for alert in document["alerts"] if _labels(alert).get("origin") != "modelkeep"]


def _told(alert: Mapping[str, Any]) -> Told:
    labels = _labels(alert)
    name = labels.get("alertname", "")
    notes = {str(key): str(value) for key, value in _mapping(alert, "annotations").items()}
    began = _at(alert)
    version = labels.get("version", "")
    evidence = {key: value for key, value in labels.items() if key not in OWN} | notes
    finding = Finding(
        labels.get("kind") or "alert",
        labels.get("subject") or name,
        notes.get("description") or notes.get("summary") or name,
        evidence,
        began,
    )
    key = f"{alert.get('fingerprint') or sorted(labels.items())} {alert['startsAt']}"
    number = int(version) if version.isdigit() and len(version) < 10 else None
    return Told(finding, labels.get("model"), number, key, alert.get("status") == "resolved")


def _labels(alert: Any) -> dict[str, str]:
    if not isinstance(alert, Mapping):
        raise BadInput("each of 'alerts' must be an object with labels and startsAt")
    return {str(key): str(value) for key, value in _mapping(alert, "labels").items()}


def _mapping(alert: Mapping[str, Any], name: str) -> Mapping[str, Any]:
    found = alert.get(name) or {}
    if not isinstance(found, Mapping):
        raise BadInput(f"'{name}' of an alert must be an object")
    return found


def _at(alert: Mapping[str, Any]) -> float:
    try:
        return datetime.fromisoformat(alert["startsAt"]).timestamp()
    except (KeyError, TypeError, ValueError, OverflowError) as error:
        raise BadInput(f"startsAt of an alert is no time as in RFC 3339: {brief(alert.get('startsAt'))}") from error
