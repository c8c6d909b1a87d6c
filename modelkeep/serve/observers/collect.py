"""What requests and answers look like, gathered off their path: counts by feature and bin, and sketches. Always on.

The plane hands over every answered request and goes on; a thread reads them as features, many at a time, and adds up
how many fell where (profiled.py). It takes a small share of one core at most: where that is not enough for all, it
looks at a sample by request id. What it leaves out is counted, and no answer ever waits for it.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from modelkeep.data.features import CONFIDENCES, picked
from modelkeep.data.packed import size_of
from modelkeep.data.profiles import ProfileLog
from modelkeep.data.sampler import ALL, mark_of
from modelkeep.model import baseline
from modelkeep.serve.observers.profiled import Profiled, within
from modelkeep.types import Ref

if TYPE_CHECKING:
    from pathlib import Path

    from modelkeep.data.sketches import Sketches
    from modelkeep.metrics import Metrics
    from modelkeep.model.baseline import Baseline
    from modelkeep.registry import Registry
    from modelkeep.serve.observers.profiled import Offered
    from modelkeep.serve.plane.loaded import Loaded
    from modelkeep.serve.plane.plane import Plane
    from modelkeep.types import Arrays, Request

WAITING, WAITING_BYTES = 20_000, 8 * 1024**2
"""What offer() lets wait; more is dropped and counted."""
REQUEST_BYTES = 1 * 1024**2
"""Of one request's inputs, and of its answers: of a batch with more, rows chosen by chance stand for all."""
LARGE = 64 * 1024
"""Bytes of a request, of whose inputs only the values that are looked at wait."""
HURRY_BYTES = 1 * 1024**2
RATE = 500.0
"""Requests a second of each version and track that are looked at, where more come: enough for every verdict."""
TICK = 0.5
SHARE, SAVED = 0.01, 5.0
"""Of one core, that the thread takes at most on average; and the seconds whose share may be saved up."""
LEAST = 16
"""Requests that are looked at in each tick, whatever they cost."""
STEP, STEP_BYTES = 512, 1 * 1024**2
"""What is read at a time: little enough to stay in the cache, and not to hold the interpreter for long."""
IDLE = 3600.0
"""Seconds without a request, after which a version is forgotten."""
REQUEST = 200
log = logging.getLogger(__name__)

Find = Callable[[str, int], "Baseline | None"]


class Budget:
    """Seconds of processor time that may be spent: a share of those that have passed, some of them saved up."""

    def __init__(self, share: float = SHARE, clock: Callable[[], float] = time.monotonic) -> None:
        self.share, self._clock = share, clock
        self._saved, self._at = share * SAVED, clock()
        self._cost = 1e-5
        """Of one request: what those of late have cost."""

    def affordable(self, n: int) -> float:
        """The share of so many requests that can be looked at now."""
        now = self._clock()
        self._saved = min(self._saved + self.share * (now - self._at), self.share * SAVED)
        self._at = now
        return min(1.0, max(self._saved / self._cost, LEAST) / n) if n else 1.0

    def spend(self, seconds: float, n: int) -> None:
        """So much went, on ``n`` requests."""
        self._saved -= seconds
        if n >= LEAST:
            self._cost += 0.3 * (seconds / n - self._cost)


class Collector:
    """Gathers for all versions of a server. ``find`` gives a version's Baseline, where it has one; ``profiles`` is
    where chunks and sketches go, None for nowhere. Both are asked on the collector's thread only.
    """

    def __init__(self, metrics: Metrics, find: Find | None = None, profiles: ProfileLog | None = None) -> None:
        self.profiles, self.rate = profiles, RATE
        self.dropped = 0
        """Requests that came while too many waited."""
        self.passed: Callable[[], int] = lambda: 0
        """Requests that were not offered, for there were more than ``rate``."""
        self.left_out = {"budget": 0, "form": 0}
        """Requests that were not looked at: the share was spent, or their arrays are not as the signature says."""
        self.seconds = 0.0
        """Of processor time, spent by the thread."""
        self._find = find
        self._waiting: deque[Offered] = deque()
        self._offered = self._taken = 0  # bytes; each has one thread that writes it
        self._profiled: dict[tuple[str, int, str], Profiled] = {}
        self._sketching: type[Sketches] | None = None
        self._budget = Budget()
        self._wake = threading.Event()
        self._looked = threading.Condition()
        self._begun = self._done = 0
        self._closing = False
        self._told = ""
        _watch(metrics, self)
        self._thread = threading.Thread(target=self._work, name="collect", daemon=True)
        self._thread.start()

    def offer(self, target: Loaded, track: str, request: Request, outputs: Arrays) -> None:
        """Hand over an answered request; returns at once, and never raises. Its arrays must not be changed afterwards.

        For one thread only, the event loop's.
        """
        waiting = self._offered - self._taken
        if waiting > WAITING_BYTES or len(self._waiting) >= WAITING or self._closing:
            self.dropped += 1
            return
        inputs = request.inputs
        size = REQUEST + size_of(inputs) + size_of(outputs)
        if size > REQUEST_BYTES and target.signature.batched:
            inputs, outputs = within(inputs, REQUEST_BYTES), within(outputs, REQUEST_BYTES)
        if size > LARGE:
            inputs = picked(inputs, target.signature.inputs)
            size = REQUEST + size_of(inputs) + size_of(outputs)
        self._offered += size
        self._waiting.append((target, track, request.id, inputs, outputs, size))
        if waiting + size > HURRY_BYTES and not self._wake.is_set():
            self._wake.set()

    def flush(self, timeout: float = 5.0) -> bool:
        """Look at all that was offered before; False when that took longer than ``timeout`` s."""
        with self._looked:
            due = self._begun + 1
            self._wake.set()
            return self._looked.wait_for(lambda: self._done >= due or not self._thread.is_alive(), timeout)

    def close(self, timeout: float = 5.0) -> None:
        """Look at what waits, hand on all that was counted, and stop. Later offers are dropped; twice is harmless."""
        self._closing = True
        self._wake.set()
        self._thread.join(timeout)
        if self.profiles is not None:
            self.profiles.close(timeout)

    def confidences(self) -> list[tuple[dict[str, str], list[int], float]]:
        """Of each version and track whose answers tell: labels, rows by CONFIDENCES, and the sum."""
        return [
            (
                {"model": name, "version": str(number), "track": track},
                one.confidences.counts.tolist(),
                one.confidences.sum,
            )
            for (name, number, track), one in list(self._profiled.items())
            if one.confidences.counts.any()
        ]

    # ── the thread ───────────────────────────────────────────────────────────────────────────────────────────────

    def _work(self) -> None:
        closing = False
        self._sketching = _sketching() if self.profiles is not None else None
        while not closing:
            self._wake.wait(TICK)
            self._wake.clear()
            with self._looked:
                self._begun += 1
            closing = self._closing
            began, n = time.thread_time(), 0
            n = self._look()
            self._hand_on(last=closing)
            spent = time.thread_time() - began
            self.seconds += spent
            self._budget.spend(spent, n)
            with self._looked:
                self._done = self._begun
                self._looked.notify_all()

    def _look(self) -> int:
        """Read what waits, a few requests at a time; how many were read."""
        waiting, read = len(self._waiting), 0
        share = self._budget.affordable(waiting)
        while waiting > 0:
            lot = self._lot(waiting)
            waiting -= len(lot)
            chosen = lot if share >= 1.0 else [one for one in lot if mark_of(one[2]) < share * ALL]
            self.left_out["budget"] += len(lot) - len(chosen)
            read += len(chosen)
            for target, track, requests in _by_version(chosen):
                self.left_out["form"] += self._take(target, track, requests)
        return read

    def _lot(self, waiting: int) -> list[Offered]:
        """The next of those that wait, until they are STEP, or have STEP_BYTES."""
        lot: list[Offered] = []
        size = 0
        while len(lot) < min(waiting, STEP) and size < STEP_BYTES:
            lot.append(self._waiting.popleft())
            size += lot[-1][-1]
        self._taken += size
        return lot

    def _take(self, target: Loaded, track: str, requests: Sequence[Offered]) -> int:
        """Read requests of one version; how many could not be."""
        try:
            return self._of(target, track).take(requests, time.time())
        except Exception as error:  # whatever a model's answers make fail here, the service and the next lot go on
            if str(error) != self._told:
                log.exception("requests to %s are not counted", target.ref)
                self._told = str(error)
            return len(requests)

    def _hand_on(self, *, last: bool) -> None:
        """Full chunks to the profiles; versions that are no longer asked are forgotten."""
        now = time.time()
        for key, one in list(self._profiled.items()):
            chunks, buckets = one.chunks(now, last=last), one.buckets(now, last=last)
            if self.profiles is not None and (chunks or buckets):
                self.profiles.offer(chunks, buckets)
            if now - one.used > IDLE:
                del self._profiled[key]

    def _of(self, target: Loaded, track: str) -> Profiled:
        key = (target.name, target.number, track)
        found = self._profiled.get(key)
        if found is None:
            known = None
            if self._find is not None:
                try:
                    known = self._find(target.name, target.number)
                except Exception as error:  # noqa: BLE001 - without it there are sketches still
                    log.warning("%s has no baseline that can be read: %s", target.ref, error)
            found = self._profiled[key] = Profiled(target, track, known, self._sketching)
        return found


def begin(plane: Plane, path: Path | None = None, find: Find | None = None) -> Collector | None:
    """A Collector for what a plane answers, where its settings ask for one; ``path`` is the file of profiles."""
    if not plane.settings.collect:
        return None
    kept = None if path is None else ProfileLog(path)
    plane.collector = collector = Collector(plane.metrics, find, kept)
    collector.passed = lambda: plane.passed
    plane.sinks["features"] = lambda: collector.dropped
    if kept is not None:
        plane.sinks["profiles"] = lambda: kept.dropped
    return collector


def of_registry(registry: Registry, home: Path) -> Find:
    """Finds the Baseline that is kept with a version; of one that has none, what its reference rows alone tell."""

    def find(name: str, number: int) -> Baseline | None:
        version = registry.get(Ref(name, number))
        return baseline.find(version.model, home, version.digest) or baseline.inputs_only(version.model)

    return find


def _sketching() -> type[Sketches] | None:
    """Imported on this thread, for it takes a moment; there are machines that datasketches is not made for."""
    try:
        from modelkeep.data.sketches import Sketches
    except ImportError as error:
        log.warning("there are no sketches of features, only counts: %s", error)
        return None
    return Sketches


def _by_version(lot: Sequence[Offered]) -> Iterator[tuple[Loaded, str, list[Offered]]]:
    """The requests of each version and track."""
    groups: dict[tuple[Loaded, str], list[Offered]] = {}
    for one in lot:
        groups.setdefault((one[0], one[1]), []).append(one)
    for requests in groups.values():
        yield requests[0][0], requests[0][1], requests


def _watch(metrics: Metrics, collector: Collector) -> None:
    """What is read at scrape time."""

    metrics.watch(
        "modelkeep_monitor_left_out_total",
        "Requests that were not looked at, to keep to the collector's share of a core or for their form",
        lambda: [
            ({"reason": reason}, float(count))
            for reason, count in {"rate": collector.passed(), **collector.left_out}.items()
        ],
    )
    metrics.watch(
        "modelkeep_monitor_cpu_seconds_total",
        "Processor time spent on what is gathered",
        lambda: [({}, collector.seconds)],
    )
    metrics.watch_histogram(
        "modelkeep_output_confidence", "Rows by the probability of their class", CONFIDENCES, collector.confidences
    )
