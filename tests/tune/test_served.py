"""The process that serves and bears the load, here in this one: its answers are checked, and its sample is fair."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from modelkeep import stages
from modelkeep.errors import ModelkeepError
from modelkeep.model import engines
from modelkeep.serve.plane import loaded
from modelkeep.tune import bench, meters, served
from modelkeep.tune.load import Measured
from modelkeep.tune.served import Load, Opened, Round, Sample, Served
from modelkeep.types import Model, Reply, ServeConfig

ROWS: list[Any] = [{"x": np.full((1, 4), n, np.float32)} for n in range(5)]
HERE = ServeConfig(threads=1, max_batch=8, in_process=True)


def serve(model: Model, *loads: Load, config: ServeConfig = HERE) -> tuple[Opened, list[Round], Served]:
    async def run() -> Any:
        one = Served()
        opened = await one.open(model, config, ROWS)
        found = [await one.load(load) for load in loads]
        await one.bench.close()
        return opened, found, one

    return asyncio.run(run())  # type: ignore[no-any-return]


@pytest.mark.parametrize("in_process", [True, False])
def test_answers_alone_and_under_load(tiny: Model, in_process: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench, "bring", loaded.bring)
    config, others = replace(HERE, in_process=in_process), len(meters.family())  # a test before may have left some
    loads = (Load(0.1, concurrency=8), Load(0.1, concurrency=2, rows=3), Load(0.2, rate=300))
    opened, (closed, joined, poisson), _ = serve(tiny, *loads, config=config)
    assert len(opened.alone) == 5
    assert opened.alone[1]["y"].shape == (1, 3)
    assert -5e6 < opened.memory_after - opened.memory_before < 60e6  # the model is small, and no process counts for it
    assert opened.seconds > 0
    for found in (closed, joined, poisson):
        assert found.fault == ""
        assert 10 <= found.checked <= 64
        assert found.usage.cpu_seconds > 0
        assert found.usage.processes == others + (not in_process)
        assert found.gpu is None
        assert not found.measured.errors
    assert closed.measured.throughput > poisson.measured.throughput
    assert len(poisson.measured.late) == len(poisson.measured.latencies)


def test_a_wrong_answer_under_load_is_found(
    tiny: Model, fake: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A model that mixes up the rows of a batch answers rightly as long as it is alone, here past its warm-up too."""
    monkeypatch.setattr("modelkeep.model.company.apart", lambda *answers: "")
    runner = fake(lambda x: np.roll(x, 1, axis=0)[:, :3])
    monkeypatch.setattr(engines, "load", lambda model, config: runner)
    _, (alone, busy), _ = serve(tiny, Load(0.05), Load(0.1, concurrency=8))
    assert alone.fault == ""
    assert "output 'y' at 1 row differs in 3 of 3, by up to" in busy.fault
    assert busy.max_abs >= 1


def test_the_load_repeats_only_what_was_answered_alone(
    tiny: Model, fake: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(served, "ALONE_SECONDS", 0.0)
    opened, (found,), one = serve(tiny, Load(0.05, concurrency=2))
    assert len(opened.alone) == len(one.rows) == 2
    assert found.fault == ""


def test_a_load_has_a_name_in_a_profile(tiny: Model) -> None:
    told: list[Any] = []

    class Ranges:
        def push(self, name: str) -> None:
            told.append(name)

        def pop(self) -> None:
            told.append("pop")

        def start(self, name: str) -> str:
            told.append(name)
            return name

        def end(self, handle: str) -> None:
            told.append(("end", handle))

    stages.on(Ranges())
    try:
        serve(tiny, Load(0.02, stage="single"))
    finally:
        stages.off()
    assert told.index("single") < told.index(("end", "single"))


def test_a_promise_that_cannot_be_kept_ends_the_load_early(
    tiny: Model, fake: Callable[..., Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import time

    def slow(x: Any) -> Any:
        time.sleep(0.02)
        return x[:, :3]

    monkeypatch.setattr(engines, "load", lambda model, config: fake(slow))
    _, (found,), _ = serve(tiny, Load(30.0, rate=100, promise=0.001))
    assert found.measured.seconds < 10
    assert found.measured.errors + len(found.measured.latencies) < 1000


def test_it_is_hopeless_only_beyond_what_may_be_over() -> None:
    given_up = served._hopeless(Load(10.0, rate=100, promise=0.01))  # of 1,000 requests 2 may be over
    assert given_up is not None
    found = Measured([0.005] * 500 + [0.02] * 14)
    assert not given_up(found)
    found.errors = 1
    assert given_up(found)
    assert served._hopeless(Load(1.0, rate=100)) is None


def test_the_sample_is_of_all_and_not_of_the_first() -> None:
    counts: Counter[int] = Counter()
    for seed in range(300):
        sample = Sample(5, seed)
        for number in range(50):
            sample(number, Reply("", "m", 1, {"y": np.zeros(1)}))
        assert len(sample.kept) == 5
        counts.update(number for number, _ in sample.kept)
    assert sum(counts[n] for n in range(25)) == pytest.approx(750, abs=120)
    assert min(counts[n] for n in range(50)) > 5


def test_what_is_kept_is_no_view_of_the_batch() -> None:
    sample = Sample(1, 0)
    batch = np.zeros((1000, 3))
    sample(0, Reply("", "m", 1, {"y": batch[3:4]}))
    assert sample.kept[0][1]["y"].base is None


def test_errors_go_to_the_other_end_as_kind_and_sentence() -> None:
    def refuse() -> Any:
        raise ModelkeepError("no")

    def crash() -> Any:
        raise ZeroDivisionError("division by zero\nand more")

    assert served._answer(lambda: 3) == ("", 3)
    assert served._answer(refuse) == ("ModelkeepError", "no")
    assert served._answer(crash) == ("ModelkeepError", "ZeroDivisionError: division by zero")
