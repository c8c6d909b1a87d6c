"""Monitoring at work beside a server: a thread that counts what was served, looks, and gives gauges to /metrics.

It may never slow or end the service: it takes a small share of one core, whatever a look costs; reads a bounded part of
what is new; and whatever goes wrong is a line in the log, and the next look is tried all the same.
"""

from __future__ import annotations

import logging
import os
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep import system
from modelkeep.data import pulses
from modelkeep.data.pulses import Counts, Sample
from modelkeep.metrics import SECONDS, Metrics
from modelkeep.monitor.health import FAILED

if TYPE_CHECKING:
    from modelkeep.monitor.look import Checked

SHARE, BUSY_SHARE, SAVED = 0.01, 0.001, 60.0
"""Of one core, that looks take on average, where the process does little else and where it is busy all the time, for
then they cost its answers several times what they take; and the seconds whose share may be saved up for a costly one.
Where that is spent the next look waits.
"""
LONGEST = 120.0
"""Seconds that it waits at most."""
MEMORY_EVERY = 30.0
KINDS = ("drift", "quality", "health", "no-data")
RATIOS = ("accuracy", "f1", "auc")
TRACKS = ("live", "canary")
MEMORY = ("process_resident_memory_bytes", "modelkeep_worker_resident_memory_bytes")
GAUGES = {
    "modelkeep_drift_distance_ratio": "Share of requests that moved, of the feature that moved most",
    "modelkeep_drift_tolerance_ratio": "Share of requests that may move",
    "modelkeep_drift_log_evidence": "Evidence that more than that moved, as a logarithm",
    "modelkeep_drift_log_threshold": "Evidence that makes a finding",
    "modelkeep_estimated_quality_ratio": "Quality to expect by calibrated confidence, without labels",
    "modelkeep_labelled_quality_ratio": "Quality of the requests whose truth has come",
    "modelkeep_labelled_error": "Log loss, RMSE and MAE of the requests whose truth has come",
    "modelkeep_label_coverage_ratio": "Share of the answers whose truth has come",
    "modelkeep_label_lag_seconds": "From an answer to its label, median",
    "modelkeep_error_budget_left_ratio": "Of 30 days, where a service level was promised",
    "modelkeep_findings": "What is found now, by kind",
}

log = logging.getLogger(__name__)
Rows = list[tuple[dict[str, str], float]]


class Watcher:
    """``look`` gives what each version that is served looks like now; ``every`` is the seconds between two looks.

    ``home`` is the folder that the counts are written into. ``start`` begins, ``close`` ends it.
    """

    def __init__(self, metrics: Metrics, home: Path, look: Callable[[], Iterable[Checked]], *, every: float) -> None:
        self.metrics, self.home, self.every = metrics, home, every
        self.looks = self.troubles = 0
        self.seconds = 0.0
        """Of CPU time, of the looks."""
        self._look = look
        self._counted: dict[tuple[str, int], Counts] = {}
        self._gauges: dict[str, Rows] = {}
        self._found: dict[tuple[str, str, str], int] = {}
        self._open: set[tuple[str, str, str]] = set()
        self._sampled = float("-inf")  # on time.monotonic's clock
        self._said = ""
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="monitor", daemon=True)
        self._offer()

    def start(self) -> None:
        """Look from now on."""
        self._thread.start()

    def close(self, timeout: float = 5.0) -> None:
        """Look no more, once the look that was begun is done; one that takes too long is left alone."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join(timeout)

    def _run(self) -> None:
        pause, saved, ended = self.every, SHARE * SAVED, system.all_ran()
        while not self._stop.wait(pause):
            share = share_of((system.all_ran() - ended) / pause if pause else 1.0)
            began = time.thread_time()
            self.turn()
            spent, ended = time.thread_time() - began, system.all_ran()
            self.seconds += spent
            saved = min(saved + share * pause, share * SAVED) - spent
            pause = max(self.every, min(-saved / share, LONGEST))
        self._do(self._beat)  # what was served since the last turn

    def turn(self) -> None:
        """Count, look, tell. Never raises."""
        trouble = self._do(self._beat)
        trouble = self._do(self._judge) or trouble
        if trouble:
            self.troubles += 1
            if trouble != self._said:
                log.warning("monitor could not look, and tries again: %s", trouble)
        else:
            self.looks += 1
        self._said = trouble

    def _do(self, part: Callable[[], None]) -> str:
        """What went wrong; empty where nothing did."""
        try:
            part()
        except Exception as error:  # noqa: BLE001 - whatever it is, the service answers on, and so does the next look
            return ": ".join([*getattr(error, "__notes__", []), type(error).__name__, str(error)])
        return ""

    def _beat(self) -> None:
        """What was served since the last time."""
        now, counts = time.time(), counted(self.metrics)
        new = {key: one.since(self._counted.get(key, Counts(0, 0))) for key, one in counts.items()}
        memory = None
        if time.monotonic() - self._sampled >= MEMORY_EVERY:
            memory, self._sampled = Sample(now, os.getpid(), resident(self.metrics)), time.monotonic()
        pulses.write(self.home / "pulses.db", now, {key: one for key, one in new.items() if one.requests > 0}, memory)
        self._counted = counts

    def _judge(self) -> None:
        checks: list[Checked] = []
        try:
            checks.extend(self._look())
        finally:  # those before what went wrong
            self._keep(checks)

    def _keep(self, checks: Sequence[Checked]) -> None:
        gauges: dict[str, Rows] = {}
        found: set[tuple[str, str, str]] = set()
        for checked in checks:
            for name, labels, value in gauges_of(checked):
                gauges.setdefault(name, []).append((labels, value))
            found |= {(checked.ref, finding.kind, finding.subject) for finding in checked.findings}
            for kind in KINDS:
                self._found.setdefault((*_named(checked.ref), kind), 0)
        for ref, kind, _ in found - self._open:
            self._found[(*_named(ref), kind)] = self._found.get((*_named(ref), kind), 0) + 1
        self._open, self._gauges = found, gauges

    def _offer(self) -> None:
        for name, what in GAUGES.items():
            self.metrics.watch(name, what, lambda name=name: self._gauges.get(name, []))  # type: ignore[misc]
        self.metrics.watch(
            "modelkeep_findings_total",
            "Findings, once each",
            lambda: [
                ({"model": model, "version": version, "kind": kind}, float(count))
                for (model, version, kind), count in sorted(self._found.items())
            ],
        )
        for name, what in (("looks", "Looks at what is served"), ("troubles", "Looks that went wrong")):
            self.metrics.watch(
                f"modelkeep_monitor_{name}_total",
                what,
                lambda name=name: [({}, float(getattr(self, name)))],  # type: ignore[misc]
            )
        self.metrics.watch(
            "modelkeep_monitor_look_seconds_total", "CPU time of the looks", lambda: [({}, self.seconds)]
        )


def share_of(busy: float) -> float:
    """Of one core, for looks, where what the process computes beside them, or waits to compute, is so much of one."""
    return SHARE + min(max(busy, 0.0), 1.0) * (BUSY_SHARE - SHARE)


def counted(metrics: Metrics) -> dict[tuple[str, int], Counts]:
    """What the requests to each version came to since the server's start, shadows left out."""
    found: dict[tuple[str, int], Counts] = {}
    for model, version, track, series in metrics.on_tracks():
        if track not in TRACKS:
            continue
        key = model, int(version)
        before = found.get(key, Counts(0, 0, (0,) * len(SECONDS)))
        outcomes, durations = series.outcomes.copy(), series.duration.counts.copy()  # which another thread adds to
        requests = sum(n for outcome, n in outcomes.items() if outcome not in ("bad_input", "cancelled"))
        failed = sum(outcomes[outcome] for outcome in FAILED)
        above = list(accumulate(reversed(durations)))[-2::-1]
        found[key] = Counts(
            before.requests + requests,
            before.failed + failed,
            tuple(a + b for a, b in zip(before.slower, above, strict=True)),
        )
    return found


def resident(metrics: Metrics) -> float:
    """Bytes of the server and its workers."""
    samples = (sample for family in metrics.registry.collect() for sample in family.samples)
    return float(sum(value for name, _, value, *_ in samples if name in MEMORY))


def gauges_of(checked: Checked) -> Iterable[tuple[str, dict[str, str], float]]:
    """(name, labels, value) of each gauge that a look gives."""
    model, version = _named(checked.ref)
    whose = {"model": model, "version": version}
    numbers = checked.numbers
    for subject in ("inputs", "answers"):
        told = numbers.get(subject, {})
        for name, key in (
            ("distance_ratio", "moved"),
            ("tolerance_ratio", "tolerance"),
            ("log_evidence", "log_evidence"),
            ("log_threshold", "log_threshold"),
        ):
            if key in told:
                yield f"modelkeep_drift_{name}", whose | {"subject": subject}, float(told[key])
    yield from _quality(whose, numbers)
    if (slo := numbers.get("health", {}).get("slo")) is not None:
        yield "modelkeep_error_budget_left_ratio", whose, float(slo["budget_left"])
    for kind in KINDS:
        yield "modelkeep_findings", whose | {"kind": kind}, float(sum(f.kind == kind for f in checked.findings))


def _quality(whose: dict[str, str], numbers: Any) -> Iterable[tuple[str, dict[str, str], float]]:
    quality, estimated = numbers.get("quality", {}), numbers.get("estimated", {})
    for metric in RATIOS:
        if metric in estimated:
            yield "modelkeep_estimated_quality_ratio", whose | {"metric": metric}, float(estimated[metric]["value"])
        if metric in quality:
            value = quality[metric] if metric == "accuracy" else quality[metric]["value"]
            yield "modelkeep_labelled_quality_ratio", whose | {"metric": metric}, float(value)
    for metric in ("log_loss", "rmse", "mae"):
        if metric in quality:
            yield "modelkeep_labelled_error", whose | {"metric": metric}, float(quality[metric]["value"])
    if quality:
        yield "modelkeep_label_coverage_ratio", whose, float(quality["coverage"])
    if quality.get("lag") is not None:
        yield "modelkeep_label_lag_seconds", whose, float(quality["lag"])


def _named(ref: str) -> tuple[str, str]:
    name, _, number = ref.rpartition("@")
    return name, number
