"""Two in turns: the ratio is right, and its interval holds between runs."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import ModelkeepError
from modelkeep.tune import versus
from modelkeep.tune.load import Measured
from modelkeep.tune.meters import Usage
from modelkeep.tune.served import Load, Round
from modelkeep.tune.versus import Versus
from modelkeep.types import ServeConfig

ALL = ("single", "server", "offline")


class Made:
    """A process that is none: its requests take ``seconds``, times a factor that each start draws anew."""

    def __init__(self, name: str, seconds: float, told: list[Any], factor: float, n: int, fault: str = "") -> None:
        self.name, self.told, self.seconds, self.n, self.fault = name, told, seconds * factor, n, fault
        self.config = ServeConfig(max_batch=8 if name == "b" else 2)

    def open(self) -> None:
        self.told.append(("open", self.name))

    def load(self, load: Load) -> Round:
        self.told.append((load.stage, self.name, load.rows, load.seed))
        measured = Measured([self.seconds] * self.n, self.n * self.seconds * load.rows)
        return Round(measured, Usage(), None, "", 5, 0.0, self.fault)

    def __enter__(self) -> Made:
        return self

    def __exit__(self, *_: object) -> None:
        self.told.append(("close", self.name))


def starts(told: list[Any], *, spread: float = 0.0, n: int = 100, seed: int = 0, fault: str = "") -> list[Any]:
    rng = np.random.default_rng(seed)

    def start(name: str, seconds: float) -> Callable[[], Made]:
        return lambda: Made(name, seconds, told, float(np.exp(rng.normal(0, spread))), n, fault)

    return [start("a", 0.01), start("b", 0.02)]


def quiet(done: float, total: float, note: str) -> None:
    assert done < total


def test_ratios_of_the_first_over_the_second() -> None:
    numbers, fault = Versus(ALL, rounds=9).run(starts([]), 100.0, quiet)
    assert fault == ""
    assert numbers["rounds"] == 9
    assert numbers["rate"] == 100.0
    ratios = numbers["ratios"]
    assert ratios["single"]["p50"]["median"] == pytest.approx(0.5)
    assert ratios["single"]["throughput"]["median"] == pytest.approx(2.0)
    assert ratios["single"]["p50"]["low"] == pytest.approx(0.5)
    # offline is told in rows: batches of 2 and of 8
    assert ratios["offline"]["throughput"]["median"] == pytest.approx(2.0)


def test_each_round_starts_both_anew_and_they_take_turns() -> None:
    told: list[Any] = []
    Versus(("single",), rounds=3).run(starts(told), None, quiet)
    assert [t for t in told if t[0] == "open"] == [("open", "a"), ("open", "b")] * 3
    assert len([t for t in told if t[0] == "close"]) == 6
    order = [t[1] for t in told if t[0] == "versus single"]
    assert order == ["a", "b", "b", "a", "a", "b"]
    seeds = [t[3] for t in told if t[0] == "versus single"]
    assert seeds[0] == seeds[1] != seeds[2]  # the same arrivals for both, others in the next round


def test_the_interval_holds_between_runs() -> None:
    """Each start of a process is 20 % off by chance: the interval must hold the truth as often as it says."""
    held = 0
    for seed in range(200):
        numbers, _ = Versus(("single",), rounds=9).run(starts([], spread=0.2, seed=seed), None, quiet)
        ratio = numbers["ratios"]["single"]["p50"]
        held += ratio["low"] <= 0.5 <= ratio["high"]
    assert held >= 180


def test_few_rounds_give_no_interval_and_few_requests_no_percentile() -> None:
    numbers, _ = Versus(("single",), rounds=3).run(starts([], n=100), None, quiet)
    single = numbers["ratios"]["single"]
    assert single["throughput"]["median"] == pytest.approx(2.0)
    assert single["throughput"]["low"] is None
    assert single["p99"]["median"] is None
    assert (single["p99"]["requests"], single["p99"]["needs"]) == (100, 662)
    numbers["answers"] = versus.agreement([{"y": np.ones(3)}], [{"y": np.ones(3)}])
    said = versus.summary("a@2", "a@1", numbers)
    few = "3 rounds, 6 needed, with more --rounds or a larger --budget"
    assert said == f"a@2 over a@1: single throughput 2.00 (interval not claimed: {few}); their answers agree"


def test_the_budget_ends_it_after_a_whole_round() -> None:
    numbers, _ = Versus(ALL, rounds=9, budget=0.0).run(starts([]), 100.0, quiet)
    assert numbers["rounds"] == 1


def test_without_a_rate_there_is_no_server() -> None:
    numbers, _ = Versus(ALL, rounds=2).run(starts([]), None, quiet)
    assert set(numbers["ratios"]) == {"single", "offline"}
    assert numbers["rate"] is None


def test_a_wrong_answer_in_turns_is_told() -> None:
    _, fault = Versus(("single",), rounds=2).run(starts([], fault="output 'y' differs"), None, quiet)
    assert fault == "a: output 'y' differs"


def test_one_that_answers_nothing() -> None:
    with pytest.raises(ModelkeepError, match="answered none"):
        Versus(("single",), rounds=2).run(starts([], n=0), None, quiet)


def test_answers_under_other_names_are_not_called_different() -> None:
    found = versus.agreement([{"y": np.ones(3)}], [{"z": np.ones(3), "aux": np.ones(1)}])
    assert found["ok"] is None
    assert versus.summary("a@2", "a@1", {"ratios": {}, "answers": found}).endswith(
        "their answers cannot be compared: the first gives 'aux', 'z' and the second 'y'; give them one name each: "
        "modelkeep convert … --rename aux=y"
    )


def test_answers_that_differ_are_said_loudly() -> None:
    a, b = [{"y": np.array([[1.0, 2.0]])}], [{"y": np.array([[1.0, 2.5]])}]
    assert versus.agreement(a, a)["ok"]
    found = versus.agreement(a, b)
    assert not found["ok"]
    assert found["max_abs"] == pytest.approx(0.5)
    said = versus.summary("a@2", "a@1", {"ratios": {}, "answers": found})
    assert said.endswith("; the same class for 100.0% of 1")
    assert "nothing can be claimed; THEIR ANSWERS DIFFER: output 'y' at 1 row differs in 1 of 2" in said
