"""The nouns of modelkeep. Imports nothing above the standard library and numpy.

Shapes are tuples whose free dimensions are ``None``; a free first dimension is the batch unless it is named otherwise.
Times are seconds, sizes are bytes, shares are between 0 and 1.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol, runtime_checkable

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


BATCH = "batch"
"""The name of the free dimension that counts rows."""


@dataclass(frozen=True)
class TensorSpec:
    """One named input or output: numpy dtype name (``float32``, ``int64``, ``str``) and shape, ``None`` where free.

    ``axes`` names each free dimension and is None for a fixed one: equal names are equal sizes, over all inputs and
    outputs. A name may be a sum, such as ``past+sequence`` or ``past+1``. A free dimension that was given no name is
    called ``batch`` where it is the first, and else by its place (``image.2``), which no other dimension shares.
    """

    name: str
    dtype: str
    shape: tuple[int | None, ...]
    axes: tuple[str | None, ...] = ()

    def __post_init__(self) -> None:
        given = self.axes or (None,) * len(self.shape)
        if len(given) != len(self.shape):
            raise ValueError(f"{self.name} has {len(self.shape)} dimensions and {len(given)} names of them")
        names = (
            None if size is not None else (name or (f"{self.name}.{axis}" if axis else BATCH))
            for axis, (size, name) in enumerate(zip(self.shape, given, strict=True))
        )
        object.__setattr__(self, "axes", tuple(names))

    def describe(self) -> str:
        """``image float32 [batch, 64]``: ``?`` stands for a free dimension without a name."""
        own = f"{self.name}."
        told = ("?" if name and name.startswith(own) else name for name in self.axes)
        sizes = (name if size is None else str(size) for size, name in zip(self.shape, told, strict=True))
        return f"{self.name} {self.dtype} [{', '.join(map(str, sizes))}]"

    def accepts(self, shape: Sequence[int]) -> bool:
        """Whether an array of this shape fits, each free dimension taking any size."""
        return len(shape) == len(self.shape) and all(
            want is None or want == got for want, got in zip(self.shape, shape, strict=True)
        )


class Bounds(NamedTuple):
    """The sizes that a free dimension may have: ``low`` to ``high`` (None: any), multiples of ``step`` only."""

    low: int = 1
    high: int | None = None
    step: int = 1

    def allows(self, size: int) -> bool:
        """Whether this size is one of them."""
        return size >= self.low and (self.high is None or size <= self.high) and size % self.step == 0

    def describe(self) -> str:
        """``1 to 512``, ``32 or more, in multiples of 32``: what an error message shows."""
        told = f"{self.low} or more" if self.high is None else f"{self.low} to {self.high}"
        return told if self.step == 1 else f"{told}, in multiples of {self.step}"


@dataclass(frozen=True)
class Signature:
    """What goes in and what comes out, in the model's own order. ``bounds`` are of free dimensions, by name."""

    inputs: tuple[TensorSpec, ...]
    outputs: tuple[TensorSpec, ...]
    bounds: Mapping[str, Bounds] = field(default_factory=dict, hash=False)

    def to_json(self) -> dict[str, Any]:
        """A form that ``from_json`` reads back, of JSON's own kinds: strict writers take no named tuple for a list."""
        return {**asdict(self), "bounds": {name: list(bounds) for name, bounds in self.bounds.items()}}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Signature:
        """The Signature that ``to_json`` wrote, now or before dimensions had names and bounds."""

        def specs(rows: Sequence[Mapping[str, Any]]) -> tuple[TensorSpec, ...]:
            return tuple(TensorSpec(r["name"], r["dtype"], tuple(r["shape"]), tuple(r.get("axes", ()))) for r in rows)

        bounds = {str(name): Bounds(*values) for name, values in data.get("bounds", {}).items()}
        return cls(specs(data["inputs"]), specs(data["outputs"]), bounds)

    @property
    def batched(self) -> bool:
        """Whether every input and output has the batch as its first dimension, so that requests can share a run."""
        return all(t.axes[:1] == (BATCH,) for t in (*self.inputs, *self.outputs))

    @property
    def free(self) -> tuple[str, ...]:
        """The names of the inputs' free dimensions, each once; sums are not among them, being given by their parts."""
        names = (name for t in self.inputs for name in t.axes if name and "+" not in name)
        return tuple(dict.fromkeys(names))

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
        self.sizes({name: array.shape for name, array in inputs.items()})

    def sizes(self, shapes: Mapping[str, Sequence[int]]) -> dict[str, int]:
        """The size of each free dimension, by name, that inputs of these shapes (by input name) give.

        Raises BadInput where dimensions of one name differ, a sum is not one, or a size is out of its bounds.
        """
        seen = [
            (name, size, t.name)
            for t in self.inputs
            if t.name in shapes
            for name, size in zip(t.axes, shapes[t.name], strict=True)
            if name
        ]
        found: dict[str, int] = {}
        for name, size, whose in seen:
            if "+" not in name and found.setdefault(name, size) != size:
                raise BadInput(self._unequal(name, {w: s for n, s, w in seen if n == name}, whose))
        for name, size, whose in seen:
            if "+" in name and (total := added(name, found)) not in (None, size):
                parts = ", ".join(f"{part} {found[part]}" for part in name.split("+") if part in found)
                raise BadInput(f"a dimension of input '{whose}' is {size}; it must be {name} = {total} ({parts})")
        for name, size in found.items():
            if name in self.bounds and not self.bounds[name].allows(size):
                raise BadInput(f"'{name}' is {size}; the model takes {self.bounds[name].describe()}")
        return found

    def _unequal(self, name: str, sizes: Mapping[str, int], whose: str) -> str:
        if name == BATCH:
            return f"the inputs differ in their number of rows: {dict(sizes)}; give each the same"
        return f"'{name}' must be the same in every input, and input '{whose}' differs: {dict(sizes)}"


def added(name: str, sizes: Mapping[str, int]) -> int | None:
    """The size of a dimension of this name: ``past+1`` with past 6 is 7. None where a part is not known."""
    parts = [int(part) if part.isdigit() else sizes.get(part) for part in name.split("+")]
    known = [part for part in parts if part is not None]
    return sum(known) if len(known) == len(parts) else None


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
    (0: never); ``workers`` is how many batches of one version run at a time, each in a process of its own, unless
    ``in_process`` has them be threads of the server. A run of more than ``run_timeout`` seconds counts as hung.
    Requests that would take longer than ``p99`` seconds, as things are, are refused, so that the others keep it.
    """

    engine: str = "onnxruntime"
    device: str = "cpu"
    precision: str | None = None
    threads: int | None = None
    workers: int = 1
    max_batch: int = 32
    max_wait: float = 0.0
    in_process: bool = False
    run_timeout: float = 10.0
    p99: float | None = None


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


@dataclass(slots=True)
class Request:
    """One question to a model. ``deadline`` is on time.monotonic()'s clock, or None; ``version`` pins one; ``trace`` is
    the client's traceparent (W3C Trace Context), where it has one. Nobody changes it; a frozen one would take four
    times as long to make, which shows between the answers of a busy server.
    """

    id: str
    model: str
    inputs: Arrays
    parameters: Mapping[str, Any] = field(default_factory=dict)
    outputs: tuple[str, ...] = ()
    deadline: float | None = None
    version: int | None = None
    trace: str = ""


@dataclass(slots=True)
class Reply:
    """Its answer, stamped with the version that gave it. ``timings`` are seconds by stage: queue and compute,
    or cache where the answer was known. Nobody changes it.
    """

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
