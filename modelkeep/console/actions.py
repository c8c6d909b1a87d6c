"""What a person may change from the console: each is a question first, then a call of Keep under the person's name."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING

from modelkeep.errors import BadInput, Conflict
from modelkeep.keep import Keep
from modelkeep.rollout.canary import Canary
from modelkeep.types import Ref

if TYPE_CHECKING:
    from modelkeep.console.rollouts import Runs
    from modelkeep.settings import Settings

MOST_CHANGES = 100
"""Changes of a route that are looked through for the one that a person saw."""
MOST_WHY = 200
"""Characters of a reason."""


@dataclass(frozen=True)
class Asked:
    """One change: of a model, to a version where it is of one. ``form`` is what the page sent, ``who`` who sent it."""

    name: str
    number: int | None
    form: Mapping[str, str]
    who: str

    @property
    def why(self) -> str:
        """For the journal; what the page proposed where the person gave no reason."""
        return " ".join(self.form.get("why", "").split())[:MOST_WHY] or "decided in the console"


class Actions:
    """Opens a Keep for each change, so that the journal names the person. May block."""

    def __init__(self, settings: Settings, runs: Runs) -> None:
        self._settings, self._runs = settings, runs

    def promote(self, asked: Asked) -> None:
        """Live at once. Raises Conflict where the route is not what the person saw."""
        with Keep(self._settings, who=asked.who) as keep:
            _unchanged(keep, asked)
            keep.promote(Ref(asked.name, asked.number), why=asked.why)

    def rollback(self, asked: Asked) -> None:
        """The canary ends, whatever its share is by now, or, where there is none, the previous version comes back.

        Raises Conflict, No.
        """
        with Keep(self._settings, who=asked.who) as keep:
            _unchanged(keep, asked, but="weight")
            keep.rollback(asked.name, why=asked.why)

    def rollout(self, asked: Asked) -> None:
        """A canary begins. Raises BadInput, BadSettings for a plan that is none, and what Runs.start raises."""
        assert asked.number is not None
        with Keep(self._settings, who=asked.who) as keep:
            _unchanged(keep, asked)
        self._runs.start(asked.name, asked.number, plan(asked.form), who=asked.who)


def _unchanged(keep: Keep, asked: Asked, but: str = "") -> None:
    """Raises Conflict, with who changed what, where the route is not the one that the person saw, ``but`` a field."""
    revision, route = asked.form.get("revision"), keep.registry.route(asked.name)
    if revision == str(route.revision):
        return
    changes = keep.registry.journal(asked.name, kind="route", before=sys.maxsize, limit=MOST_CHANGES)
    seen = next((e.data["after"] for e in changes if str(e.data["after"]["revision"]) == revision), None)
    if but and seen is not None and {**seen, "revision": 0, but: 0} == {**asdict(route), "revision": 0, but: 0}:
        return
    said = "".join(f": {e.who} did ({e.why})" for e in changes[-1:])
    raise Conflict(
        f"the route of {asked.name} was changed since you opened the page{said}; nothing was done: look at it again, "
        "then decide"
    )


def plan(form: Mapping[str, str]) -> Canary:
    """The Canary that a form describes: shares and tolerance in percent, minutes, milliseconds. Raises BadInput."""
    steps = tuple(_number(form, "steps", text, 1e-2) for text in form.get("steps", "").split(","))
    p99 = form.get("p99", "").strip()
    return Canary(
        steps=steps,
        tolerance=_number(form, "tolerance", form.get("tolerance", ""), 1e-2),
        max_seconds=_number(form, "minutes", form.get("minutes", ""), 60.0),
        p99=_number(form, "p99", p99, 1e-3) if p99 else None,
        needs_labels="needs_labels" in form,
    )


def _number(form: Mapping[str, str], field: str, text: str, unit: float) -> float:
    try:
        value = float(text) * unit
    except ValueError:
        value = -1.0
    if not 0 < value < 1e6:
        raise BadInput(f"{field} is '{form.get(field, '')[:100]}'; {FIELDS[field]}")
    return value


FIELDS = {
    "steps": "give growing percentages below 100, such as 10, 50",
    "tolerance": "give percentage points between 0 and 100, such as 5",
    "minutes": "give minutes, more than 0",
    "p99": "give milliseconds, more than 0, or nothing",
}
"""What each field of a plan must be."""
Action = Callable[[Asked], None]
