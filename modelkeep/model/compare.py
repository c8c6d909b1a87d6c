"""Do two models give the same answers? On real rows where there are some, at several batch sizes, every output.

The rule is |b - a| ≤ atol + rtol·|a| for every element (numpy.testing.assert_allclose, torch.testing.assert_close),
and equality for whole numbers, truth values and text. A check that could not have failed does not pass.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadInput
from modelkeep.model import signature as signatures
from modelkeep.types import Report, Runner, Signature

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays


class Tolerance(NamedTuple):
    """|b - a| ≤ atol + rtol·|a|."""

    atol: float
    rtol: float


TOLERANCES = {
    "float32": Tolerance(1e-4, 1e-3),
    "float16": Tolerance(5e-3, 5e-3),
    "bfloat16": Tolerance(5e-2, 2e-2),
}
"""What a model may differ by from its float32 reference, by the precision of its weights."""
CHUNK = 64
"""Rows a run once the given batch sizes have been tried."""
MAX_ROWS = 4096
SEEDED_ROWS = 32


def compare(
    a: Runner,
    b: Runner,
    rows: Dataset | None,
    *,
    batches: Sequence[int] = (1, 2, 7),
    atol: float = 1e-4,
    rtol: float = 1e-3,
    seed: int = 0,
) -> Report:
    """Whether ``b`` answers as ``a``, the reference, does. Report(kind="compare") with ok, and why in one sentence.

    Numbers: n (different rows), batches, atol, rtol, max_abs, max_rel, cosine, top1_agreement (None where no output
    is a row of scores), constant (outputs of ``a`` that are the same for every row), outputs (the same by name).
    """
    tally = _Tally(atol, rtol)
    why = _same_outputs(a.signature, b.signature) or tally.fault
    for inputs in _feeds(a.signature, rows, batches, seed):
        if why:
            break
        why = _one(a, b, inputs, tally)
    n = min(len(rows), MAX_ROWS) if rows else SEEDED_ROWS
    why = why or tally.cannot_tell(n)
    data = f"{n:,} rows of {rows.source}" if rows else f"{n} seeded random rows (seed {seed})"
    numbers = {"n": n, "batches": list(batches), "atol": atol, "rtol": rtol, **tally.numbers()}
    return Report("compare", not why, why or tally.praise(data), numbers, data)


def answers(pairs: Iterable[tuple[Arrays, Arrays]], *, atol: float = 1e-4, rtol: float = 1e-3) -> Report:
    """Whether in each pair the second holds the answers of the first, by the rule above. Report(kind="compare").

    For answers that are there already; n is how many pairs were looked at, up to the first that differs. Unlike
    ``compare`` it does not ask that the answers tell the rows apart.
    """
    tally, n, why = _Tally(atol, rtol), 0, ""
    for want, got in pairs:
        n += 1
        missing = [name for name in want if name not in got]
        why = f"output '{missing[0]}' is missing" if missing else ""
        for name, answer in want.items():
            why = why or tally.check(name, answer, got[name], len(answer) if answer.ndim else 1)
        if why:
            break
    why = why or ("" if n else "there are no answers to compare")
    numbers = {"n": n, "atol": atol, "rtol": rtol, **tally.numbers()}
    return Report("compare", not why, why or tally.praise(f"{n} requests"), numbers, f"{n} requests")


@dataclass
class _Output:
    """What has been seen of one output so far."""

    max_abs: float = 0.0
    max_rel: float = 0.0
    dot: float = 0.0
    norm_a: float = 0.0
    norm_b: float = 0.0
    agreed: int = 0
    judged: int = 0
    low: Array | None = None
    high: Array | None = None
    varies: bool = False

    def add(self, want: Array, got: Array, delta: Array) -> None:
        """Numbers of one run; ``delta`` is |got - want|."""
        finite = np.isfinite(want) & np.isfinite(got)
        if finite.any():
            x, y = want[finite].astype(np.float64), got[finite].astype(np.float64)
            self.max_abs = max(self.max_abs, float(delta[finite].max()))
            self.max_rel = max(self.max_rel, float((delta[finite] / np.maximum(np.abs(x), 1e-6)).max()))
            self.dot += float(x @ y)
            self.norm_a += float(x @ x)
            self.norm_b += float(y @ y)
        if want.ndim == 2 and want.shape[1] > 1:
            self.agreed += int((want.argmax(1) == got.argmax(1)).sum())
            self.judged += len(want)

    def spread(self, want: Array, tolerance: float) -> None:
        """Whether rows differ by more than the tolerance, which is what makes agreement mean something."""
        if not want.ndim or (self.low is not None and self.low.shape != want.shape[1:]):
            self.varies = True  # one number, or rows of another length: nothing to compare row by row
            return
        self.low = want.min(0) if self.low is None else np.minimum(self.low, want.min(0))
        self.high = want.max(0) if self.high is None else np.maximum(self.high, want.max(0))
        with np.errstate(invalid="ignore"):
            self.varies = self.varies or bool(np.any(self.high - self.low > tolerance))

    def numbers(self) -> dict[str, Any]:
        """As they go into the report."""
        scale = np.sqrt(self.norm_a * self.norm_b)
        return {
            "max_abs": self.max_abs,
            "max_rel": self.max_rel,
            "cosine": float(self.dot / scale) if scale else None,
            "top1_agreement": self.agreed / self.judged if self.judged else None,
        }


@dataclass
class _Tally:
    """The outputs by name, and the rule that they are held to."""

    atol: float
    rtol: float
    rows: int = 0
    fault: str = ""
    outputs: dict[str, _Output] = field(default_factory=dict)

    def check(self, name: str, want: Array, got: Array, rows: int) -> str:
        """What is wrong with one output of one run, or nothing."""
        seen = self.outputs.setdefault(name, _Output())
        where = f"output '{name}' at {rows} rows"
        if want.shape != got.shape:
            return f"{where} has shape {list(got.shape)} instead of {list(want.shape)}"
        if (want.dtype.kind in "OUS") != (got.dtype.kind in "OUS"):
            return f"{where} is {got.dtype.name} instead of {want.dtype.name}"
        if want.dtype.kind not in "fc":
            return self._exact(where, seen, want, got)
        return self._close(where, seen, want, got)

    def _exact(self, where: str, seen: _Output, want: Array, got: Array) -> str:
        equal = np.asarray(want == got)
        seen.varies = seen.varies or len(np.unique(want.astype(str))) > 1
        if equal.all():
            return ""
        at = tuple(int(i) for i in np.argwhere(~equal)[0])
        return f"{where} differs in {int((~equal).sum())} of {equal.size}: {got[at]!s} instead of {want[at]!s}"

    def _close(self, where: str, seen: _Output, want: Array, got: Array) -> str:
        for whose, array in (("of the reference itself", want), ("of the new model", got)):
            if np.isnan(array).any():
                return f"{where} {whose} is NaN in {int(np.isnan(array).sum())} of {array.size}"
        wide_want, wide_got = want.astype(np.float64), got.astype(np.float64)
        with np.errstate(invalid="ignore"):
            delta = np.where(wide_want == wide_got, 0.0, np.abs(wide_got - wide_want))
            allowed = self.atol + self.rtol * np.abs(wide_want)
        seen.add(want, got, delta)
        finite = np.abs(wide_want[np.isfinite(wide_want)])
        seen.spread(wide_want, self.atol + self.rtol * float(finite.max(initial=0.0)))
        # an infinite reference allows everything, unless it is answered with the same infinity
        beyond = ~((delta <= allowed) & (np.isfinite(wide_want) | (delta == 0.0)))
        if not beyond.any():
            return ""
        at = tuple(int(i) for i in np.unravel_index(np.argmax(np.where(beyond, delta, -1.0)), delta.shape))
        return (
            f"{where} differs in {int(beyond.sum())} of {delta.size}, by up to {delta[at]:.3g} "
            f"({got[at]:.6g} instead of {want[at]:.6g}; allowed are {self.atol:g} + {self.rtol:g}·|answer|)"
        )

    def constant(self) -> list[str]:
        """Outputs that were the same for every row, up to the tolerance."""
        return [name for name, seen in self.outputs.items() if not seen.varies]

    def cannot_tell(self, n: int) -> str:
        """Why agreement would mean nothing, or nothing."""
        if len(self.constant()) < len(self.outputs):
            return ""
        if n < 2:
            return "one row cannot show whether two models agree; give more rows"
        return (
            f"the reference gives the same answer to all of the rows, within the tolerance "
            f"({', '.join(self.constant())}), so agreement would mean nothing; give rows that it tells apart"
        )

    def numbers(self) -> dict[str, Any]:
        """The worst over all outputs, then each output's own."""
        each = {name: seen.numbers() for name, seen in self.outputs.items()}
        cosines = [n["cosine"] for n in each.values() if n["cosine"] is not None]
        judged = [n["top1_agreement"] for n in each.values() if n["top1_agreement"] is not None]
        return {
            "max_abs": max((n["max_abs"] for n in each.values()), default=None),
            "max_rel": max((n["max_rel"] for n in each.values()), default=None),
            "cosine": min(cosines, default=None),
            "top1_agreement": min(judged, default=None),
            "constant": self.constant(),
            "outputs": each,
        }

    def praise(self, data: str) -> str:
        """The sentence of a comparison that passed."""
        found = self.numbers()
        top = found["top1_agreement"]
        same = "" if top is None else f", the same class for {top:.2%}"
        dead = f"; the same for every row: {', '.join(self.constant())}" if self.constant() else ""
        return f"the answers to {data} agree: largest difference {found['max_abs']:.2g}{same}{dead}"


def _same_outputs(a: Signature, b: Signature) -> str:
    for what, ours, theirs in (("inputs", a.inputs, b.inputs), ("outputs", a.outputs, b.outputs)):
        if {t.name for t in ours} != {t.name for t in theirs}:
            names = [", ".join(t.name for t in specs) for specs in (theirs, ours)]
            return f"the {what} are {names[0]} instead of {names[1]}"
    return ""


def _one(a: Runner, b: Runner, inputs: Arrays, tally: _Tally) -> str:
    """One run of both, and once more of the reference where it is the first: it must agree with itself."""
    count = len(next(iter(inputs.values())))
    try:
        want = a.run(inputs)
    except BadInput as error:
        return f"the reference itself fails on {count} rows ({error}); give rows that it can answer"
    if not tally.rows:
        again, alone = a.run(inputs), _Tally(tally.atol, tally.rtol)
        if any(alone.check(name, answer, again[name], count) for name, answer in want.items() if not _nan(answer)):
            return "the reference gives different answers to the same rows, so nothing can be compared with it"
    try:
        got = b.run(inputs)
    except BadInput as error:
        return f"at {count} rows the new model fails: {error}"
    tally.rows += count
    faults = (tally.check(name, answer, got[name], count) for name, answer in want.items())
    return next((fault for fault in faults if fault), "")


def _nan(array: Array) -> bool:
    return array.dtype.kind in "fc" and bool(np.isnan(array).any())


def _feeds(signature: Signature, rows: Dataset | None, batches: Sequence[int], seed: int) -> Iterator[Arrays]:
    """The first rows at each batch size, then all of them; seeded rows also at another size of the free dimensions."""
    if rows is None:
        for free in (signatures.FREE, signatures.FREE + 3):
            made = signatures.example(signature, SEEDED_ROWS, seed, free)
            yield from _cut(signature, Dataset(made, None, "seeded"), batches)
        return
    yield from _cut(signature, rows.sample(MAX_ROWS, seed), batches)


def _cut(signature: Signature, rows: Dataset, batches: Sequence[int]) -> Iterator[Arrays]:
    fixed = next((t.shape[0] for t in signature.inputs if t.shape and t.shape[0] is not None), None)
    if any(not t.shape for t in signature.inputs):
        yield rows.inputs
        return
    for count in (fixed,) if fixed else batches:
        yield rows.take(np.arange(count) % len(rows)).inputs
    step = fixed or CHUNK
    for start in range(0, len(rows) - (step - 1 if fixed else 0), step):
        yield rows.take(slice(start, start + step)).inputs
