"""One look at a version's captured traffic: drift of inputs and answers, quality, health."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.data import labels, traffic
from modelkeep.data.features import Columns
from modelkeep.errors import BadSettings
from modelkeep.model import engines, folder
from modelkeep.monitor.drift import Drift, Tolerance, thin
from modelkeep.monitor.health import Health
from modelkeep.monitor.quality import Quality, predicted, share_right
from modelkeep.types import Finding, Model, Version

if TYPE_CHECKING:
    from modelkeep.data.traffic import Exchange
    from modelkeep.types import Array, Arrays

RUN = 5000
"""A run of the detectors covers the newest RUN to 2·RUN captured requests, so each request is in two runs at most."""
PAGE = 500
MIN_REFERENCE = 50
MAX_PENDING = 50_000


@dataclass(frozen=True)
class Limits:
    """What counts. ``tolerance`` is the share of requests that may move, and what accuracy may lose against that on the
    reference rows where no ``min_accuracy`` was promised; ``p99`` is seconds. Raises BadSettings."""

    tolerance: float = 0.1
    false_alarm_every: float = 1e6
    min_accuracy: float | None = None
    p99: float | None = None

    def __post_init__(self) -> None:
        for name in ("tolerance", "min_accuracy"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < 1:
                raise BadSettings(f"{name} is {value!r}; give a share from 0 up to, but not, 1")
        if not self.false_alarm_every >= 1:
            raise BadSettings(f"false_alarm_every is {self.false_alarm_every!r}; give a number of requests, 1 or more")
        if self.p99 is not None and not self.p99 > 0:
            raise BadSettings(f"p99 is {self.p99!r}; give seconds, more than 0")


@dataclass(frozen=True)
class Checked:
    """What a look came to: ``findings``, and the ``numbers`` by subject. ``n`` requests were looked at.

    ``notes`` say what could not be judged, and why.
    """

    ref: str
    n: int
    since: float | None
    findings: tuple[Finding, ...]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    lines: tuple[str, ...] = field(default=(), repr=False)

    def describe(self) -> str:
        """Some lines for a person: the findings first."""
        found = [f"{f.kind} of {f.subject}: {f.why}" for f in self.findings] or ["nothing found"]
        return "\n".join([f"{self.ref}, {self.n} requests: {found[0]}", *(f"  {t}" for t in (*found[1:], *self.lines))])


def check(version: Version, model: Model, traffic: Path, **limits: Any) -> Checked:
    """Look at what was captured of a version since the last look, and say what is so now.

    ``limits`` are the fields of Limits. ``model`` is the version's folder on this machine. The result depends on the
    captured traffic only, not on how often one looks: the evidence is anytime-valid.
    """
    run = _run(version, model, traffic, Limits(**limits))
    return run.look()


@dataclass(frozen=True)
class Baseline:
    """A version's reference rows as features: of the inputs, and of the answers that the model gives to them."""

    inputs: Columns
    input_rows: Array
    answers: Columns
    answer_rows: Array
    accuracy: float | None


def baseline(model: Model) -> Baseline | None:
    """The Baseline of a model folder; None where it keeps too few reference rows. Runs the model on them."""
    rows = folder.reference(model.path)
    if rows is None or len(rows) < MIN_REFERENCE or not model.signature.batched:
        return None
    with contextlib.closing(engines.load(model)) as runner:
        parts = [runner.run(rows.take(slice(at, at + 256)).inputs) for at in range(0, len(rows), 256)]
    outputs = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    inputs = Columns.of(model.signature.inputs, rows.inputs)
    answers = Columns.of(model.signature.outputs, outputs, answers=True)
    accuracy = None
    if rows.labels is not None and rows.labels.ndim == 1:
        accuracy = share_right(predicted(outputs, model), rows.labels.tolist(), model.labels)
    return Baseline(inputs, inputs.read(rows.inputs), answers, answers.read(outputs), accuracy)


class Run:
    """The detectors of one version from one row on; each look reads on where the last one ended."""

    def __init__(self, ref: str, model: Model, path: Path, limits: Limits, start: int, known: Baseline | None) -> None:
        self.ref, self.model, self.path = ref, model, path
        self.name, self.number = ref.rpartition("@")[0], int(ref.rpartition("@")[2])
        every = 2 * limits.false_alarm_every  # each request is in two runs at most
        self.drifts: dict[str, tuple[Columns, Drift]] = {}
        if known is not None:
            tests = len(known.inputs.names) + len(known.answers.names)
            tolerance = Tolerance(limits.tolerance, every, told=limits.false_alarm_every)
            for subject, columns, rows in (
                ("inputs", known.inputs, known.input_rows),
                ("answers", known.answers, known.answer_rows),
            ):
                drift = Drift(subject, rows, columns.names, columns.edges, tolerance, tests=tests)
                self.drifts[subject] = (columns, drift)
        self.quality = Quality(*_floor(limits, known), every)
        self.health = Health(limits.p99, every)
        self.since: float | None = None
        self.unreadable = 0
        self.row = start
        self._label_row = labels.newest(path)
        self._pending: dict[str, tuple[Array, float]] = {}
        self._lock = threading.Lock()

    def look(self) -> Checked:
        """Read what is new, then say what is so."""
        with self._lock:
            self._read_labels()
            while page := traffic.read(self.path, self.name, version=self.number, after=self.row, limit=PAGE):
                self._take([e for e in page if e.track != "shadow"])
                self.row = page[-1].row
            return self._checked()

    def _take(self, page: list[Exchange]) -> None:
        if page and self.since is None:
            self.since = page[0].at
        for exchange in page:
            self.health.add(exchange)
            if exchange.outcome == "ok":
                self._take_answer(exchange)
        captured = [e for e in page if e.inputs is not None]
        self._take_features("inputs", [(e.inputs or {}, e.at) for e in captured])
        self._take_features("answers", [(e.outputs, e.at) for e in captured if e.outputs is not None])

    def _take_features(self, subject: str, given: list[tuple[Arrays, float]]) -> None:
        if subject not in self.drifts:
            return
        columns, drift = self.drifts[subject]
        values: list[Array] = []
        ats: list[float] = []
        for arrays, at in given:
            try:
                values.append(columns.read({name: thin(np.asarray(array)) for name, array in arrays.items()}))
                ats.append(at)
            except (KeyError, ValueError):
                self.unreadable += 1
        drift.add(values, ats)

    def _take_answer(self, exchange: Exchange) -> None:
        self.quality.requests += 1
        answers = predicted(exchange.outputs, self.model)
        if answers is None:
            return
        if exchange.label is not None:
            self._judge(answers, exchange.label, exchange.at)
        elif len(self._pending) < MAX_PENDING:
            self._pending[exchange.id] = (answers, exchange.at)

    def _read_labels(self) -> None:
        for row, request, label in labels.read(self.path, self.name, after=self._label_row):
            self._label_row = row
            if request in self._pending:
                answers, at = self._pending.pop(request)
                self._judge(answers, label, at)

    def _judge(self, answers: Array, label: Any, at: float) -> None:
        right = share_right(answers, label, self.model.labels)
        if right is not None:
            self.quality.add(right, at)

    def _checked(self) -> Checked:
        found = [drift.finding() for _, drift in self.drifts.values()]
        findings = [f for f in (*found, self.quality.finding(), *self.health.findings()) if f is not None]
        numbers: dict[str, Any] = {subject: drift.numbers() for subject, (_, drift) in self.drifts.items()}
        numbers |= {"quality": self.quality.numbers(), "health": self.health.numbers()}
        notes = []
        if not self.drifts:
            notes.append("drift is not judged: the version keeps no reference rows; add it with --data")
        if self.unreadable:
            notes.append(f"{self.unreadable} requests did not have the form of the reference rows")
        drifts = tuple(drift.describe() for _, drift in self.drifts.values())
        lines = (*drifts, self.quality.describe(), self.health.describe(), *notes)
        return Checked(self.ref, self.health.n, self.since, tuple(findings), numbers, tuple(notes), lines)


def _floor(limits: Limits, known: Baseline | None) -> tuple[float | None, str]:
    if limits.min_accuracy is not None:
        return limits.min_accuracy, "what was promised"
    if known is None or known.accuracy is None:
        return None, ""
    return max(known.accuracy - limits.tolerance, 0.0), "the least to expect from its reference rows"


def _run(version: Version, model: Model, path: Path, limits: Limits) -> Run:
    """The run in progress, if this process has one; a version never changes, so its digest names its baseline."""
    start = traffic.run_start(path, version.name, version.number, RUN)
    file = path.stat().st_ino if path.is_file() else 0  # a file that was made anew begins at row 1 again
    key = _Key(version.ref, version.digest, path, limits, start, file)
    run = _begin(key, _Same(model))
    if run.row > traffic.newest(path):  # made anew under the same file number
        _begin.cache_clear()
        run = _begin(key, _Same(model))
    return run


@dataclass(frozen=True)
class _Key:
    ref: str
    digest: str
    path: Path
    limits: Limits
    start: int
    file: int


class _Same:
    """Carries a model past the cache, which goes by the digest."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=4)
def _begin(key: _Key, same: _Same) -> Run:
    return Run(key.ref, same.model, key.path, key.limits, key.start, _baseline(key.digest, same))


@lru_cache(maxsize=4)
def _baseline(digest: str, same: _Same) -> Baseline | None:
    return baseline(same.model)
