"""The looks of a service that follows a registry: at which versions, what they are held to, who is told."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from threading import Lock
from typing import TYPE_CHECKING, Any

from modelkeep.errors import NotFound
from modelkeep.monitor import look, telling
from modelkeep.monitor.alerts import Alerts
from modelkeep.monitor.limits import Limits
from modelkeep.monitor.thread import Watcher
from modelkeep.types import Ref

if TYPE_CHECKING:
    from modelkeep.metrics import Metrics
    from modelkeep.monitor.look import Checked, Run
    from modelkeep.registry import Registry
    from modelkeep.settings import Settings

MOST = 500
"""Rows that a look reads of each file, the newest of more."""
GRACE = 60.0
"""Seconds for which a version may be looked at without a request before that is a finding."""
WHO = "monitor"
"""The author of what the watcher writes into the journal."""


class Looks:
    """Looks at the live version and the canary of models. Raises BadSettings for limits or addresses that are none."""

    def __init__(self, registry: Registry, settings: Settings, limits: Mapping[str, Any], lock: Lock) -> None:
        Limits(**limits)
        self.registry, self.home, self.limits = registry, settings.home, limits
        self.alerts = Alerts(settings.webhook or None, alertmanager=settings.alertmanager or None)
        self._lock = lock
        self._runs: dict[str, Run] = {}
        """Of the versions that were looked at last time: a version never changes, so its folder is verified once."""
        self._first: dict[str, float] = {}
        """When each version was looked at first, on time.monotonic's clock."""
        self._served: dict[str, set[int | None]] = {}
        """Of each model, the versions that were served when it was looked at last."""
        self._past: dict[str, telling.Past] = {}

    def at(self, names: Sequence[str]) -> Iterator[Checked]:
        """One after the other; what is new is written and told. After a start it takes a few looks to read what there
        was, of which nothing is said: it was told before, or is over.

        A version that cannot be looked at keeps nobody from looking at the next ones: what it raised is raised at the
        end, its name before it.
        """
        troubles, runs, self._runs = [], self._runs, {}
        for name in names:
            try:
                route = self.registry.route(name)
            except NotFound:  # it was removed meanwhile
                continue
            try:
                self._ended(name, {route.live, route.canary})
            except Exception as error:  # noqa: BLE001 - whatever it is
                troubles.append(error)
            for number in sorted(n for n in (route.live, route.canary) if n is not None):
                ref = Ref(name, number)
                try:
                    run = self._runs[str(ref)] = runs.get(str(ref)) or self._begin(ref)
                    checked = self._look(ref, run)
                except Exception as error:  # noqa: BLE001 - whatever it is
                    error.add_note(f"{name}@{number}")
                    troubles.append(error)
                    continue
                if checked.whole:
                    yield checked
        if troubles:
            raise troubles[0]

    def _ended(self, name: str, served: set[int | None]) -> None:
        """Ends what was found of versions that are served no longer.

        After a start Alertmanager is not told: it may have forgotten them long ago, and would take them for news.
        """
        if self._served.get(name) == served:
            return
        with self._lock:
            telling.unserved(self._past_of(name), self.alerts if name in self._served else None, WHO)
        self._served[name] = served

    def _past_of(self, name: str) -> telling.Past:
        return self._past.setdefault(name, telling.Past(self.registry, name))

    def _begin(self, ref: Ref) -> Run:
        version = self.registry.get(ref)
        return look.begin(version, self.registry.checkout(version), self.home, most=MOST, **self.limits)

    def _look(self, ref: Ref, run: Run) -> Checked:
        version, checked = self.registry.get(ref), run.look()
        if not checked.whole:
            return checked
        if time.monotonic() - self._first.setdefault(version.ref, time.monotonic()) < GRACE:
            checked = replace(checked, findings=tuple(f for f in checked.findings if f.kind != "no-data"))
        with self._lock:
            telling.tell(self._past_of(ref.name), version, checked, self.alerts, WHO, over=True)
        return checked


def start(looks: Looks, metrics: Metrics, names: Callable[[], Sequence[str]], settings: Settings) -> Watcher:
    """A watcher at work; close it."""
    watcher = Watcher(metrics, settings.home, lambda: looks.at(names()), every=settings.monitor_every)
    watcher.start()
    return watcher
