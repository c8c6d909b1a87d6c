"""What a service counts, read now and then: from its own metrics, from another process's /metrics, or from the
captured traffic. Two readings make a Point: rates, latencies and answers of one model between them.
"""

from __future__ import annotations

import time
import urllib.error
import urllib.request
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from modelkeep import metrics
from modelkeep.data import traffic
from modelkeep.errors import BadSettings, ModelkeepError, NotReady, Unauthenticated
from modelkeep.metrics import SECONDS

if TYPE_CHECKING:
    from modelkeep.data.traffic import Exchange

REQUESTS, DURATION, CLASSES = "modelkeep_requests", "modelkeep_request_duration_seconds", "modelkeep_output_class"
MOST_BYTES, TIMEOUT = 32 * 1024**2, 3.0
"""Of a /metrics that is read, and how long it may take, in seconds."""
MOST_ROWS = 5000
"""Of the captured traffic that one reading takes."""
TRACKS = ("live", "canary", "shadow")
Key = tuple[str, ...]


@dataclass
class Reading:
    """Counters at a moment (epoch seconds), each since the service began.

    ``requests`` by model, version, track and outcome; ``buckets`` by model, track and upper bound in seconds, each
    with what lies below it; ``classes`` by model and class.
    """

    at: float
    requests: Counter[Key] = field(default_factory=Counter)
    buckets: Counter[tuple[str, str, float]] = field(default_factory=Counter)
    classes: Counter[Key] = field(default_factory=Counter)


@dataclass(frozen=True)
class Point:
    """One model between two readings. ``rates`` are answered requests a second by track; ``failed`` those that were
    not, over all tracks; ``p50`` and ``p99`` are seconds by track; ``classes`` are rows by predicted class.
    """

    at: float
    seconds: float
    rates: Mapping[str, float]
    failed: float
    p50: Mapping[str, float]
    p99: Mapping[str, float]
    classes: Mapping[str, float]

    def to_json(self) -> list[float | None]:
        """What a chart draws: time, rate live, canary, failed, p50 live, p99 live, p99 canary."""
        rates = [self.rates.get(track, 0.0) for track in ("live", "canary")]
        return [self.at, *rates, self.failed, *(d.get(t) for d, t in self.quantiles())]

    def quantiles(self) -> tuple[tuple[Mapping[str, float], str], ...]:
        """In the order of ``to_json``."""
        return (self.p50, "live"), (self.p99, "live"), (self.p99, "canary")


class Source(Protocol):
    """Where readings come from."""

    name: str
    """For a person: where the numbers on the page come from."""

    def read(self) -> Reading:
        """May block. Raises a ModelkeepError where nothing can be read now."""
        ...


class Served:
    """The metrics of the service in this process."""

    name = "this service"

    def __init__(self, counters: metrics.Metrics) -> None:
        self._metrics = counters

    def read(self) -> Reading:
        """See Source."""
        return _reading(self._metrics.of_requests())


class Scraped:
    """Another process's /metrics. ``key`` is an API key with scope ``read``. Raises BadSettings for no HTTP address."""

    def __init__(self, url: str, key: str = "") -> None:
        if not url.startswith(("http://", "https://")):
            raise BadSettings(f"'{url}' is no address of a service; give one such as http://127.0.0.1:8080")
        self.name = url.rstrip("/")
        self._request = urllib.request.Request(f"{self.name}/metrics")
        if key:
            self._request.add_unredirected_header("Authorization", f"Bearer {key}")

    def read(self) -> Reading:
        """See Source."""
        try:
            with urllib.request.urlopen(self._request, timeout=TIMEOUT) as answer:
                text = answer.read(MOST_BYTES).decode("utf-8", "replace")
            return _reading(metrics.parse(text))
        except urllib.error.HTTPError as error:
            if error.code in (401, 403):
                why = f"{self.name} asks for an API key of scope read; give it in a file with --key-file"
                raise Unauthenticated(why) from error
            raise NotReady(f"{self.name}/metrics answers {error.code}; is it a modelkeep service?") from error
        except (OSError, ValueError) as error:
            said = getattr(error, "reason", error)
            raise NotReady(f"{self.name} cannot be read ({said}); is the service running?") from error


class Captured:
    """The captured traffic of a registry home: counts grow by what was written since the last reading."""

    name = "captured traffic"

    def __init__(self, path: Path, names: Any) -> None:
        """``names`` gives the models that there are."""
        self._path, self._names = path, names
        self._row = traffic.newest(path)
        self._sum = Reading(time.time())

    def read(self) -> Reading:
        """See Source. Where more than MOST_ROWS came in between, the oldest of them are not counted."""
        newest = traffic.newest(self._path)
        if newest < self._row:  # the file was made anew
            self._row = 0
        for name in self._names():
            for one in traffic.read(self._path, name, after=self._row, limit=MOST_ROWS, newest=True, arrays=False):
                if one.row <= newest:
                    count(self._sum, one)
        self._row = newest
        self._sum.at = time.time()
        return Reading(
            self._sum.at, Counter(self._sum.requests), Counter(self._sum.buckets), Counter(self._sum.classes)
        )


def count(reading: Reading, exchange: Exchange) -> None:
    """One more exchange."""
    reading.requests[(exchange.model, str(exchange.version), exchange.track, exchange.outcome)] += 1
    for bound in (*SECONDS, inf):
        if exchange.seconds <= bound:
            reading.buckets[(exchange.model, exchange.track, bound)] += 1


def _reading(families: Iterable[Any]) -> Reading:
    """From metric families, of this process or parsed."""
    found = Reading(time.time())
    for family in families:
        for sample in family.samples if family.name in (REQUESTS, DURATION, CLASSES) else ():
            labels, value = sample.labels, sample.value
            if sample.name == f"{REQUESTS}_total":
                found.requests[(labels["model"], labels["version"], labels["track"], labels["outcome"])] += value
            elif sample.name == f"{DURATION}_bucket":
                found.buckets[(labels["model"], labels["track"], float(labels["le"]))] += value
            elif sample.name == f"{CLASSES}_total":
                found.classes[(labels["model"], labels["class"])] += value
    return found


def between(before: Reading, after: Reading, model: str) -> Point:
    """What happened to a model between two readings of one source."""
    seconds = max(after.at - before.at, 1e-3)
    rates: dict[str, float] = {}
    failed = 0.0
    for (name, _, track, outcome), value in after.requests.items():
        grown = max(0.0, value - before.requests[(name, _, track, outcome)])
        if name == model and outcome == "ok":
            rates[track] = rates.get(track, 0.0) + grown / seconds
        elif name == model and track != "shadow":
            failed += grown / seconds
    counts = {track: _grown(before, after, model, track) for track in TRACKS}
    p50, p99 = (
        {track: found for track, c in counts.items() if (found := quantile(c, q)) is not None} for q in (0.5, 0.99)
    )
    classes = {
        label: grown
        for (name, label), value in after.classes.items()
        if name == model and (grown := value - before.classes[(name, label)]) > 0
    }
    return Point(after.at, seconds, rates, failed, p50, p99, classes)


def _grown(before: Reading, after: Reading, model: str, track: str) -> list[tuple[float, float]]:
    """(upper bound, how many came in since and lie below it), the bounds rising."""
    return sorted(
        (bound, max(0.0, value - before.buckets[(name, t, bound)]))
        for (name, t, bound), value in after.buckets.items()
        if (name, t) == (model, track)
    )


def quantile(buckets: list[tuple[float, float]], q: float) -> float | None:
    """Of a cumulative histogram, linear within its bucket, as Prometheus' histogram_quantile does it; None for none."""
    if not buckets or not buckets[-1][1]:
        return None
    wanted = q * buckets[-1][1]
    low, below = 0.0, 0.0
    for bound, value in buckets:
        if value >= wanted and value > below:
            return low if bound == inf else low + (bound - low) * (wanted - below) / (value - below)
        low, below = bound, value
    return None


def before_now(path: Path, model: str, *, seconds: int = 120) -> list[Point]:
    """A Point for each of the last seconds that the captured traffic tells of in full; none where it tells of none."""
    now = time.time()
    try:
        rows = traffic.read(path, model, since=now - seconds, limit=MOST_ROWS, newest=True, arrays=False)
    except ModelkeepError:  # a damaged file, say: the page begins empty, and the pages that need it say why
        return []
    first = now - seconds if len(rows) < MOST_ROWS else rows[0].at
    points = []
    reading = Reading(float(int(first) + 1))
    waiting = [row for row in rows if row.at >= reading.at]
    while reading.at + 1 <= now:
        after = Reading(reading.at + 1, Counter(reading.requests), Counter(reading.buckets))
        for row in waiting:
            if row.at < after.at:
                count(after, row)
        waiting = [row for row in waiting if row.at >= after.at]
        points.append(between(reading, after, model))
        reading = after
    return points if rows else []
