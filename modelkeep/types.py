"""The nouns of modelkeep. Imports nothing above the standard library and numpy.

Shapes are tuples whose free dimensions are ``None``; the first free dimension of an input is its batch.
Times are seconds, sizes are bytes, shares are between 0 and 1.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from modelkeep.errors import BadInput, BadRef

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import numpy as np

    Array = np.ndarray[Any, np.dtype[Any]]
    Arrays = Mapping[str, Array]

_REF = re.compile(r"(?P<name>[A-Za-z0-9][A-Za-z0-9._-]{0,63})(?:@(?P<which>[0-9]{1,9}|[a-z][a-z0-9-]{0,31}))?")


@dataclass(frozen=True)
class Ref:
    """How people name a version: ``digits`` (live, else newest), ``digits@3``, ``digits@live``.

    ``@live``, ``@canary``, ``@shadow`` and ``@previous`` come from the route, ``@newest`` is the highest number;
    any other word is an alias that a person has set.
    """

    name: str
    which: str | int | None = None

    @classmethod
    def parse(cls, text: str) -> Ref:
        """Read a Ref as typed. Raises BadRef, with the grammar, for anything else."""
        found = _REF.fullmatch(text)
        if not found:
            raise BadRef(
                f"'{text}' does not name a model; write NAME, NAME@NUMBER or NAME@live (also @canary, @previous, "
                "@newest or an alias), NAME being letters, digits, '.', '_' and '-', 64 at most"
            )
        which = found["which"]
        return cls(found["name"], int(which) if which and which.isdigit() else which)

    def __str__(self) -> str:
        return self.name if self.which is None else f"{self.name}@{self.which}"


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output: numpy dtype name (``float32``, ``int64``, ``str``) and shape, ``None`` where free."""

    name: str
    dtype: str
    shape: tuple[int | None, ...]

    def describe(self) -> str:
        """``image float32 [?, 64]``: what an error message shows."""
        return f"{self.name} {self.dtype} [{', '.join('?' if d is None else str(d) for d in self.shape)}]"

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape fits, each free dimension taking any size."""
        return len(shape) == len(self.shape) and all(
            want is None or want == got for want, got in zip(self.shape, shape, strict=True)
        )


@dataclass(frozen=True)
class Signature:
    """What goes in and what comes out, in the model's own order."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]

    def to_json(self) -> dict[str, Any]:
        """A form that ``from_json`` reads back."""
        return asdict(self)

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Signature:
        """The Signature that ``to_json`` wrote."""

        def specs(rows: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(r["name"], r["dtype"], tuple(r["shape"])) for r in rows)

        return cls(specs(data["inputs"]), specs(data["outputs"]))

    @property
    def batched(self) -> bool:
        """Whether every input and output has a free first dimension, so that requests can share a run."""
        return all(t.shape and t.shape[0] is None for t in (*self.inputs, *self.outputs))

    def check(self, inputs: Arrays) -> None:
        """Refuse arrays that do not fit: BadInput names what was expected and what was given."""
        expected = {t.name: t for t in self.inputs}
        wanted = ", ".join(t.describe() for t in self.inputs)
        for name in inputs:
            if name not in expected:
                raise BadInput(f"no input is called '{name}'; the model takes {wanted}")
        for name, spec in expected.items():
            if name not in inputs:
                raise BadInput(f"input '{name}' is missing; the model takes {wanted}")
            array = inputs[name]
            given = "str" if array.dtype.kind in "OUS" else array.dtype.name
            if given != spec.dtype:
                raise BadInput(f"input '{name}' is {given}; the model takes {spec.describe()}")
            if not spec.accepts(array.shape):
                raise BadInput(f"input '{name}' has shape {list(array.shape)}; the model takes {spec.describe()}")
        batches = {name: inputs[name].shape[0] for name, spec in expected.items() if spec.shape[:1] == (None,)}
        if len(set(batches.values())) > 1:
            raise BadInput(f"the inputs differ in their number of rows: {batches}; give each the same")


@dataclass(frozen=True)
class Model:
    """A model on disk: a folder that ``model.json`` describes. See docs/architecture.md, 'A model on disk'.

    ``files`` are paths inside the folder; the first is the one that the format opens. ``labels`` are the names of the
    classes in the order of the output's last axis; ``options`` is what the format needs besides (a factory, say).
    """

    path: Path
    format: str
    signature: Signature
    files: tuple[str, ...]
    labels: tuple[str, ...] = ()
    options: Mapping[str, Any] = field(default_factory=dict)

    @property
    def main(self) -> Path:
        """The file (or folder) that the format opens."""
        return self.path / self.files[0]

    @property
    def size(self) -> int:
        """Bytes of the model's own files, without its reference rows."""
        return sum((self.path / f).stat().st_size for f in self.files)

    def moved(self, path: Path) -> Model:
        """The same model, in another folder."""
        return replace(self, path=path)


@dataclass(frozen=True)
class Report:
    """What a step, a benchmark or a comparison found: numbers with n, and the data used.

    ``ok`` is None where nothing was judged. ``why`` is one sentence a person can act on.
    """

    kind: str
    ok: bool | None
    why: str
    numbers: Mapping[str, Any] = field(default_factory=dict)
    data: str = ""

    def to_json(self) -> dict[str, Any]:
        """A form that ``Report(**data)`` reads back."""
        return asdict(self)


@dataclass(frozen=True)
class Version:
    """A Model that the registry remembers; immutable. ``made_by`` is the repr of the Step that made it."""

    name: str
    number: int
    digest: str
    model: Model
    parent: int | None
    made_by: str
    created: float
    reports: tuple[Report, ...] = ()

    @property
    def ref(self) -> str:
        """``name@number``."""
        return f"{self.name}@{self.number}"


@dataclass(frozen=True)
class ServeConfig:
    """How a version runs on one machine: what tune found, what serve runs. ``None`` leaves it to the engine.

    ``max_batch`` counts rows; ``max_wait`` is how long a batch may wait for company once a worker is free
    (0: never); ``workers`` is how many batches of one version run at a time.
    """

    engine: str = "onnxruntime"
    device: str = "cpu"
    precision: str | None = None
    threads: int | None = None
    workers: int = 1
    max_batch: int = 32
    max_wait: float = 0.0


@dataclass(frozen=True)
class Route:
    """Who should get a model's traffic: the desired state that every server follows.

    ``weight`` is the canary's share; ``revision`` grows by one with each write (compare-and-swap).
    """

    name: str
    live: int | None = None
    canary: int | None = None
    weight: float = 0.0
    shadow: int | None = None
    previous: int | None = None
    revision: int = 0

    @property
    def numbers(self) -> frozenset[int]:
        """The versions that a server must hold to follow this route."""
        return frozenset(n for n in (self.live, self.canary, self.shadow) if n is not None)


@dataclass(frozen=True)
class Request:
    """One question to a model. ``deadline`` is on time.monotonic()'s clock, or None; ``version`` pins one."""

    id: str
    model: str
    inputs: Arrays
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    deadline: float | None = None
    version: int | None = None


@dataclass(frozen=True)
class Reply:
    """Its answer, stamped with the version that gave it. ``timings`` are seconds by stage (queue, compute)."""

    id: str
    model: str
    version: int
    outputs: Arrays
    timings: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Finding:
    """Something that monitor noticed: ``kind`` (drift, quality, health, no-data), the evidence, and since when."""

    kind: str
    subject: str
    why: str
    evidence: Mapping[str, Any] = field(default_factory=dict)
    since: float | None = None

    def to_json(self) -> dict[str, Any]:
        """A form that ``Finding(**data)`` reads back."""
        return asdict(self)


@runtime_checkable
class Runner(Protocol):
    """A loaded model. ``run`` may be called from several threads at once."""

    signature: Signature

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """Arrays by input name to arrays by output name. Inputs are taken to fit ``signature``."""
        ...

    def close(self) -> None:
        """Give the memory back; calling it twice is harmless."""
        ...


@runtime_checkable
class Step(Protocol):
    """Turns a model folder into a new one. A frozen dataclass whose fields are its configuration."""

    def run(self, model: Model, into: Path) -> tuple[Model, tuple[Report, ...]]:
        """Write a complete model folder at ``into`` (which is empty) and say what was found.

        Raises a modelkeep error, leaving ``model`` untouched, where the result must not be kept.
        """
        ...
