"""Counters and histograms in Prometheus' form; the only file that imports prometheus_client.

Names follow prometheus.io/docs/practices/naming: base units, counters end in ``_total``, few labels. Children of
labels are made once and kept, as ``labels()`` costs more than the increment itself.
"""

from __future__ import annotations

import time
from bisect import bisect_left
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import accumulate
from typing import TYPE_CHECKING, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, ProcessCollector, generate_latest
from prometheus_client.metrics import MetricWrapperBase
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from prometheus_client.parser import text_string_to_metric_families
from prometheus_client.registry import Collector

if TYPE_CHECKING:
    from modelkeep.types import ServeConfig

M = TypeVar("M", bound=MetricWrapperBase)

Filled = tuple[dict[str, str], Sequence[float], float]
"""Labels; how many by the first bound that they do not exceed, the last for those above all; and the sum of all."""

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
OUTCOMES = ("ok", "error", "bad_input", "overloaded", "late", "cancelled")
DEATHS = ("crash", "hang", "kill")
"""How a worker process ended: by itself, for its long run, by somebody else."""
REASONS = (
    "queue_full",
    "queue_bytes",
    "deadline_hopeless",
    "promise",
    "deadline_passed",
    "not_ready",
    "body_too_large",
    "malformed",
    "not_found",
    "key",
    "rate",
    "streams",
)
SECONDS = (0.0002, 0.0005, 0.001, 0.002, 0.005, 0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 30.0)
"""Bounds of every duration. Frozen: a dashboard that asks for a bound that is gone shows nothing."""
ROWS = (1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0, 256.0, 512.0)
HOW = ("format", "engine", "device", "precision")
"""Labels that say how a version runs; a precision of ``own`` is the model's."""
MAX_SIZES = 1024
"""Sizes of runs that are told apart in the statistics of one version."""
MAX_CLASSES = 50
"""Classes of one version that get a series of their own; the rest is counted as ``other``."""
KEPT = 8
"""Versions of one model whose series stay after they were closed, so that a last scrape finds them."""


@dataclass
class Total:
    """How often, and for how many seconds in all; beside the series, for who asks for exact numbers by case."""

    count: int = 0
    seconds: float = 0.0

    def add(self, seconds: float) -> None:
        """Once more."""
        self.count += 1
        self.seconds += seconds


@dataclass(slots=True)
class Durations:
    """A histogram over SECONDS that each request adds to, for one thread: prometheus_client's takes locks for it.

    ``counts`` are how many by the first bound that they do not exceed, the last for those above all.
    """

    counts: list[int] = field(default_factory=lambda: [0] * (len(SECONDS) + 1))
    seconds: float = 0.0

    def observe(self, seconds: float) -> None:
        """Once more."""
        self.counts[bisect_left(SECONDS, seconds)] += 1
        self.seconds += seconds


@dataclass(slots=True)
class TrackSeries:
    """What requests to one version on one track come to. For one thread; any other may read."""

    outcomes: dict[str, int] = field(default_factory=lambda: dict.fromkeys(OUTCOMES, 0))
    duration: Durations = field(default_factory=Durations)
    answered: Total = field(default_factory=Total)
    failed: Total = field(default_factory=Total)
    last: float = 0.0

    def record(self, outcome: str, seconds: float) -> None:
        """A request came to this, now."""
        self.outcomes[outcome] += 1
        self.duration.observe(seconds)
        self.last = time.time()
        (self.answered if outcome == "ok" else self.failed).add(seconds)


@dataclass
class VersionSeries:
    """What the runs of one version come to. For one thread; any other may read."""

    compute: Histogram
    batch: Histogram
    invalid: Counter
    hits: Counter
    misses: Counter
    positions: Callable[[str], Counter]
    _class: Callable[[str], Counter]
    _classes: dict[str, Counter] = field(default_factory=dict)
    queue: Durations = field(default_factory=Durations)
    runs: dict[int, Total] = field(default_factory=dict)
    waited: Total = field(default_factory=Total)
    computed: Total = field(default_factory=Total)
    cached: Total = field(default_factory=Total)
    uncached: Total = field(default_factory=Total)

    def ran(self, rows: int, seconds: float) -> None:
        """One run of so many rows; sizes beyond the first MAX_SIZES count as the largest of them."""
        self.compute.observe(seconds)
        self.batch.observe(rows)
        size = rows if rows in self.runs or len(self.runs) < MAX_SIZES else max(self.runs)
        self.runs.setdefault(size, Total()).add(seconds)

    def took(self, queue: float, compute: float) -> None:
        """A request waited so long for a free worker, and its run, which others may have shared, took so long."""
        self.queue.observe(queue)
        self.waited.add(queue)
        self.computed.add(compute)

    def padded(self, content: int, padding: int) -> None:
        """A run had so many positions of sequences, and so many that were added to make them equally long."""
        self.positions("content").inc(content)
        self.positions("padding").inc(padding)

    def hit(self, seconds: float) -> None:
        """A request was answered from the cache, after so long a look."""
        self.hits.inc()
        self.cached.add(seconds)

    def missed(self, seconds: float) -> None:
        """The cache was asked in vain."""
        self.misses.inc()
        self.uncached.add(seconds)

    def answered(self, name: str, times: int) -> None:
        """So many rows were predicted to be of this class."""
        child = self._classes.get(name)
        if child is None:
            name = name if len(self._classes) < MAX_CLASSES else "other"
            child = self._classes[name] = self._class(name)
        child.inc(times)


class Metrics:
    """All series of one process, in a registry of their own."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        ProcessCollector(registry=self.registry)
        one = ("model", "version")
        self._requests = _Read("modelkeep_requests_total", "Requests by what they came to", self._by_outcome)
        self._duration = self._durations("request", "From the request parsed to its answer ready", self._by_track)
        self._durations("queue", "A request's wait for a free worker", self._by_version)
        self.registry.register(self._requests)
        self._rejections = self._counter("rejections", "Requests turned away", "reason")
        self._invalid = self._counter("output_invalid", "Rows of output that hold NaN or infinity", *one)
        self._hits = self._counter("cache_hits", "Requests answered from the cache", *one)
        self._misses = self._counter("cache_misses", "Requests whose answer the cache did not have", *one)
        self._positions = self._counter("positions", "Positions of sequences, and of their padding", *one, "kind")
        self._classes = self._counter("output_class", "Rows by predicted class", *one, "class")
        self._compute = Histogram(
            "modelkeep_compute_duration_seconds",
            "One run of the model, on a batch",
            one,
            buckets=SECONDS,
            registry=self.registry,
        )
        self._batch = Histogram("modelkeep_batch_size", "Rows of one run", one, buckets=ROWS, registry=self.registry)
        self._deaths = self._counter("worker_deaths", "Worker processes that ended by themselves or hung", *one, "kind")
        self._info = self._gauge("model_info", "1 for each version in memory", *one, *HOW)
        self._weight = self._gauge("route_weight_ratio", "Share of a model's requests, in force", "model", "track")
        self._made: dict[tuple[str, str], set[tuple[MetricWrapperBase, tuple[str, ...]]]] = {}
        self._tracks: dict[tuple[str, str, str], TrackSeries] = {}
        self._versions: dict[tuple[str, str], VersionSeries] = {}
        self._alive: dict[tuple[str, str], int] = {}
        self._retired: dict[str, list[str]] = {}
        for reason in REASONS:
            self._rejections.labels(reason)

    def track(self, model: str, version: int, track: str) -> TrackSeries:
        """The series of a version on a track (live, canary, shadow)."""
        key = (model, str(version), track)
        series = self._tracks.get(key)
        if series is None:
            series = self._tracks[key] = TrackSeries()
        return series

    def version(self, model: str, version: int) -> VersionSeries:
        """The series of a version."""
        key = (model, str(version))
        series = self._versions.get(key)
        if series is None:
            series = self._versions[key] = VersionSeries(
                self._child(self._compute, *key),
                self._child(self._batch, *key),
                self._child(self._invalid, *key),
                self._child(self._hits, *key),
                self._child(self._misses, *key),
                lambda kind: self._child(self._positions, *key, kind),
                lambda name: self._child(self._classes, *key, name),
            )
        return series

    def tracks(self, model: str, version: int) -> list[TrackSeries]:
        """The series of a version on every track that it has been on."""
        return [series for *key, series in self.on_tracks() if key[:2] == [model, str(version)]]

    def on_tracks(self) -> list[tuple[str, str, str, TrackSeries]]:
        """Model, version and track of all series of requests, and the series. From any thread."""
        return [(*key, series) for key, series in list(self._tracks.items())]

    def rejected(self, reason: str) -> None:
        """One request was turned away; ``reason`` is one of REASONS."""
        self._rejections.labels(reason).inc()

    def worker_died(self, model: str, version: int, kind: str) -> None:
        """A worker process ended; ``kind`` is one of DEATHS."""
        self._child(self._deaths, model, str(version), kind).inc()

    def loaded(self, model: str, version: int, format: str, config: ServeConfig) -> None:  # noqa: A002
        """A version is in memory, once more where it was already; ``retire`` must follow as often."""
        key = (model, str(version))
        self._alive[key] = self._alive.get(key, 0) + 1
        if key[1] in self._retired.get(model, ()):
            self._retired[model].remove(key[1])
        self._forget(*key, only=self._info)
        precision = config.precision or "own"
        self._child(self._info, *key, format, config.engine, config.device, precision).set(1)
        for kind in DEATHS:  # a counter that is not there before its first event hides that one from rate()
            self._child(self._deaths, *key, kind)

    def weights(self, model: str, shares: dict[str, float]) -> None:
        """How the traffic of a model is shared among tracks, as it is in force."""
        for track, share in shares.items():
            self._weight.labels(model, track).set(share)

    def retire(self, model: str, version: int) -> None:
        """A version was closed: its info goes now, its counters once KEPT later ones have been closed too."""
        key = (model, str(version))
        self._alive[key] -= 1
        if self._alive[key]:
            return
        del self._alive[key]
        self._forget(model, str(version), only=self._info)
        retired = self._retired.setdefault(model, [])
        retired.append(str(version))
        while len(retired) > KEPT:
            gone = retired.pop(0)
            self._forget(model, gone)
            self._versions.pop((model, gone), None)
            for track in [k for k in self._tracks if k[:2] == (model, gone)]:
                del self._tracks[track]

    def watch(self, name: str, what: str, read: Callable[[], Iterable[tuple[dict[str, str], float]]]) -> None:
        """A value that is read when somebody scrapes; a counter where the name ends in ``_total``, else a gauge."""
        self.registry.register(_Read(name, what, read))

    def watch_histogram(
        self, name: str, what: str, bounds: Sequence[float], read: Callable[[], Iterable[Filled]]
    ) -> None:
        """A histogram that is read when somebody scrapes: for what is counted many at a time, elsewhere."""
        self.registry.register(_ReadHistogram(name, what, bounds, read))

    def render(self) -> bytes:
        """What /metrics answers, of type CONTENT_TYPE."""
        return generate_latest(self.registry)

    def of_requests(self) -> Iterator[Metric]:
        """The families of what became of requests, how long they took, and the classes that were answered.

        For who looks each second: others ask the system at each look.
        """
        for metric in (self._requests, self._duration, self._classes):
            yield from metric.collect()

    def value(self, name: str, **labels: str) -> float:
        """The value now, 0 where there is no such series; for tests and for a person at a prompt."""
        return self.registry.get_sample_value(name, labels) or 0.0

    def _child(self, metric: M, *labels: str) -> M:
        self._made.setdefault((labels[0], labels[1]), set()).add((metric, labels))
        return metric.labels(*labels)

    def _forget(self, model: str, version: str, only: MetricWrapperBase | None = None) -> None:
        made = self._made.pop((model, version), set())
        gone = {one for one in made if only is None or one[0] is only}
        for metric, labels in gone:
            metric.remove(*labels)
        if made - gone:
            self._made[(model, version)] = made - gone

    def _counter(self, name: str, text: str, *labels: str) -> Counter:
        return Counter(f"modelkeep_{name}_total", text, labels, registry=self.registry)

    def _gauge(self, name: str, text: str, *labels: str) -> Gauge:
        return Gauge(f"modelkeep_{name}", text, labels, registry=self.registry)

    def _durations(self, name: str, text: str, read: Callable[[], Iterable[Filled]]) -> Collector:
        found = _ReadHistogram(f"modelkeep_{name}_duration_seconds", text, SECONDS, read)
        self.registry.register(found)
        return found

    def _by_outcome(self) -> Iterator[tuple[dict[str, str], float]]:
        for model, version, track, series in self.on_tracks():
            for outcome, count in series.outcomes.items():
                yield {"model": model, "version": version, "track": track, "outcome": outcome}, float(count)

    def _by_track(self) -> Iterator[Filled]:
        for model, version, track, series in self.on_tracks():
            yield _filled({"model": model, "version": version, "track": track}, series.duration)

    def _by_version(self) -> Iterator[Filled]:
        for (model, version), series in list(self._versions.items()):
            yield _filled({"model": model, "version": version}, series.queue)


def _filled(labels: dict[str, str], durations: Durations) -> Filled:
    return labels, list(durations.counts), durations.seconds


class _ReadHistogram(Collector):
    """Like _Read."""

    def __init__(self, name: str, what: str, bounds: Sequence[float], read: Callable[[], Iterable[Filled]]) -> None:
        self.name, self.what, self.read = name, what, read
        self.bounds = [*(str(float(bound)) for bound in bounds), "+Inf"]

    def collect(self) -> Iterator[Metric]:
        """One family with the buckets of each row that ``read`` gives."""
        rows = list(self.read())
        family = HistogramMetricFamily(self.name, self.what, labels=list(rows[0][0]) if rows else [])
        for labels, counts, total in rows:
            buckets = list(zip(self.bounds, accumulate(map(float, counts)), strict=True))
            family.add_metric(list(labels.values()), buckets, total)
        yield family


def parse(text: str) -> Iterable[Metric]:
    """The families of a page of /metrics. Raises ValueError for text of another form."""
    return text_string_to_metric_families(text)


class _Read(Collector):
    """Reads at scrape time, so that the path of a request pays nothing."""

    def __init__(self, name: str, what: str, read: Callable[[], Iterable[tuple[dict[str, str], float]]]) -> None:
        self.name, self.what, self.read = name, what, read

    def collect(self) -> Iterator[Metric]:
        """One family with a sample for each row that ``read`` gives."""
        rows = list(self.read())
        names = list(rows[0][0]) if rows else []
        kind = CounterMetricFamily if self.name.endswith("_total") else GaugeMetricFamily
        family = kind(self.name.removesuffix("_total"), self.what, labels=names)
        for labels, value in rows:
            family.add_metric([labels[n] for n in names], value)
        yield family
