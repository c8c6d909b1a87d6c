"""Service level objectives as rules: error ratios over eight windows, the budget, and four burn rates that alert.

Names and labels are those of Sloth (sloth.dev), so that its dashboards work. Windows and factors are those of the SRE
Workbook, chapter 5: a page where 2 % of a month's budget goes in an hour or 5 % in six, a ticket where 10 % goes in a
day or in three. Otherwise than Sloth, long windows divide errors by requests, and do not average ratios, in which a
quiet night would weigh as much as a busy day; and an alert needs LEAST errors, or one failure among few requests would
page.
"""

from __future__ import annotations

from dataclasses import dataclass

from modelkeep.monitor.prometheus.plan import Plan
from modelkeep.monitor.prometheus.rule import INTERVAL, Alert, Group, Record, Rule

LEAST = 5
"""Errors within the long window of a burn rate, below which it says nothing. monitor/health.py is exact for these."""
PERIOD = 30
"""Days that a budget is for."""
DIRECT = {"5m": 300, "30m": 1800, "1h": 3600, "2h": 7200, "6h": 21600}
"""Windows that are counted from the service's own counters, and their seconds."""
SUMMED = ("1d", "3d", "30d")
"""Windows that are summed up from recorded rates: over so long, reading all counters would take seconds each time."""
BURNS = {"page": (("1h", "5m", 14.4), ("6h", "30m", 6.0)), "ticket": (("1d", "2h", 3.0), ("3d", "6h", 1.0))}
"""By severity: the long window, the short one that lets the alert end soon, and how many times too fast."""


@dataclass(frozen=True)
class Objective:
    """What share of events must be good; ``errors`` and ``events`` are rates with WINDOW for the window, by model."""

    name: str
    share: float
    errors: str
    events: str
    what: str

    @property
    def budget(self) -> float:
        """The share that may be bad."""
        return round(1 - self.share, 12)

    @property
    def labels(self) -> dict[str, str]:
        """Sloth's."""
        return {"sloth_id": f"modelkeep-{self.name}", "sloth_service": "modelkeep", "sloth_slo": self.name}

    @property
    def selector(self) -> str:
        """Its recorded series."""
        return f'{{sloth_id="modelkeep-{self.name}"}}'


def objectives(plan: Plan) -> tuple[Objective, ...]:
    """Availability: requests that fail, are turned away or come too late. Latency: answers slower than was promised."""
    mine = 'track!="shadow"'
    total = f"modelkeep_requests_total{{{mine},outcome=~"
    count, bucket = f"modelkeep_request_duration_seconds_count{{{mine}}}", "modelkeep_request_duration_seconds_bucket"
    slow = f'sum by (model) (rate({bucket}{{{mine},le="{float(plan.p99)}"}}[WINDOW]))'
    return (
        Objective(
            "availability",
            plan.availability,
            f'sum by (model) (rate({total}"error|overloaded|late"}}[WINDOW]))',
            f'sum by (model) (rate({total}"ok|error|overloaded|late"}}[WINDOW]))',
            "of the requests fail, are turned away or come too late",
        ),
        Objective(
            "latency",
            0.99,
            f"sum by (model) (rate({count}[WINDOW])) - {slow}",
            f"sum by (model) (rate({count}[WINDOW]))",
            f"of the answers take longer than {plan.p99:g} s",
        ),
    )


def groups(plan: Plan) -> list[Group]:
    """The rules of both objectives; records first."""
    found = []
    for objective in objectives(plan):
        found.append(Group(f"modelkeep-slo-{objective.name}", (*_ratios(objective), *_budget(objective))))
        found.append(Group(f"modelkeep-slo-{objective.name}-alerts", tuple(_alerts(objective))))
    return found


def _ratios(objective: Objective) -> list[Rule]:
    labels = objective.labels
    base: list[Rule] = [
        Record("modelkeep:slo_errors:rate5m", objective.errors.replace("WINDOW", "5m"), labels),
        Record("modelkeep:slo_events:rate5m", objective.events.replace("WINDOW", "5m"), labels),
    ]
    for window in (*DIRECT, *SUMMED):
        # where nothing was asked there is no ratio, and not a perfect one
        ratio = f"({_errors(objective, window)})\n/\n({_events(objective, window)} > 0)"
        base.append(Record(f"slo:sli_error:ratio_rate{window}", ratio, {**labels, "sloth_window": window}))
    return base


def _errors(objective: Objective, window: str) -> str:
    if window in DIRECT:
        return objective.errors.replace("WINDOW", window)
    return f"sum by (model) (sum_over_time(modelkeep:slo_errors:rate5m{objective.selector}[{window}]))"


def _events(objective: Objective, window: str) -> str:
    if window in DIRECT:
        return objective.events.replace("WINDOW", window)
    return f"sum by (model) (sum_over_time(modelkeep:slo_events:rate5m{objective.selector}[{window}]))"


def _budget(objective: Objective) -> list[Rule]:
    labels, mine = objective.labels, objective.selector
    return [
        Record("slo:objective:ratio", f"vector({objective.share:g})", labels),
        Record("slo:error_budget:ratio", f"vector({objective.budget:g})", labels),
        Record("slo:time_period:days", f"vector({PERIOD})", labels),
        Record("slo:current_burn_rate:ratio", f"slo:sli_error:ratio_rate5m{mine} / {objective.budget:g}", labels),
        Record("slo:period_burn_rate:ratio", f"slo:sli_error:ratio_rate30d{mine} / {objective.budget:g}", labels),
        Record("slo:period_error_budget_remaining:ratio", f"1 - slo:period_burn_rate:ratio{mine}", labels),
        Record(
            "sloth_slo_info",
            "vector(1)",
            {**labels, "sloth_mode": "modelkeep", "sloth_objective": f"{objective.share * 100:g}"},
        ),
    ]


def _alerts(objective: Objective) -> list[Rule]:
    name = objective.name.title()
    return [
        Alert(
            f"Modelkeep{name}Burn{severity.title()}",
            "\nor\n".join(_burn(objective, *burn) for burn in burns),
            severity,
            "health",
            f"{{{{ $labels.model }}}} spends its {objective.name} budget too fast",
            f"{{{{ $value | humanizePercentage }}}} {objective.what}, where {objective.budget * 100:g} % may over "
            f"{PERIOD} days. See the dashboard 'modelkeep: service', and: modelkeep journal {{{{ $labels.model }}}}",
            subject=objective.name,
        )
        for severity, burns in BURNS.items()
    ]


def _burn(objective: Objective, long: str, short: str, factor: float) -> str:
    """Too fast over the long window, still so over the short one, and LEAST errors at least."""
    most = f"{round(factor * objective.budget, 12):g}"
    seconds = DIRECT.get(long, INTERVAL)  # a recorded rate stands for one interval
    counted = f"({_errors(objective, long)}) * {seconds} >= {LEAST}"
    return f"(\n  {_over(objective, long)} > {most}\n  and {_over(objective, short)} > {most}\n  and {counted}\n)"


def _over(objective: Objective, window: str) -> str:
    return f"max by (model) (slo:sli_error:ratio_rate{window}{objective.selector})"
