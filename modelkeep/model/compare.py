"""Do two models give the same answers? On real rows where there are some, at several sizes, every output.

The rule is |b - a| ≤ atol + rtol·|a| for every element (numpy.testing.assert_allclose, torch.testing.assert_close),
and equality for whole numbers, truth values and text. A check that could not have failed does not pass.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.data.dataset import Dataset
from modelkeep.data.lengths import MASK
from modelkeep.errors import BadInput
from modelkeep.model import signature as signatures
from modelkeep.model.tally import TOLERANCES, Tally, Tolerance, noisy
from modelkeep.quantities import counted
from modelkeep.types import BATCH, Bounds, Report, Runner, Signature

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

CHUNK = 64
"""Rows a run, at most, once the given batch sizes have been tried."""
CHUNK_BYTES = 32_000_000
"""Bytes of answers a run, about; both models' answers are held in float64 while they are compared."""
MAX_ROWS = 4096
MAX_SECONDS = 120.0
"""After this no further rows are run, once SEEDED_ROWS have been."""
SEEDED_ROWS = 32


@dataclass(frozen=True)
class Trial:
    """Inputs for one run, and what they are, for a sentence. On ``edge`` rows the reference may fail."""

    what: str
    inputs: Arrays
    edge: bool = False
    counted: int = 0
    """How many rows of the data these are that no earlier trial had."""


def compare(
    a: Runner,
    b: Runner,
    rows: Dataset | None,
    *,
    batches: Sequence[int] = (1, 2, 7),
    precision: str = "float32",
    atol: float | None = None,
    rtol: float | None = None,
    seed: int = 0,
) -> Report:
    """Whether ``b`` answers as ``a``, the reference, does. Report(kind="compare") with ok, and why in one sentence.

    Numbers: n (different rows), undecided (whether it failed for a fault of the reference or its rows), batches, sizes
    (tried, by dimension), edges, skipped (where the reference itself fails), atol, rtol, precision; max_abs, max_rel,
    p50_abs, p99_abs, noise, cosine, divergence (nats) and top1_agreement, the worst of all outputs (None where no
    output is a row of scores); constant (outputs of ``a`` that are the same for every row); outputs (the same numbers
    by name, each with its n of elements).
    """
    rule = rule_for(precision, atol, rtol)
    return judge(a, b, rows, batches=batches, rule=rule, precision=precision, signature=a.signature, seed=seed)[0]


def judge(
    a: Runner,
    b: Runner,
    rows: Dataset | None,
    *,
    batches: Sequence[int],
    rule: Tolerance,
    precision: str,
    signature: Signature,
    precise: Runner | None = None,
    seed: int = 0,
    progress: Callable[[float, float, str], None] | None = None,
) -> tuple[Report, Trial | None]:
    """What ``compare`` says, and the inputs on which a difference was seen, where one was.

    ``signature`` says which dimensions are free; each is tried at its smallest size, at one in the middle and at a
    larger one. ``precise`` is the reference in higher precision, which shows its noise.
    """
    sample = rows.sample(MAX_ROWS, seed) if rows else None
    plan = _Plan(signature, sample, tuple(batches), seed, scaled=rule.within == 1.0)
    work = _Work(a, b, Tally(rule, _scored(signature)), precise)
    why = _same_names(a.signature, b.signature) or work.run(plan, progress)
    data = f"{counted(work.n, 'row')} of {rows.source}" if rows else f"{plan.count} seeded random rows (seed {seed})"
    why = why or work.tally.verdict()
    if not why:
        why = work.tally.cannot_tell(work.n)
        work.undecided = bool(why)
    numbers = {
        "n": work.n,
        "undecided": work.undecided,
        "batches": list(plan.batches),
        "sizes": plan.sizes,
        "edges": work.edges,
        "skipped": work.skipped,
        "precision": precision,
        "atol": rule.atol,
        "rtol": rule.rtol,
        **work.tally.numbers(),
    }
    return Report("compare", not why, why or work.tally.praise(data), numbers, data), work.last if why else None


def answers(pairs: Iterable[tuple[Arrays, Arrays]], *, atol: float = 1e-4, rtol: float = 1e-3) -> Report:
    """Whether in each pair the second holds the answers of the first, by the rule above. Report(kind="compare").

    For answers that are there already; n is how many pairs were looked at, up to the first that differs. Unlike
    ``compare`` it does not ask that the answers tell the rows apart.
    """
    tally, n, why = Tally(rule_for("float32", atol, rtol)), 0, ""
    for want, got in pairs:
        n += 1
        tally.scored = frozenset(name for name, answer in want.items() if answer.ndim == 2)
        missing = [name for name in want if name not in got]
        why = f"output '{missing[0]}' is missing" if missing else ""
        for name, answer in want.items():
            why = why or tally.check(name, answer, got[name], counted(len(answer) if answer.ndim else 1, "row"))
        if why:
            break
    why = why or ("" if n else "there are no answers to compare")
    numbers = {"n": n, "atol": atol, "rtol": rtol, **tally.numbers()}
    data = counted(n, "request")
    return Report("compare", not why, why or tally.praise(data), numbers, data)


def rule_for(precision: str, atol: float | None = None, rtol: float | None = None) -> Tolerance:
    """The usual rule for that precision; a looser one that was asked for judges elements and classes alone."""
    usual = TOLERANCES[precision]
    rule = usual._replace(atol=usual.atol if atol is None else atol, rtol=usual.rtol if rtol is None else rtol)
    if rule.atol > usual.atol or rule.rtol > usual.rtol:
        rule = rule._replace(cosine=-1.0, divergence=None)
    return rule


@dataclass
class _Work:
    """Runs the trials one after the other, until one shows a difference."""

    a: Runner
    b: Runner
    tally: Tally
    precise: Runner | None
    n: int = 0
    edges: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    last: Trial | None = None
    undecided: bool = False
    """Whether what is wrong is the reference's or its rows' fault."""

    def run(self, plan: _Plan, progress: Callable[[float, float, str], None] | None) -> str:
        """What is wrong, or nothing."""
        started = time.monotonic()
        for trial in plan.trials(self._rows_a_run):
            late = time.monotonic() - started > MAX_SECONDS and self.n >= SEEDED_ROWS
            if late and trial.counted:
                break
            if progress:
                progress(self.n, plan.count, f"comparing {trial.what}")
            why = (self._steady(trial) if self.last is None else "") or self._one(trial)
            self.last = trial
            if why:
                return why
            self.n += trial.counted
        return ""

    _bytes_a_row: float = 1.0

    def _rows_a_run(self) -> int:
        return int(max(1, min(CHUNK, CHUNK_BYTES / self._bytes_a_row)))

    def _steady(self, trial: Trial) -> str:
        """The reference must agree with itself; how far it does is its noise."""
        try:
            want, again = self.a.run(trial.inputs), self.a.run(trial.inputs)
        except BadInput as error:
            self.undecided = True
            return f"the reference itself fails on {trial.what} ({error}); give rows that it can answer"
        if noisy(want, again, self.tally.rule):
            self.undecided = True
            return "the reference gives different answers to the same rows, so nothing can be compared with it"
        for name, answer in want.items():
            self.tally.heard(name, answer, again[name])
        return ""

    def _matters(self, want: Arrays, got: Arrays) -> bool:
        """Whether the reference's noise can change the verdict: on the first rows, and where anything differs by more
        than the absolute tolerance. Later rows of sizes that were tried would show the same noise again.
        """
        return self.last is None or noisy(want, got, self.tally.rule._replace(rtol=0.0))

    def _noise(self, trial: Trial, want: Arrays) -> None:
        """Of rows in company against the first of them alone, and against higher precision: several runs more."""
        if self.tally.rule.within < 1.0:
            return
        rows = len(next(iter(trial.inputs.values()))) if self.a.signature.batched else 0
        try:
            if rows > 1:
                alone = self.a.run({name: array[:1] for name, array in trial.inputs.items()})
                for name, answer in alone.items():
                    self.tally.heard(name, want[name][:1], answer)
            if self.precise:
                for name, answer in self.precise.run(trial.inputs).items():
                    self.tally.heard(name, want[name], answer)
        except BadInput:  # a module that will not run in float64, or not on one row
            self.precise = None

    def _one(self, trial: Trial) -> str:
        """One run of both."""
        try:
            want = self.a.run(trial.inputs)
        except BadInput as error:
            if trial.edge:
                perhaps = any(what in trial.what for what in PERHAPS)
                self.skipped += [] if perhaps else [f"{trial.what}: the reference fails ({error})"]
                return ""
            self.undecided = True
            return f"the reference itself fails on {trial.what} ({error}); give rows that it can answer"
        if trial.edge and any(_nan(answer) for answer in want.values()):
            self.skipped.append(f"{trial.what}: the reference answers NaN")
            return ""
        try:
            got = self.b.run(trial.inputs)
        except BadInput as error:
            return f"at {trial.what} the new model fails: {error}"
        if not (trial.counted and self.n) and self._matters(want, got):
            self._noise(trial, want)
        self._bytes_a_row = sum(8 * x.size for x in want.values()) / max(1, len(next(iter(trial.inputs.values()), [0])))
        if trial.edge:
            self.edges.append(trial.what)
        faults = (
            self.tally.check(name, answer, got[name], trial.what, usual=not trial.edge) for name, answer in want.items()
        )
        fault = next((fault for fault in faults if fault), "")
        self.undecided = bool(fault) and any(_nan(answer) for answer in want.values())
        return fault


@dataclass
class _Plan:
    """The trials in their order: batch sizes, other sizes of the free dimensions, edge rows, then all of the rows."""

    signature: Signature
    rows: Dataset | None
    batches: tuple[int, ...]
    seed: int
    scaled: bool = True
    """Whether rows of other magnitudes are tried: half precision may well fail there alone."""
    sizes: dict[str, list[int]] = field(default_factory=dict)

    def __post_init__(self) -> None:
        firsts = {t.shape[0] if t.shape else 0 for t in self.signature.inputs}
        self.batched = firsts == {None} and all(t.axes[0] == BATCH for t in self.signature.inputs)
        self.fixed = next(iter(firsts)) if len(firsts) == 1 and None not in firsts and 0 not in firsts else 0
        limits = self.signature.bounds.get(BATCH, Bounds())
        self.batches = tuple(n for n in self.batches if limits.allows(n)) if self.batched else ()
        self.count = len(self.rows) if self.rows else SEEDED_ROWS
        self.pool = self.rows.inputs if self.rows else signatures.example(self.signature, SEEDED_ROWS, self.seed)

    def trials(self, rows_a_run: Callable[[], int]) -> Iterator[Trial]:
        """Every trial; ``rows_a_run`` is asked before each run of the last part."""
        for count in self.batches:
            yield Trial(counted(count, "row"), self._first(count))
        if not self.batched:
            yield from self._unbatched()
            return
        two = self._first(_allowed_batch(self.signature))
        yield from self._other_sizes(two)
        for what, change in {**EDGES, **(SCALED if self.scaled else {})}.items():
            if (inputs := change(self.signature, two, self.pool)) is not None:
                yield Trial(f"rows of {what}", inputs, edge=True)
        start = 0
        while start < self.count:
            step = self._step(rows_a_run())
            part = {name: array[start : start + step] for name, array in self.pool.items()}
            yield Trial(counted(min(step, self.count - start), "row"), part, counted=min(step, self.count - start))
            start += step

    def _step(self, wanted: int) -> int:
        limits = self.signature.bounds.get(BATCH, Bounds())
        return min(wanted, limits.high or wanted)

    def _first(self, count: int) -> Arrays:
        """That many rows, from the first on; repeated where there are too few."""
        return {name: array[np.arange(count) % len(array)] for name, array in self.pool.items()}

    def _unbatched(self) -> Iterator[Trial]:
        """A batch that is baked in is run as often as the rows last; without rows, on several seeded examples."""
        if self.rows and self.fixed:
            yield Trial(counted(self.fixed, "row"), first := self._first(self.fixed))
            yield from self._other_sizes(first)
            for start in range(0, self.count - self.fixed + 1, self.fixed):
                part = {name: array[start : start + self.fixed] for name, array in self.pool.items()}
                yield Trial(counted(self.fixed, "row"), part, counted=self.fixed)
        else:
            for number in range(8):
                made = self.pool if self.rows else signatures.example(self.signature, 2, self.seed + number)
                yield Trial(f"example {number + 1}", made, counted=self.count // 8)
            yield from self._other_sizes(made)

    def _other_sizes(self, two: Arrays) -> Iterator[Trial]:
        """Each free dimension alone at other sizes than the rows have, then all of them at their largest."""
        usual = self.signature.sizes({name: array.shape for name, array in two.items()})
        few = counted(next((len(array) for array in two.values() if array.ndim), 1), "row")
        larger = {}
        for name in self.signature.free:
            if name == BATCH:
                continue
            self.sizes[name] = other_sizes(usual[name], self.signature.bounds.get(name, Bounds()))
            for size in self.sizes[name]:
                yield Trial(f"{few} of {name} {size}", signatures.resized(self.signature, two, {**usual, name: size}))
            larger[name] = max([usual[name], *self.sizes[name]])
        if len(larger) > 1:
            told = ", ".join(f"{name} {size}" for name, size in larger.items())
            together = signatures.resized(self.signature, two, {**usual, **larger})
            yield Trial(f"{few} of {told}", together, edge=True)  # each is allowed; their sum need not be


def other_sizes(usual: int, bounds: Bounds) -> list[int]:
    """The smallest, one in the middle and a larger size (the largest, where that is near), none of them ``usual``."""
    low, high, step = bounds
    high = min(high, 4 * usual) if high is not None and high > usual else high or 2 * max(usual, 2 * step)
    middle = (low + min(usual, high)) // (2 * step) * step
    sizes = {max(low, 0), middle, high // step * step, (usual + step) if bounds.allows(usual + step) else low}
    return sorted(size for size in sizes if size != usual and bounds.allows(size))


def _filled(value: float) -> Callable[[Signature, Arrays, Arrays], Arrays | None]:
    def change(signature: Signature, two: Arrays, _: Arrays) -> Arrays | None:
        return _changed(signature, two, lambda array, pool: np.full_like(array, value), two)

    return change


def _extreme(pick: Callable[..., Array]) -> Callable[[Signature, Arrays, Arrays], Arrays | None]:
    def change(signature: Signature, two: Arrays, pool: Arrays) -> Arrays | None:
        return _changed(signature, two, lambda array, all_rows: np.broadcast_to(pick(all_rows), array.shape), pool)

    return change


def _scaled(factor: float) -> Callable[[Signature, Arrays, Arrays], Arrays | None]:
    """Small numbers show what is added to a variance."""

    def change(signature: Signature, two: Arrays, _: Arrays) -> Arrays | None:
        wide = {n: a * a.dtype.type(factor) for n, a in two.items() if a.dtype.kind == "f" and MASK not in n}
        return {**two, **wide} if wide else None

    return change


def _padded(signature: Signature, two: Arrays, pool: Arrays) -> Arrays | None:
    """The second half of every sequence masked out: of what is called a mask, or is 1 all over in all rows."""
    masks = [
        name
        for name, array in two.items()
        if array.ndim == 2 and array.dtype.kind in "biuf" and (MASK in name or bool((pool[name] == 1).all()))
    ]
    if not masks:
        return None
    made = dict(two)
    for name in masks:
        kept = max(1, two[name].shape[1] // 2)
        made[name] = np.where(np.arange(two[name].shape[1]) < kept, 1, 0).astype(two[name].dtype) + np.zeros_like(
            two[name]
        )
    return made


def _large(value: int) -> Callable[[Signature, Arrays, Arrays], Arrays | None]:
    def change(signature: Signature, two: Arrays, _: Arrays) -> Arrays | None:
        ids = [n for n, a in two.items() if a.dtype.kind in "iu" and a.itemsize > 2 and not _is_mask(n, a)]
        return {**two, **{name: two[name] + two[name].dtype.type(value) for name in ids}} if ids else None

    return change


EDGES: dict[str, Callable[[Signature, Arrays, Arrays], Arrays | None]] = {
    "zeros": _filled(0),
    "ones": _filled(1),
    "the smallest values": _extreme(np.min),
    "the largest values": _extreme(np.max),
    "padding in their second half": _padded,
    "ids above 255": _large(256),
    "ids above 65,535": _large(65_536),
}
"""Each gives extreme inputs of the same shapes, or None where there is nothing to change."""
SCALED = {"a thousandth of their values": _scaled(1e-3)}
"""More of them, for models in full precision. Ten times the values are none: deep networks multiply rounding there."""
PERHAPS = ("ids above",)
"""Edge rows that few models can answer; that one cannot is not worth a word."""


def _changed(signature: Signature, two: Arrays, change: Callable[[Array, Array], Array], pool: Arrays) -> Arrays | None:
    """Every input changed but text and masks: a mask of zeros leaves nothing to answer."""
    kept = {t.name for t in signature.inputs if t.dtype == "str" or _is_mask(t.name, two[t.name])}
    kept |= {name for name, array in pool.items() if not array.size}
    if len(kept) == len(two):
        return None
    return {
        name: array if name in kept else np.ascontiguousarray(change(array, pool[name])).astype(array.dtype)
        for name, array in two.items()
    }


def _is_mask(name: str, array: Array) -> bool:
    return MASK in name and array.dtype.kind in "biu"


def _allowed_batch(signature: Signature) -> int:
    return 2 if signature.bounds.get(BATCH, Bounds()).allows(2) else 1


def _scored(signature: Signature) -> frozenset[str]:
    """Outputs of floats whose last dimension is fixed: rows of scores, as far as a shape can tell."""
    return frozenset(
        t.name
        for t in signature.outputs
        if t.dtype.startswith("float") and len(t.shape) > 1 and t.shape[-1] is not None
    )


def _same_names(a: Signature, b: Signature) -> str:
    for what, ours, theirs in (("inputs", a.inputs, b.inputs), ("outputs", a.outputs, b.outputs)):
        if {t.name for t in ours} != {t.name for t in theirs}:
            names = [", ".join(t.name for t in specs) for specs in (theirs, ours)]
            return f"the {what} are {names[0]} instead of {names[1]}"
    return ""


def _nan(array: Array) -> bool:
    return array.dtype.kind in "fc" and bool(np.isnan(array).any())
