"""What the loop may spend is read from the journal, so that a restart forgets nothing."""

from __future__ import annotations

import time
from types import SimpleNamespace
from typing import Any

from modelkeep.operate.budget import DAY, FAILED, PROMOTED, RESET, STARTED, refusal
from modelkeep.operate.policy import Spending

NOW = 10 * DAY


def entries(*stages: tuple[str, float]) -> Any:
    return [SimpleNamespace(at=NOW - ago, data={"stage": stage}) for stage, ago in stages]


def ask(spending: Spending, *stages: tuple[str, float]) -> str | None:
    return refusal(spending, entries(*stages), now=lambda: NOW)


def test_an_empty_journal_allows() -> None:
    assert ask(Spending()) is None


def test_the_cooldown_is_waited_for() -> None:
    spending = Spending(cooldown=100)
    began = time.strftime("%H:%M:%S", time.localtime(NOW - 60))
    assert f"began at {began}; the policy waits 100 s" in str(ask(spending, (STARTED, 60)))
    assert ask(spending, (STARTED, 101)) is None


def test_a_clock_that_was_set_back_by_a_year_holds_nothing_back_for_a_year() -> None:
    once = Spending(updates_per_day=1, cooldown=100)
    assert ask(once, (STARTED, -365 * DAY)) is None
    assert "the policy allows" in str(ask(once, (STARTED, -365 * DAY), (STARTED, 60)))


def test_updates_of_one_day_are_counted() -> None:
    spending = Spending(updates_per_day=2, cooldown=0)
    assert ask(spending, (STARTED, DAY + 1), (STARTED, 9)) is None
    assert "the last day has seen 2 updates, which" in str(ask(spending, (STARTED, 99), (STARTED, 9)))


def test_one_update_is_no_more_than_one() -> None:
    once = Spending(updates_per_day=1, failures=1, cooldown=0)
    assert "has seen 1 update, which" in str(ask(once, (STARTED, 9)))
    assert "1 update failed in a row" in str(ask(once, (FAILED, 9)))


def test_failures_in_a_row_ask_for_a_person() -> None:
    spending = Spending(failures=2, cooldown=0)
    assert ask(spending, (FAILED, 5), (PROMOTED, 4), (FAILED, 3)) is None
    assert "2 updates failed in a row, so a person must look" in str(ask(spending, (FAILED, 5), (FAILED, 3)))
    assert ask(spending, (FAILED, 5), (FAILED, 3), (RESET, 1)) is None
