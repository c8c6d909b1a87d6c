"""What may be asked of a version."""

from __future__ import annotations

import pytest

from modelkeep.errors import BadSettings
from modelkeep.monitor.limits import Limits


@pytest.mark.parametrize(
    ("wrong", "says"),
    [
        ({"tolerance": 1.0}, "tolerance is 1.0; give a share from 0 up to"),
        ({"min_accuracy": -0.1}, "min_accuracy is -0.1"),
        ({"false_alarm_every": 0}, "false_alarm_every is 0; give a number of requests"),
        ({"p99": 0.0}, "p99 is 0.0; give seconds"),
        ({"silence": -1.0}, "silence is -1.0; give seconds"),
        ({"slo": 1.0}, "slo is 1.0; give a share from 0 up to"),
        ({"max_error": 0.0}, "max_error is 0.0; give a number, more than 0"),
    ],
)
def test_wrong_limits_are_refused(wrong: dict[str, float], says: str) -> None:
    with pytest.raises(BadSettings, match=says):
        Limits(**wrong)
