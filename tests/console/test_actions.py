"""A form as a plan."""

from __future__ import annotations

import pytest

from modelkeep.console.actions import Asked, plan
from modelkeep.errors import BadInput, BadSettings
from modelkeep.rollout.canary import Canary

GOOD = {"steps": "10, 50", "tolerance": "5", "minutes": "10", "p99": ""}


def test_a_form_is_a_plan() -> None:
    assert plan(GOOD) == Canary(steps=(0.1, 0.5), tolerance=0.05, max_seconds=600.0)
    full = plan({**GOOD, "p99": "20", "needs_labels": "yes", "minutes": "0.5"})
    assert (full.p99, full.needs_labels, full.max_seconds) == (0.02, True, 30.0)


@pytest.mark.parametrize(
    ("field", "value"),
    [("steps", ""), ("steps", "10;50"), ("tolerance", "nan"), ("tolerance", "-1"), ("minutes", "inf"), ("p99", "soon")],
)
def test_what_is_no_plan_is_said_by_its_field(field: str, value: str) -> None:
    with pytest.raises(BadInput, match=f"{field} is '{value}'; give"):
        plan({**GOOD, field: value})


def test_shares_must_grow() -> None:
    with pytest.raises(BadSettings, match="growing shares"):
        plan({**GOOD, "steps": "50, 10"})


def test_a_reason_is_one_short_line() -> None:
    assert Asked("digits", 1, {"why": " a\n\tb "}, "console").why == "a b"
    assert len(Asked("digits", 1, {"why": "x" * 1000}, "console").why) == 200
    assert Asked("digits", 1, {}, "console").why == "decided in the console"
