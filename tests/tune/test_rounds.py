"""Rounds: who is measured when, what is remembered, and what is refused."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import BadModel
from modelkeep.tune import rounds as rounds_
from modelkeep.tune.load import Measured
from modelkeep.tune.rounds import Entrant, Rounds, Window
from modelkeep.types import ServeConfig

A, B, C = (Entrant(ServeConfig(threads=n)) for n in (1, 2, 3))
Measuring = Callable[..., Rounds]


def measure(one: Rounds, *entrants: Entrant, seconds: float = 1.0) -> bool:
    return asyncio.run(one.measure(entrants, seconds))


def test_a_round_measures_each_once_and_the_first_begins(lab: Any, measuring: Measuring) -> None:
    for seed in range(5):
        lab.windows.clear()
        assert measure(measuring(seed=seed), C, A, B)
        assert lab.windows[0][0].threads == 3
        assert sorted(config.threads for config, _, _ in lab.windows) == [1, 2, 3]


def test_later_rounds_change_the_order(lab: Any, measuring: Measuring) -> None:
    one = measuring()
    for _ in range(8):
        measure(one, A, B, C)
    orders = {tuple(c.threads for c, _, _ in lab.windows[at : at + 3]) for at in range(3, 24, 3)}
    assert len(orders) > 2


def test_ratios_are_taken_within_rounds(lab: Any, measuring: Measuring) -> None:
    lab.speed = lambda config, of: 100.0 * config.threads
    lab.mood = lambda number: 1.0 if number <= 2 else 0.5
    one = measuring()
    measure(one, A, B)
    measure(one, A, B)
    assert one.ratios(B, A) == pytest.approx([2.0, 2.0])
    assert one.ratios(C, A) == []


def test_settings_that_differ_in_their_batches_share_a_loaded_model(lab: Any, measuring: Measuring) -> None:
    wider = replace(A, config=replace(A.config, max_batch=4, max_wait=0.001))
    measure(measuring(), A, wider, B)
    assert lab.loads == 2
    assert {c.max_batch for c, _, _ in lab.windows if c.threads == 1} == {32, 4}


def test_what_does_not_load_or_hangs_or_answers_nothing_is_refused(
    lab: Any, measuring: Measuring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds_, "PATIENCE", 0.05)
    dead = Entrant(ServeConfig(threads=4))
    lab.broken[B.config] = BadModel("no such operator")
    lab.hanging.add(C.config)
    lab.speed = lambda config, of: 0.0 if config == dead.config else 100.0
    one = measuring()
    assert measure(one, A, B, C, dead)
    assert one.refused == {
        B: "no such operator",
        C: "it was not loaded within 0 s, its share of the budget",
        dead: "it answered nothing",
    }
    assert measure(one, A, B, C, dead)
    assert list(one.windows) == [A]
    asyncio.run(one.close())
    assert lab.open == 0


def test_the_first_is_waited_for_however_short_the_budget_is(
    lab: Any, measuring: Measuring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A cold disk may take longer than a setting's share, and without the first there is nothing to tell."""
    monkeypatch.setattr(rounds_, "LEAST", 0.05)
    monkeypatch.setattr(rounds_, "LOADING", 0.0)
    lab.opening |= {A.config: 0.3, B.config: 0.3}
    one = measuring()
    measure(one, A, B)
    assert list(one.windows) == [A]
    assert "not loaded within 0 s" in one.refused[B]


def test_the_first_that_never_loads_says_what_would_help(
    lab: Any, measuring: Measuring, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rounds_, "PATIENCE", 0.05)
    monkeypatch.setattr(rounds_, "LOADING", 0.0)
    lab.hanging.add(A.config)
    one = measuring()
    measure(one, A)
    assert one.refused[A].endswith("its share of the budget; give a longer --budget")


def test_a_measurement_that_hangs_is_refused(lab: Any, measuring: Measuring, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(rounds_, "PATIENCE", 0.05)

    async def never(*_: Any, **__: Any) -> None:
        await asyncio.Event().wait()

    one = measuring()
    measure(one, A)
    monkeypatch.setattr(next(iter(one._benches.values())), "run", never)
    measure(one, A, B, seconds=0.01)
    assert one.refused == {A: "no answer within 0 s"}
    assert list(one.windows) == [A, B]


def test_no_measurement_begins_after_the_end_but_the_first(lab: Any, measuring: Measuring) -> None:
    one = measuring(end=lab.clock.now)
    assert not measure(one, A, B)
    assert list(one.windows) == [A]
    assert not measure(one, A, B)
    assert len(lab.windows) == 1


def test_a_round_that_is_known_is_not_measured_again(lab: Any, measuring: Measuring) -> None:
    kept: list[Any] = []
    first = measuring(remember=lambda windows: kept.append(list(windows)))
    measure(first, A, B, C)
    measure(first, A, B)
    lab.windows.clear()
    again = measuring(known=kept)
    assert measure(again, A, B, C)
    assert measure(again, A, B)
    assert not lab.windows
    assert (again.made, again.reused) == (0, 5)
    assert again.ratios(B, A) == first.ratios(B, A)
    assert measure(again, A, B)
    assert len(lab.windows) == 2, "each known round is taken once"


def test_of_a_round_that_is_known_in_part_the_rest_is_measured_with_the_best_of_it(
    lab: Any, measuring: Measuring
) -> None:
    lab.speed = lambda config, of: 100.0 * config.threads
    kept: list[Any] = []
    measure(measuring(remember=lambda windows: kept.append(list(windows))), A, B)
    lab.windows.clear()
    again = measuring(known=kept)
    assert measure(again, A, B, C)
    assert sorted(c.threads for c, _, _ in lab.windows) == [2, 3]
    assert (again.made, again.reused) == (2, 2)
    assert again.ratios(B, A) == [2.0]
    assert again.ratios(C, B) == [1.5]
    assert again.ratios(C, A) == [], "they were never measured side by side"


def test_what_is_known_and_was_not_asked_for_is_recalled_but_pairs_set_apart(lab: Any, measuring: Measuring) -> None:
    kept: list[Any] = []
    first = measuring(remember=lambda windows: kept.append(list(windows)))
    for round_ in ((A, B, C), (A, B), (B, C)):
        measure(first, *round_)
    lab.windows.clear()
    again = measuring(known=kept)
    again.recall(lambda e: e != C, lambda pair: False)
    assert set(again.windows) == {A, B}, "no round in which one took part that may not win"
    again = measuring(known=kept)
    again.recall(lambda e: True, lambda pair: set(pair) == {A, B})
    assert (len(again.windows[A]), len(again.windows[B]), len(again.windows[C])) == (1, 2, 2)
    assert measure(again, A, B)
    assert not lab.windows, "the pair was still there to be asked for"


def test_one_half_of_a_pair_is_no_pair(lab: Any, measuring: Measuring) -> None:
    kept: list[Any] = []
    measure(measuring(remember=lambda windows: kept.append(list(windows))), A)
    lab.windows.clear()
    again = measuring(known=kept)
    measure(again, A, B)
    assert len(lab.windows) == 2


def test_a_known_window_that_is_much_too_short_does_not_count(lab: Any, measuring: Measuring) -> None:
    kept: list[Any] = []
    measure(measuring(remember=lambda windows: kept.append(list(windows))), A, seconds=1.0)
    for seconds, reused in ((2.0, 1), (2.1, 0)):
        again = measuring(known=kept)
        measure(again, A, seconds=seconds)
        assert again.reused == reused


def test_a_window_keeps_what_a_percentile_needs() -> None:
    latencies = np.random.default_rng(0).gamma(3.0, 0.002, 5000).tolist()
    window = Window.of(A, Measured(latencies, 2.0, errors=1, trouble="late"), memory=7)
    back = Window.from_json(json.loads(json.dumps(window.to_json())))
    assert back == window
    assert len(back.latencies()) == 5000
    for share in (0.5, 0.9, 0.99):
        assert np.quantile(back.latencies(), share) == pytest.approx(np.quantile(latencies, share), rel=0.02)
    assert window.throughput == 2500


def test_all_of_an_entrants_windows_are_one_measurement(lab: Any, measuring: Measuring) -> None:
    lab.latency = lambda config, of: 0.02
    one = measuring()
    measure(one, A)
    measure(one, A)
    found = one.measured(A)
    assert (len(found.latencies), found.seconds, found.percentile(0.99)) == (200, 2.0, 0.02)
    assert one.memory(A) == 1000
    assert one.measured(B).latencies == []


def test_another_load_is_measured_apart(lab: Any, measuring: Measuring) -> None:
    one = measuring()
    measure(one, A)
    found = asyncio.run(one.at(A, 1, 1.0))
    assert found.percentile(0.99) == pytest.approx(0.0025)
    assert len(one.windows[A]) == 1
