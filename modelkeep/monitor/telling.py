"""What was found goes to the journal once and is told once by each who tells, and once more when it is over. What a
webhook is owed is in the journal too, and that it answered.
"""

from __future__ import annotations

import time
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field, fields
from typing import TYPE_CHECKING, Any

from modelkeep.registry.journal import author
from modelkeep.types import Finding

if TYPE_CHECKING:
    from modelkeep.monitor.alerts import Alerts
    from modelkeep.monitor.look import Checked
    from modelkeep.registry import Registry
    from modelkeep.registry.journal import Entry
    from modelkeep.types import Version

KINDS = FOUND, TOLD, OVER, SENT = "finding", "finding-told", "finding-over", "finding-sent"
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


class Past:
    """What the journal of a model says of its findings. Each look reads on where the last one ended, for what is over
    and sent only grows.

    ``open`` is what monitor wrote and is not over, by version, and by kind and subject; ``owed`` is what each who found
    it has to tell a webhook yet, by the entry's id.
    """

    def __init__(self, registry: Registry, name: str) -> None:
        self.registry, self.name = registry, name
        self.open: dict[int, dict[tuple[str, str], Known]] = {}
        self.owed: dict[str, dict[int, Entry]] = {}
        self._row = 0

    def read(self) -> Past:
        """Itself, with what is new."""
        for entry in self.registry.journal(self.name, kind=KINDS, after=self._row):
            self._row = entry.id
            if entry.kind == SENT:
                self.owed.get(entry.who, {}).pop(entry.data.get("finding", 0), None)
            elif "version" in entry.data and "alert" not in entry.data:  # what Alertmanager told has its own end
                self._take(entry)
        return self

    def known(self, version: int, key: tuple[str, str]) -> Known | None:
        """What is open of this kind and subject."""
        return self.open.get(version, {}).get(key)

    def write(self, kind: str, why: str, data: Mapping[str, Any], who: str) -> Entry | None:
        """Write an entry, unless another process has written one that was not read yet; then that is read."""
        entry = self.registry.note_unless(self.name, kind, why, data, who, kinds=KINDS, after=self._row)
        self.read()
        return entry

    def _take(self, entry: Entry) -> None:
        known = self.open.setdefault(entry.data["version"], {})
        key = str(entry.data.get("kind")), str(entry.data.get("subject"))
        if entry.kind == OVER:
            known.pop(key, None)
            return
        one = known.setdefault(key, Known(entry))
        one.found[entry.who] = entry.data.get("limits")
        if entry.data.get("told", True):
            one.told.add(entry.who)
        if entry.data.get("owed"):
            owed = self.owed.setdefault(entry.who, {})
            owed[entry.id] = entry
            if len(owed) > OWED:
                del owed[min(owed)]


def tell(
    past: Past,
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
    new, tells = set(), alerts is not None or over
    hooked = {"owed": True} if alerts is not None and alerts.webhook is not None else {}
    found = {(finding.kind, finding.subject): finding for finding in checked.findings}
    me, goes_on = author(who), []
    past.read()
    for key, finding in found.items():
        data = {**finding.to_json(), "version": version.number, "told": tells, "limits": given, **hooked}
        entry = None
        while entry is None:
            known = past.known(version.number, key)
            if known is not None and (me in known.told or not tells):
                goes_on.append(finding)
                break
            entry = past.write(FOUND if known is None else TOLD, finding.why, data, who)
        else:
            new.add(entry.id)
            if alerts is not None:
                alerts.tell(version.ref, finding)
    if alerts is not None:
        alerts.still(version.ref, goes_on)
    others = []
    for one in [one for key, one in past.open.get(version.number, {}).items() if key not in found]:
        if one.over(me, given, always=over):
            _end(past, one, "is found no more", alerts, who)
        else:
            others.append(one.entry)
    if alerts is not None and hooked:
        _pay(past, alerts, me, new)
    return others


def unserved(past: Past, alerts: Alerts | None, who: str) -> None:
    """What anybody found of versions that are neither live nor canary is over, and new where they are served again."""
    route = past.registry.route(past.name)
    for number, known in past.read().open.items():
        if number not in (route.live, route.canary):
            for one in list(known.values()):
                _end(past, one, f"is over: {past.name}@{number} is no longer served", alerts, who)


def _end(past: Past, known: Known, how: str, alerts: Alerts | None, who: str) -> None:
    """Nothing where another process has ended it meanwhile. Alertmanager is told by who told it only: to it, anything
    else would be news.
    """
    entry, me = known.entry, author(who)
    finding = Finding(entry.data["kind"], entry.data["subject"], entry.why, since=entry.data.get("since"))
    number, data = entry.data["version"], {key: entry.data.get(key) for key in ("kind", "subject", "version", "since")}
    while past.known(number, (finding.kind, finding.subject)) is known:
        if past.write(OVER, f"{finding.kind} of {finding.subject} {how}", data, who) is not None:
            if alerts is not None and me in known.told:
                alerts.over(f"{entry.name}@{number}", finding)
            return


def _pay(past: Past, alerts: Alerts, who: str, new: Collection[int]) -> None:
    """Tell the webhook what it has not answered, the oldest first, until it cannot be reached: what is ``new``, and
    what ``who`` found AGAIN seconds ago or more.
    """
    for entry in list(past.read().owed.get(who, {}).values()):
        if entry.id not in new and 0 <= time.time() - entry.at < AGAIN:
            continue
        finding = {one.name: entry.data.get(one.name) for one in fields(Finding)}
        taken = alerts.hook(entry.id, {"id": entry.id, "model": f"{past.name}@{entry.data['version']}", **finding})
        if taken is None:
            return
        why = f"the webhook {'was told of' if taken else 'refused'} {finding['kind']} of {finding['subject']}"
        past.registry.note(past.name, SENT, why, {"finding": entry.id}, who=who)
