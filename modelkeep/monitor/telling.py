"""What was found goes to the journal once and is told once by each who tells, and once more when it is over."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from modelkeep.registry.journal import author
from modelkeep.types import Finding

if TYPE_CHECKING:
    from modelkeep.monitor.alerts import Alerts
    from modelkeep.monitor.watch import Checked
    from modelkeep.registry import Registry
    from modelkeep.registry.journal import Entry
    from modelkeep.types import Version

FOUND, TOLD, OVER = "finding", "finding-told", "finding-over"
"""Kinds of entries of the journal: it is new; somebody else, who tells others, found it too; it is found no more."""


@dataclass
class Known:
    """A finding that is not over: the entry of who found it first, who found it too, and who of them has told it."""

    entry: Entry
    found: set[str] = field(default_factory=set)
    told: set[str] = field(default_factory=set)


def tell(
    registry: Registry, version: Version, checked: Checked, alerts: Alerts | None, who: str, *, over: bool = False
) -> None:
    """Write what is new in a look, and tell what ``who`` has not told; what goes on is told again to Alertmanager only.

    So that a person who looked first takes no finding from those whom the service tells. ``over``: whether what ``who``
    found, and finds no more, is over. That is so for who looks with the same limits each time; another one may have
    looked for less.
    """
    known, tells = _open(registry, version), alerts is not None or over
    found = {(finding.kind, finding.subject): finding for finding in checked.findings}
    me, goes_on = author(who), []
    for key, finding in found.items():
        if key in known and (me in known[key].told or not tells):
            goes_on.append(finding)
            continue
        data = {**finding.to_json(), "version": version.number, "told": tells}
        registry.note(version.name, TOLD if key in known else FOUND, finding.why, data, who=who)
        if alerts is not None:
            alerts.tell(version.ref, finding)
    if alerts is not None:
        alerts.still(version.ref, goes_on)
    for key, one in known.items() if over else ():
        if key not in found and me in one.found:
            past = Finding(*key, one.entry.why, since=one.entry.data.get("since"))
            data = {"kind": past.kind, "subject": past.subject, "version": version.number, "since": past.since}
            registry.note(version.name, OVER, f"{past.kind} of {past.subject} is found no more", data, who=who)
            if alerts is not None:
                alerts.over(version.ref, past)


def _open(registry: Registry, version: Version) -> dict[tuple[str, str], Known]:
    """What monitor wrote of a version and what is not over, by kind and subject."""
    entries = [e for kind in (FOUND, TOLD, OVER) for e in registry.journal(version.name, kind=kind)]
    found: dict[tuple[str, str], Known] = {}
    for entry in sorted(entries, key=lambda e: e.id):
        if entry.data.get("version") != version.number or "alert" in entry.data:  # what Alertmanager told has its own
            continue
        key = str(entry.data.get("kind")), str(entry.data.get("subject"))
        if entry.kind == OVER:
            found.pop(key, None)
            continue
        one = found.setdefault(key, Known(entry))
        one.found.add(entry.who)
        if entry.data.get("told", True):
            one.told.add(entry.who)
    return found
