"""What each page shows, collected from the registry, the captured traffic and the last look. Everything may block."""

from __future__ import annotations

import sys
import time
from dataclasses import asdict
from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.console import rollouts
from modelkeep.console.looks import Looks, charts, measured, moved
from modelkeep.data import traffic
from modelkeep.errors import BadRef, ModelkeepError, NotFound
from modelkeep.model.score import NO_CLASS
from modelkeep.monitor.quality import predicted, text_of
from modelkeep.monitor.telling import FOUND, OVER
from modelkeep.types import Ref

if TYPE_CHECKING:
    from collections.abc import Sequence

    from modelkeep.console.live import Live
    from modelkeep.console.rollouts import Rollout, Runs
    from modelkeep.data.traffic import Exchange
    from modelkeep.keep import Keep
    from modelkeep.registry.journal import Entry
    from modelkeep.types import Arrays, Model, Route, Version

MOST_MODELS, MOST_VERSIONS, MOST_ENTRIES, MOST_ROLLOUTS, MOST_FINDINGS = 100, 200, 100, 20, 50
KINDS = ("add", "config", "finding", "operate", "report", "rollout", "route")
"""Of entries in the journal, to choose from; those of the page are there too."""
NEWEST = 8
"""Captured requests that a page lists."""
WORDS, WORD = 4, 60
"""Rows of one of them that are told, and characters of each."""
TOP_CLASSES = 12
COMPARED_FOR = 3.0
"""Seconds that a comparison of canary and live is good for."""
Context = dict[str, Any]


class Pages:
    """Contexts of the templates, by page."""

    def __init__(self, keep: Keep, runs: Runs, looks: Looks) -> None:
        self.keep, self.runs, self.looks = keep, runs, looks
        self._version = lru_cache(256)(lambda name, number: keep.registry.get(Ref(name, number)))
        self._compared: dict[tuple[str, int], tuple[float, list[dict[str, Any]]]] = {}

    # ── of all models ────────────────────────────────────────────────────────────────────────────────────────────

    def overview(self, live: Live) -> Context:
        """Every model, and what happened last."""
        names = self.keep.registry.names()
        cards = [self._card(name, live) for name in names[:MOST_MODELS]]
        return {"cards": cards, "more": len(names) - len(cards), "entries": self._entries(None, limit=10)}

    def journal(self, name: str | None, kind: str | None, before: int | None) -> Context:
        """Entries, the newest first; ``older`` is where the next page begins, or None."""
        if name:
            self.keep.registry.versions(self._name(name))
        found = self._entries(name, kind=kind, before=before, limit=MOST_ENTRIES)
        older = found[-1].id if len(found) == MOST_ENTRIES else None
        kinds = sorted({*KINDS, *(entry.kind for entry in found)})
        names = self.keep.registry.names()
        return {"name": name, "kind": kind, "kinds": kinds, "entries": found, "older": older, "names": names}

    def _card(self, name: str, live: Live) -> Context:
        route, newest = self.keep.registry.route(name), self.keep.get(Ref(name, "newest"))
        answering = None if route.live is None else self._version(name, route.live)
        told = rollouts.told(rollouts.entries_of(self.keep, name, limit=50))
        return {
            "name": name,
            "route": route,
            "live": answering,
            "newest": newest,
            "point": live.newest(name),
            "finding": self._found(name, route.live),
            "rollout": told[0] if told else None,
        }

    def _found(self, name: str, number: int | None) -> Entry | None:
        """The newest finding of a version that is not over."""
        entries = [e for kind in (FOUND, OVER) for e in self._entries(name, kind=kind, limit=MOST_FINDINGS)]
        over: set[tuple[str, ...]] = set()
        for entry in sorted(entries, key=lambda e: e.id, reverse=True):
            which = tuple(str(entry.data.get(key)) for key in ("version", "kind", "subject", "alert"))
            if entry.kind == OVER:
                over.add(which)
            elif which not in over and entry.data.get("version") == number:
                return entry
        return None

    # ── of one model ─────────────────────────────────────────────────────────────────────────────────────────────

    def model(self, name: str, live: Live) -> Context:
        """What answers, how fast, what it says; and the canary beside it."""
        name = self._name(name)
        versions = self.keep.registry.versions(name)
        classes = live.classes(name)
        rows = sum(count for _, count in classes)
        return {
            "name": name,
            "route": (route := self.keep.registry.route(name)),
            "by_number": {v.number: v for v in versions},
            "newest": versions[-1],
            "point": live.newest(name),
            "problem": live.problem,
            "source": live.source.name,
            "classes": [(label, count / rows) for label, count in classes[:TOP_CLASSES]],
            "rows": rows,
            "other": sum(count for _, count in classes[TOP_CLASSES:]) / rows if rows else 0.0,
            "exchanges": self._newest(name),
            **self._canary(name, route),
        }

    def versions(self, name: str) -> Context:
        """Every version below the one that it was made from."""
        name = self._name(name)
        found = self.keep.registry.versions(name)
        shown = found[-MOST_VERSIONS:]
        children: dict[int | None, list[Version]] = {}
        there = {v.number for v in shown}
        for version in shown:
            children.setdefault(version.parent if version.parent in there else None, []).append(version)
        return {
            "name": name,
            "route": self.keep.registry.route(name),
            "versions": shown[::-1],
            "children": children,
            "reports": {v.number: self.keep.registry.reports(v) for v in shown},
            "more": len(found) - len(shown),
        }

    def version(self, name: str, number: int) -> Context:
        """One version: what it takes and gives, where it comes from, what was found about it."""
        found = self.keep.get(Ref(self._name(name), number))
        configs = {m: self.keep.registry.config(found, m) for m in self.keep.registry.machines(found)}
        return {
            "name": name,
            "version": found,
            "route": self.keep.registry.route(name),
            "line": self.keep.lineage(found),
            "reports": self.keep.registry.reports(found),
            "configs": {machine: asdict(config) for machine, config in configs.items() if config is not None},
        }

    def monitor(self, name: str, number: int | None) -> Context:
        """What monitor says of a version, by default the live one."""
        name = self._name(name)
        route = self.keep.registry.route(name)
        version = self.keep.get(Ref(name, number or route.live or "newest"))
        context: Context = {
            "name": name,
            "route": route,
            "version": version,
            "versions": [v.number for v in self.keep.registry.versions(name)][-MOST_VERSIONS:][::-1],
            "past": self._entries(name, kind="finding", limit=20),
        }
        try:
            checked = self.looks.at(version)
        except ModelkeepError as error:  # the page has more to show than this
            return {**context, "checked": None, "problem": str(error), "moved": [], "measured": [], "charts": []}
        found = {"moved": moved(checked), "measured": measured(checked), "charts": charts(checked)}
        return {**context, "checked": checked, "problem": "", **found}

    def rollouts(self, name: str) -> Context:
        """Each rollout with its weights and verdict, the newest first."""
        name = self._name(name)
        self.keep.registry.versions(name)
        route = self.keep.registry.route(name)
        told = rollouts.told(rollouts.entries_of(self.keep, name))
        return {
            "name": name,
            "told": told[:MOST_ROLLOUTS],
            "more": len(told) - MOST_ROLLOUTS,
            "now": time.time(),
            **self._canary(name, route),
            "route": route,
        }

    def question(self, name: str, number: int | None) -> Context:
        """What a change would be of. Raises NotFound."""
        name = self._name(name)
        self.keep.registry.versions(name)
        version = None if number is None else self.keep.get(Ref(name, number))
        route, promised = self.keep.registry.route(name), self.keep.settings.promised.get("min_accuracy")
        return {"name": name, "number": number, "version": version, "route": route, "promised": promised}

    # ── parts of pages ───────────────────────────────────────────────────────────────────────────────────────────

    def _canary(self, name: str, route: Route) -> Context:
        """The rollout that goes on, if there is one, and what is known of it so far."""
        run = self.runs.last(name)
        told = rollouts.told(rollouts.entries_of(self.keep, name, limit=50)) if route.canary is not None else []
        current = told[0] if told and told[0].version == route.canary and not told[0].verdict else None
        return {
            "canary": route.canary,
            "current": current,
            "compared": self._compare(current) if current is not None else [],
            "run": run,
            "running_here": run is not None and run.alive,
        }

    def _compare(self, rollout: Rollout) -> list[dict[str, Any]]:
        key, now = (rollout.name, rollout.row), time.monotonic()
        if key not in self._compared or now - self._compared[key][0] > COMPARED_FOR:
            self._compared = {key: (now, rollouts.compared(self.keep, rollout))}
        return self._compared[key][1]

    def _newest(self, name: str) -> list[tuple[Exchange, str, str]]:
        """The newest captured requests, what was answered, and what was so as far as that is known."""
        try:
            rows = traffic.read(self.keep.traffic, name, limit=NEWEST, newest=True, inputs=False)
        except ModelkeepError:  # a damaged file: monitor and rollouts say so where it matters
            return []
        return [(row, *self._said(row)) for row in reversed(rows)]

    def _said(self, exchange: Exchange) -> tuple[str, str]:
        try:
            model = self._version(exchange.model, exchange.version).model
        except NotFound:  # a version of another registry
            return "", truth(exchange.label, ())
        so = truth(exchange.label, model.labels)
        try:
            return ("" if exchange.outputs is None else answer(exchange.outputs, model)), so
        except ValueError:  # outputs of another form
            return "", so

    def _entries(
        self, name: str | None, *, limit: int, kind: str | None = None, before: int | None = None
    ) -> list[Entry]:
        """The newest first."""
        return self.keep.registry.journal(name, kind=kind, before=before or sys.maxsize, limit=limit)[::-1]

    def _name(self, name: str) -> str:
        """A model's name as it came in an address. Raises BadRef."""
        if Ref.parse(name).which is not None:
            raise BadRef(f"'{name}' names a version; a model's name is wanted here")
        return name


def answer(outputs: Arrays, model: Model) -> str:
    """What a model said, in few words: the classes, or the first numbers."""
    classes = predicted(outputs, model)
    if classes is not None:
        names = dict(enumerate(model.labels))
        if model.signature.outputs[0].dtype.startswith("float"):
            names[NO_CLASS] = "NaN"
        numbers = classes.dtype.kind in "iu" and classes.ndim == 1
        return _words([str(names.get(c, c) if numbers else c) for c in classes[:WORDS].tolist()], len(classes))
    first = np.asarray(next(iter(outputs.values()))).ravel()
    told = ", ".join(f"{value:.4g}" if first.dtype.kind == "f" else _short(str(value)) for value in first[:4])
    return told + (f", … ({first.size} values)" if first.size > 4 else "")


def truth(label: Any, names: Sequence[str]) -> str:
    """A label in few words, classes as ``answer`` says them; empty where none has come."""
    if label is None:
        return ""
    rows = label if isinstance(label, list) else [label]
    return _words(["–" if one is None else text_of(one, names) for one in rows[:WORDS]], len(rows))


def _words(first: Sequence[str], count: int) -> str:
    told = ", ".join(map(_short, first))
    return told + (f" and {count - WORDS} more" if count > WORDS else "")


def _short(text: str) -> str:
    return text if len(text) <= WORD else f"{text[: WORD - 1]}…"
