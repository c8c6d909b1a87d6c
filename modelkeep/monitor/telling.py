"""What was found goes to the journal once and is told once by each who tells, and once more when it is over. What a
webhook is owed is in the journal too, and that it answered.
"""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from modelkeep.registry.journal import author
from modelkeep.types import Finding

if TYPE_CHECKING:
    from modelkeep.monitor.alerts import Alerts
    from modelkeep.monitor.watch import Checked
    from modelkeep.registry import Registry
    from modelkeep.registry.journal import Entry
    from modelkeep.types import Version

FOUND, TOLD, OVER, SENT = "finding", "finding-told", "finding-over", "finding-sent"
"""Kinds of entries of the journal: it is new; somebody else, who tells others, found it too; it is found no more; the
webhook has answered.
"""
OWED = 100
"""Findings of a model that wait for a webhook that could not be reached; the oldest are given up first."""
AGAIN = 10.0
"""Seconds before one is sent again: another server of the same registry may be at it still."""


@dataclass
class Known:
    """A finding that is not over: the entry of who found it first, who found it too and by which limits, and who of
    them has told it."""

    entry: Entry
    found: dict[str, Any] = field(default_factory=dict)
    told: set[str] = field(default_factory=set)

    def over(self, who: str, limits: Mapping[str, Any], *, always: bool) -> bool:
        """Whether it is over once ``who`` finds it no more by these limits."""
        return who in self.found and (always or self.found == {who: dict(limits)})


def tell(
    registry: Registry,
    version: Version,
    checked: Checked,
    alerts: Alerts | None,
    who: str,
    *,
    limits: Mapping[str, Any] | None = None,
    over: bool = False,
) -> list[Entry]:
    """Write what is new in a look, and tell what ``who`` has not told; what goes on is told again to Alertmanager only.

    So that a person who looked first takes no finding from those whom the service tells. What ``who`` found, and finds
    no more by the same ``limits``, is over where nobody else found it: by other ones, one may have looked for less.
    ``over``: it is over in any case, as for a service, which looks by the same limits as long as it runs. Returns what
    others found that goes on for them, and that ``who`` does not find.
    """
    given = {key: list(value) if isinstance(value, tuple) else value for key, value in (limits or {}).items()}
    entries, new = _entries(registry, version.name), []
    known, tells = _open(entries).get(version.number, {}), alerts is not None or over
    hooked = {"owed": True} if alerts is not None and alerts.webhook is not None else {}
    found = {(finding.kind, finding.subject): finding for finding in checked.findings}
    me, goes_on = author(who), []
    for key, finding in found.items():
        if key in known and (me in known[key].told or not tells):
            goes_on.append(finding)
            continue
        data = {**finding.to_json(), "version": version.number, "told": tells, "limits": given, **hooked}
        new.append(registry.note(version.name, TOLD if key in known else FOUND, finding.why, data, who=who))
        if alerts is not None:
            alerts.tell(version.ref, finding)
    if alerts is not None:
        alerts.still(version.ref, goes_on)
    others = []
    for one in (one for key, one in known.items() if key not in found):
        if one.over(me, given, always=over):
            _end(registry, one, "is found no more", alerts, who)
        else:
            others.append(one.entry)
    if alerts is not None and hooked:
        _pay(registry, version.name, alerts, me, [*_owed(entries, me), *new])
    return others


def unserved(registry: Registry, name: str, alerts: Alerts | None, who: str) -> None:
    """What anybody found of versions that are neither live nor canary is over, and new where they are served again."""
    route = registry.route(name)
    for number, known in _open(_entries(registry, name)).items():
        if number not in (route.live, route.canary):
            for one in known.values():
                _end(registry, one, f"is over: {name}@{number} is no longer served", alerts, who)


def _end(registry: Registry, known: Known, how: str, alerts: Alerts | None, who: str) -> None:
    """Alertmanager is told by who told it only: to it, anything else would be news."""
    entry, me = known.entry, author(who)
    past = Finding(entry.data["kind"], entry.data["subject"], entry.why, since=entry.data.get("since"))
    data = {key: entry.data.get(key) for key in ("kind", "subject", "version", "since")}
    registry.note(entry.name, OVER, f"{past.kind} of {past.subject} {how}", data, who=who)
    if alerts is not None and me in known.told:
        alerts.over(f"{entry.name}@{entry.data['version']}", past)


def _pay(registry: Registry, name: str, alerts: Alerts, who: str, owed: Sequence[Entry]) -> None:
    """Tell the webhook what it has not answered of these, the oldest first, until it cannot be reached."""
    sent = {entry.data.get("finding") for entry in registry.journal(name, kind=SENT)} if owed else set()
    for entry in owed[-OWED:]:
        if entry.id in sent:
            continue
        finding = {one.name: entry.data.get(one.name) for one in fields(Finding)}
        taken = alerts.hook(entry.id, {"id": entry.id, "model": f"{name}@{entry.data['version']}", **finding})
        if taken is None:
            return
        why = f"the webhook {'was told of' if taken else 'refused'} {finding['kind']} of {finding['subject']}"
        registry.note(name, SENT, why, {"finding": entry.id}, who=who)


def _owed(entries: Sequence[Entry], who: str) -> list[Entry]:
    """What ``who`` found for a webhook, AGAIN seconds ago or more."""
    return [e for e in entries if e.data.get("owed") and e.who == who and time.time() - e.at >= AGAIN]


def _entries(registry: Registry, name: str) -> list[Entry]:
    """What was found, told and over, the oldest first."""
    return sorted((e for kind in (FOUND, TOLD, OVER) for e in registry.journal(name, kind=kind)), key=lambda e: e.id)


def _open(entries: Sequence[Entry]) -> dict[int, dict[tuple[str, str], Known]]:
    """What monitor wrote and what is not over, by version, and by kind and subject."""
    versions: dict[int, dict[tuple[str, str], Known]] = {}
    for entry in entries:
        if "version" not in entry.data or "alert" in entry.data:  # what Alertmanager told has its own end
            continue
        found = versions.setdefault(entry.data["version"], {})
        key = str(entry.data.get("kind")), str(entry.data.get("subject"))
        if entry.kind == OVER:
            found.pop(key, None)
            continue
        one = found.setdefault(key, Known(entry))
        one.found[entry.who] = entry.data.get("limits")
        if entry.data.get("told", True):
            one.told.add(entry.who)
    return versions
