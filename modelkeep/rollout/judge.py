"""Three verdicts on a canary, from live outcomes: promote, rollback, or go on. Valid however often it is asked.

For each harm (errors, slow answers, wrong answers) outcomes of the canary are compared with those of the live version
that came at the same time: as soon as both have answered, a block closes, and X, the canary's mean harm in it less the
live version's, lies in [-1, 1]. Two e-processes bet on X (Waudby-Smith & Ramdas 2024, JRSS-B): one against "the canary
harms at most ``tolerance`` more" (enough of it: rollback), one against "it harms at least ``tolerance`` more" (enough,
for each harm: promote). Evidence multiplies over the steps of a rollout, so a change of weight resets nothing. Why a
canary is to be judged sequentially: Lindon et al. 2024, "Sequential A/B testing keeps the world streaming Netflix".
No data is no evidence: it never promotes.

Where an accuracy was promised, or a mean error of answers that are numbers, to be nearly as wrong as the live version
is not enough: a canary that is shown to miss the promise is borne no harm at all. It is promoted once it is shown to be
better, rolled back once shown to be worse. An error has no bound, so one counts PATIENCE times the promise at most, as
monitor counts it: as a share of that it is a harm like any other.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, inf, log
from typing import TYPE_CHECKING, Any

import numpy as np

from modelkeep.errors import BadSettings
from modelkeep.evidence import Betting
from modelkeep.monitor.numeric import PATIENCE

if TYPE_CHECKING:
    from modelkeep.types import Array

WRONG = "wrong answers"
HARMS = ("errors", "slow answers", WRONG)


@dataclass(frozen=True)
class Rules:
    """What is borne. Raises BadSettings.

    ``tolerance`` is a difference of shares. ``alpha`` is the chance to roll back a canary that harms at most that much
    more, over all harms, tests and looks together, and ``beta`` the chance to promote one that harms at least that much
    more. ``min_accuracy`` is the promised share of answers that are right, None or 0 where there is none: one that
    misses it and is worse than the live version is rolled back rightly, however little worse. To ask of a canary that
    keeps it to be better, as of one that does not, has a chance of ``alpha`` besides: that may cost it a promotion, and
    never rolls it back. ``max_error`` is, in its place, the promised mean absolute error of answers that are numbers;
    of their harm ``tolerance`` is a share of PATIENCE times that.
    """

    tolerance: float = 0.05
    alpha: float = 0.01
    beta: float = 0.01
    needs_labels: bool = False
    min_accuracy: float | None = None
    max_error: float | None = None

    def __post_init__(self) -> None:
        for name in ("tolerance", "alpha", "beta"):
            if not 0 < getattr(self, name) < 1:
                raise BadSettings(f"{name} is {getattr(self, name)!r}; give a share between 0 and 1")
        if self.min_accuracy is not None and not 0 <= self.min_accuracy < 1:
            raise BadSettings(f"min_accuracy is {self.min_accuracy!r}; give a share from 0 up to, but not, 1")
        if self.max_error is not None and not 0 < self.max_error < inf:
            raise BadSettings(f"max_error is {self.max_error!r}; give a number, more than 0")

    @property
    def promised(self) -> float | None:
        """The mean harm of an answer that was promised not to be exceeded, None for none."""
        if self.max_error:
            return 1 / PATIENCE
        return 1 - self.min_accuracy if self.min_accuracy else None

    @property
    def unit(self) -> float:
        """What the harm 1 of an answer is: one wrong answer, or an error that large."""
        return PATIENCE * self.max_error if self.max_error else 1.0


class Harm:
    """One kind of harm, of the canary and of the live version side by side."""

    def __init__(self, rules: Rules, steps: int) -> None:
        self.rules, self.steps = rules, steps
        self.sums = {True: 0.0, False: 0.0}
        self.counts = {True: 0, False: 0}
        self._open: dict[bool, list[float]] = {True: [], False: []}
        self._blocks: list[float] = []
        self._worse: list[Betting] = []
        self._fine = Betting((1 - rules.tolerance) / 2)
        self._here = Betting((1 - rules.tolerance) / 2)
        self.worst = 0.0
        """The highest log evidence that the canary is worse."""
        self.begin_step()

    def begin_step(self) -> None:
        """A new weight: harm that comes with load begins here, so a further bet starts; the older ones go on."""
        self.settle()
        if len(self._worse) < self.steps:
            self._worse.append(Betting((1 + self.rules.tolerance) / 2))
        self._here = Betting((1 - self.rules.tolerance) / 2)

    def add(self, canary: bool, harm: float) -> None:
        """One outcome, 0 (no harm) to 1, in the order in which it became known."""
        self.sums[canary] += harm
        self.counts[canary] += 1
        self._open[canary].append(harm)
        if self._open[True] and self._open[False]:
            block = {arm: sum(values) / len(values) for arm, values in self._open.items()}
            self._blocks.append(block[True] - block[False])
            self._open = {True: [], False: []}

    def settle(self) -> None:
        """Bet on the blocks that closed."""
        if not self._blocks:
            return
        x = np.array(self._blocks)
        self._blocks = []
        self._bet(x)

    def _bet(self, x: Array) -> None:
        for bet in self._worse:
            bet.update((1 + x) / 2)
        for bet in (self._fine, self._here):
            bet.update((1 - x) / 2)
        # the mean over all steps, those that are to come with their stake of 1: an e-process again
        logs = [bet.log_e for bet in self._worse] + [0.0] * (self.steps - len(self._worse))
        top = max(logs)
        self.worst = max(self.worst, top + log(sum(exp(one - top) for one in logs) / self.steps))

    @property
    def fine(self) -> float:
        """Log evidence that the canary is not worse by the tolerance; -inf while this step points the other way."""
        return self._fine.peak if self._difference_here < self.rules.tolerance else -inf

    @property
    def _difference_here(self) -> float:
        """How much more the canary harmed in this step."""
        return 1 - 2 * self._here.mean if self._here.n else inf

    @property
    def blocks(self) -> int:
        """How many comparisons were made."""
        return self._fine.n

    def numbers(self) -> dict[str, Any]:
        """Shares and counts of both, and the evidence as natural logarithms."""
        share = {arm: self.sums[arm] / self.counts[arm] if self.counts[arm] else None for arm in (True, False)}
        return {
            "canary": share[True],
            "canary_n": self.counts[True],
            "live": share[False],
            "live_n": self.counts[False],
            "blocks": self.blocks,
            "log_evidence_worse": self.worst,
            "log_evidence_fine": self._fine.peak,
        }


class Promised(Harm):
    """Wrong answers, or errors of numbers, where a promise was given of them.

    Three more bets: against "the canary keeps the promise", "it is not better than the live version" and "it is not
    worse". Each is read as it stands and not at its peak, so that what is said holds of all answers so far.
    """

    def __init__(self, rules: Rules, steps: int, most: float) -> None:
        """``most`` is the mean harm that was promised."""
        self._wrong: list[float] = []
        self._below = Betting(most)
        self._better, self._not_as_good = Betting(1 / 2), Betting(1 / 2)
        super().__init__(rules, steps)

    def add(self, canary: bool, harm: float) -> None:
        """One answer, as the share of its rows that were wrong."""
        super().add(canary, harm)
        if canary:
            self._wrong.append(harm)

    def settle(self) -> None:
        """Bet on what came."""
        self._below.update(np.array(self._wrong))
        self._wrong = []
        super().settle()

    def _bet(self, x: Array) -> None:
        super()._bet(x)
        self._better.update((1 - x) / 2)
        self._not_as_good.update((1 + x) / 2)

    @property
    def missed(self) -> bool:
        """Whether the canary is shown to miss the promise."""
        return self._below.log_e >= log(1 / self.rules.alpha)

    @property
    def broken(self) -> float:
        """Log evidence that the canary misses the promise and is worse than the live version, by however little.

        That of the two which shows less: for one that keeps the promise, or is not worse, one of them is no more than
        an e-process of something true.
        """
        return min(self._below.log_e, self._not_as_good.log_e)

    @property
    def fine(self) -> float:
        """As of any harm; where the promise is missed, log evidence that the canary is better."""
        if not self.missed:
            return super().fine
        return min(super().fine, self._better.log_e if self._difference_here < 0 else -inf)

    def numbers(self) -> dict[str, Any]:
        """As of any harm; of errors of numbers their means, each of which counts as the unit at most."""
        found = super().numbers()
        means = {arm: found[arm] and found[arm] * self.rules.unit for arm in ("canary", "live")}
        return found | means

    def promise(self, rollback: float) -> dict[str, Any]:
        """What was promised, whether it is shown to be missed, and the evidence as natural logarithms.

        ``rollback`` is how much a rollback needs, of "missed" and "worse" or of harm beyond the tolerance.
        """
        promised = "max_error" if self.rules.max_error else "min_accuracy"
        return {
            promised: getattr(self.rules, promised),
            "missed": self.missed,
            "log_evidence_missed": self._below.log_e,
            "log_evidence_better": self._better.log_e,
            "log_evidence_worse": self._not_as_good.log_e,
            "log_evidence_needed": {
                "missed": log(1 / self.rules.alpha),
                "better": log(1 / self.rules.beta),
                "rollback": rollback,
            },
        }


class Judge:
    """Takes outcomes, says what they show. ``steps`` is how many steps the rollout has."""

    def __init__(self, rules: Rules, *, steps: int = 1, slow: bool = True) -> None:
        """``slow``: whether there is a latency to compare with; where not, slowness is not judged."""
        self.rules = rules
        self.promised = None if rules.promised is None else Promised(rules, steps, rules.promised)
        harms = {name: Harm(rules, steps) for name in HARMS if slow or name != "slow answers"}
        self.harms: Mapping[str, Harm] = harms | ({WRONG: self.promised} if self.promised else {})
        self._before = 0

    @property
    def misses(self) -> bool:
        """Whether something was promised that the canary is shown to miss."""
        self._settle()
        return self.promised is not None and self.promised.missed

    @property
    def required(self) -> list[str]:
        """The harms without evidence of which nothing is promoted."""
        return [name for name in self.harms if name != WRONG or self.rules.needs_labels or self.misses]

    def begin_step(self) -> None:
        """The canary's weight has changed."""
        for harm in self.harms.values():
            harm.begin_step()
        self._before = self.requests

    @property
    def requests(self) -> int:
        """Outcomes of the canary so far."""
        return self.harms["errors"].counts[True]

    @property
    def requests_here(self) -> int:
        """Outcomes of the canary in this step."""
        return self.requests - self._before

    def add(self, name: str, canary: bool, harm: float) -> None:
        """One outcome of one kind; a kind that is not judged is passed over."""
        if name in self.harms:
            self.harms[name].add(canary, harm)

    def harmful(self) -> str | None:
        """The harm that shows, with the canary's chance of a wrong rollback at most alpha over all tests together.

        One that misses the promise is borne none: there "not worse" is tested too.
        """
        self._settle()
        shown = {name: harm.worst for name, harm in self.harms.items() if harm.worst >= self._enough(name)}
        if not shown and self.promised is not None and self.promised.broken >= self._enough(WRONG):
            return WRONG
        return max(shown, key=lambda name: shown[name]) if shown else None

    def _enough(self, name: str) -> float:
        """Log evidence that rolls back: alpha is shared out among the harms, and the part of wrong answers between its
        two tests where an accuracy was promised. So all of them together keep to alpha whatever their dependence (union
        bound), at every look (Ville); what labels cost that never come, the other harms do not pay.
        """
        tests = 2 if name == WRONG and self.promised is not None else 1
        return log(len(self.harms) * tests / self.rules.alpha)

    def progress(self) -> float:
        """The evidence for promotion as a share of what is needed, of the harm that has the least: 1 or more is enough.

        All harms that count must pass, so beta needs no division between them.
        """
        self._settle()
        return min(self.harms[name].fine for name in self.required) / log(1 / self.rules.beta)

    def least(self) -> str:
        """The harm that lacks evidence for promotion most."""
        return min(self.required, key=lambda name: self.harms[name].fine)

    def numbers(self) -> dict[str, Any]:
        """Of each harm, and the rules."""
        enough = {"worse": log(len(self.harms) / self.rules.alpha), "fine": log(1 / self.rules.beta)}
        told = {"tolerance": self.rules.tolerance, "alpha": self.rules.alpha, "beta": self.rules.beta}
        promise = {"promise": self.promised.promise(self._enough(WRONG))} if self.promised else {}
        harms = {name: harm.numbers() for name, harm in self.harms.items()}
        return {**harms, **told, "log_evidence_needed": enough, **promise}

    def describe(self, name: str) -> str:
        """One harm, in words."""
        numbers = self.harms[name].numbers()
        far = name == WRONG and self.rules.max_error
        if not numbers["canary_n"] or not numbers["live_n"]:
            return f"{'mean error' if far else name}: nothing known"
        if far:
            return (
                f"mean error: {numbers['canary']:.4g} of {numbers['canary_n']} with the canary, "
                f"{numbers['live']:.4g} of {numbers['live_n']} with the live version"
            )
        return (
            f"{name}: {numbers['canary']:.1%} of {numbers['canary_n']} with the canary, "
            f"{numbers['live']:.1%} of {numbers['live_n']} with the live version"
        )

    def _settle(self) -> None:
        for harm in self.harms.values():
            harm.settle()
