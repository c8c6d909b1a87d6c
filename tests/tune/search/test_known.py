"""What was measured before is not measured again."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from modelkeep.tune import search
from modelkeep.tune.rounds import Window
from modelkeep.types import Model
from tests.tune.search.field import NAIVE, QUICK, SHORT, field, runners


def test_the_second_search_measures_nothing_again(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    field(monkeypatch, NAIVE, QUICK)
    runners(monkeypatch, lambda c: fake())
    kept: list[list[Window]] = []
    monkeypatch.setattr(search, "LONGEST", 0.05)
    patient = replace(SHORT, budget=60.0)  # it ends by itself, however slow the machine is
    first = patient.run(tiny, remember=lambda windows: kept.append(list(windows)))
    made = first.report.numbers["measurements"]["made"]
    assert made == sum(map(len, kept)) > 0
    again = patient.run(tiny, known=kept)
    counted = again.report.numbers["measurements"]
    assert (counted["made"], counted["reused"], counted["settings"]) == (0, made, 2)
    assert 0 < counted["proof"] < made
    assert (again.config, again.report.numbers["gain"]) == (first.config, first.report.numbers["gain"])


def test_a_search_that_was_killed_goes_on_where_it_was(
    monkeypatch: pytest.MonkeyPatch, tiny: Model, fake: Callable[..., Any]
) -> None:
    field(monkeypatch, NAIVE, QUICK)
    runners(monkeypatch, lambda c: fake())
    kept: list[list[Window]] = []

    def killed(windows: Any) -> None:
        kept.append(list(windows))
        if len(kept) == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        replace(SHORT, budget=9.0).run(tiny, remember=killed)
    report = SHORT.run(tiny, known=kept).report
    assert report.numbers["measurements"]["reused"] == sum(map(len, kept))
    assert report.numbers["measurements"]["made"] > 0
