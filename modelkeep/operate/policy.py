"""The policy file: what the loop may do, and what it must keep. See docs/operate.md for an example."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field, fields
from math import isfinite
from pathlib import Path
from typing import Any

from modelkeep.errors import BadRef, BadSettings
from modelkeep.monitor.limits import Limits
from modelkeep.rollout.canary import Canary
from modelkeep.types import Ref
from modelkeep.update import METHODS


@dataclass(frozen=True)
class Watching:
    """When to look, and what counts (monitor's Limits). Times are seconds, shares between 0 and 1; None leaves a check
    out, or to the settings. Raises BadSettings for what cannot be.
    """

    every: float = 5.0
    tolerance: float | None = None
    false_alarm_every: float | None = None
    min_accuracy: float | None = None
    max_error: float | None = None
    p99: float | None = None
    slo: float | None = None
    silence: float | None = None
    slices: tuple[str, ...] = ()
    ignore: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        if not self.every > 0:
            raise BadSettings(f"every is {self.every!r}; give seconds, more than 0")
        Limits(**self.limits())

    def limits(self) -> dict[str, Any]:
        """What monitor takes."""
        given = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "every"}
        return {key: value for key, value in given.items() if value not in (None, ())}


@dataclass(frozen=True)
class Updating:
    """How to learn: an update waits for ``min_labels`` labelled requests since the change. Raises BadSettings for a
    method that is none, and for transfer: new classes have names, and clients that must know of them.
    """

    method: str = "finetune"
    min_labels: int = 200
    max_labels: int = 20_000
    epochs: int | None = None
    lr: float | None = None
    replay: float | None = None
    max_forgetting: float | None = None

    def __post_init__(self) -> None:
        if self.method == "transfer":
            raise BadSettings(
                "method = 'transfer' changes what clients are answered, and its new classes must be named, so it is "
                'for a person: modelkeep update NAME --method transfer --classes A,B,…; here write method = "finetune"'
            )
        if self.method not in METHODS:
            raise BadSettings(f"method = {self.method!r} is no way to update; there is: finetune")

    def options(self) -> dict[str, Any]:
        """What update takes."""
        given = {"epochs": self.epochs, "lr": self.lr, "replay": self.replay, "max_forgetting": self.max_forgetting}
        return {key: value for key, value in given.items() if value is not None}


@dataclass(frozen=True)
class Rolling:
    """How to roll out; see modelkeep rollout."""

    steps: tuple[float, ...] = (0.1, 0.5)
    tolerance: float = 0.05
    alpha: float = 0.01
    max_seconds: float = 600.0
    needs_labels: bool = True


@dataclass(frozen=True)
class Spending:
    """What the loop may spend: updates a day, seconds between two, and failures in a row before it asks a person."""

    updates_per_day: int = 4
    cooldown: float = 3600.0
    failures: int = 3


@dataclass(frozen=True)
class Policy:
    """One model's policy. Raises BadSettings for one whose canaries could not be judged, before any is made."""

    model: str
    watch: Watching = field(default_factory=Watching)
    update: Updating = field(default_factory=Updating)
    rollout: Rolling = field(default_factory=Rolling)
    budget: Spending = field(default_factory=Spending)

    def __post_init__(self) -> None:
        self.canary()

    def canary(self) -> Canary:
        """How an updated version is rolled out."""
        return Canary(
            steps=self.rollout.steps,
            tolerance=self.rollout.tolerance,
            alpha=self.rollout.alpha,
            max_seconds=self.rollout.max_seconds,
            p99=self.watch.p99,
            needs_labels=self.rollout.needs_labels,
            min_accuracy=self.watch.min_accuracy,
            max_error=self.watch.max_error,
        )


SECTIONS: dict[str, type] = {"watch": Watching, "update": Updating, "rollout": Rolling, "budget": Spending}


def read(path: Path) -> Policy:
    """The Policy in a TOML file. Raises BadSettings that names the file, the section and the key."""
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadSettings(f"there is no policy file {path}; docs/operate.md has one to start from") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, OSError) as error:
        raise BadSettings(f"{path} is not a policy in TOML: {error}") from error
    model = table.pop("model", None)
    if not isinstance(model, str):
        raise BadSettings(f'{path} names no model; begin it with: model = "NAME"')
    try:
        Ref.parse(model)
    except BadRef as error:
        raise BadSettings(f"{path}: {error}") from error
    if unknown := set(table) - set(SECTIONS):
        raise BadSettings(f"{path} has [{sorted(unknown)[0]}], which is no section; there are: {', '.join(SECTIONS)}")
    sections = {name: _section(path, name, rows) for name, rows in table.items()}
    try:
        return Policy(model, **sections)
    except BadSettings as error:
        raise BadSettings(f"{path}: {error}") from error


def _section(path: Path, name: str, rows: Any) -> Any:
    kind = SECTIONS[name]
    known = {f.name: f for f in fields(kind)}
    if not isinstance(rows, dict):
        raise BadSettings(f"{path}: '{name}' must be a section: [{name}]")
    for key, value in rows.items():
        if key not in known:
            raise BadSettings(f"{path}: [{name}] has no '{key}'; there are: {', '.join(known)}")
        if not _fits(known[key].type, value):
            raise BadSettings(f"{path}: [{name}] {key} = {value!r} must be {_wanted(known[key].type)}")
        if not isinstance(value, bool | str | list) and value < 0:
            raise BadSettings(f"{path}: [{name}] {key} = {value!r} must not be negative")
    given = {key: tuple(value) if isinstance(value, list) else value for key, value in rows.items()}
    try:
        return kind(**given)
    except BadSettings as error:
        raise BadSettings(f"{path}: [{name}] {error}") from error


KINDS = {
    "float": "a number",
    "int": "a whole number",
    "str": "a text",
    "bool": "true or false",
    "tuple[str": "a list of texts",
    "tuple[float": "a list of shares between 0 and 1, such as [0.1, 0.5]",
}
"""What a field's annotation, by its beginning, asks of a person."""


def _wanted(annotation: Any) -> str:
    return next(told for kind, told in KINDS.items() if str(annotation).startswith(kind))


def _fits(annotation: Any, value: Any) -> bool:
    """Whether a TOML value is of the kind that a field's annotation (a string) names."""
    kinds = {"float": (int, float), "int": (int,), "str": (str,), "bool": (bool,), "tuple": (list,)}
    wanted = next(kind for name, kind in kinds.items() if str(annotation).startswith(name))
    if isinstance(value, bool) and bool not in wanted:
        return False
    if isinstance(value, list) and "str" in str(annotation):
        return list in wanted and all(isinstance(v, str) for v in value)
    if isinstance(value, list):
        return list in wanted and all(isinstance(v, int | float) and 0 < v < 1 for v in value) and bool(value)
    if isinstance(value, float) and not isfinite(value):
        return False
    return isinstance(value, wanted)
