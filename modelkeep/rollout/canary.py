"""A canary in steps: a share of the traffic, a verdict, the next share; at the end it is promoted, or was ended before.

It writes the wanted Route and servers follow, so that a run that is killed leaves a valid route: the next run of the
same version goes on at the weight it finds. Whoever changes the route meanwhile wins.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep.data import traffic
from modelkeep.errors import BadSettings, Conflict, NotFound
from modelkeep.monitor.quality import are_classes
from modelkeep.quantities import counted
from modelkeep.rollout.judge import WRONG, Judge, Rules
from modelkeep.rollout.outcomes import Outcomes, usual_p99
from modelkeep.types import Ref, Route

if TYPE_CHECKING:
    from modelkeep.registry import Registry
    from modelkeep.types import Model

KIND = "rollout"
TELL_EVERY = 10.0


@dataclass(frozen=True)
class Decision:
    """What a rollout came to: promote, rollback, inconclusive (time was up), unasked (it was, and no request had come
    to the canary, so nothing is known of it) or stopped (somebody changed the route).

    Where somebody made it live meanwhile, that is promote too. In all others the version is not live. ``numbers`` holds
    shares, counts and evidence by kind of harm.
    """

    verdict: str
    why: str
    numbers: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Canary:
    """A plan. Raises BadSettings.

    ``steps`` are the canary's shares; each lasts ``max_seconds`` at most, and ``min_requests`` of the canary at least.
    ``alpha`` is the chance of rolling back a canary that harms at most ``tolerance`` more, ``beta`` (as alpha where it
    is None) that of promoting one that harms more. ``p99`` is the promised latency in seconds; without it, slow is what
    is over the live version's usual p99. ``min_accuracy`` is the promised share of answers that are right: a canary
    that is shown to miss it has to be better than the live version. So it is with ``max_error``, the promised mean
    absolute error, where answers are numbers. ``poll`` is the seconds between two looks.
    """

    steps: tuple[float, ...] = (0.1, 0.5)
    tolerance: float = 0.05
    alpha: float = 0.01
    beta: float | None = None
    max_seconds: float = 600.0
    min_requests: int = 20
    p99: float | None = None
    needs_labels: bool = False
    min_accuracy: float | None = None
    max_error: float | None = None
    poll: float = 0.5

    def __post_init__(self) -> None:
        if not self.steps or list(self.steps) != sorted(set(self.steps)) or not 0 < self.steps[0] <= self.steps[-1] < 1:
            raise BadSettings(f"steps are {self.steps!r}; give growing shares between 0 and 1, such as (0.1, 0.5)")
        self.rules()

    def rules(self) -> Rules:
        """What the judge goes by."""
        beta = self.alpha if self.beta is None else self.beta
        return Rules(self.tolerance, self.alpha, beta, self.needs_labels, self.min_accuracy, self.max_error)

    def run(
        self,
        registry: Registry,
        name: str,
        number: int,
        path: Path,
        *,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
        on_step: Callable[[str], None] | None = None,
        who: str = "person",
    ) -> Decision:
        """Roll version ``number`` out, judged by the traffic captured at ``path``. Blocks until it is decided.

        Raises NotFound where there is no live version to compare with, Conflict where another canary is under way.
        ``on_step`` gets a sentence for each step, and now and then between.
        """
        route = registry.route(name)
        if route.live is None:
            raise NotFound(f"{name} has no live version to compare {name}@{number} with; modelkeep promote {name}@N")
        if route.canary is None and route.live == number:
            return Decision("promote", f"{name}@{number} is live already")
        if route.canary not in (None, number):
            raise Conflict(f"{name}@{route.canary} is a canary already; end it first: modelkeep rollback {name}")
        return _Rollout(self, registry, route, number, path, clock, sleep, on_step or (lambda text: None), who).run()


MUTE = (
    "its answers are numbers, of which labels say nothing until an error is promised: give --max-error (max_error "
    "under [watch]), or need no labels"
)


def _fitting(rules: Rules, model: Model) -> Rules:
    """With the promise that is of such answers, and not the other."""
    return replace(rules, max_error=None) if are_classes(model) else replace(rules, min_accuracy=None)


class _Rollout:
    """One run of a plan."""

    def __init__(
        self,
        plan: Canary,
        registry: Registry,
        route: Route,
        number: int,
        path: Path,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        tell: Callable[[str], None],
        who: str,
    ) -> None:
        assert route.live is not None
        self.plan, self.registry, self.route, self.number, self.who = plan, registry, route, number, who
        self.clock, self.sleep, self.tell = clock, sleep, tell
        self.name, self.live = route.name, route.live
        self.slow = plan.p99 or usual_p99(path, self.name, self.live)
        models = {
            canary: (version, registry.get(Ref(self.name, version)).model)
            for canary, version in ((False, self.live), (True, number))
        }
        self.rules = _fitting(plan.rules(), models[True][1])
        self.mute = self.rules.max_error is None and not are_classes(models[True][1])
        """Whether labels could judge nothing."""
        if self.mute and self.rules.needs_labels and route.canary is None:  # one that is there already has to end
            raise BadSettings(f"{self.name}@{number} cannot be judged by labels: {MUTE}")
        if plan.max_error is not None and self.rules.max_error is None:
            tell(
                f"the promised mean error judges nothing: {self.name}@{number} answers in classes, or scores of them "
                "(min_accuracy is what these are held to)"
            )
        self.judge = Judge(self.rules, steps=len(plan.steps), slow=self.slow is not None)
        self.outcomes = Outcomes(path, self.name, models, self._begin_row(path))

    def _begin_row(self, path: Path) -> int:
        """After which row the evidence begins: now or, for a run that goes on, where the killed one began."""
        newest = traffic.newest(path)
        if self.route.canary == self.number:
            for entry in reversed(self.registry.journal(self.name, kind=KIND)):
                if entry.data.get("version") == self.number and entry.data.get("stage") == "began":
                    return min(int(entry.data["row"]), newest)
            return newest
        self._note("began", f"{self.name}@{self.number} is rolled out beside {self.name}@{self.live}", row=newest)
        return newest

    def run(self) -> Decision:
        """Step by step, until there is a verdict."""
        resumed = self.route.canary == self.number
        steps = self.plan.steps
        first = sum(step < self.route.weight for step in steps) if resumed else 0
        for at in range(min(first, len(steps) - 1), len(steps)):
            try:
                self._enter(at, steps[at])
            except Conflict:
                return self._stopped()
            decision = self._watch(at)
            if decision is not None:
                return decision
        return self._promote()

    def _enter(self, at: int, weight: float) -> None:
        text = (
            f"{self.name}@{self.number} gets {weight * 100:g}% of the traffic (step {at + 1} of {len(self.plan.steps)})"
        )
        wanted = replace(self.route, canary=self.number, weight=weight)
        if wanted != self.route:
            self.route = self.registry.set_route(wanted, why=text, who=self.who)
        if self.judge.requests:
            self.judge.begin_step()
        self.tell(text)

    def _watch(self, at: int) -> Decision | None:
        """Look until the step is over. None: go on with the next."""
        began = told = self.clock()
        while True:
            now = self.registry.route(self.name)
            if (now.live, now.canary, now.weight) != (self.route.live, self.route.canary, self.route.weight):
                return self._stopped()
            self.route = now
            self.outcomes.tell(self.judge, self.slow)
            if harm := self.judge.harmful():
                return self._end("rollback", f"was rolled back at {now.weight * 100:g}%; {self.judge.describe(harm)}")
            share = (at + 1) / len(self.plan.steps)
            if self.judge.progress() >= share and self.judge.requests_here >= self.plan.min_requests:
                return None
            if self.clock() - began >= self.plan.max_seconds:
                if not self.judge.requests:
                    return self._unasked()
                return self._end("inconclusive", f"stays undecided, so it is ended; {self._lacking()}")
            if self.clock() - told >= TELL_EVERY:
                told = self.clock()
                self.tell(f"{counted(self.judge.requests, 'request')} to the canary; {self._lacking()}")
            self.sleep(self.plan.poll)

    def _lacking(self) -> str:
        if not self.judge.requests:
            return "no request reached it"
        least = self.judge.least()
        done = max(0.0, min(self.judge.progress(), 1.0))
        unlabelled = least == WRONG and not self.judge.harms[least].counts[True]
        mend = ""
        if unlabelled:
            mend = ", for no label of its answers came; give a step longer than labels take, or need none"
            mend = f", for {MUTE}" if self.mute else mend
        return f"{done:.0%} of the evidence that promotion needs; {self.judge.describe(least)}{mend}"

    def _promote(self) -> Decision:
        harms = "; ".join(self.judge.describe(harm) for harm in self.judge.required)
        how = f"not worse than {self.name}@{self.live} by {self._points()}"
        if self.judge.misses:
            how = f"better than {self.name}@{self.live}, though {self._missed()}"
        why = f"{self.name}@{self.number} is live: {how}; {harms}"
        shadow = None if self.route.shadow == self.number else self.route.shadow
        wanted = replace(self.route, live=self.number, previous=self.live, canary=None, weight=0.0, shadow=shadow)
        return self._write("promote", wanted, why)

    def _end(self, verdict: str, what: str) -> Decision:
        why = f"{self.name}@{self.number} {what}; {self._borne()} stays live"
        return self._write(verdict, replace(self.route, canary=None, weight=0.0), why)

    def _unasked(self) -> Decision:
        why = (
            f"{self.name}@{self.number} has no verdict: nobody asked it in {self.plan.max_seconds:g} s, so it is ended"
        )
        wanted = replace(self.route, canary=None, weight=0.0)
        return self._write("unasked", wanted, f"{why}; {self.name}@{self.live} stays live")

    def _write(self, verdict: str, wanted: Route, why: str) -> Decision:
        """The one write that ends it. The route's revision guards it: a person who stepped in is not overruled."""
        try:
            self.route = self.registry.set_route(wanted, why=why, who=self.who)
        except Conflict:
            return self._stopped()
        return self._decide(verdict, why)

    def _stopped(self) -> Decision:
        """Somebody changed the route: who, and why, says the journal."""
        *_, change = self.registry.journal(self.name, kind="route", before=sys.maxsize, limit=1)
        if self.registry.route(self.name).live == self.number:
            why = f"{self.name}@{self.number} is live: {change.who} made it so before there was a verdict: {change.why}"
            return self._decide("promote", why)
        why = f"{change.who} changed the route of {self.name}: {change.why}"
        return self._decide("stopped", f"the rollout of {self.name}@{self.number} stopped: {why}")

    def _decide(self, verdict: str, why: str) -> Decision:
        numbers = {"requests": self.judge.requests, "slow_over_seconds": self.slow, **self.judge.numbers()}
        self._note("ended", why, verdict=verdict, numbers=numbers)
        self.tell(why)
        return Decision(verdict, why, numbers)

    def _borne(self) -> str:
        live = f"{self.name}@{self.live}"
        if self.judge.misses:
            return f"{self._missed()}, so it has to be better than {live}, which"
        return f"{self._points()} more is borne, {live}"

    def _missed(self) -> str:
        if self.rules.max_error:
            return f"its mean error is shown to be over the promised {self.rules.max_error:g}"
        return f"its accuracy is shown to be below the promised {(self.rules.min_accuracy or 0.0) * 100:g}%"

    def _points(self) -> str:
        of_error = f" (of the mean error: {self.rules.tolerance * self.rules.unit:g})" if self.rules.max_error else ""
        return f"{self.plan.tolerance * 100:g} percentage points{of_error}"

    def _note(self, stage: str, why: str, **data: Any) -> None:
        self.registry.note(self.name, KIND, why, {"stage": stage, "version": self.number, **data}, who=self.who)
