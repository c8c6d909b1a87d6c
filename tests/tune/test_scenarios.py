"""The scenarios, on a queue that is calculated and not run: what is claimed is what is true of it."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import ModelkeepError
from modelkeep.tune import scenarios
from modelkeep.tune.load import Measured, arrivals
from modelkeep.tune.meters import Usage
from modelkeep.tune.scenarios import Found, Scenarios, summary
from modelkeep.tune.served import Load, Round
from modelkeep.types import ServeConfig


@dataclass
class Queue:
    """One worker that takes ``service`` seconds for each request: no clock, no threads, no noise but ``noise``."""

    service: float = 0.001
    config: ServeConfig = field(default_factory=lambda: ServeConfig(max_batch=4))
    fault: str = ""
    broken: bool = False
    loads: list[Load] = field(default_factory=list)
    slower_when_confirming: float = 1.0
    longest: float = np.inf
    """Seconds of a load at most: what a person's patience would allow."""

    def load(self, load: Load) -> Round:
        self.loads.append(load)
        measured = Measured(errors=3, trouble="it is broken") if self.broken else self._run(load)
        usage = Usage(measured.seconds, measured.seconds / 2, 1_000_000 * len(self.loads))
        return Round(measured, usage, None, "", 10, 0.0, self.fault)

    def _run(self, load: Load) -> Measured:
        service = self.service * load.rows**0.5  # a batch is cheaper than its rows
        if load.rate is None:
            seconds = load.seconds
            while seconds / service < load.least and seconds < load.most:
                seconds += service
            n = max(int(seconds / service), load.concurrency)
            return Measured([service * load.concurrency] * n, n * service)
        due = arrivals(load.rate, min(load.seconds, self.longest), load.seed)
        if load.seconds >= 5:  # only confirmations take so long
            service *= self.slower_when_confirming
        latencies, free = [], 0.0
        for at in due.tolist():
            free = max(free, at) + service
            latencies.append(free - at)
        return Measured(latencies, max(load.seconds, free), late=[0.0] * len(latencies))


def quiet(done: float, total: float, note: str) -> None:
    assert 0 <= done <= total


def measure(name: str, queue: Queue, **plan: Any) -> tuple[Found, dict[str, Any]]:
    return Scenarios(**plan).measure(name, queue, quiet)


class TestSingle:
    def test_one_after_the_other(self) -> None:
        queue = Queue(0.002)
        found, numbers = measure("single", queue, duration=2.0)
        assert queue.loads[0].concurrency == 1
        assert numbers["n"] == 1000
        assert numbers["percentiles"]["p99"]["value"] == pytest.approx(0.002)
        assert numbers["throughput"] == pytest.approx(500)
        assert numbers["cpus"] == pytest.approx(0.5)
        assert found.checked == 10
        assert summary("single", numbers) == "single p99 2 ms (n = 1,000)"

    def test_a_slow_model_goes_on_until_there_are_enough(self) -> None:
        _, numbers = measure("single", Queue(0.1), duration=2.0, budget=120.0)
        assert numbers["n"] >= 662
        assert numbers["percentiles"]["p99"]["value"] is not None

    def test_but_not_for_longer_than_the_budget_and_then_p99_is_not_claimed(self) -> None:
        _, numbers = measure("single", Queue(0.1), duration=2.0, budget=20.0)
        assert 190 <= numbers["n"] <= 210
        assert numbers["percentiles"]["p99"]["value"] is None
        assert numbers["percentiles"]["p90"]["value"] is not None
        assert summary("single", numbers).startswith("single p99 not claimed (2")
        assert "662 needed" in summary("single", numbers)

    def test_the_curve_is_small_whatever_n(self) -> None:
        _, numbers = measure("single", Queue(0.0001), duration=5.0)
        assert len(numbers["curve"]) == len(scenarios.CURVE) < 100


class TestOffline:
    def test_full_batches_and_an_interval(self) -> None:
        queue = Queue(0.001, ServeConfig(max_batch=16, workers=2))
        _, numbers = measure("offline", queue, duration=6.0)
        assert {(load.rows, load.concurrency) for load in queue.loads} == {(16, 4)}
        rows = numbers["rows_per_second"]
        assert rows["n"] == 6
        assert rows["median"] == pytest.approx(4000, rel=0.01)
        assert rows["low"] <= rows["median"] <= rows["high"]
        assert numbers["rows"] == 16 * numbers["n"]
        assert summary("offline", numbers).startswith("offline 4,000 rows/s (")


class TestServer:
    def test_the_highest_rate_that_keeps_the_promise(self) -> None:
        """One worker of 1 ms keeps p99 ≤ 10 ms up to about 80 % of its capacity (M/D/1)."""
        queue = Queue(0.001)
        _, numbers = measure("server", queue, p99=0.010, duration=20.0)
        assert 680 <= numbers["rate"] <= 860
        assert numbers["kept"] is True
        p99 = numbers["percentiles"]["p99"]
        assert p99["value"] <= p99["at_most"] <= 0.010
        assert numbers["n"] >= 662
        assert numbers["trials"][-1]["part"] == "confirm"
        assert "keep p99 ≤ 10 ms" in summary("server", numbers)
        # and ten per cent more would not have been kept
        beyond = queue.load(Load(200.0, rate=1.15 * numbers["rate"], seed=99)).measured
        assert beyond.percentile(0.99) > 0.010

    def test_the_claim_is_made_of_new_requests(self) -> None:
        queue = Queue(0.001)
        _, numbers = measure("server", queue, p99=0.010, duration=10.0)
        seeds = [load.seed for load in queue.loads if load.rate is not None]
        assert len(set(seeds)) == len(seeds)
        confirmed = queue.loads[-1]
        assert confirmed.seconds >= 10.0
        assert numbers["n"] == pytest.approx(confirmed.seconds * confirmed.rate, rel=0.1)  # type: ignore[operator]
        assert confirmed.promise == 0.010

    def test_a_lucky_search_is_lowered(self) -> None:
        """What kept the promise in short rounds breaks it in the long one."""
        queue = Queue(0.001, slower_when_confirming=1.3)
        _, numbers = measure("server", queue, p99=0.010, duration=10.0)
        confirmations = [t for t in numbers["trials"] if t["part"] == "confirm"]
        assert len(confirmations) >= 2
        assert confirmations[0]["verdict"] != "keeps"
        assert confirmations[-1]["verdict"] == "keeps"
        assert numbers["rate"] == confirmations[-1]["rate"] < 770

    def test_one_that_is_never_confirmed_is_not_claimed(self) -> None:
        _, numbers = measure("server", Queue(0.001, slower_when_confirming=12.0), p99=0.010, duration=10.0)
        assert (numbers["rate"], numbers["kept"]) == (None, None)
        assert numbers["claim"].startswith("not claimed: ")
        assert "not again" in summary("server", numbers)

    def test_a_promise_below_the_models_own_time_is_broken_at_any_rate(self) -> None:
        _, numbers = measure("server", Queue(0.005), p99=0.004, duration=2.0)
        assert (numbers["rate"], numbers["kept"]) == (None, False)
        assert "no rate keeps it" in summary("server", numbers)

    def test_too_few_requests_are_said_and_no_number(self) -> None:
        """At two a second, p99 needs more than five minutes."""
        _, numbers = measure("server", Queue(0.4), p99=2.0, duration=2.0, budget=10.0)
        assert (numbers["rate"], numbers["kept"]) == (None, None)
        assert "not claimed: p99 needs 662 requests" in numbers["claim"]
        assert "--budget" in numbers["claim"]


def test_costs_and_checks_add_up_over_the_rounds() -> None:
    found, numbers = measure("offline", Queue(), duration=0.6)
    assert found.checked == 60
    assert numbers["peak_memory"] == 6_000_000  # the largest of six rounds
    assert numbers["cpu_seconds"] == pytest.approx(numbers["seconds"] / 2)


@pytest.mark.parametrize("name", scenarios.NAMES)
def test_a_wrong_answer_in_any_round_is_kept(name: str) -> None:
    found, _ = measure(name, Queue(fault="output 'y' differs"), p99=0.01, duration=1.0)
    assert found.fault == "output 'y' differs"


@pytest.mark.parametrize("name", scenarios.NAMES)
def test_a_model_that_answers_nothing(name: str) -> None:
    with pytest.raises(ModelkeepError, match=r"answered none of .* requests: it is broken"):
        measure(name, Queue(broken=True), duration=0.1)


def test_gpus_add_up() -> None:
    found = Found()
    for busy, looks, memory in ((0.5, 10, 100), (1.0, 30, 80)):
        usage = {
            "name": "A GPU",
            "memory_total": 1000,
            "peak_memory": memory,
            "shared": False,
            "utilisation": busy,
            "peak_utilisation": busy,
            "looks": looks,
        }
        found.add(Round(Measured([0.1], 1.0), Usage(1.0), usage, "", 1, 0.0, ""))
    gpu = found.numbers()["gpu"]
    assert gpu["utilisation"] == pytest.approx(0.875)
    assert (gpu["peak_memory"], gpu["looks"], gpu["peak_utilisation"]) == (100, 40, 1.0)
