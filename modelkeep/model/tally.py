"""What two models' answers have shown so far: for every output its differences, and the rule it is held to."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays


class Tolerance(NamedTuple):
    """|b - a| ≤ atol + rtol·|a| for at least the share ``within`` of the elements, and what else must hold.

    ``cosine`` is of each output as one vector; ``top1`` the share of the rows that keep their best class, ties apart;
    ``divergence`` the mean Kullback–Leibler divergence, in nats, of [rows, classes] outputs; None where not judged.
    """

    atol: float
    rtol: float
    within: float = 1.0
    cosine: float = 0.99999
    top1: float = 1.0
    divergence: float | None = 1e-6


TOLERANCES = {
    "float32": Tolerance(1e-4, 1e-3),
    "float16": Tolerance(5e-3, 5e-3, 0.999, 0.9999, 0.995, None),
    "bfloat16": Tolerance(5e-2, 2e-2, 0.99, 0.999, 0.99, None),
    "int8": Tolerance(5e-3, 5e-3, 0.0, 0.997, 0.98, None),
}
"""What a model may differ by from its reference, by the precision that its weights have been cast to.

int8 is for a graph that rounds what it computes to 256 steps: two engines that differ in the last bit before a rounding
differ by a whole step after it, so no element is held to a bound; direction and best class are.
"""
EDGES = np.concatenate([[0.0], np.geomspace(1e-12, 1e6, 18 * 20 + 1), [np.inf]])
"""Bins of a histogram of differences, 20 for each power of ten, so that a quantile is right to 12 %."""


@dataclass
class Output:
    """What has been seen of one output so far."""

    max_abs: float = 0.0
    max_rel: float = 0.0
    dot: float = 0.0
    norm_a: float = 0.0
    norm_b: float = 0.0
    agreed: int = 0
    ties: int = 0
    judged: int = 0
    divergence: float = 0.0
    diverged: int = 0
    beyond: int = 0
    total: int = 0
    worst: str = ""
    varies: bool = False
    """Whether rows differ, those of one shape: one that never changes tells nothing."""
    ranges: dict[tuple[int, ...], tuple[Array, Array]] = field(default_factory=dict)
    """The smallest and largest numbers of the rows of each shape."""
    first: dict[tuple[int, ...], Any] = field(default_factory=dict)
    """The first row of each shape, of an output that is compared exactly."""
    classes: set[int] = field(default_factory=set)
    noise: float = 0.0
    histogram: Array = field(default_factory=lambda: np.zeros(len(EDGES) - 1, np.int64))

    def add(self, want: Array, got: Array, delta: Array) -> None:
        """Differences of one run in float64; ``delta`` is |got - want|."""
        finite = np.isfinite(want) & np.isfinite(got)
        if finite.any():
            x, y, gap = want[finite], got[finite], delta[finite]
            self.max_abs = max(self.max_abs, float(gap.max()))
            self.max_rel = max(self.max_rel, float((gap / np.maximum(np.abs(x), 1e-6)).max()))
            self.dot += float(x @ y)
            self.norm_a += float(x @ x)
            self.norm_b += float(y @ y)
            self.histogram += np.histogram(gap, EDGES)[0]

    def scores(self, want: Array, got: Array, close: float) -> None:
        """Rows of scores along the last axis: is the best the same? Two bests closer than ``close`` are a tie."""
        x, y = (array.reshape(-1, array.shape[-1]) for array in (want, got))
        best = x.argmax(1)
        runners_up = np.partition(x, -2, axis=1)
        with np.errstate(invalid="ignore"):
            tie = ~(runners_up[:, -1] - runners_up[:, -2] > close)
        same = best == y.argmax(1)
        self.judged += len(x)
        self.agreed += int(same.sum())
        self.ties += int((tie & ~same).sum())
        if want.ndim == 2:
            self.classes.update(best.tolist())
        if want.ndim <= 3:
            self.divergence += float(_divergence(x, y).sum())
            self.diverged += len(x)

    def spread(self, want: Array, tolerance: float) -> None:
        """Whether rows differ by more than the tolerance, which is what makes agreement mean something."""
        rows = want if want.ndim else want[None]
        if not len(rows):
            return
        low, high = self.ranges.get(rows.shape[1:], (rows[0], rows[0]))
        low, high = np.minimum(low, rows.min(0)), np.maximum(high, rows.max(0))
        self.ranges[rows.shape[1:]] = low, high
        with np.errstate(invalid="ignore"):
            self.varies = self.varies or bool(np.any(high - low > tolerance))

    def differs(self, want: Array) -> None:
        """``spread`` for what is compared exactly."""
        for row in want if want.ndim else want[None]:
            if self.varies:
                return
            self.varies = bool(np.any(self.first.setdefault(np.shape(row), row) != row))

    @property
    def cosine(self) -> float | None:
        """Of all of its values as two vectors; None where one of them is zero."""
        scale = np.sqrt(self.norm_a) * np.sqrt(self.norm_b)
        return float(self.dot / scale) if scale else None

    def quantile(self, share: float) -> float | None:
        """The difference that this share of the elements does not exceed, from above by up to 12 %."""
        seen = self.histogram.cumsum()
        if not seen[-1]:
            return None
        at = int(np.searchsorted(seen, share * seen[-1]))
        return min(float(EDGES[at + 1]) if at else 0.0, self.max_abs)

    def numbers(self) -> dict[str, Any]:
        """As they go into the report."""
        return {
            "n": self.total,
            "max_abs": self.max_abs,
            "max_rel": self.max_rel,
            "p50_abs": self.quantile(0.5),
            "p99_abs": self.quantile(0.99),
            "beyond": self.beyond,
            "noise": self.noise,
            "cosine": self.cosine,
            "top1_agreement": self.agreed / self.judged if self.judged else None,
            "top1_ties": self.ties,
            "top1_n": self.judged,
            "divergence": self.divergence / self.diverged if self.diverged else None,
            "classes": len(self.classes) or None,
        }


@dataclass
class Tally:
    """The outputs by name, the rule that they are held to, and which of them are scores along their last axis."""

    rule: Tolerance
    scored: frozenset[str] = frozenset()
    outputs: dict[str, Output] = field(default_factory=dict)

    def check(self, name: str, want: Array, got: Array, where: str, *, usual: bool = True) -> str:
        """What is wrong with one output of one run, or nothing. ``usual`` rows show whether rows differ at all."""
        seen = self.outputs.setdefault(name, Output())
        where = f"output '{name}' at {where}"
        if want.shape != got.shape:
            return f"{where} has shape {list(got.shape)} instead of {list(want.shape)}"
        if (want.dtype.kind in "OUS") != (got.dtype.kind in "OUS"):
            return f"{where} is {got.dtype.name} instead of {want.dtype.name}"
        seen.total += want.size
        if want.dtype.kind not in "fc":
            return self._exact(where, seen, want, got)
        return self._close(name, where, want, got, usual)

    def heard(self, name: str, one: Array, other: Array) -> None:
        """Two answers of the reference to the same rows, computed in two ways: how they differ is its noise."""
        if one.dtype.kind == "f" and one.shape == other.shape:
            seen = self.outputs.setdefault(name, Output())
            with np.errstate(invalid="ignore"):
                gap = np.abs(one.astype(np.float64) - other.astype(np.float64))
            seen.noise = max(seen.noise, float(gap[np.isfinite(gap)].max(initial=0.0)))

    def _exact(self, where: str, seen: Output, want: Array, got: Array) -> str:
        equal = np.asarray(want == got)
        seen.differs(want)
        if equal.all():
            return ""
        at = tuple(int(i) for i in np.argwhere(~equal)[0])
        return f"{where} differs in {int((~equal).sum())} of {equal.size}: {got[at]!s} instead of {want[at]!s}"

    def _close(self, name: str, where: str, want: Array, got: Array, usual: bool) -> str:
        seen = self.outputs[name]
        for whose, array in (("of the reference itself", want), ("of the new model", got)):
            if np.isnan(array).any():
                return f"{where} {whose} is NaN in {int(np.isnan(array).sum())} of {array.size}"
        want, got = want.astype(np.float64), got.astype(np.float64)
        largest = float(np.abs(want[np.isfinite(want)]).max(initial=0.0))
        atol = self._atol(seen, largest)
        with np.errstate(invalid="ignore"):
            delta = np.where(want == got, 0.0, np.abs(got - want))
            allowed = atol + self.rule.rtol * np.abs(want)
        seen.add(want, got, delta)
        if name in self.scored and want.ndim > 1 and want.size and want.shape[-1] > 1:
            seen.scores(want, got, 2 * min(float(delta[np.isfinite(delta)].max(initial=0.0)), atol))
        if usual:
            seen.spread(want, self.rule.atol + self.rule.rtol * largest)
        # an infinite reference allows everything, unless it is answered with the same infinity
        finite = np.isfinite(want) & np.isfinite(got)
        beyond = ~((delta <= allowed) & (np.isfinite(want) | (delta == 0.0)))
        seen.beyond += int(beyond.sum())
        if not beyond.any():
            return ""
        at = tuple(int(i) for i in np.unravel_index(np.argmax(np.where(beyond, delta, -1.0)), delta.shape))
        said = (
            f"{where} differs in {int(beyond.sum())} of {delta.size}, by up to {delta[at]:.3g} "
            f"({_unlike(got[at], want[at])}; allowed are {atol:g} + {self.rule.rtol:g}·|answer|)"
        )
        seen.worst = seen.worst or said
        return said if self.rule.within == 1.0 or (beyond & ~finite).any() else ""

    def _atol(self, seen: Output, largest: float) -> float:
        """Four times the reference's own noise where that is more, but never more than rtol of the largest answer."""
        return max(self.rule.atol, min(4 * seen.noise, self.rule.rtol * largest))

    def verdict(self) -> str:
        """What can only be judged over all of the rows: quantiles, direction, best classes; or nothing."""
        for name, seen in self.outputs.items():
            if seen.beyond > (1 - self.rule.within) * seen.total:
                share = 1 - seen.beyond / seen.total
                return f"{seen.worst}; only {share:.3%} of all are within that, where {self.rule.within:.1%} must be"
            cosine = seen.cosine
            if cosine is not None and cosine < self.rule.cosine:
                return f"output '{name}' points elsewhere: cosine {cosine:.6f}, where {self.rule.cosine:g} is needed"
            wrong = seen.judged - seen.agreed - seen.ties
            if wrong > (1 - self.rule.top1) * seen.judged:
                return (
                    f"output '{name}' has another best class in {wrong} of {seen.judged:,} rows, ties apart; "
                    f"{self.rule.top1:.1%} must keep it"
                )
            if (said := self._diverges(name, seen)) != "":
                return said
        return ""

    def _diverges(self, name: str, seen: Output) -> str:
        if self.rule.divergence is None or not seen.classes or not seen.diverged:
            return ""
        allowed = max(self.rule.divergence, 8 * seen.noise**2)  # at most half the square of twice the allowed noise
        mean = seen.divergence / seen.diverged
        if mean <= allowed:
            return ""
        return f"output '{name}' is another distribution: divergence {mean:.2g} nats, where {allowed:.1g} is allowed"

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
            f"({', '.join(self.constant())}), so agreement would mean nothing; give rows that it tells apart (--data)"
        )

    def numbers(self) -> dict[str, Any]:
        """The worst over all outputs, then each output's own."""
        each = {name: seen.numbers() for name, seen in self.outputs.items()}

        def worst(key: str, pick: Any) -> Any:
            return pick((n[key] for n in each.values() if n[key] is not None), default=None)

        most = {key: worst(key, max) for key in ("max_abs", "max_rel", "p50_abs", "p99_abs", "noise", "divergence")}
        least = {key: worst(key, min) for key in ("cosine", "top1_agreement")}
        return {**most, **least, "constant": self.constant(), "outputs": each}

    def praise(self, data: str) -> str:
        """The sentence of a comparison that passed."""
        found = self.numbers()
        top = found["top1_agreement"]
        same = "" if top is None else f", the same class for {top:.2%}"
        dead = f"; the same for every row: {', '.join(self.constant())}" if self.constant() else ""
        lone = [name for name, seen in self.outputs.items() if len(seen.classes) == 1 and seen.judged > 1]
        dead += f"; every row is of one class in {', '.join(lone)}, so the classes say little" if lone else ""
        return f"the answers to {data} agree: largest difference {found['max_abs']:.2g}{same}{dead}"


def noisy(answers: Arrays, again: Arrays, rule: Tolerance) -> bool:
    """Whether two answers of one model to the same rows differ beyond the rule; NaN is left to whoever judges it."""
    alone = Tally(rule._replace(within=1.0))
    whole = {
        name: array for name, array in answers.items() if array.dtype.kind not in "fc" or not np.isnan(array).any()
    }
    return any(alone.check(name, array, again[name], "both") for name, array in whole.items())


def _unlike(got: float, want: float) -> str:
    """Two numbers with as many digits as it takes to see that they differ."""
    told = ((f"{got:.{digits}g}", f"{want:.{digits}g}") for digits in (6, 9, 17))
    one, other = next((pair for pair in told if pair[0] != pair[1]), (f"{got:.17g}", f"{want:.17g}"))
    return f"{one} instead of {other}"


def _divergence(x: Array, y: Array) -> Array:
    """Kullback–Leibler divergence, by row, of ``y`` from ``x``, in nats, both being what ``x`` is, shares or logits."""
    shares = bool((x >= 0).all()) and np.allclose(x.sum(1), 1, atol=1e-3)
    p, q = _log_shares(x, shares=shares), _log_shares(y, shares=shares)
    with np.errstate(invalid="ignore", over="ignore"):
        parts = np.where(np.exp(p) > 0, np.exp(p) * (p - q), 0.0)
    return np.maximum(parts.sum(1), 0.0)  # type: ignore[no-any-return]


def _log_shares(x: Array, *, shares: bool) -> Array:
    """A share below the rounding of float32 counts as that: 1 - 0.9999999 may well be 0, or less."""
    with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
        if shares:
            return np.log(np.maximum(x, np.finfo(np.float32).eps))
        shifted = x - x.max(1, keepdims=True)
        return shifted - np.log(np.exp(shifted).sum(1, keepdims=True))  # type: ignore[no-any-return]
