"""One look at a version: drift of inputs and answers, quality with labels and without, health."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep import quantities
from modelkeep.data.features import MAX_FEATURES
from modelkeep.model import baseline
from modelkeep.monitor import series
from modelkeep.monitor.captured import Captured, calibration
from modelkeep.monitor.estimated import TELLING
from modelkeep.monitor.judged import Judged
from modelkeep.monitor.limits import Limits
from modelkeep.monitor.profiled import Profiled, features
from modelkeep.monitor.truth import Truth
from modelkeep.monitor.vital import Vital
from modelkeep.quantities import counted
from modelkeep.types import Finding, Model, Version

if TYPE_CHECKING:
    from modelkeep.model.baseline import Baseline
    from modelkeep.monitor.drift import Drift
    from modelkeep.monitor.health import Health

NAMED = 20
"""Features in a sentence."""


@dataclass(frozen=True)
class Checked:
    """What a look came to: ``findings``, and the ``numbers`` by subject. It is about ``n`` requests, and ``of`` says
    which: all that were ``served``, as servers counted them, those ``looked at``, or those ``captured``.

    ``notes`` say what could not be judged, and why; ``plots`` is what a page draws, where it was asked for. ``whole``
    is false while bounded looks have not yet read all that there was: what was found long ago may be over since.
    """

    ref: str
    n: int
    since: float | None
    findings: tuple[Finding, ...]
    numbers: Mapping[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    of: str = "captured"
    whole: bool = True
    lines: tuple[str, ...] = field(default=(), repr=False)
    plots: Mapping[str, Any] = field(default_factory=dict, repr=False, compare=False)

    @property
    def about(self) -> str:
        """``digits@1, 296 requests served``."""
        return f"{self.ref}, {counted(self.n, 'request')} {self.of}"

    def noting(self, notes: Iterable[str]) -> Checked:
        """The same, with more notes."""
        more = tuple(notes)
        return replace(self, notes=self.notes + more, lines=self.lines + more)

    def describe(self) -> str:
        """Some lines for a person: the findings first."""
        found = [f"{f.kind} of {f.subject}: {f.why}" for f in self.findings] or ["nothing found"]
        first = f"{self.about}: {found[0]}"
        return "\n".join([first, *(f"  {t}" for t in (*found[1:], *self.lines))])


def check(
    version: Version, model: Model, home: Path, *, plots: bool = False, most: int | None = None, **limits: Any
) -> Checked:
    """Look at what is new of a version since the last look, and say what is so now.

    ``limits`` are the fields of Limits. ``model`` is the version's folder on this machine, ``home`` the folder that
    servers write into. The result depends on what is there, not on how often one looks: the evidence is anytime-valid.
    ``most`` bounds the rows that are read of each file (Judged): for a look beside a busy service.
    """
    run = _run(version.ref, version.digest, home, Limits(**limits), most, _Same(model))
    return run.look(plots=plots)


def begin(version: Version, model: Model, home: Path, *, most: int | None = None, **limits: Any) -> Run:
    """For one who looks again and again: what ``check`` does at each ``look``. See ``check``."""
    return _begun(version.ref, version.digest, home, Limits(**limits), most, _Same(model))


class Run:
    """The detectors of one version; each look reads on where the last one ended."""

    def __init__(self, judged: Judged) -> None:
        self.judged = judged
        sure = calibration(judged)
        self.profiled, self.captured = Profiled(judged), Captured(judged, sure)
        self.truth, self.vital = Truth(judged, sure), Vital(judged)
        self._features = features(judged)
        self._lacking = "" if self.captured.drifts else self._why_none()
        self._lock = threading.Lock()
        self._whole = False

    @property
    def health(self) -> Health:
        """By what servers counted; without them, by what was captured."""
        return self.vital.health if self.vital.any else self.captured.health

    @property
    def drifts(self) -> dict[str, Drift]:
        """By what servers counted; without them, by what was captured."""
        return self.profiled.run.drifts if self.profiled.run.n else self.captured.drifts

    def look(self, *, plots: bool = False) -> Checked:
        """Read what is new, then say what is so."""
        with self._lock:
            self.profiled.look()
            self.captured.look(features=not self.profiled.run.n)
            self.truth.look()
            self.vital.look()
            self._whole = self._whole or not (self.profiled.behind or self.truth.behind or self.vital.behind)
            if self.judged.limits.silence is not None:
                self.health.now = time.time()
            findings = self._findings()
            doubtful = self._doubtful(findings)
            n, of = max((self.health.n, self.health.of), (self.profiled.run.n, "looked at"))
            return Checked(
                self.judged.ref,
                n,
                min(
                    (s for s in (self.profiled.run.since, self.captured.since, self.vital.since) if s is not None),
                    default=None,
                ),
                tuple(findings),
                self._numbers(doubtful),
                tuple(self._notes()),
                of,
                self._whole,
                tuple(self._lines(doubtful)),
                series.of(self) if plots else {},
            )

    def _findings(self) -> list[Finding]:
        truth = self.truth
        found = [drift.finding() for drift in self.drifts.values()]
        found += [*truth.labelled.findings(), *(truth.slices.findings() if truth.slices else [])]
        if truth.calibrated is not None and not truth.calibrated.holds:
            found.append(truth.calibrated.finding())
        elif self.captured.estimated is not None and not truth.kept:
            found.append(self.captured.estimated.finding())
        health = [] if not self.health.n and self.profiled.run.n else self.health.findings()
        return [f for f in (*found, *health) if f is not None]

    def _numbers(self, doubtful: bool) -> dict[str, Any]:
        truth, estimated = self.truth, self.captured.estimated
        found: dict[str, Any] = {subject: drift.numbers() for subject, drift in self.drifts.items()}
        found["quality"] = truth.numbers()
        if estimated is not None:
            found["estimated"] = estimated.numbers() | {"doubtful": doubtful}
        if truth.calibrated is not None:
            found["calibration"] = truth.calibrated.numbers()
        if truth.slices is not None:
            found["slices"] = truth.slices.numbers()
        found["health"] = self.health.numbers() | (self.captured.seconds() if self.health.n else {})
        return found

    def _doubtful(self, findings: list[Finding]) -> bool:
        """Whether the inputs have moved, and too few labels have come since to tell what that does to estimates."""
        since = [f.since or 0.0 for f in findings if (f.kind, f.subject) == ("drift", "inputs")]
        calibrated = self.truth.calibrated
        return bool(since) and (calibrated is None or calibrated.since(since[0]) < TELLING)

    def _why_none(self) -> str:
        return "all features are ignored" if self._features else baseline.lacking(self.judged.model)

    def _notes(self) -> list[str]:
        notes = self._unwatched()
        if not self.drifts:
            notes.append(f"drift is not judged: {self._lacking}")
        elif unknown := [name for name in self.judged.limits.ignore if name not in self._features]:
            there = ", ".join(self._features[:NAMED]) + (", …" if len(self._features) > NAMED else "")
            notes.append(f"no feature is called {', '.join(unknown)}, which was to be ignored; there is {there}")
        if self.truth.idle_promise:
            notes.append(
                "the promised mean error judges nothing: the answers are classes, or scores of them (min_accuracy is "
                "what these are held to)"
            )
        if strange := self.profiled.run.strange or self.captured.unreadable:
            notes.append(f"{counted(strange, 'request')} did not have the form of the reference rows")
        unsaid, of = self.captured.unsaid, "captured"
        if self.profiled.run.n:
            unsaid, of = self.profiled.run.unsaid, "looked at"
        if unsaid:
            notes.append(
                f"the answers to {counted(unsaid, 'request')} {of} count for no drift: their clients asked for some of "
                "the outputs only"
            )
        if strange := self.truth.strange:
            notes.append(
                f"{counted(strange, 'label')} cannot be compared with what was answered, such as {self.truth.example}: "
                "give one a row, a number where answers are numbers (a list of them where each is several), and for "
                "a class its number or its name in the model"
            )
        if void := self.truth.labelled.numeric.void:
            notes.append(
                f"{counted(void, 'labelled request')} got an answer with NaN or infinity, and counted for no error"
            )
        if unsaid := self.truth.unsaid:
            notes.append(
                f"{counted(unsaid, 'label')} came for answers without the output "
                f"'{self.judged.model.signature.outputs[0].name}', which clients did not ask for, and "
                "counted for nothing"
            )
        return notes

    def _unwatched(self) -> list[str]:
        """Of tensors that are beyond the features that are looked at."""
        known, signature = self.judged.known, self.judged.model.signature
        found = []
        for name, what, specs in (("inputs", "input", signature.inputs), ("answers", "output", signature.outputs)):
            subject = None if known is None else known.subject(name)
            if subject is None:
                continue
            seen = {tensor.name for tensor in subject.columns.tensors}
            missed = [spec.name for spec in specs if spec.name not in seen]
            if missed:
                found.append(
                    f"drift is not judged of {counted(len(missed), what)}, such as '{missed[0]}': {MAX_FEATURES} "
                    f"features of the {name} are looked at, those that come first"
                )
        return found

    def _lines(self, doubtful: bool) -> list[str]:
        truth, estimated = self.truth, self.captured.estimated
        lines = [drift.describe() for drift in self.drifts.values()]
        lines += truth.describe()
        if estimated is not None and estimated.n:
            holds = truth.calibrated is None or truth.calibrated.holds
            lines.append(estimated.describe(holds=holds, doubtful=doubtful))
        seconds = self.captured.seconds()
        took = ", ".join(f"{name} {quantities.seconds(value)}" for name, value in seconds.items())
        if took and self.health.of != "captured":
            took += " of those captured"
        return [*lines, "; ".join([self.health.describe(), *([took] if took else [])]), *self._notes()]


class _Same:
    """Carries a model past the cache, which goes by the digest."""

    def __init__(self, model: Model) -> None:
        self.model = model

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Same)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=8)
def _run(ref: str, digest: str, home: Path, limits: Limits, most: int | None, same: _Same) -> Run:
    """The run in progress, if this process has one."""
    return _begun(ref, digest, home, limits, most, same)


def _begun(ref: str, digest: str, home: Path, limits: Limits, most: int | None, same: _Same) -> Run:
    """A new run; a version never changes, so its digest names its baseline."""
    name, _, number = ref.rpartition("@")
    known = _baseline(digest, home, most is not None, same)
    return Run(Judged(name, int(number), same.model, home, limits, known, most))


@lru_cache(maxsize=8)
def _baseline(digest: str, home: Path, bounded: bool, same: _Same) -> Baseline | None:
    """Beside a service the model is not run for it."""
    if not bounded:
        return baseline.ensure(same.model, home, digest)
    return baseline.find(same.model, home, digest) or baseline.inputs_only(same.model)
