"""Objectives as rules: Sloth's names, and every selector on a bound that the histogram has. See test_alerts too."""

from __future__ import annotations

import pytest

from modelkeep.metrics import SECONDS, Metrics
from modelkeep.monitor.prometheus import objectives
from modelkeep.monitor.prometheus.plan import Plan
from modelkeep.monitor.prometheus.rule import Alert, Record

SLOTH = {
    *(f"slo:sli_error:ratio_rate{window}" for window in ("5m", "30m", "1h", "2h", "6h", "1d", "3d", "30d")),
    "slo:objective:ratio",
    "slo:error_budget:ratio",
    "slo:time_period:days",
    "slo:current_burn_rate:ratio",
    "slo:period_burn_rate:ratio",
    "slo:period_error_budget_remaining:ratio",
    "sloth_slo_info",
}


def test_the_names_and_labels_are_those_of_sloth() -> None:
    for group in objectives.groups(Plan())[::2]:
        records = [one for one in group.rules if isinstance(one, Record)]
        assert {one.record for one in records} >= SLOTH
        assert all({"sloth_id", "sloth_service", "sloth_slo"} <= set(one.labels) for one in records)


@pytest.mark.parametrize("p99", SECONDS)
def test_a_promise_is_counted_in_a_bucket_that_is_there(p99: float) -> None:
    metrics = Metrics()
    metrics.track("m", 1, "live")
    errors = next(o for o in objectives.objectives(Plan(p99=p99)) if o.name == "latency").errors
    bound = errors.partition('le="')[2].partition('"')[0]
    assert f'le="{bound}"' in metrics.render().decode()


def test_a_higher_promise_has_a_smaller_budget_and_sooner_alerts() -> None:
    [of_half] = [o for o in objectives.objectives(Plan(availability=0.995)) if o.name == "availability"]
    assert of_half.budget == 0.005
    alerts = [a for g in objectives.groups(Plan(availability=0.995)) for a in g.rules if isinstance(a, Alert)]
    page = next(a for a in alerts if a.alert == "ModelkeepAvailabilityBurnPage")
    assert "> 0.072" in page.expr  # 14.4 × 0.005
    assert "0.5 % may over 30 days" in page.description
