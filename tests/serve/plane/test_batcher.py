"""Joining: nobody waits without need, nobody gets another's rows, nobody pays for another's mistake."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkeep.errors import BadInput, ModelkeepError, TooLate
from modelkeep.serve.plane.batcher import Batcher, joinable
from modelkeep.serve.workers.threads import Threads
from modelkeep.types import ServeConfig, Signature, TensorSpec


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


async def entered(runner: Any) -> None:
    """Until the runner has been called once more."""
    assert await asyncio.to_thread(runner.entered.acquire, True, 20)


def submit(batcher: Batcher, array: Any, *, deadline: float | None = None, **parameters: Any) -> Any:
    return batcher.submit({"x": array}, parameters, deadline)


def sizes(runner: Any) -> list[int]:
    return [len(x) for x in runner.runs]


def test_a_lone_request_pays_no_window(fakes: SimpleNamespace, row: Any) -> None:
    """With an hour's window, ten requests of one client, each after the other's answer, never wait for company."""

    async def main() -> list[int]:
        runner = fakes.Fake()
        batcher = Batcher(runner, ServeConfig(max_wait=3600.0), name="m@1")
        for i in range(10):
            answer = await submit(batcher, row(i)).answer
            assert answer.outputs["y"].tolist() == [[i]]
        await batcher.close()
        return sizes(runner)

    assert run(main()) == [1] * 10


def test_batches_form_while_the_worker_is_busy(fakes: SimpleNamespace, row: Any) -> None:
    async def main() -> list[int]:
        runner = fakes.Fake(gate=True)
        batcher = Batcher(runner, ServeConfig(max_batch=4), name="m@1")
        first = submit(batcher, row(0))
        await entered(runner)
        rest = [submit(batcher, row(i)) for i in range(1, 7)]
        assert batcher.waiting == 6
        runner.gate.set()
        answers = await asyncio.gather(first.answer, *(p.answer for p in rest))
        assert [a.outputs["y"][0, 0] for a in answers] == list(range(7))
        await batcher.close()
        return sizes(runner)

    assert run(main()) == [1, 4, 2]


def test_where_rows_change_each_others_answers_no_two_requests_share_a_run(fakes: SimpleNamespace) -> None:
    async def main() -> list[int]:
        runner = fakes.Odd(lambda x: {"y": x / x.sum(axis=0)})
        crew = Threads(runner, 1, mixes="output 'y' by 0.9 of its largest answer")
        batcher = Batcher(crew, ServeConfig(max_batch=8), name="m@1")
        asked = [submit(batcher, np.full((1 + i % 2, 2), i + 1, np.float32)) for i in range(6)]
        for i, answer in enumerate(await asyncio.gather(*(p.answer for p in asked))):
            assert answer.outputs["y"].tolist() == [[1 / (1 + i % 2)] * 2] * (1 + i % 2)
        await batcher.close()
        return sizes(runner)

    assert sorted(run(main())) == [1, 1, 1, 2, 2, 2]


def test_requests_of_one_turn_of_the_loop_share_a_run(fakes: SimpleNamespace, row: Any) -> None:
    async def main() -> list[int]:
        runner = fakes.Fake()
        batcher = Batcher(runner, ServeConfig(), name="m@1")
        await asyncio.gather(*(submit(batcher, row(i)).answer for i in range(5)))
        await batcher.close()
        return sizes(runner)

    assert run(main()) == [5]


def test_under_load_a_window_is_waited_for_and_a_full_batch_is_not(fakes: SimpleNamespace, row: Any) -> None:
    async def main() -> None:
        runner = fakes.Fake(gate=True)
        batcher = Batcher(runner, ServeConfig(max_batch=8, max_wait=0.3), name="m@1")
        busy = [submit(batcher, row(i)) for i in range(8)]  # company, so that the next may wait
        await entered(runner)
        runner.gate.set()
        await asyncio.gather(*(p.answer for p in busy))
        began = time.monotonic()
        early = submit(batcher, row(1))
        await asyncio.sleep(0.05)
        late = submit(batcher, row(2))
        await asyncio.gather(early.answer, late.answer)
        assert 0.25 < time.monotonic() - began < 5
        assert sizes(runner) == [8, 2]
        await asyncio.gather(*(submit(batcher, row(i)).answer for i in range(8)))
        assert sizes(runner) == [8, 2, 8]
        await batcher.close()

    run(main())


def test_max_batch_counts_rows_and_a_larger_request_runs_alone(fakes: SimpleNamespace) -> None:
    async def main() -> list[int]:
        runner = fakes.Fake(gate=True)
        batcher = Batcher(runner, ServeConfig(max_batch=4), name="m@1")
        first = submit(batcher, np.zeros((1, 2), np.float32))
        await entered(runner)
        pending = [submit(batcher, np.full((n, 2), n, np.float32)) for n in (3, 2, 2, 9, 1)]
        runner.gate.set()
        await first.answer
        for n, p in zip((3, 2, 2, 9, 1), pending, strict=True):
            answer = await p.answer
            assert answer.outputs["y"].tolist() == [[n, n]] * n
        await batcher.close()
        return sizes(runner)

    assert run(main()) == [1, 3, 4, 9, 1]


def test_without_a_free_first_dimension_every_request_runs_alone(fakes: SimpleNamespace) -> None:
    async def main() -> list[tuple[int, ...]]:
        runner = fakes.Fake(gate=True, of=fakes.signature(shape=(2, 2)))
        batcher = Batcher(runner, ServeConfig(), name="m@1")
        pending = [submit(batcher, np.full((2, 2), i, np.float32)) for i in range(4)]
        runner.gate.set()
        for i, p in enumerate(pending):
            answer = await p.answer
            assert answer.outputs["y"].tolist() == [[i, i]] * 2
        await batcher.close()
        return [x.shape for x in runner.runs]

    assert run(main()) == [(2, 2)] * 4


def test_only_the_poisoned_request_fails(fakes: SimpleNamespace, row: Any) -> None:
    async def main() -> tuple[list[Any], list[int]]:
        runner = fakes.Fake()
        batcher = Batcher(runner, ServeConfig(), name="digits@3")
        values = [1.0, fakes.POISON, 2.0, 3.0]
        answers = await asyncio.gather(*(submit(batcher, row(v)).answer for v in values), return_exceptions=True)
        await batcher.close()
        return answers, sizes(runner)

    answers, runs = run(main())
    assert [a.outputs["y"][0, 0] for a in (answers[0], answers[2], answers[3])] == [1, 2, 3]
    assert isinstance(answers[1], ModelkeepError)
    assert str(answers[1]) == "digits@3 failed on this request: ValueError: poison in the batch"
    assert runs[0] == 4


@settings(max_examples=30, deadline=None)
@given(poisoned=st.sets(st.integers(0, 15)))
def test_any_set_of_poisoned_requests_fails_and_no_other(poisoned: set[int]) -> None:
    class Picky:
        signature = Signature((TensorSpec("x", "float32", (None, 1)),), (TensorSpec("y", "float32", (None, 1)),))

        def run(self, inputs: Any) -> dict[str, Any]:
            if (inputs["x"] < 0).any():
                raise RuntimeError
            return {"y": inputs["x"] * 2}

        def close(self) -> None:
            pass

    async def main() -> list[Any]:
        batcher = Batcher(Picky(), ServeConfig(), name="m@1")
        rows = [np.array([[-1.0 if i in poisoned else i]], np.float32) for i in range(16)]
        answers = await asyncio.gather(*(submit(batcher, r).answer for r in rows), return_exceptions=True)
        await batcher.close()
        return answers

    for i, answer in enumerate(run(main())):
        if i in poisoned:
            assert str(answer) == "m@1 failed on this request: RuntimeError"
        else:
            assert answer.outputs["y"].tolist() == [[2 * i]]


@pytest.mark.parametrize(
    ("answer", "said"),
    [
        (lambda x: {"y": x[:1]}, r"m@1 gave output 'y' of shape \[1, 1\] for 2 rows"),
        (lambda x: {"z": x}, "m@1 gave no output 'y', which its signature promises"),
        (lambda x: {"y": x.sum()}, r"m@1 gave output 'y' of shape \[\] for 2 rows"),
    ],
)
def test_outputs_that_do_not_fit_are_no_answer(fakes: SimpleNamespace, answer: Any, said: str) -> None:
    async def main() -> Any:
        batcher = Batcher(fakes.Odd(answer), ServeConfig(), name="m@1")
        try:
            return await submit(batcher, np.zeros((2, 1), np.float32)).answer
        finally:
            await batcher.close()

    with pytest.raises(ModelkeepError, match=said):
        run(main())


def test_an_error_of_ours_is_passed_on(fakes: SimpleNamespace, row: Any) -> None:
    def refuse(x: Any) -> dict[str, Any]:
        raise BadInput("no such token")

    async def main() -> None:
        batcher = Batcher(fakes.Odd(refuse), ServeConfig(), name="m@1")
        with pytest.raises(BadInput, match="no such token"):
            await submit(batcher, row(1)).answer
        await batcher.close()

    run(main())


def test_dropped_requests_are_never_run(fakes: SimpleNamespace, row: Any) -> None:
    async def main() -> list[float]:
        runner = fakes.Fake(gate=True)
        batcher = Batcher(runner, ServeConfig(), name="m@1")
        first = submit(batcher, row(0))
        await entered(runner)
        given_up = [submit(batcher, row(i)) for i in range(1, 41)]
        stays = submit(batcher, row(99))
        for pending in given_up:
            batcher.drop(pending)
        assert (batcher.waiting, batcher.waiting_rows) == (1, 1)
        runner.gate.set()
        await asyncio.gather(first.answer, stays.answer)
        await batcher.close()
        return [float(v) for x in runner.runs for v in x[:, 0]]

    assert run(main()) == [0.0, 99.0]


def test_a_deadline_in_the_queue_and_one_in_the_run(fakes: SimpleNamespace, row: Any) -> None:
    async def main() -> list[int]:
        runner = fakes.Fake(gate=True)
        batcher = Batcher(runner, ServeConfig(), name="digits@1")
        soon = time.monotonic() + 0.05
        running = submit(batcher, row(1), deadline=soon)
        await entered(runner)
        queued = submit(batcher, row(2), deadline=soon)
        for pending in (running, queued):
            with pytest.raises(TooLate, match=r"digits@1 had no answer within 0\.\d+ s, the time allowed"):
                await pending.answer
        assert batcher.waiting == 0
        runner.gate.set()
        await batcher.close()
        return sizes(runner)

    assert run(main()) == [1]


def test_what_is_late_when_its_turn_comes_is_not_run(fakes: SimpleNamespace, row: Any) -> None:
    """The loop itself may have been late, so that the timer has not fired yet."""

    async def main() -> list[int]:
        runner = fakes.Fake()
        batcher = Batcher(runner, ServeConfig(), name="m@1")
        late = submit(batcher, row(1), deadline=time.monotonic() + 0.02)
        time.sleep(0.05)
        with pytest.raises(TooLate):
            await late.answer
        await batcher.close()
        return sizes(runner)

    assert run(main()) == []


def test_workers_run_side_by_side(fakes: SimpleNamespace, row: Any) -> None:
    async def main() -> None:
        runner = fakes.Fake(gate=True)
        batcher = Batcher(runner, ServeConfig(workers=2), name="m@1")
        first = submit(batcher, row(1))
        await entered(runner)
        second = submit(batcher, row(2))
        await entered(runner)  # while the first still runs
        assert batcher.longest() > 0
        runner.gate.set()
        await asyncio.gather(first.answer, second.answer)
        assert batcher.longest() == 0
        await batcher.close()

    run(main())


def test_close_answers_what_waits(fakes: SimpleNamespace, row: Any) -> None:
    async def main() -> None:
        runner = fakes.Fake(gate=True)
        batcher = Batcher(runner, ServeConfig(max_batch=2), name="m@1")
        pending = [submit(batcher, row(i)) for i in range(5)]
        closing = asyncio.create_task(batcher.close())
        await entered(runner)
        assert not closing.done()
        runner.gate.set()
        await closing
        assert [p.answer.result().outputs["y"][0, 0] for p in pending] == list(range(5))

    run(main())


def test_joinable_tells_apart_what_must_not_mix() -> None:
    one = np.zeros((1, 3), np.float32)
    same = [joinable({"x": np.zeros((n, 3), np.float32)}, {}) for n in (1, 5)]
    assert same[0] == same[1]
    others = [
        joinable({"x": one.astype(np.float64)}, {}),
        joinable({"x": np.zeros((1, 5), np.float32)}, {}),
        joinable({"x": np.zeros((1, 3, 1), np.float32)}, {}),
        joinable({"z": one}, {}),
        joinable({"x": one, "z": one}, {}),
        joinable({"x": one}, {"temperature": 0.1}),
        joinable({"x": one}, {"temperature": 0.9}),
        joinable({"x": one}, {"flag": True}),
        joinable({"x": one}, {"flag": 1}),
        joinable({"x": one}, {"flag": 1.0}),
        joinable({"x": one}, {"flag": "1"}),
    ]
    assert len({same[0], *others}) == 1 + len(others)
    texts = [joinable({"x": np.array([["a"], ["bcd"]], dtype=d)}, {}) for d in (object, "U3")]
    assert texts[0] == texts[1]


DTYPES = ("float32", "float64", "int64", "uint8", "bool", "float16")


@settings(max_examples=40, deadline=None)
@given(
    st.lists(
        st.tuples(st.integers(1, 3), st.integers(1, 4), st.sampled_from(DTYPES), st.sampled_from([None, 0.1, 0.9])),
        min_size=1,
        max_size=24,
    ),
    st.integers(1, 8),
    st.integers(1, 2),
)
def test_everybody_gets_their_own_rows(asked: list[tuple[int, int, str, Any]], most: int, workers: int) -> None:
    """Concurrent requests of different shapes, dtypes and parameters: each gets its own rows, in its own dtype."""

    class Echo:
        signature = Signature((TensorSpec("x", "float32", (None, None)),), (TensorSpec("y", "float32", (None, None)),))

        def run(self, inputs: Any) -> dict[str, Any]:
            time.sleep(0.0002)  # so that queues form
            return {"y": inputs["x"].copy()}

        def close(self) -> None:
            pass

    rng = np.random.default_rng(len(asked))
    arrays = [rng.integers(0, 100, (rows, width)).astype(dtype) for rows, width, dtype, _ in asked]

    async def main() -> list[Any]:
        batcher = Batcher(Echo(), ServeConfig(max_batch=most, workers=workers), name="m@1")
        pending = []
        for array, (_, _, _, temperature) in zip(arrays, asked, strict=True):
            pending.append(submit(batcher, array, temperature=temperature))
            if rng.random() < 0.3:
                await asyncio.sleep(0)
        answers = await asyncio.gather(*(p.answer for p in pending))
        await batcher.close()
        return answers

    for array, answer in zip(arrays, run(main()), strict=True):
        assert answer.outputs["y"].dtype == array.dtype
        np.testing.assert_array_equal(answer.outputs["y"], array)


def test_what_an_answer_is_expected_to_take(fakes: SimpleNamespace, row: Any) -> None:
    """Nothing where a worker is free; else what is left of the run, the batches that wait, and a run of its own."""

    async def main() -> None:
        runner = fakes.Fake(gate=True)
        batcher = Batcher(runner, ServeConfig(max_batch=2), name="m@1")
        batcher.pace.observe(1, 1.0)
        batcher.pace.observe(2, 1.0)
        assert batcher.expected() == 0
        first = submit(batcher, row(0))
        await entered(runner)
        assert batcher.expected() == pytest.approx(2, abs=0.5)
        rest = [submit(batcher, row(0))]
        assert batcher.expected() <= 2, "it shares the run of the one that waits"
        rest += [submit(batcher, row(i)) for i in range(1, 4)]
        assert batcher.expected() == pytest.approx(4, abs=0.5)
        runner.gate.set()
        await asyncio.gather(first.answer, *(p.answer for p in rest))
        await batcher.close()

    run(main())
