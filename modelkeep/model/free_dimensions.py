"""Which dimensions of a model's inputs are free, and within which bounds: found by running it at other sizes.

A dimension that can be moved alone is free by itself; those of equal size that can only be moved together share a name;
one whose size is the sum of two others (an attention mask over a cache and new tokens) moves with either of them.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from modelkeep.errors import Unsupported
from modelkeep.types import BATCH, Bounds, Signature, TensorSpec, added

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

Run = Callable[["Arrays"], "Mapping[str, Array]"]
"""One run of the model; raises anything where it cannot take these sizes."""
STEPS = (1, 2, 4, 8, 16, 32, 64)
"""Multiples that a size may have to be of: what halving an image up to six times needs."""
LONGEST = 2048
"""Sequences are tried up to this length; a model that takes it is believed to take more."""
SECONDS = 60.0
"""Of each free dimension: after this, bounds that are not found yet stay at what was tried, its ends in any case."""
NUMBERED = re.compile(r"[su]\d+")
"""Names that torch.export numbers, whatever its caller called the dimension."""
WORDS = {2: ("sequence",), 3: ("sequence", "length"), 4: ("sequence", "height", "width")}
"""What the free dimensions after the batch are called, by the number of dimensions."""


class Place(NamedTuple):
    """One dimension of one input."""

    input: str
    axis: int


@dataclass(frozen=True)
class Free:
    """One free size: the places that have it, those that are longer than it by a fixed amount, and its bounds."""

    name: str
    places: tuple[Place, ...]
    longer: tuple[Place, ...]
    bounds: Bounds


def discover(
    run: Run, inputs: Arrays, signature: Signature, only: Mapping[str, Mapping[int, str | None]] | None = None
) -> Signature:
    """The signature with every dimension free that the model lets be free, named and bounded.

    ``inputs`` are two or more rows that the model takes; what is free in ``signature`` already stays as it is. With
    ``only`` (input → axis → name, or None) exactly those become free, and the batch only where it is listed:
    Unsupported names the first that the model does not let be free.
    """
    probe = _Probe(run, inputs, signature)
    known = [] if only is not None else list(_known(signature))
    wanted = _candidates(signature, inputs, only, known)
    found = [group for group in _groups(probe, wanted) if only is not None or not probe.ignores(group)]
    if only is not None:
        _all_there(probe, wanted, found)
    named = _named([probe.bounded(group) for group in found], signature, only, known)
    return _signature(probe, [*known, *named], only)


def raised(run: Run, inputs: Arrays, signature: Signature) -> Signature:
    """The signature with the smallest size that the model takes of each free dimension, besides the batch.

    For a file that says what is free and not from where on: a Keras network for pictures of any size that halves them
    twice cannot take three pixels. ``inputs`` are rows that the model takes. What answers NaN does not count as taken.
    """

    def told(arrays: Arrays) -> Mapping[str, Array]:
        answers = run(arrays)
        if any(answer.dtype.kind == "f" and np.isnan(answer).any() for answer in answers.values()):
            raise ValueError("it answers NaN")
        return answers

    probe, bounds = _Probe(told, inputs, signature), dict(signature.bounds)
    for free in _known(signature):
        size = probe.size(free.places[0]) if free.places else 0
        if size and probe.takes(free, size) and (low := probe.edge(free, size, free.bounds.low)) > free.bounds.low:
            bounds[free.name] = free.bounds._replace(low=low)
    return replace(signature, bounds=bounds)


def fix(signature: Signature, sizes: Mapping[str, int]) -> Signature:
    """The same signature with these free dimensions fixed, in sums too, at the sizes given by name."""

    def spec(one: TensorSpec) -> TensorSpec:
        shape, axes = list(one.shape), list(one.axes)
        for number, name in enumerate(one.axes):
            parts = name.split("+") if name else []
            if not any(part in sizes for part in parts):
                continue
            left = [part for part in parts if part not in sizes and not part.isdigit()]
            fixed = sum(sizes.get(part, 0) if part in sizes else int(part) for part in parts if part not in left)
            axes[number] = "+".join([*left, *([str(fixed)] if fixed else [])]) if left else None
            shape[number] = None if left else fixed
        return replace(one, shape=tuple(shape), axes=tuple(axes))

    bounds = {name: limits for name, limits in signature.bounds.items() if name not in sizes}
    return Signature(tuple(map(spec, signature.inputs)), tuple(map(spec, signature.outputs)), bounds)


def reworded(signature: Signature) -> Signature:
    """The same signature with words for the free dimensions that only have a number of torch.export's as a name."""
    known = [free for free in _known(signature) if free.places]
    numbered = [free for free in known if NUMBERED.fullmatch(free.name)]
    named = _named(numbered, signature, None, [free for free in known if free not in numbered])
    words = {old.name: new.name for old, new in zip(numbered, named, strict=True)}

    def spec(one: TensorSpec) -> TensorSpec:
        axes = (name and re.sub(r"\w+", lambda found: words.get(found[0], found[0]), name) for name in one.axes)
        return replace(one, axes=tuple(axes))

    bounds = {words.get(name, name): limits for name, limits in signature.bounds.items()}
    return Signature(tuple(map(spec, signature.inputs)), tuple(map(spec, signature.outputs)), bounds)


def _known(signature: Signature) -> Iterator[Free]:
    """What the signature itself says is free, apart from the batch."""
    for name in signature.free:
        if name != BATCH:
            places = [Place(t.name, axis) for t in signature.inputs for axis, n in enumerate(t.axes) if n == name]
            longer = [
                Place(t.name, axis)
                for t in signature.inputs
                for axis, n in enumerate(t.axes)
                if n and "+" in n and name in n.split("+")
            ]
            yield Free(name, tuple(places), tuple(longer), signature.bounds.get(name, Bounds()))


def _candidates(
    signature: Signature,
    inputs: Arrays,
    only: Mapping[str, Mapping[int, str | None]] | None,
    known: Sequence[Free],
) -> list[Place]:
    taken = {place for free in known for place in (*free.places, *free.longer)}
    found = []
    for spec in signature.inputs:
        for axis, size in enumerate(inputs[spec.name].shape):
            place = Place(spec.name, axis)
            counts_rows = axis == 0 and spec.axes[0] == BATCH
            asked = only is not None and axis in only.get(spec.name, {})
            if not counts_rows and place not in taken and (asked or (only is None and size > 1)):
                found.append(place)
    return found


@dataclass
class _Probe:
    """Runs at other sizes than the example's, and remembers what came of them."""

    run: Run
    inputs: Arrays
    signature: Signature
    started: float = field(default_factory=time.monotonic)
    seen: dict[frozenset[tuple[Place, int]], dict[str, tuple[int, ...]] | None] = field(default_factory=dict)
    reason: str = ""
    last: Mapping[str, Array] = field(default_factory=dict)

    def size(self, place: Place) -> int:
        """The example's."""
        return int(self.inputs[place.input].shape[place.axis])

    def shapes(self, moved: Mapping[Place, int], rows: int = 2) -> dict[str, tuple[int, ...]] | None:
        """The outputs' shapes where these places have these sizes; None where the model does not take them."""
        key = frozenset((*moved.items(), (Place("", 0), rows)))
        if key not in self.seen:
            self.seen[key] = self._shapes(moved, rows)
        return self.seen[key]

    def _shapes(self, moved: Mapping[Place, int], rows: int) -> dict[str, tuple[int, ...]] | None:
        arrays = {}
        for spec in self.signature.inputs:
            array = self.inputs[spec.name]
            for axis, size in enumerate(array.shape):
                first = axis == 0 and spec.axes[0] == BATCH
                want = rows if first else moved.get(Place(spec.name, axis), size)
                array = _resize(array, axis, want)
            arrays[spec.name] = array
        try:
            answers = self.run(arrays)
        except Exception as error:  # noqa: BLE001 - a person's forward may raise anything; it says no to these sizes
            self.reason = next(iter(str(error).strip().splitlines()), repr(error))
            return None
        for name, answer in answers.items():
            if self.signature.batched and answer.shape[:1] != (rows,):
                self.reason = f"it answers {rows} rows with '{name}' of shape {list(answer.shape)}"
                return None
        self.last = answers
        return {name: answer.shape for name, answer in answers.items()}

    def step(self, places: Sequence[Place], longer: Sequence[Place] = ()) -> int:
        """The smallest multiple by which the places can grow together, or 0."""
        sizes = {self.size(place) for place in places}
        for step in STEPS:
            if all(size % step == 0 for size in sizes) and self._grows(places, longer, step):
                return step
        return 0

    def _grows(self, places: Sequence[Place], longer: Sequence[Place], by: int) -> bool:
        return self.shapes({place: self.size(place) + by for place in (*places, *longer)}) is not None

    def ignores(self, free: Free) -> bool:
        """Whether what is added changes no answer at all: the model then takes more, and does not look at it.

        What is added is of the other row and, being floats, far larger: a maximum does not change by repetition. Twice
        the size is tried besides one step more, for layers without padding may drop the last pixel.
        """
        self._shapes({}, 2)
        usual, size = self.last, self.size(free.places[0])
        for larger in (size + free.bounds.step, 2 * size):
            more = self.moved(free, larger)
            for factor in (100, -100):
                grown = _Probe(self.run, {**self.inputs, **self._grown(more, factor)}, self.signature)
                if grown.shapes({}) is None:
                    return larger != size + free.bounds.step  # it takes a step more, and not twice the size
                if any(not np.array_equal(usual[name], answer) for name, answer in grown.last.items()):
                    return False
        return True

    def _grown(self, more: Mapping[Place, int], factor: int) -> dict[str, Array]:
        found: dict[str, Array] = {}
        for place, size in more.items():
            array = found.get(place.input, self.inputs[place.input])
            other = np.roll(array, 1, axis=0)
            filled = _resize(other * other.dtype.type(factor) if other.dtype.kind == "f" else other, place.axis, size)
            rest = np.take(filled, np.arange(array.shape[place.axis], size), axis=place.axis)
            found[place.input] = np.concatenate([array, rest], axis=place.axis)
        return found

    def takes(self, free: Free, size: int) -> bool:
        """Whether the model takes one row in which this free dimension has that size."""
        return self.shapes(self.moved(free, size), rows=1) is not None

    def moved(self, free: Free, size: int) -> dict[Place, int]:
        """The sizes of all of its places where it has that size."""
        by = size - self.size(free.places[0])
        return {place: self.size(place) + by for place in (*free.places, *free.longer)}

    def bounded(self, free: Free) -> Free:
        """With the smallest and the largest size that the model takes, as far as they are looked for."""
        size, step = self.size(free.places[0]), free.bounds.step
        self.started = time.monotonic()
        low = self.edge(free, size, 0 if _past(free) else step)
        highest = size * 2 if len(self.inputs[free.places[0].input].shape) > 3 and not _past(free) else LONGEST
        good, bad = size, None
        while good < highest and bad is None and (good == size or self._in_time()):
            more = min(good * 2, max(highest, size * 2)) // step * step
            good, bad = (more, None) if more > good and self.takes(free, more) else (good, more)
            if bad == good:
                break
        high = None if bad is None and good >= highest else self._between(free, good, bad or good)
        return replace(free, bounds=Bounds(low, high, step))

    def edge(self, free: Free, size: int, lowest: int) -> int:
        """The smallest size that is taken."""
        if lowest >= size or self.takes(free, lowest):
            return min(lowest, size)
        return self._between(free, size, lowest)

    def _between(self, free: Free, good: int, bad: int) -> int:
        """The size next to the first one that fails, between one that is taken and one that is not."""
        step = free.bounds.step
        while abs(good - bad) > step and self._in_time():
            middle = (good + bad) // (2 * step) * step
            if middle in (good, bad):
                break
            good, bad = (middle, bad) if self.takes(free, middle) else (good, middle)
        return good

    def _in_time(self) -> bool:
        return time.monotonic() - self.started < SECONDS


def _resize(array: Array, axis: int, size: int) -> Array:
    if array.shape[axis] == size:
        return array
    if not array.shape[axis]:
        array = np.zeros((*array.shape[:axis], 1, *array.shape[axis + 1 :]), array.dtype)
    found: Array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
    return found


def _groups(probe: _Probe, wanted: Sequence[Place]) -> Iterator[Free]:
    """Places that move: each alone, then those of one size together, then with the places that are longer."""
    taken: set[Place] = set()
    for size in dict.fromkeys(probe.size(place) for place in wanted):
        alike = [place for place in wanted if probe.size(place) == size and place not in taken]
        for places, longer in _attempts(probe, alike, wanted):
            if taken.isdisjoint(places) and (step := probe.step(places, longer)):
                taken.update(places, longer)
                yield Free("", places, longer, Bounds(step=step))


def _attempts(
    probe: _Probe, alike: Sequence[Place], wanted: Sequence[Place]
) -> Iterator[tuple[tuple[Place, ...], tuple[Place, ...]]]:
    if not alike:
        return
    for place in alike:
        yield (place,), ()
    sets = [tuple(alike)]
    kinds = {place: (place.axis, probe.inputs[place.input].ndim) for place in alike}
    sets += [tuple(p for p in alike if kinds[p] == kind) for kind in dict.fromkeys(kinds.values())]
    sizes = {probe.size(place) for place in wanted} | {1}
    size = probe.size(alike[0])
    longer = tuple(p for p in wanted if probe.size(p) - size in sizes)
    for places in dict.fromkeys(sets):
        if len(places) > 1:
            yield places, ()
        if longer:
            yield places, longer
            for place in longer if len(longer) > 1 else ():
                yield places, (place,)


def _all_there(probe: _Probe, wanted: Sequence[Place], found: Sequence[Free]) -> None:
    there = {place for free in found for place in (*free.places, *free.longer)}
    for place in wanted:
        if place not in there:
            size = probe.size(place)
            raise Unsupported(
                f"dimension {place.axis} of input '{place.input}' cannot be free: the model does not run at another "
                f"size than {size}, neither alone nor with the other dimensions of that size ({probe.reason})"
            )


def _named(
    found: Sequence[Free],
    signature: Signature,
    only: Mapping[str, Mapping[int, str | None]] | None,
    known: Sequence[Free],
) -> list[Free]:
    taken = {BATCH, *(free.name for free in known)}
    named = []
    for free in found:
        asked = [name for p in free.places if (name := (only or {}).get(p.input, {}).get(p.axis))]
        word = asked[0] if asked else _word(free, {t.name: t for t in signature.inputs})
        name = word if word not in taken else f"{free.places[0].input}_{word}"
        while name in taken:
            name += "_"
        taken.add(name)
        named.append(replace(free, name=name))
    return named


def _word(free: Free, specs: Mapping[str, TensorSpec]) -> str:
    first = free.places[0]
    spec = specs[first.input]
    if _past(free):
        return "past"
    if len(spec.shape) == 2 and spec.dtype.startswith("float"):
        return "features"
    words = WORDS.get(len(spec.shape), ())
    word = words[first.axis - 1] if 0 < first.axis <= len(words) else f"size_{first.axis}"
    return f"decoder_{word}" if all(place.input.startswith("decoder") for place in free.places) else word


def _past(free: Free) -> bool:
    return any(word in free.places[0].input for word in ("past", "cache"))


def _signature(probe: _Probe, found: Sequence[Free], only: Mapping[str, Mapping[int, str | None]] | None) -> Signature:
    names: dict[Place, list[str]] = {}
    for free in found:
        for place in (*free.places, *free.longer):
            names.setdefault(place, []).append(free.name)
    sizes = {free.name: probe.size(free.places[0]) for free in found}

    def axis(spec: TensorSpec, number: int, size: int) -> str | None:
        if number == 0 and spec.axes[0] == BATCH:
            return BATCH if only is None or any(0 in axes for axes in only.values()) else None
        parts = names.get(Place(spec.name, number), [])
        return _sum(parts, size, sizes) if parts else None

    inputs = []
    for spec in probe.signature.inputs:
        shape = probe.inputs[spec.name].shape
        axes = tuple(axis(spec, number, size) for number, size in enumerate(shape))
        inputs.append(replace(spec, shape=_shape(axes, shape), axes=axes))
    batch = only is None or any(0 in axes for axes in only.values())
    outputs = tuple(_output(probe, spec, found, sizes, batch=batch) for spec in probe.signature.outputs)
    bounds = {free.name: free.bounds for free in found if free.bounds != Bounds()}
    if batch and BATCH in probe.signature.bounds:
        bounds[BATCH] = probe.signature.bounds[BATCH]
    return Signature(tuple(inputs), outputs, bounds)


def _output(
    probe: _Probe, spec: TensorSpec, found: Sequence[Free], sizes: Mapping[str, int], *, batch: bool
) -> TensorSpec:
    """An output's dimensions, named by the free sizes that they grow with."""
    usual = (probe.shapes({}) or {}).get(spec.name)
    if usual is None:
        return spec
    axes: list[str | None] = [None] * len(usual)
    free = [False] * len(usual)
    grown = {one.name: _growth(probe, one, spec.name, usual) for one in found}
    for number, size in enumerate(usual):
        if number == 0 and spec.axes[0] == BATCH:
            axes[0], free[0] = (BATCH, True) if batch else (None, False)
            continue
        parts = [name for name, by in grown.items() if by and by[number] != "still"]
        free[number] = bool(parts)
        if parts and all(grown[name][number] == "alike" for name in parts):
            axes[number] = _sum(parts, size, sizes)
    shape = tuple(None if is_free else size for is_free, size in zip(free, usual, strict=True))
    return replace(spec, shape=shape, axes=tuple(axes))


def _growth(probe: _Probe, free: Free, output: str, usual: tuple[int, ...]) -> list[str]:
    """For each dimension of an output: does it stay still, grow alike with this size, or in another way?"""
    size, step = probe.size(free.places[0]), free.bounds.step
    seen = []
    for by in (step, 3 * step, -step):
        if free.bounds.allows(size + by) and (shapes := probe.shapes(probe.moved(free, size + by))):
            seen.append((by, shapes.get(output, ())))
    if any(len(shape) != len(usual) for _, shape in seen):
        return ["otherwise"] * len(usual)
    told = []
    for number, start in enumerate(usual):
        moves = [(by, shape[number] - start) for by, shape in seen]
        still = all(change == 0 for _, change in moves)
        told.append("still" if still else "alike" if all(by == change for by, change in moves) else "otherwise")
    return told


def _sum(parts: Sequence[str], size: int, sizes: Mapping[str, int]) -> str | None:
    """``past+sequence``, or ``past+1`` where something fixed is added; None where something is taken away."""
    name = "+".join(sorted(parts))
    rest = size - (added(name, sizes) or 0)
    return name if rest == 0 else f"{name}+{rest}" if rest > 0 else None


def _shape(axes: Sequence[str | None], shape: Sequence[int]) -> tuple[int | None, ...]:
    return tuple(size if name is None else None for name, size in zip(axes, shape, strict=True))
