"""The loop: it looks, and on a finding it updates, verifies and rolls out, through Keep alone.

Level-triggered: each turn reads the journal, the route and the traffic and decides from them, so a loop that was killed
goes on where it was. A person may promote, roll back or stop it at any time; the next turn starts from what is then so.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from modelkeep.data import sample, traffic
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadData, BadModel, ModelkeepError, No, Unsupported
from modelkeep.operate import budget
from modelkeep.operate.policy import Policy
from modelkeep.quantities import Lines, counted
from modelkeep.types import Finding, Ref, Route, Version

if TYPE_CHECKING:
    from modelkeep.keep import Keep


ROLLOUT = "rollout"
"""What a rollout tells last is what is written of it: it is said once."""


@dataclass(frozen=True)
class Outcome:
    """What a run of the loop came to: finished cycles, how many of them were promoted, the live version at the end."""

    cycles: int
    promotions: int
    live: int | None
    last: str

    @property
    def promoted(self) -> bool:
        """Whether every finished cycle ended with a new live version."""
        return self.promotions == self.cycles


@dataclass(frozen=True)
class Read:
    """Labels whose inputs were read, by request: of so few rows they could be used, and ``why`` of none."""

    truth: Mapping[tuple[str, float], Any] = field(default_factory=dict)
    usable: int = 0
    why: str = ""


@dataclass
class Loop:
    """One policy at work. ``tell`` gets a sentence for each step; ``sleep`` and ``now`` can be replaced in tests."""

    keep: Keep
    policy: Policy
    tell: Callable[[str], None] = lambda text: None
    sleep: Callable[[float], None] = time.sleep
    now: Callable[[], float] = time.time
    _read: Read = field(default_factory=Read, init=False)
    _said: dict[str, str] = field(default_factory=dict, init=False)
    _last: str = field(default="", init=False)

    def run(self, *, cycles: int | None = None, max_seconds: float | None = None) -> Outcome:
        """Turn until ``cycles`` updates have ended, or for ``max_seconds``; for ever when neither is given. An update
        that has begun goes on to its end, its rollout too.

        A live version that cannot be trained is watched, and told of; Unsupported or BadModel where ``cycles`` ask for
        updates of it.
        """
        began, done, promotions = self.now(), 0, 0
        route = self.keep.registry.route(self.policy.model)
        self._say(f"watching {self.policy.model} every {self.policy.watch.every:g} s")
        if (error := self._unteachable()) is not None:
            if cycles is not None and route.canary is None:
                raise error
            self._say(f"it is watched and told of, but cannot be updated: {error}")
        while (cycles is None or done < cycles) and (max_seconds is None or self.now() - began < max_seconds):
            ended = self.turn()
            if ended is not None:
                done, promotions = done + 1, promotions + ended
            else:
                self.sleep(self.policy.watch.every)
        live = self.keep.registry.route(self.policy.model).live
        return Outcome(done, promotions, live, self._last)

    def turn(self) -> bool | None:
        """Look once, and act. True or False when an update ended (promoted or not), None when none did."""
        name = self.policy.model
        route = self.keep.registry.route(name)
        if route.canary is not None and self.keep.attended(name):
            self._say(f"{name}@{route.canary} is rolled out by somebody else; waiting for the end", about="attended")
            return None
        if route.canary is not None:
            self._note("resumed", f"{name}@{route.canary} was left as a canary; judging it further")
            return self._roll_out(self.keep.get(Ref(name, route.canary)))
        finding = self._look()
        if (waiting := self._unasked(route)) is not None:
            return self._once_asked(*waiting)
        if finding is None:
            return None
        if (error := self._unteachable()) is not None:
            self._say(f"not acting on {finding.kind} of {finding.subject}: {error}", about="budget")
            return None
        entries = self.keep.registry.journal(name, kind="operate")
        if refusal := budget.refusal(self.policy.budget, entries, now=self.now):
            self._say(f"not acting on {finding.kind} of {finding.subject}: {refusal}", about="budget")
            return None
        rows = self._labelled(finding)
        if rows is None:
            return None
        version = self._update(finding, rows)
        del rows  # pictures would fill memory for as long as the rollout lasts
        if version is None or self._overtaken(version, route):
            return False
        return self._roll_out(version)

    def _overtaken(self, version: Version, base: Route) -> bool:
        """Whether somebody else decided who is to answer while ``version`` was made of what was live: theirs stands."""
        now = self.keep.registry.route(version.name)
        if (now.live, now.canary) == (base.live, None):
            return False
        whose = (
            f"{version.name}@{now.live} is live" if now.canary is None else f"{version.name}@{now.canary} is a canary"
        )
        self._note(
            budget.OVERTAKEN,
            f"{version.ref} is not rolled out, for while it was made somebody changed the route: {whose}; to do so all "
            f"the same: modelkeep rollout {version.ref}",
            version=version.number,
        )
        return True

    def _unasked(self, route: Route) -> tuple[int, int] | None:
        """The version whose canary nobody asked, and the row of the traffic that was the newest then; None where there
        is none, or another version is live since.
        """
        entries = self.keep.registry.journal(self.policy.model, kind="operate")
        last = next((e.data for e in reversed(entries) if e.data.get("stage") != budget.RESET), {})
        if last.get("stage") != budget.UNASKED or last.get("live") != route.live:
            return None
        return int(last["version"]), int(last["row"])

    def _once_asked(self, number: int, row: int) -> bool | None:
        """Roll out what was made and passed its gates already, as soon as there is somebody to judge it."""
        if not traffic.read(self.keep.traffic, self.policy.model, after=row, limit=1, arrays=False):
            self._say(f"{self.policy.model}@{number} waits for requests to be rolled out", about="unasked")
            return None
        return self._roll_out(self.keep.get(Ref(self.policy.model, number)))

    def _unteachable(self) -> Unsupported | BadModel | None:
        """Why the live version cannot be updated; asked at each finding, for a person may put another in its place."""
        try:
            self.keep.trainable(Ref(self.policy.model, "live"))
        except (Unsupported, BadModel) as error:
            return error
        return None

    def _look(self) -> Finding | None:
        checked = self.keep.monitor(Ref(self.policy.model, "live"), **self.policy.watch.limits())
        actionable = [f for f in checked.findings if f.kind in ("drift", "quality")]
        found = ", ".join(f"{f.kind} of {f.subject}" for f in checked.findings)
        self._say(checked.describe() if checked.findings else "nothing found", about="look", as_of=found)
        return actionable[0] if actionable else None

    def _labelled(self, finding: Finding) -> Dataset | None:
        """The labelled requests since the change; None while they are too few. Their inputs, which may be pictures, are
        read once the labels are enough; where too few could be used, not again before others came that may do.
        """
        name, since, rules, read = self.policy.model, finding.since or 0.0, self.policy.update, self._read
        rows: Dataset | None = None
        try:
            truth = sample.truth(self.keep.traffic, self.keep.settings.sample, name, since=since)
            fresh = [label for request, label in truth.items() if read.truth.get(request) != label]
            have, why = read.usable + sample.most_rows(fresh), read.why
            if not truth or (fresh and (why or have >= rules.min_labels)):
                self._read = Read(truth)
                rows = self.keep.labelled(name, since=since, limit=rules.max_labels)
                have, why = len(rows), ""
                self._read = Read(truth, have)
        except BadData as error:  # where there are no labels, it says why
            have, why = 0, f"; {error}"
            self._read = Read(self._read.truth, why=why)
        if rows is not None and have >= rules.min_labels:
            self._read = Read()
            return rows
        said = f"waiting for labels: {have} of {rules.min_labels} since the change{why}"
        self._say(said, about="labels", as_of=f"{10 * have // max(rules.min_labels, 1)}{why}")
        return None

    def _update(self, finding: Finding, rows: Dataset) -> Version | None:
        """The new version; None where modelkeep refuses, which ends the cycle with the old version live."""
        base = self.keep.get(Ref(self.policy.model, "live"))
        self._note(budget.STARTED, f"updating {base.ref} on {counted(len(rows), 'labelled request')}: {finding.why}")
        try:
            version = self.keep.update(
                base, rows, method=self.policy.update.method, on_step=self._telling(), **self.policy.update.options()
            )
        except ModelkeepError as error:
            self._note(budget.FAILED, f"the update was refused: {error}", refused=isinstance(error, No))
            return None
        for report in version.reports:
            self._say(f"{report.kind}: {report.why}")
        self._note("verified", f"{version.ref} was made from {base.ref} and passed its gates", version=version.number)
        return version

    def _roll_out(self, version: Version) -> bool | None:
        """True where it was promoted; None where nobody asked it, so that it is rolled out again later."""
        try:
            plan = self.policy.canary()
            decision = self.keep.rollout(version, plan, on_step=lambda text: self._say(str(text), about=ROLLOUT))
        except ModelkeepError as error:
            self._note(budget.FAILED, f"the rollout of {version.ref} stopped: {error}", version=version.number)
            return False
        if decision.verdict == "unasked":
            live = self.keep.registry.route(version.name).live
            row = traffic.newest(self.keep.traffic)
            self._note(budget.UNASKED, decision.why, version=version.number, live=live, row=row)
            return None
        promoted = decision.verdict == "promote"
        self._note(budget.PROMOTED if promoted else budget.FAILED, decision.why, version=version.number)
        return promoted

    def _telling(self) -> Callable[[float, int, str], None]:
        """Says how far an update is: each step as it begins, and now and then while it goes on."""
        lines = Lines(self.now)

        def tell(done: float, steps: int, what: str) -> None:
            if line := lines.of(done, steps, what):
                self._say(line)

        return tell

    def _note(self, stage: str, why: str, **data: Any) -> None:
        self.keep.registry.note(self.policy.model, "operate", why, {"stage": stage, **data}, who=self.keep.who)
        self._say(why, about=ROLLOUT)

    def _say(self, text: str, about: str = "", as_of: str | None = None) -> None:
        """A sentence, once until there is another ``about`` the same: a loop that waits does not repeat itself.

        ``as_of`` is what must change for it to be said again, where its numbers always do.
        """
        self._last = text
        key = text if as_of is None else as_of
        if not about or self._said.get(about) != key:
            self._said[about] = key
            self.tell(text)
