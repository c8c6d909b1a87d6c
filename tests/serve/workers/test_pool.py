"""Worker processes: answers as from a thread; whatever ends or hangs one costs the guilty request and no other."""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import tempfile
import time
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from modelkeep.errors import BadInput, BadModel, ModelkeepError, NotReady, TooLate, Unsupported
from modelkeep.model import engines
from modelkeep.serve.plane.batcher import Batcher
from modelkeep.serve.workers import pool as pools
from modelkeep.serve.workers import wire
from modelkeep.serve.workers.pool import Pool
from modelkeep.types import Model, ServeConfig
from tests.waiting import until_async

MakeModel = Callable[..., Model]
SEGFAULT, HANG, NATIVE_HANG, EXIT, RAISE, REFUSE = map(float, range(11, 17))  # as in tricky.py
QUICK = ServeConfig(engine="tricky", max_batch=8)


def serving(
    model: Model, work: Callable[[Batcher, Pool], Awaitable[Any]], config: ServeConfig = QUICK, **options: Any
) -> Any:
    """What ``work`` gives with a batcher over a pool; afterwards no process is left."""

    async def main() -> Any:
        pool, _ = await asyncio.to_thread(Pool.open, model, config)
        batcher = Batcher(pool, config, name="m@1", **options)
        try:
            return await work(batcher, pool)
        finally:
            pids = pool.pids()
            pool.end()
            await asyncio.to_thread(pool.close)
            assert not [pid for pid in pids if alive(pid)]

    return asyncio.run(asyncio.wait_for(main(), 60))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def x(*values: float) -> dict[str, Any]:
    return {"x": np.array(values, np.float32)[:, None]}


def ask(batcher: Batcher, *values: float, deadline: float | None = None) -> Any:
    return batcher.submit(x(*values), {}, deadline).answer


def test_it_answers_as_a_thread_does(tricky: MakeModel) -> None:
    async def work(batcher: Batcher, pool: Pool) -> None:
        answers = await asyncio.gather(*(ask(batcher, i, i + 0.5) for i in range(100, 120)))
        for i, answer in enumerate(answers, 100):
            assert answer.outputs["y"].tolist() == [[i + 1], [i + 1.5]]
            assert answer.outputs["y"].dtype == np.float32
            assert answer.compute > 0
            assert answer.queue >= 0

    seen: list[Any] = []
    serving(tricky(add=1.0), work, watch=seen.append)
    assert sum(s.rows for s in seen) == 40


def test_what_fails_in_a_batch_fails_alone_and_ends_no_process(tricky: MakeModel) -> None:
    async def work(batcher: Batcher, pool: Pool) -> list[Any]:
        before = pool.pids()
        values = [1.0, RAISE, 2.0, REFUSE, 3.0]
        answers = await asyncio.gather(*(ask(batcher, v) for v in values), return_exceptions=True)
        assert pool.pids() == before
        return answers

    answers = serving(tricky(), work)
    assert [a.outputs["y"].item() for a in answers[::2]] == [1, 2, 3]
    assert type(answers[1]) is ModelkeepError
    assert str(answers[1]) == "m@1 failed on this request: ValueError: poison in the batch"
    assert (type(answers[3]), str(answers[3])) == (BadInput, "no such token")


@pytest.mark.parametrize(
    ("guilty", "kind", "said"),
    [
        (SEGFAULT, "crash", "the worker process was ended by SIGSEGV"),
        (EXIT, "crash", "the worker process ended with exit code 3"),
        (HANG, "hang", "the worker process had not finished after 0.3 s, and was ended"),
        (NATIVE_HANG, "hang", "the worker process had not finished after 0.3 s, and was ended"),
    ],
)
def test_what_ends_or_hangs_its_process_fails_and_its_neighbours_do_not(
    tricky: MakeModel, guilty: float, kind: str, said: str
) -> None:
    """Two workers are lost for it: one with its neighbours, one alone. Then nothing is lost for it any more."""
    died: list[str] = []

    async def work(batcher: Batcher, pool: Pool) -> None:
        values = [1.0, 2.0, guilty, 3.0, 4.0]
        answers = await asyncio.gather(*(ask(batcher, v) for v in values), return_exceptions=True)
        assert [a.outputs["y"].item() for a in answers if not isinstance(a, Exception)] == [1, 2, 3, 4]
        assert str(answers[2]) == f"m@1 failed on this request: {said}"
        assert died == [kind, kind]
        with pytest.raises(ModelkeepError, match=f"{said} .*they are not run again for a while"):
            await ask(batcher, guilty)
        assert (await ask(batcher, 5.0)).outputs["y"].item() == 5
        assert died == [kind, kind]

    config = ServeConfig(engine="tricky", max_batch=8, run_timeout=0.3)
    serving(tricky(), work, config, died=died.append)


def test_a_killed_worker_is_replaced_and_its_requests_are_tried_again(
    tricky: MakeModel, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    gate, log = tmp_path / "gate", tmp_path / "log"

    async def work(batcher: Batcher, pool: Pool) -> None:
        (pid,) = pool.pids()
        asked = [ask(batcher, i) for i in range(100, 105)]
        await until_async(log.exists)
        os.kill(pid, signal.SIGKILL)
        began = time.monotonic()
        await until_async(lambda: pool.alive == 0)
        assert batcher.problem() == "m@1 has no worker yet; one is being started"
        gate.touch()
        await until_async(lambda: pool.alive == 1)
        assert time.monotonic() - began < 10  # 2 s on a machine that does nothing else
        assert [a.outputs["y"].item() for a in await asyncio.gather(*asked)] == list(range(100, 105))
        assert batcher.problem() == ""
        assert pool.pids() != [pid]
        assert not alive(pid)

    with caplog.at_level(logging.WARNING):
        serving(tricky(gate=str(gate), log=str(log)), work)
    assert "m@1: the worker process was ended by SIGKILL; another one is started" in caplog.text


def test_a_request_is_not_convicted_for_workers_that_others_kill(tricky: MakeModel, tmp_path: Path) -> None:
    """Three in a row, and it is answered; a fourth, and it may be its memory that the system would not give."""
    log, gate, died = tmp_path / "log", tmp_path / "gate", list[str]()

    async def work(batcher: Batcher, pool: Pool) -> None:
        first, other = ask(batcher, 100.0), ask(batcher, 200.0)
        for _ in range(3):
            await until_async(log.exists)
            log.unlink()
            os.kill(pool.pids()[0], signal.SIGKILL)
            await until_async(lambda: pool.alive == 0)
        gate.touch()
        assert (await first).outputs["y"].item() == 100
        assert (await other).outputs["y"].item() == 200
        assert not batcher._suspects

    serving(tricky(log=str(log), gate=str(gate)), work, died=died.append)
    assert died == ["kill"] * 3


def test_other_workers_go_on(tricky: MakeModel) -> None:
    async def work(batcher: Batcher, pool: Pool) -> None:
        assert (pool.alive, pool.free) == (2, 2)
        hanging = ask(batcher, HANG)
        await until_async(lambda: pool.free == 1)
        for i in range(100, 150):
            assert (await ask(batcher, i)).outputs["y"].item() == i
        assert not hanging.done()
        assert batcher.longest() > 0

    serving(tricky(), work, ServeConfig(engine="tricky", workers=2))


def test_a_worker_that_ends_while_it_is_idle_is_replaced_unasked(tricky: MakeModel) -> None:
    async def work(batcher: Batcher, pool: Pool) -> None:
        (pid,) = pool.pids()
        os.kill(pid, signal.SIGKILL)
        await until_async(lambda: pool.pids() not in ([pid], []))
        assert (await ask(batcher, 1.0)).outputs["y"].item() == 1

    serving(tricky(), work)


def test_a_deadline_passes_while_the_worker_hangs(tricky: MakeModel) -> None:
    async def work(batcher: Batcher, pool: Pool) -> None:
        late = ask(batcher, HANG, deadline=time.monotonic() + 0.1)
        with pytest.raises(TooLate):
            await late
        assert (await ask(batcher, 1.0)).outputs["y"].item() == 1  # once the hung one was ended

    died: list[str] = []
    serving(tricky(), work, ServeConfig(engine="tricky", run_timeout=0.4), died=died.append)
    assert died == ["hang"]


def test_a_slow_model_is_no_hung_one(tricky: MakeModel) -> None:
    """Ten times what the warm-up took is allowed, whatever run_timeout says."""
    died: list[str] = []

    async def work(batcher: Batcher, pool: Pool) -> None:
        batcher.pace.observe(1, 0.1)
        assert (await ask(batcher, 1.0)).outputs["y"].item() == 1

    serving(tricky(seconds=0.1), work, ServeConfig(engine="tricky", max_batch=1, run_timeout=0.01), died=died.append)
    assert died == []


def test_where_no_worker_can_be_started_it_says_why_and_tries_on(
    tricky: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "FIRST_RETRY", 0.02)
    broken = tmp_path / "broken"

    async def work(batcher: Batcher, pool: Pool) -> None:
        broken.touch()
        os.kill(pool.pids()[0], signal.SIGKILL)
        waiting = ask(batcher, 1.0)
        await until_async(lambda: pool.trouble)
        assert pool.trouble == "no worker process of m@1 can be started: the disk is gone"
        assert batcher.problem() == pool.trouble
        broken.unlink()
        assert (await waiting).outputs["y"].item() == 1
        assert pool.trouble == batcher.problem() == ""

    serving(tricky(broken_if=str(broken)), work)


@pytest.mark.parametrize(
    ("options", "kind", "said"),
    [
        ({"broken": True}, BadModel, "the weights are broken"),
        ({"dies": True}, ModelkeepError, "the model cannot be loaded: its worker process ended with exit code 9"),
    ],
)
def test_what_keeps_it_from_starting_is_raised(
    tricky: MakeModel, options: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        Pool.open(tricky(**options), ServeConfig(engine="tricky", workers=2))


def test_an_engine_that_cannot_run_it_is_refused_without_a_process(tricky: MakeModel) -> None:
    with pytest.raises(Unsupported, match="engine 'onnxruntime' does not run models of format 'tricky'"):
        Pool.open(tricky(), ServeConfig(engine="onnxruntime"))


def test_closing_while_one_is_being_started_leaves_none(tricky: MakeModel) -> None:
    async def main() -> None:
        pool, _ = await asyncio.to_thread(Pool.open, tricky(), QUICK)
        batcher = Batcher(pool, QUICK, name="m@1")
        os.kill(pool.pids()[0], signal.SIGKILL)
        await until_async(lambda: not pool.alive and pool._processes)  # the next is on its way
        started = [p.pid for p in pool._processes]
        await batcher.close()
        await asyncio.to_thread(pool.close)
        assert not [pid for pid in started if alive(pid)]
        with pytest.raises(NotReady):
            await asyncio.to_thread(pool._load)
        pool.close()

    asyncio.run(asyncio.wait_for(main(), 60))


@pytest.mark.parametrize("size", [1, 100, wire.INLINE, 4 * wire.INLINE])
def test_small_and_large_arrays_come_back_whole(tricky: MakeModel, size: int) -> None:
    """The largest go through the arena, joined there; what an answer holds is not overwritten by the next."""

    async def work(batcher: Batcher, pool: Pool) -> None:
        rng = np.random.default_rng(size)
        sent = [rng.standard_normal((1, size)).astype(np.float32) for _ in range(6)]
        answers = await asyncio.gather(*(batcher.submit({"x": a}, {}, None).answer for a in sent))
        again = await batcher.submit({"x": np.zeros_like(sent[0])}, {}, None).answer
        assert not again.outputs["y"].any()
        for array, answer in zip(sent, answers, strict=True):
            np.testing.assert_array_equal(answer.outputs["y"], array)

    serving(tricky(), work)


DTYPES = ("float32", "float64", "int64", "uint8", "bool", "float16")


@settings(max_examples=20, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(0, 4), st.sampled_from(DTYPES)),
        min_size=1,
        max_size=24,
    )
)
def test_everybody_gets_their_own_rows(shared: Any, asked: list[tuple[int, int, str]]) -> None:
    rng = np.random.default_rng(len(asked))
    arrays = [rng.integers(100, 200, (rows, width)).astype(dtype) for rows, width, dtype in asked]

    async def main() -> list[Any]:
        batcher = shared()
        pending = []
        for array in arrays:
            pending.append(batcher.submit({"x": array}, {}, None))
            if rng.random() < 0.3:
                await asyncio.sleep(0)
        answers = await asyncio.gather(*(p.answer for p in pending))
        await batcher.close()
        return answers

    for array, answer in zip(arrays, asyncio.run(main()), strict=True):
        assert answer.outputs["y"].dtype == array.dtype
        np.testing.assert_array_equal(answer.outputs["y"], array)


@pytest.fixture
def shared(tricky: MakeModel) -> Any:
    """The same two processes under one batcher after another."""
    config = ServeConfig(engine="tricky", workers=2, max_batch=8)
    pool, _ = Pool.open(tricky(), config)
    yield lambda: Batcher(pool, config, name="m@1")
    pool.close()


def test_what_cannot_be_sent_fails_alone(tricky: MakeModel, fakes: SimpleNamespace) -> None:
    async def work(batcher: Batcher, pool: Pool) -> None:
        given = [np.array([[v]], object) for v in ("a", 3, b"c")]
        answers = await asyncio.gather(
            *(batcher.submit({"x": a}, {}, None).answer for a in given), return_exceptions=True
        )
        assert [a.outputs["y"].item() for a in answers[::2]] == ["a", b"c"]
        assert str(answers[1]) == "text is needed, and 3 is none"

    serving(tricky(of=fakes.signature("str", (None, 1))), work)


def test_the_cores_are_shared_out() -> None:
    assert pools._of_one(ServeConfig()) == ServeConfig()
    assert pools._of_one(ServeConfig(workers=2, threads=3)) == ServeConfig(threads=3)
    assert pools._of_one(ServeConfig(workers=10_000)) == ServeConfig(threads=1)


def test_the_cores_of_a_quota_are_shared_out(container: Callable[[int, str], None]) -> None:
    container(64, "200000 100000")
    assert pools._of_one(ServeConfig()) == ServeConfig(threads=2)
    assert pools._of_one(ServeConfig(workers=2)) == ServeConfig(threads=1)
    assert pools._of_one(ServeConfig(engine="sklearn", workers=2)) == ServeConfig(engine="sklearn", threads=1)


def test_processes_that_share_weights_have_a_folder_for_them_while_they_live(
    tricky: MakeModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "WORTH_SHARING", 1)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    sharing = replace(engines.ENGINES["tricky"], shares=True)
    model, two = tricky(), ServeConfig(engine="tricky", workers=2)
    assert pools._room(model, two) is None
    monkeypatch.setitem(engines.ENGINES, "tricky", sharing)
    assert pools._room(model, ServeConfig(engine="tricky")) is None
    left, others = tmp_path / f"{pools.PREFIX}{2**22 + 1}-x", tmp_path / f"{pools.PREFIX}odd"
    left.mkdir()  # by a server that was killed
    others.mkdir()
    pool, _ = Pool.open(model, two)
    made = {p.name for p in tmp_path.glob(f"{pools.PREFIX}*")} - {others.name}
    assert [name.startswith(f"{pools.PREFIX}{os.getpid()}-") for name in made] == [True]
    assert len(pool._processes) == 2
    pool.close()
    assert [p.name for p in tmp_path.glob(f"{pools.PREFIX}*")] == [others.name]


def test_a_spare_is_kept_for_an_engine_that_is_slow_to_import(
    tricky: MakeModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(pools, "SLOW_IMPORT", 0.0)
    spares = pools._spares

    async def work(batcher: Batcher, pool: Pool) -> None:
        spare = spares._held["tricky"]
        assert spare.running
        assert spare.pid not in pool.pids()
        os.kill(pool.pids()[0], signal.SIGKILL)
        await until_async(lambda: pool.pids() == [spare.pid])
        assert (await ask(batcher, 1.0)).outputs["y"].item() == 1
        died = spares._held["tricky"]
        assert died is not spare
        os.kill(died.pid, signal.SIGKILL)  # a spare that has ended is no use
        died._child.wait()
        os.kill(pool.pids()[0], signal.SIGKILL)
        assert (await ask(batcher, 2.0)).outputs["y"].item() == 2

    serving(tricky(), work)
    assert "tricky" not in spares._held
