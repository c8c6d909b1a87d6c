"""What is said of a race: the front, the reasons, the costs."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from modelkeep.tune import results
from modelkeep.tune.halving import Promise, Race
from modelkeep.tune.results import Gain, Outcome, label, per_million
from modelkeep.tune.rounds import Entrant, Rounds
from modelkeep.tune.search import Tune
from modelkeep.types import ServeConfig

NAIVE = Entrant(ServeConfig(max_batch=1))
ORT = Entrant(ServeConfig(threads=1, max_batch=8))
OV = Entrant(ServeConfig(engine="openvino", threads=1, max_batch=8))
BF16 = Entrant(ServeConfig(engine="openvino", precision="bfloat16", threads=1, max_batch=8))
WIDE = Entrant(ServeConfig(engine="openvino", precision="bfloat16", threads=2, max_batch=8))
BEST = Entrant(replace(WIDE.config, max_batch=16))
SPEEDS = {NAIVE: 100, ORT: 300, OV: 330, BF16: 600, WIDE: 900, BEST: 1080}


@pytest.fixture
def outcome(lab: Any, measuring: Callable[..., Rounds]) -> Outcome:
    """The arms measured side by side, then the best beside the one before."""
    lab.speed = lambda config, of: float(SPEEDS[Entrant(config, of)])
    lab.latency = lambda config, of: {1: 0.001, 8: 0.01, 16: 0.02}[config.max_batch]
    race = Race(measuring(), Promise(0.05), 1.0)
    asyncio.run(race.rounds.measure([NAIVE, ORT, OV, BF16, WIDE], 1.0))
    asyncio.run(race.rounds.measure([WIDE, BEST], 1.0))
    return Outcome(race, NAIVE, BEST, Gain(10.8, 10.0, 12.0, 9))


def test_the_report_of_a_promise_that_is_kept(outcome: Outcome) -> None:
    report = results.report(outcome, Tune(price_per_hour=3.6), 225)
    assert report.ok is True
    assert report.why.startswith("openvino bf16, 2 threads, max batch 16: 1,080 requests/s, p99 20 ms, keeps")
    assert "10.80× (10.00 to 12.00, n = 9 pairs) the naive setting" in report.why
    assert report.numbers["measurements"] == {
        "made": 7,
        "reused": 0,
        "proof": 0,
        "seconds": 1.0,
        "settings": 225,
    }
    assert report.numbers["naive"]["throughput"] == pytest.approx(100, rel=0.01)
    assert [c["config"]["max_batch"] for c in report.numbers["candidates"]] == [16, 8, 8, 8, 8, 1]
    assert report.numbers["price"]["winner_per_million"] == pytest.approx(1000 / 1080)
    assert report.numbers["price"]["naive_per_million"] == pytest.approx(10.0, rel=0.01)


def test_the_report_of_one_that_is_not(outcome: Outcome) -> None:
    outcome = replace(outcome, race=replace(outcome.race, promise=Promise(0.005, 5000)), relief=(2, 50.0, 33))
    report = results.report(outcome, Tune(), 225)
    assert report.ok is False
    assert "p99 20 ms instead of 5 ms and 1,080 requests/s instead of 5,000" in report.why
    assert "with 2 in flight it kept it, at 50 requests/s (n = 33)" in report.why
    assert report.numbers["price"] is None
    assert results.CHOSEN not in [c["verdict"] for c in report.numbers["candidates"]]


def test_one_that_seems_faster_than_the_chosen_says_by_how_little(outcome: Outcome) -> None:
    verdicts = {c["config"]["max_batch"]: c["verdict"] for c in results.candidates(replace(outcome, winner=WIDE))}
    assert verdicts[16] == "seemed faster in 1 measurement, which the proof did not try"


def test_a_second_that_is_as_fast_is_named_with_its_interval(lab: Any, measuring: Callable[..., Rounds]) -> None:
    lab.speed = lambda config, of: 1000.0 if config == BEST.config else 990.0 if config == WIDE.config else 100.0
    race = Race(measuring(), Promise(0.05), 1.0)
    for _ in range(3):
        asyncio.run(race.rounds.measure([NAIVE, WIDE, BEST], 1.0))
    report = results.report(Outcome(race, NAIVE, BEST, Gain(10.0, 9.0, 11.0, 9)), Tune(), 225)
    found = report.numbers["second"]
    assert found["config"]["max_batch"] == 8
    assert (found["ratio"], found["rounds"]) == (pytest.approx(0.99), 3)
    assert found["low"] < 0.99 < 1.0 < found["high"]
    assert "; not told apart from the second, openvino bf16, 2 threads, max batch 8, which did 0.99× (" in report.why
    assert "n = 3 rounds) as much beside it" in report.why
    assert [c["verdict"] for c in report.numbers["candidates"]][:2] == [results.CHOSEN, results.CLOSE]


def test_a_second_that_is_slower_is_not_worth_a_word(lab: Any, measuring: Callable[..., Rounds]) -> None:
    lab.speed = lambda config, of: 1000.0 if config == BEST.config else 500.0
    race = Race(measuring(), Promise(0.05), 1.0)
    for _ in range(3):
        asyncio.run(race.rounds.measure([NAIVE, BEST], 1.0))
    report = results.report(Outcome(race, NAIVE, BEST, Gain(2.0, 1.9, 2.1, 9)), Tune(), 225)
    assert report.numbers["second"]["high"] < 1.0
    assert "second" not in report.why


def test_a_second_that_never_ran_beside_the_winner_says_so(lab: Any, measuring: Callable[..., Rounds]) -> None:
    lab.speed = lambda config, of: 1000.0 if config == BEST.config else 500.0
    race = Race(measuring(), Promise(0.05), 1.0)
    asyncio.run(race.rounds.measure([NAIVE, WIDE], 1.0))
    asyncio.run(race.rounds.measure([NAIVE, BEST], 1.0))
    report = results.report(Outcome(race, NAIVE, BEST, Gain(2.0, 1.9, 2.1, 9)), Tune(), 225)
    assert "was never measured beside it, so which of the two is faster is not known" in report.why


def test_each_choice_says_what_it_gains_over_the_next_best(outcome: Outcome) -> None:
    assert results.because(outcome.race, outcome.winner) == [
        "openvino bf16 gives 2.00× onnxruntime (1 round)",
        "bf16 gives 1.82× the model's own precision (1 round)",
        "2 threads gives 1.50× 1 thread (1 round)",
        "max batch 16 gives 1.20× max batch 8 (1 round)",
    ]


def test_an_engine_is_compared_in_the_precision_that_the_other_has(outcome: Outcome) -> None:
    race = outcome.race
    assert "openvino bf16 gives 2.00× onnxruntime (1 round)" in results.because(race, BF16)


def test_the_front_is_what_nothing_beats_in_all_three(outcome: Outcome) -> None:
    front = results.pareto(outcome.race)
    assert {NAIVE, WIDE, BEST} == front


def test_more_memory_must_buy_something(outcome: Outcome) -> None:
    race = outcome.race
    number, window = race.rounds.windows[ORT][0]
    race.rounds.windows[ORT] = [(number, replace(window, memory=10))]
    assert ORT in results.pareto(race)


def test_others_are_shown_by_what_they_did_beside_the_winner(lab: Any, measuring: Callable[..., Rounds]) -> None:
    lab.speed = lambda config, of: float(SPEEDS[Entrant(config, of)])
    lab.mood = lambda number: 1.0 if number <= 2 else 0.5
    race = Race(measuring(), Promise(0.05), 1.0)
    for pair in ([NAIVE, ORT], [ORT, BF16]):
        asyncio.run(race.rounds.measure(pair, 1.0))
    found = Outcome(race, NAIVE, BF16, Gain())
    assert found.throughput(BF16) == 300  # in the mood in which it was measured
    assert found.throughput(NAIVE) == pytest.approx(50, rel=0.01)


def test_a_setting_in_a_few_words() -> None:
    assert label(NAIVE.config) == "onnxruntime, its own threads, max batch 1"
    assert label(ServeConfig(threads=1, max_batch=8)) == "onnxruntime, 1 thread, max batch 8"
    assert label(ServeConfig(threads=2, workers=3)) == "onnxruntime, 2 threads × 3 workers, max batch 32"
    assert label(replace(BEST.config, max_wait=0.002)) == "openvino bf16, 2 threads, max batch 16, max wait 2 ms"


def test_what_a_million_costs() -> None:
    assert per_million(3.6, 1000) == pytest.approx(1.0)


def test_a_gain_says_its_pairs_and_claims_no_interval_of_few() -> None:
    assert str(Gain(2.0, 1.9, 2.1, 9)) == "2.00× (1.90 to 2.10, n = 9 pairs)"
    assert "not measured in pairs" in str(Gain(2.0))
    assert Gain.of([3.0, 1.0, 2.0, 9.0, 4.0, 5.0, 6.0, 8.0, 7.0]) == Gain(5.0, 2.0, 8.0, 9)
    assert "2.00× (interval not claimed: 1 pair, 6 needed" in str(Gain.of([2.0]))
