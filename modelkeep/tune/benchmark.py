"""What ``bench`` does: every scenario of a version in a process of its own, and a second version in turns with it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.errors import Unsupported, Wrong
from modelkeep.model import engines, folder
from modelkeep.model.signature import default_sizes, example
from modelkeep.quantities import counted
from modelkeep.tune import machine, scenarios, versus
from modelkeep.tune.apart import Apart
from modelkeep.tune.scenarios import NAMES, Progress, Scenarios
from modelkeep.tune.versus import Versus
from modelkeep.types import BATCH, Model, Report, ServeConfig

if TYPE_CHECKING:
    from modelkeep.data.dataset import Dataset
    from modelkeep.tune.load import Measured
    from modelkeep.tune.served import Opened
    from modelkeep.types import Arrays

REQUESTS = 64
"""Different requests of one row each, sent again and again."""
COMMON_RATE = 0.5
"""Share of the lower of two highest rates, at which two versions are compared as servers."""


@dataclass(frozen=True)
class Subject:
    """What is measured: a version by its name, and the setting that it runs with."""

    name: str
    model: Model
    config: ServeConfig


@dataclass(frozen=True)
class Benchmark:
    """``scenarios`` of single, server, offline; see Scenarios and Versus for the rest. Times in seconds."""

    scenarios: Sequence[str] = NAMES
    p99: float = 0.05
    duration: float = 10.0
    budget: float = 120.0
    rounds: int = 9
    seed: int = 0

    def __post_init__(self) -> None:
        unknown = [name for name in self.scenarios if name not in NAMES]
        if unknown or not self.scenarios:
            raise Wrong(f"there is no scenario '{', '.join(unknown)}'; there are {', '.join(NAMES)}")

    def run(
        self,
        subject: Subject,
        rows: Dataset | None = None,
        *,
        other: Subject | None = None,
        progress: Progress | None = None,
    ) -> Report:
        """Report(kind="bench"): ok is False where answers under load are not the answers alone, or no rate keeps the
        promise; None where the server scenario could not be judged.

        ``rows`` are sent instead of the version's reference rows. Raises what loading the model raises, Wrong where
        ``other`` does not take the same requests, and ModelkeepError where a model answers nothing or its process ends.
        """
        if other is not None:
            _same_inputs(subject, other)
        sent = requests(subject.model, rows, self.seed)
        tell = progress or (lambda done, total, note: None)
        opened, numbers, fault = self._measure(subject, sent, tell)
        why = [scenarios.summary(name, found) for name, found in numbers["scenarios"].items()]
        if other is not None:
            there, theirs, their_fault = self._measure(other, sent, tell)
            turns, turn_fault = self._in_turns((subject, other), sent, (numbers, theirs), tell)
            turns["answers"] = versus.agreement(there.alone, opened.alone)
            numbers["versus"] = {**theirs, **turns}
            why.append(versus.summary(subject.name, other.name, turns))
            fault = fault or their_fault or turn_fault
        checked = sum(found["checked"] for found in numbers["scenarios"].values())
        numbers["answers_under_load"] = {"n": checked, "fault": fault}
        if fault:
            why.insert(0, f"answers under load are not the answers alone: {fault}")
        else:
            why.append(f"{checked} answers under load are the answers alone")
        kept = numbers["scenarios"].get("server", {"kept": True})["kept"]
        numbers["sentences"] = why
        data = f"{len(opened.alone)} different requests of {_source(subject.model, rows)}"
        return Report("bench", False if fault else kept, "; ".join(why), numbers, data)

    def _measure(
        self, subject: Subject, sent: Sequence[Arrays], progress: Progress
    ) -> tuple[Opened, dict[str, Any], str]:
        """Every scenario of one version, and what was wrong with an answer."""
        plan = Scenarios(self.p99, self.duration, self.budget, self.seed)
        steps = len(self.scenarios) + 1
        progress(0, steps, f"loading {subject.name}")
        measured: dict[str, Any] = {}
        faults: list[str] = []
        with Apart(subject.name, subject.model, subject.config, sent) as target:
            opened = target.open()
            for place, name in enumerate(self.scenarios, 1):
                found, measured[name] = plan.measure(name, target, _within(progress, place, steps, subject.name))
                fault = found.fault or _unanswered(name, found.measured)
                faults += [f"{subject.name}, {name}: {fault}"] if fault else []
        here = machine.describe()
        numbers = {
            "ref": subject.name,
            "config": asdict(subject.config),
            "machine": {key: here[key] for key in ("os", "processor", "cores", "memory_gib", "gpu")},
            "fingerprint": machine.fingerprint(subject.model.format),
            "scenarios": measured,
            "memory": _memory(subject.model, opened, measured),
            "load_seconds": opened.seconds,
            "duration": self.duration,
        }
        return opened, numbers, faults[0] if faults else ""

    def _in_turns(
        self,
        pair: tuple[Subject, Subject],
        sent: Sequence[Arrays],
        numbers: tuple[dict[str, Any], dict[str, Any]],
        progress: Progress,
    ) -> tuple[dict[str, Any], str]:
        servers = [n["scenarios"]["server"] for n in numbers if "server" in n["scenarios"]]
        rates = [s["rate"] or s["capacity"] for s in servers]
        start = [lambda one=one: Apart(one.name, one.model, one.config, sent) for one in pair]
        turns = Versus(self.scenarios, self.rounds, self.duration, self.budget, self.seed)
        return turns.run(start, COMMON_RATE * min(rates) if rates else None, progress)


def requests(model: Model, rows: Dataset | None, seed: int) -> list[Arrays]:
    """Requests of one row, or of as many as the batch is fixed to: of these rows, of the version's own, or seeded."""
    rows = rows or folder.reference(model.path)
    fixed = next((t.shape[0] for t in model.signature.inputs if t.shape and t.shape[0]), None)
    each = fixed or default_sizes(model.signature, 1).get(BATCH, 1)
    if rows is None:
        return [example(model.signature, each, seed=seed + number) for number in range(REQUESTS)]
    chosen = rows.sample(REQUESTS, seed)
    return [chosen.take(np.arange(first, first + each) % len(chosen)).inputs for first in range(0, len(chosen), each)]


def _source(model: Model, rows: Dataset | None) -> str:
    rows = rows or folder.reference(model.path)
    return rows.source if rows is not None else "made-up rows"


def setting(model: Model, tuned: ServeConfig | None, given: Mapping[str, Any]) -> ServeConfig:
    """The tuned setting, or the format's default, with what a person gave; another engine begins from its own defaults.

    One row at a time where the model's batch is fixed, and no more than its bounds allow. Raises Unsupported where no
    engine runs the format.
    """
    chosen = {key: value for key, value in given.items() if value is not None}
    config = tuned or engines.default_config(model.format)
    if chosen.get("engine", config.engine) != config.engine:
        config = ServeConfig(engine=chosen["engine"])
    config = replace(config, **chosen)
    if not model.signature.batched:
        if chosen.get("max_batch", 1) > 1:
            raise Unsupported(
                "requests to this model cannot share a run, for its batch is fixed; leave --max-batch out"
            )
        return replace(config, max_batch=1)
    return replace(config, max_batch=default_sizes(model.signature, config.max_batch).get(BATCH, 1))


def _memory(model: Model, opened: Opened, measured: dict[str, Any]) -> dict[str, Any]:
    """Bytes. ``model`` is what loading and warming up added; ``peak`` the most that a measured part had resident."""
    return {
        "model": opened.memory_after - opened.memory_before,
        "before": opened.memory_before,
        "peak": max(found["peak_memory"] for found in measured.values()),
        "disk": model.size,
    }


def _same_inputs(a: Subject, b: Subject) -> None:
    ours, theirs = ({(t.name, t.dtype, t.shape[1:]) for t in one.model.signature.inputs} for one in (a, b))
    if ours != theirs:
        told = " and ".join(
            f"{one.name} takes {', '.join(t.describe() for t in one.model.signature.inputs)}" for one in (a, b)
        )
        raise Wrong(f"{told}: the same requests cannot be sent to both")


def _unanswered(name: str, found: Measured) -> str:
    """How many requests got no answer, where none may be late either; empty where all did."""
    if name == "server" or not found.errors:  # a server's count against its promise
        return ""
    return (
        f"{found.errors:,} of {counted(found.errors + len(found.latencies), 'request')} got no answer: {found.trouble}"
    )


def _within(progress: Progress, place: int, steps: int, name: str) -> Callable[[float, float, str], None]:
    """Progress inside one step of several."""

    def tell(done: float, total: float, note: str) -> None:
        progress(place + (done / total if total else 0), steps, f"{name}: {note}")

    return tell
