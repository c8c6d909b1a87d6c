"""What was found goes to the journal once and is told once, and once more when it is over."""

from __future__ import annotations

from typing import TYPE_CHECKING

from modelkeep.registry.journal import author
from modelkeep.types import Finding

if TYPE_CHECKING:
    from modelkeep.monitor.alerts import Alerts
    from modelkeep.monitor.watch import Checked
    from modelkeep.registry import Registry
    from modelkeep.registry.journal import Entry
    from modelkeep.types import Version

FOUND, OVER = "finding", "finding-over"
"""Kinds of entries of the journal."""


def tell(
    registry: Registry, version: Version, checked: Checked, alerts: Alerts | None, who: str, *, over: bool = False
) -> None:
    """Write and tell what is new in a look; what goes on is told again to Alertmanager only.

    ``over``: whether what ``who`` wrote, and what is found no more, is over. That is so for who looks with the same
    limits each time; another one may have looked for less.
    """
    known = _open(registry, version)
    found = {(finding.kind, finding.subject): finding for finding in checked.findings}
    for key, finding in found.items():
        if key not in known:
            data = {**finding.to_json(), "version": version.number}
            registry.note(version.name, FOUND, finding.why, data, who=who)
            if alerts is not None:
                alerts.tell(version.ref, finding)
    if alerts is not None:
        alerts.still(version.ref, [finding for key, finding in found.items() if key in known])
    for key, entry in known.items() if over else ():
        if key not in found and entry.who == author(who):
            past = Finding(*key, entry.why, since=entry.data.get("since"))
            data = {"kind": past.kind, "subject": past.subject, "version": version.number, "since": past.since}
            registry.note(version.name, OVER, f"{past.kind} of {past.subject} is found no more", data, who=who)
            if alerts is not None:
                alerts.over(version.ref, past)


def _open(registry: Registry, version: Version) -> dict[tuple[str, str], Entry]:
    """What monitor wrote of a version and what is not over, by kind and subject."""
    entries = [e for kind in (FOUND, OVER) for e in registry.journal(version.name, kind=kind)]
    found: dict[tuple[str, str], Entry] = {}
    for entry in sorted(entries, key=lambda e: e.id):
        if entry.data.get("version") != version.number or "alert" in entry.data:  # what Alertmanager told has its own
            continue
        key = str(entry.data.get("kind")), str(entry.data.get("subject"))
        if entry.kind == FOUND:
            found[key] = entry
        else:
            found.pop(key, None)
    return found
