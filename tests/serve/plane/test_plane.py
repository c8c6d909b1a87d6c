"""The path of one request: checks, routes, limits, shadow, and what is counted and kept."""

from __future__ import annotations

import asyncio
import contextlib
import gc
import math
import time
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import BadInput, ModelkeepError, NotFound, NotReady, Overloaded, TooLate
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.plane.router import STICKY, Router
from modelkeep.settings import Settings
from modelkeep.types import Request
from tests.serve.plane.asked import Log, ask, run, serve


def count(plane: Plane, outcome: str, version: int = 1, track: str = "live") -> float:
    labels = {"model": "m", "version": str(version), "track": track, "outcome": outcome}
    return plane.metrics.value("modelkeep_requests_total", **labels)


def rejections(plane: Plane, reason: str) -> float:
    return plane.metrics.value("modelkeep_rejections_total", reason=reason)


def test_a_reply_is_stamped_timed_counted_and_kept(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        log = Log()
        plane = Plane(Settings(), traffic=log)
        plane.swap(Router("m", serve(plane, 7, fakes.Fake(add=1.0))))
        request = ask(1.0, 2.0)
        reply = await plane.infer(request)
        assert (reply.id, reply.model, reply.version) == ("r1", "m", 7)
        assert reply.outputs["y"].tolist() == [[2.0, 3.0]]
        assert set(reply.timings) == {"queue", "compute"}
        assert all(0 <= s < 5 for s in reply.timings.values())
        assert count(plane, "ok", 7) == 1
        (kept,) = log.offered
        assert (kept.id, kept.model, kept.version, kept.track, kept.outcome) == ("r1", "m", 7, "live", "ok")
        assert kept.inputs is request.inputs
        assert kept.outputs["y"].tolist() == [[2.0, 3.0]]
        assert time.time() - 20 < kept.at <= time.time()
        assert plane.limits.requests == plane.limits.bytes == 0
        await plane.close()

    run(main())


@pytest.mark.parametrize(
    ("request_", "error", "said"),
    [
        (ask(model="other"), NotFound, "no model is called 'other' here; this server answers for m"),
        (ask(version=9), NotFound, "m@9 is not served; this server holds m@1"),
        (
            ask(inputs={"z": np.zeros((1, 1), np.float32)}),
            BadInput,
            "no input is called 'z'; the model takes x",
        ),
        (ask(inputs={}), BadInput, "input 'x' is missing"),
        (
            ask(inputs={"x": np.zeros((1, 1), np.int64)}),
            BadInput,
            r"'x' is int64; the model takes x float32 \[",
        ),
        (ask(inputs={"x": np.zeros(3, np.float32)}), BadInput, r"'x' has shape \[3\]; the model takes x float32"),
        (ask(inputs={"x": np.zeros((0, 1), np.float32)}), BadInput, "the inputs have no rows; send one at least"),
        (ask(outputs=("q",)), BadInput, "no output is called 'q'; the model gives y"),
        (ask(deadline=time.monotonic() - 1), TooLate, "the deadline had passed"),
    ],
)
def test_what_cannot_be_answered_is_said(
    fakes: SimpleNamespace, request_: Request, error: type[Exception], said: str
) -> None:
    async def main() -> None:
        log = Log()
        plane = Plane(Settings(), traffic=log)
        runner = fakes.Fake()
        plane.swap(Router("m", serve(plane, 1, runner)))
        with pytest.raises(error, match=said):
            await plane.infer(request_)
        assert runner.runs == []
        assert plane.limits.requests == plane.limits.bytes == 0
        assert log.of("outcome") == (["late"] if error is TooLate else [])
        assert count(plane, "bad_input") == (error is BadInput)
        await plane.close()

    run(main())


def test_wanted_outputs_only(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        of = fakes.signature()
        of = replace(of, outputs=(*of.outputs, replace(of.outputs[0], name="z")))
        plane = Plane(Settings())
        plane.swap(Router("m", serve(plane, 1, fakes.Odd(lambda x: {"y": x, "z": -x}, of=of))))
        assert list((await plane.infer(ask())).outputs) == ["y", "z"]
        assert list((await plane.infer(ask(outputs=("z",)))).outputs) == ["z"]
        await plane.close()

    run(main())


def test_a_failing_model_is_counted_as_its_error(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        log = Log()
        plane = Plane(Settings(), traffic=log)
        plane.swap(Router("m", serve(plane, 1, fakes.Fake())))
        with pytest.raises(ModelkeepError, match=r"m@1 failed on this request: ValueError: poison") as caught:
            await plane.infer(ask(fakes.POISON))
        assert caught.value.status == 500
        assert count(plane, "error") == 1
        assert log.of("outcome") == ["error"]
        assert log.of("outputs") == [None]
        await plane.close()

    run(main())


def test_not_ready_until_something_is_live_and_while_a_run_hangs(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        plane = Plane(Settings(request_timeout=0.05))
        assert plane.problem() == "no model is loaded yet"
        plane.expect("m")
        assert not plane.ready()
        with pytest.raises(NotReady, match="no version of 'm' is loaded"):
            await plane.infer(ask())
        assert rejections(plane, "not_ready") == 1
        runner = fakes.Fake(gate=True)
        plane.swap(Router("m", serve(plane, 1, runner)))
        assert plane.ready()
        assert plane.ready("m")
        plane.expect("n")
        assert not plane.ready()
        assert plane.ready("m")
        asking = asyncio.create_task(plane.infer(ask()))
        await asyncio.sleep(0.1)
        assert plane.problem("m").startswith("m@1 has been busy with one run for")
        runner.gate.set()
        await asking
        assert plane.ready("m")
        plane.stopping = True
        assert plane.problem("m") == "the server is stopping"
        await plane.close()

    run(main())


def test_a_burst_beyond_the_bound_is_shed_and_the_counts_agree(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        plane = Plane(Settings(max_queue_requests=20))
        runner = fakes.Fake(gate=True)
        plane.swap(Router("m", serve(plane, 1, runner, paces=[(1, 0.2)])))
        tasks = [asyncio.create_task(plane.infer(ask(float(i)))) for i in range(100)]
        await asyncio.sleep(0)
        assert plane.metrics.value("modelkeep_requests_in_flight") == 20
        runner.gate.set()
        answers = await asyncio.gather(*tasks, return_exceptions=True)
        shed = [a for a in answers if isinstance(a, Overloaded)]
        assert [a.outputs["y"][0, 0] for a in answers[:20]] == list(range(20))
        assert len(shed) == 80
        assert all(a.retry_after > 0 for a in shed)
        assert rejections(plane, "queue_full") == count(plane, "overloaded") == 80
        assert count(plane, "ok") == 20
        await plane.close()

    run(main())


def test_a_hopeless_deadline_is_refused_by_the_measured_pace(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        plane = Plane(Settings())
        runner = fakes.Fake(gate=True)
        live = serve(plane, 1, runner, paces=[(32, 1.0)])
        plane.swap(Router("m", live))
        tasks = [asyncio.create_task(plane.infer(ask(float(i)))) for i in range(65)]
        await asyncio.to_thread(runner.entered.acquire, True, 20)
        assert live.batcher.wait() == pytest.approx(1.0, rel=0.01)  # 32 run, and of 33 that wait the last has company
        with pytest.raises(Overloaded) as caught:
            await plane.infer(ask(deadline=time.monotonic() + 0.5))
        assert caught.value.retry_after == pytest.approx(1.0, rel=0.01)
        assert rejections(plane, "deadline_hopeless") == 1
        runner.gate.set()
        await asyncio.gather(*tasks)
        await plane.infer(ask(deadline=time.monotonic() + 0.5))  # nothing waits now: never refused
        await plane.close()

    run(main())


@pytest.mark.parametrize(("p99", "reason", "told"), [(0.5, "promise", 1), (None, "deadline_hopeless", 0)])
def test_only_who_is_refused_for_the_promise_says_that_others_will_be(
    fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch, p99: float | None, reason: str, told: int
) -> None:
    """A run goes on waiting for company where one client allowed too little time."""

    async def main() -> None:
        plane = Plane(Settings())
        live = serve(plane, 1, fakes.Fake(), p99=p99)
        plane.swap(Router("m", live))
        said: list[bool] = []
        monkeypatch.setattr(live.batcher, "wait", lambda: 1.0)
        monkeypatch.setattr(live.batcher, "expected", lambda: 1.0)
        monkeypatch.setattr(live.batcher, "refused", lambda: said.append(True))
        with pytest.raises(Overloaded):
            await plane.infer(ask(deadline=time.monotonic() + 0.5))
        assert rejections(plane, reason) == 1
        assert len(said) == told
        await plane.close()

    run(main())


@pytest.mark.parametrize(("p99", "seconds"), [(0.5, 2.0), (None, 1.0)])
def test_a_promise_goes_by_twice_the_time_of_the_warm_up_until_runs_are_measured(
    fakes: SimpleNamespace, p99: float | None, seconds: float
) -> None:
    async def main() -> None:
        live = serve(Plane(Settings()), 1, fakes.Fake(), p99=p99, paces=[(1, 1.0), (32, 1.0)])
        assert live.batcher.expected() == 0, "an idle server refuses nobody"
        assert live.batcher.pace.run(32) == pytest.approx(seconds)
        for _ in range(60):
            live.batcher.pace.observe(32, 1.0)
        assert live.batcher.pace.run(32) == pytest.approx(1.0, rel=0.1)
        await live.close()

    run(main())


def test_cancelled_requests_leave_no_trace_but_a_count(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        log = Log()
        plane = Plane(Settings(), traffic=log)
        runner = fakes.Fake(gate=True)
        plane.swap(Router("m", serve(plane, 1, runner)))
        first = asyncio.create_task(plane.infer(ask(0.0)))
        await asyncio.to_thread(runner.entered.acquire, True, 20)
        rest = [asyncio.create_task(plane.infer(ask(float(i)))) for i in range(1, 41)]
        await asyncio.sleep(0)
        for task in rest:
            task.cancel()
        await asyncio.gather(*rest, return_exceptions=True)
        assert plane.limits.requests == 1
        runner.gate.set()
        await first
        assert len(runner.runs) == 1
        assert count(plane, "cancelled") == 40
        assert log.of("outcome") == ["ok"]
        await plane.close()

    run(main())


def test_a_defect_where_a_request_is_queued_costs_no_place(
    fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Or a request that finds one would fill the server by being sent again and again."""

    async def main() -> None:
        plane = Plane(Settings(max_queue_requests=1))
        plane.swap(Router("m", loaded := serve(plane, 1, fakes.Fake())))
        with monkeypatch.context() as broken:
            broken.setattr(loaded.batcher, "submit", lambda *_: {}["defect"])
            for _ in range(2):
                with pytest.raises(KeyError):
                    await plane.infer(ask())
        assert (plane.limits.requests, plane.limits.bytes) == (0, 0)
        assert (await plane.infer(ask(1.0))).version == 1
        await plane.close()

    run(main())


def test_a_shadow_sees_a_copy_and_answers_nobody(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        log = Log()
        plane = Plane(Settings(max_queue_requests=4), traffic=log)
        shadow = fakes.Fake(add=5.0, gate=True)
        plane.swap(Router("m", serve(plane, 1, fakes.Fake()), shadow=serve(plane, 2, shadow)))
        for i in range(4):  # the shadow hangs; two copies wait, the others are left out
            reply = await plane.infer(ask(float(i), id=f"r{i}"))
            assert reply.version == 1
            assert reply.outputs["y"].tolist() == [[i]]
        assert plane.shadows_dropped == 3
        assert plane.metrics.value("modelkeep_shadow_dropped_total") == 3
        shadow.gate.set()
        await plane.close()
        copies = [e for e in log.offered if e.track == "shadow"]
        assert [(e.id, e.version, e.outputs["y"].tolist()) for e in copies] == [("r0", 2, [[5.0]])]
        assert count(plane, "ok", 2, "shadow") == 1
        assert plane.limits.requests == plane.limits.bytes == 0

    run(main())


def test_a_shadow_that_fails_or_does_not_fit_harms_nobody(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        log = Log()
        plane = Plane(Settings(), traffic=log)

        def fail(x: Any) -> dict[str, Any]:
            raise RuntimeError("broken")

        plane.swap(Router("m", serve(plane, 1, fakes.Fake()), shadow=serve(plane, 2, fakes.Odd(fail))))
        assert (await plane.infer(ask())).version == 1
        other = fakes.Fake(of=fakes.signature("int64"))
        old = plane.router("m").shadow
        plane.swap(Router("m", plane.router("m").live, shadow=serve(plane, 3, other)))
        assert old is not None
        await old.close()
        assert (await plane.infer(ask())).version == 1
        await plane.close()
        assert other.runs == []
        shadows = [(e.version, e.outcome) for e in log.offered if e.track == "shadow"]
        assert shadows == [(2, "error")]

    run(main())


def test_sticky_requests_stay_on_their_track_and_share_runs(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        plane = Plane(Settings())
        live, canary = fakes.Fake(), fakes.Fake()
        plane.swap(Router("m", serve(plane, 1, live), canary=serve(plane, 2, canary), weight=0.5))
        users = [f"user-{i}" for i in range(40)]
        seen: dict[str, set[int]] = {u: set() for u in users}
        for n in range(3):
            asked = [ask(id=f"{n}-{u}", parameters={STICKY: u}) for u in users]
            for user, reply in zip(users, await asyncio.gather(*map(plane.infer, asked)), strict=True):
                seen[user].add(reply.version)
        assert all(len(versions) == 1 for versions in seen.values())
        assert {next(iter(v)) for v in seen.values()} == {1, 2}
        same = await asyncio.gather(*(plane.infer(ask(id="1")) for _ in range(40)))
        assert {reply.version for reply in same} == {1, 2}  # an id is no key: a client may give all of its the same
        assert max(len(x) for x in live.runs) > 1  # the sticky key keeps no request from company
        await plane.close()

    run(main())


def test_outputs_are_watched(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        plane = Plane(Settings())
        scores = np.array([[0.0, 1.0, 0.5], [9.0, 1.0, 0.5], [math.nan, 1.0, math.inf]], np.float32)
        runner = fakes.Odd(lambda x: {"y": scores})
        plane.swap(Router("m", serve(plane, 1, runner, labels=("cat", "dog"))))
        await plane.infer(ask(inputs={"x": scores}))
        where = {"model": "m", "version": "1"}
        assert plane.metrics.value("modelkeep_output_invalid_total", **where) == 1
        assert plane.metrics.value("modelkeep_output_class_total", **where, **{"class": "dog"}) == 1
        assert plane.metrics.value("modelkeep_output_class_total", **where, **{"class": "cat"}) == 2
        assert plane.metrics.value("modelkeep_batch_size_sum", **where) == 3
        assert plane.metrics.value("modelkeep_compute_duration_seconds_count", **where) == 1
        assert plane.metrics.value("modelkeep_queue_duration_seconds_count", **where) == 1
        await plane.close()

    run(main())


def test_text_weighs_what_it_holds(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        plane = Plane(Settings(max_queue_bytes=212))  # two texts, each as Python holds it
        runner = fakes.Fake(of=fakes.signature("str", (None,)))
        plane.swap(Router("m", serve(plane, 1, runner)))
        with pytest.raises(BadInput, match="the request holds 213 bytes and the server takes 212 in all"):
            await plane.infer(ask(inputs={"x": np.array(["a" * 60, "b" * 41], dtype=object)}))
        await plane.infer(ask(inputs={"x": np.array(["a" * 60, "b" * 40], dtype=object)}))
        await plane.close()

    run(main())


def test_close_gives_every_runner_back(fakes: SimpleNamespace) -> None:
    async def main() -> list[int]:
        plane = Plane(Settings())
        runners = [fakes.Fake() for _ in range(3)]
        live, canary, shadow = (serve(plane, i + 1, r) for i, r in enumerate(runners))
        plane.swap(Router("m", live, canary=canary, weight=0.1, shadow=shadow))
        assert plane.metrics.value("modelkeep_route_weight_ratio", model="m", track="canary") == 0.1
        await plane.close()
        return [r.closed for r in runners]

    assert run(main()) == [1, 1, 1]


def test_a_request_that_was_refused_is_gone_before_anybody_looks_for_garbage(fakes: SimpleNamespace) -> None:
    """An error knows the frames that it was raised in, and they know the request."""

    def requests() -> int:
        return sum(type(one) is Request for one in gc.get_objects())

    async def main() -> tuple[int, int]:
        plane = Plane(Settings(max_queue_requests=1))
        plane.swap(Router("m", serve(plane, 1, fakes.Fake())))
        gc.collect()
        gc.disable()
        try:
            before = requests()
            for value in (fakes.POISON, 1.0):
                for _ in range(8):
                    with contextlib.suppress(ModelkeepError):
                        await plane.infer(ask(value))
                plane.limits.max_requests = 0
            await asyncio.sleep(0)
            return before, requests()
        finally:
            gc.enable()
            await plane.close()

    before, after = run(main())
    assert after == before
