"""Rollouts: those that were begun from this console, each on a thread of its own, and what the journal tells of all."""

from __future__ import annotations

import logging
import sys
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from modelkeep.data import traffic
from modelkeep.errors import Conflict, ModelkeepError, Overloaded
from modelkeep.keep import Keep
from modelkeep.rollout.canary import KIND, Canary
from modelkeep.types import Ref

if TYPE_CHECKING:
    from modelkeep.registry.journal import Entry
    from modelkeep.settings import Settings

MOST = 8
"""Rollouts at a time from one console."""
BEGIN = 5.0
SAID = 20
"""Sentences of a rollout that are kept."""
MOST_ROWS = 20_000
"""Captured requests that a comparison takes, the newest."""
log = logging.getLogger(__name__)


class _Leave(BaseException):
    """The server ends: what a rollout's sleep raises. No Exception, so nothing takes it for a failure."""


@dataclass
class Run:
    """A rollout that this console runs. ``said`` are the times and sentences of its steps, the newest last."""

    ref: str
    who: str
    said: deque[tuple[float, str]] = field(default_factory=lambda: deque(maxlen=SAID))
    thread: threading.Thread | None = None
    told: threading.Event = field(default_factory=threading.Event)
    """Set once there is something said."""

    def say(self, text: str) -> None:
        """One sentence more."""
        self.said.append((time.time(), text))
        self.told.set()

    @property
    def alive(self) -> bool:
        """Whether it goes on."""
        return self.thread is not None and self.thread.is_alive()


class Runs:
    """The rollouts that this console runs, one for each model at most."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._runs: dict[str, Run] = {}
        self._lock = threading.Lock()
        self._stop = threading.Event()

    def start(self, name: str, number: int, plan: Canary, *, who: str) -> Run:
        """Begin, or go on with, a canary; it has its share of the traffic when this returns, if that takes no longer
        than BEGIN seconds. Raises Conflict, Overloaded, NotFound.
        """
        with self._lock:
            if self.of(name) is not None:
                raise Conflict(f"a rollout of {name} goes on already; roll it back first")
            if sum(run.alive for run in self._runs.values()) >= MOST:
                raise Overloaded(f"{MOST} rollouts go on from this console, the most at a time; wait for one", 60)
            self._check(name, number)
            run = self._runs[name] = Run(str(Ref(name, number)), who)
            run.thread = threading.Thread(target=self._run, args=(run, plan), name=f"rollout-{name}", daemon=True)
            run.thread.start()
        run.told.wait(BEGIN)
        return run

    def of(self, name: str) -> Run | None:
        """The model's rollout that goes on here, or None."""
        run = self._runs.get(name)
        return run if run is not None and run.alive else None

    def last(self, name: str) -> Run | None:
        """The model's newest rollout from here, going on or ended."""
        return self._runs.get(name)

    def stop(self) -> None:
        """Leave every canary as it is; the next rollout of the same version goes on with it. Returns at once."""
        self._stop.set()

    def _check(self, name: str, number: int) -> None:
        """What a rollout would refuse on its thread, said to the person who asks for it."""
        with Keep(self._settings, who="console") as keep:
            keep.get(Ref(name, number))
            route, attended = keep.registry.route(name), keep.attended(name)
        if attended:
            raise Conflict(f"a rollout of {name} goes on already; roll it back first")
        if route.live is None:
            raise Conflict(f"{name} has no live version to compare {name}@{number} with; promote one first")
        if route.canary is None and route.live == number:
            raise Conflict(f"{name}@{number} is live already")
        if route.canary not in (None, number):
            raise Conflict(f"{name}@{route.canary} is a canary already; roll it back first")

    def _run(self, run: Run, plan: Canary) -> None:
        try:
            with Keep(self._settings, who=run.who) as keep:
                keep.rollout(run.ref, plan, on_step=run.say, sleep=self._sleep)
        except _Leave:
            run.say("the server ended; the canary stays as it is")
        except ModelkeepError as error:
            run.say(f"it ended: {error}")
        except Exception as error:  # a defect: its thread ends, so the person must be told on the page
            log.exception("a rollout failed")
            run.say(f"it failed: {type(error).__name__}; the log of the server says why")

    def _sleep(self, seconds: float) -> None:
        if self._stop.wait(seconds):
            raise _Leave


# ── what the journal tells ───────────────────────────────────────────────────────────────────────────────────────────


@dataclass(frozen=True)
class Rollout:
    """One rollout, from wherever it was begun. ``verdict`` is empty while it is not over; ``steps`` are the times and
    shares of the canary; ``numbers`` are the judge's, by kind of harm.
    """

    name: str
    version: int
    began: float
    row: int
    who: str
    why: str
    ended: float | None = None
    verdict: str = ""
    numbers: Mapping[str, Any] = field(default_factory=dict)
    steps: tuple[tuple[float, float], ...] = ()

    @property
    def harms(self) -> list[tuple[str, Mapping[str, Any]]]:
        """Of each kind of harm, what the judge knew at the end."""
        return [(name, n) for name, n in self.numbers.items() if isinstance(n, Mapping) and "canary_n" in n]


def told(entries: Sequence[Entry]) -> list[Rollout]:
    """The rollouts that a model's journal tells of, the newest first. ``entries`` in their order, of all kinds."""
    found: list[Rollout] = []
    for entry in entries:
        data, stage = entry.data, entry.data.get("stage") if entry.kind == KIND else ""
        now = found[-1] if found and found[-1].ended is None else None
        if stage == "began":
            found.append(Rollout(entry.name, data["version"], entry.at, int(data.get("row", 0)), entry.who, entry.why))
        elif stage == "ended" and now is not None and now.version == data.get("version"):
            found[-1] = _over(now, entry)
        elif entry.kind == "route" and now is not None and not now.verdict:
            found[-1] = _rerouted(now, entry)
    return found[::-1]


def _over(rollout: Rollout, entry: Entry) -> Rollout:
    """With the judge's last word; where a person decided before, theirs stands."""
    verdict, numbers = str(entry.data.get("verdict", "")), entry.data.get("numbers") or {}
    known = replace(rollout, ended=entry.at, numbers=numbers)
    return known if verdict == "stopped" and rollout.verdict else replace(known, verdict=verdict, why=entry.why)


def _rerouted(rollout: Rollout, entry: Entry) -> Rollout:
    """Its share has changed, or somebody ended it: a rollout that was killed writes no end of its own."""
    after = entry.data.get("after") or {}
    promoted, going_on = after.get("live") == rollout.version, after.get("canary") == rollout.version
    weight = float(after.get("weight") or 0.0) if going_on else float(promoted)
    known = replace(rollout, steps=(*rollout.steps, (entry.at, weight)))
    return known if going_on else replace(known, verdict="promote" if promoted else "rollback", why=entry.why)


def compared(keep: Keep, rollout: Rollout) -> list[dict[str, Any]]:
    """Requests since it began, by track: how many, and what share failed. Of the newest MOST_ROWS captured ones."""
    rows = traffic.read(keep.traffic, rollout.name, after=rollout.row, limit=MOST_ROWS, newest=True, arrays=False)
    found = []
    for track in ("canary", "live"):
        seconds = sorted(r.seconds for r in rows if r.track == track and r.outcome == "ok")
        n = sum(r.track == track and r.outcome != "overloaded" for r in rows)
        failed = n - len(seconds)
        median, high = (seconds[min(int(q * len(seconds)), len(seconds) - 1)] if seconds else None for q in (0.5, 0.99))
        found.append({"track": track, "n": n, "failed": failed, "p50": median, "p99": high})
    return found


def entries_of(keep: Keep, name: str, limit: int = 500) -> list[Entry]:
    """The newest entries of a model's journal that rollouts are told from, in their order."""
    kinds = (KIND, "route")
    found = [e for kind in kinds for e in keep.registry.journal(name, kind=kind, before=sys.maxsize, limit=limit)]
    return sorted(found, key=lambda entry: entry.id)
