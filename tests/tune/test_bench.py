"""One setting, measured through the real plane."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import ModelkeepError
from modelkeep.model import engines
from modelkeep.tune import bench as bench_
from modelkeep.tune.bench import Bench, answered, doubt
from modelkeep.tune.load import Measured
from modelkeep.tune.search import requests
from modelkeep.types import Model, ServeConfig


@pytest.mark.parametrize(
    ("n", "sentence"),
    [
        (0, " (only 0 requests: too few to claim p50, which needs 11)"),
        (63, " (only 63 requests: too few to claim p90, which needs 64)"),
        (64, " (only 64 requests: too few to claim p99, which needs 662)"),
        (661, " (only 661 requests: too few to claim p99, which needs 662)"),
        (662, ""),
    ],
)
def test_too_few_requests_are_said(n: int, sentence: str) -> None:
    assert doubt(n) == sentence


def test_a_model_that_answers_nothing() -> None:
    with pytest.raises(ModelkeepError, match="answered none of 7 requests: it is broken"):
        answered(Measured(errors=7, trouble="it is broken"))
    answered(Measured([0.1]))


def test_requests_are_reference_rows_where_there_are_any(tiny: Model, elsewhere: Model) -> None:
    from modelkeep.model import folder

    kept = folder.reference(tiny.path)
    assert kept is not None
    rows = requests(tiny)
    assert len(rows) == 64
    assert np.array_equal(rows[51]["x"], kept.inputs["x"][1:2])  # 50 rows, and again from the first
    made = requests(elsewhere, seed=3)
    assert all(r["x"].shape == (1, 4) for r in made)
    assert not np.array_equal(made[0]["x"], made[1]["x"])
    assert np.array_equal(made[0]["x"], requests(elsewhere, seed=3)[0]["x"])


def test_each_setting_has_pytorchs_threads_to_itself(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    """They belong to the process, and several settings are loaded at a time."""
    torch = pytest.importorskip("torch")
    seen: dict[int | None, set[int]] = {}

    class Module:
        """Loads as the engine does, and looks at the threads that its runs have."""

        signature = tiny.signature

        def __init__(self, config: ServeConfig) -> None:
            self.threads = config.threads
            if config.threads:
                torch.set_num_threads(config.threads)

        def run(self, inputs: Any) -> Any:
            seen.setdefault(self.threads, set()).add(torch.get_num_threads())
            return {"y": inputs["x"][:, :3]}

        def close(self) -> None:
            pass

    monkeypatch.setattr(engines, "load", lambda model, config: Module(config))
    before = torch.get_num_threads()
    rows: list[Any] = [{"x": np.zeros((1, 4), np.float32)}]

    async def measure() -> None:
        benches = [
            Bench(tiny, ServeConfig(engine="torch", threads=threads)) for threads in (None, before + 1, before + 2)
        ]
        for one in benches:
            await one.open()
        assert torch.get_num_threads() == before
        for one in benches:
            await one.run(rows, concurrency=2, seconds=0.02)
            await one.close()

    asyncio.run(measure())
    assert seen == {None: {before}, before + 1: {before + 1}, before + 2: {before + 2}}
    assert torch.get_num_threads() == before


def test_pytorch_has_the_threads_of_a_quota_while_it_is_measured(container: Callable[[int, str], None]) -> None:
    torch = pytest.importorskip("torch")
    before = torch.get_num_threads()
    container(64, f"{before + 1}000 1000")
    with bench_.own_threads(ServeConfig(engine="torch")):
        assert torch.get_num_threads() == before + 1
    assert torch.get_num_threads() == before


def test_a_load_that_nobody_waits_for_any_more_is_thrown_away() -> None:
    """What is loaded after the patience ended must not stay in memory."""
    go, gone = threading.Event(), threading.Event()
    thrown: list[str] = []

    def discard(found: str) -> None:
        thrown.append(found)
        gone.set()

    async def impatient() -> None:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.01):
                await bench_.on_thread(lambda: (go.wait(10), "model")[1], discard)
        go.set()
        await asyncio.to_thread(gone.wait, 10)

    asyncio.run(impatient())
    assert thrown == ["model"]


def test_loading_on_a_thread_raises_what_it_raised() -> None:
    def broken() -> str:
        raise MemoryError("no room")

    with pytest.raises(MemoryError, match="no room"):
        asyncio.run(bench_.on_thread(broken, lambda found: None))


def test_the_worker_processes_memory_is_what_is_counted(tiny: Model, monkeypatch: pytest.MonkeyPatch) -> None:
    from modelkeep.serve.plane.loaded import bring

    monkeypatch.setattr(bench_, "bring", bring)

    async def opened() -> tuple[int | None, int | None]:
        one = Bench(tiny, ServeConfig(threads=1))
        await one.open()
        found = one.memory
        await one.use(ServeConfig(threads=1, max_batch=2, max_wait=0.001))
        await one.lap(requests(tiny), concurrency=2)
        await one.close()
        return found, bench_.resident()

    taken, own = asyncio.run(opened())
    if own is None:
        pytest.skip("this system does not say")
    assert taken is not None
    assert 5e6 < taken < 1e9
