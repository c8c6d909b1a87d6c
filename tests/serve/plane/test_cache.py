"""The cache of answers: never another question's, another version's, or more bytes than it may hold."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import httpx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from modelkeep.errors import BadInput, ModelkeepError
from modelkeep.serve.plane.cache import OVERHEAD, Cache, question
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.plane.router import STICKY, Router
from modelkeep.serve.server import Running
from modelkeep.settings import Settings
from modelkeep.types import Request
from tests.serve.plane.asked import Log, ask, run, serve

ROOM = Settings(cache_bytes=100_000)


def test_who_asks_again_gets_the_answer_under_their_own_id_and_nothing_runs(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        log, told, runner = Log(), [], fakes.Fake(add=1.0)
        plane = Plane(ROOM, traffic=log)
        plane.observers.append(told.append)
        plane.swap(Router("m", serve(plane, 3, runner)))
        first, second = await plane.infer(ask(5.0, id="a")), await plane.infer(ask(5.0, id="b"))
        assert [(r.id, r.version, r.outputs["y"].tolist()) for r in (first, second)] == [
            ("a", 3, [[6.0]]),
            ("b", 3, [[6.0]]),
        ]
        assert (set(first.timings), set(second.timings)) == ({"queue", "compute"}, {"cache"})
        assert len(runner.runs) == 1
        assert [(e.id, e.outputs["y"].tolist(), e.outcome) for e in log.offered] == [
            ("a", [[6.0]], "ok"),
            ("b", [[6.0]], "ok"),
        ]
        assert [t.request.id for t in told] == ["a", "b"]
        value = plane.metrics.value
        assert value("modelkeep_cache_hits_total", model="m", version="3") == 1
        assert value("modelkeep_cache_misses_total", model="m", version="3") == 1
        assert value("modelkeep_requests_total", model="m", version="3", track="live", outcome="ok") == 2
        assert value("modelkeep_cache_bytes") == plane.cache.bytes > 0
        await plane.close()

    run(main())


def test_off_it_keeps_nothing_and_counts_nothing(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        plane, runner = Plane(Settings()), fakes.Fake()
        plane.swap(Router("m", serve(plane, 1, runner)))
        assert [(await plane.infer(ask())).outputs["y"].tolist() for _ in range(2)] == [[[1.0]]] * 2
        assert (len(runner.runs), len(plane.cache)) == (2, 0)
        assert plane.metrics.value("modelkeep_cache_misses_total", model="m", version="1") == 0
        await plane.close()

    run(main())


OTHERS = [
    ask(2.0),
    ask(1.0, 1.0),
    ask(1.0, parameters={"k": 1}),
    ask(1.0, parameters={"k": True}),
    ask(1.0, parameters={"k": "1"}),
    ask(1.0, outputs=("y",)),
    ask(-0.0),
    ask(0.0),
]


def test_another_question_is_another_answer(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        plane, runner = Plane(ROOM), fakes.Fake()
        plane.swap(Router("m", serve(plane, 1, runner)))
        for request in (ask(), *OTHERS):
            assert "queue" in (await plane.infer(request)).timings
        assert len(runner.runs) == 1 + len(OTHERS)
        same = ask(1.0, parameters={STICKY: "someone", "k": 1}, deadline=None, trace="00-1")
        assert "cache" in (await plane.infer(same)).timings
        await plane.close()

    run(main())


def test_no_answer_outlives_its_version_nor_its_loading(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        plane = Plane(ROOM)
        for number, add in ((1, 1.0), (2, 2.0), (1, 3.0)):  # the last: the same number, loaded with other settings
            plane.swap(Router("m", serve(plane, number, fakes.Fake(add=add))))
            for _ in range(2):
                reply = await plane.infer(ask(0.0))
                assert (reply.version, reply.outputs["y"].tolist()) == (number, [[add]])
        await plane.close()

    run(main())


def test_a_shadow_sees_every_request_and_never_the_cache(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        log, live, shadow = Log(), fakes.Fake(add=1.0), fakes.Fake(add=2.0)
        plane = Plane(ROOM, traffic=log)
        plane.swap(Router("m", serve(plane, 1, live), shadow=serve(plane, 2, shadow)))
        for number in range(3):
            await plane.infer(ask(id=str(number)))
        while len(log.offered) < 6:
            await asyncio.sleep(0.001)
        assert len(live.runs) == 1
        assert sum(len(x) for x in shadow.runs) == 3
        assert [e.outputs["y"].tolist() for e in log.offered if e.track == "shadow"] == [[[3.0]]] * 3
        await plane.close()

    run(main())


def test_errors_are_not_kept_and_wrong_questions_stay_wrong(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        plane, runner = Plane(ROOM), fakes.Fake()
        plane.swap(Router("m", serve(plane, 1, runner)))
        for _ in range(2):
            with pytest.raises(ModelkeepError, match="poison"):
                await plane.infer(ask(fakes.POISON))
            with pytest.raises(BadInput):
                await plane.infer(ask(outputs=("q",)))
        assert (len(runner.runs), len(plane.cache)) == (2, 0)
        await plane.close()

    run(main())


def test_what_is_kept_cannot_be_changed_by_who_got_it(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        plane = Plane(ROOM)
        plane.swap(Router("m", serve(plane, 1, fakes.Fake())))
        first = await plane.infer(ask())
        np.asarray(first.outputs["y"])[:] = 9.0
        second = await plane.infer(ask())
        assert second.outputs["y"].tolist() == [[1.0]]
        with pytest.raises(ValueError, match="read-only"):
            np.asarray(second.outputs["y"])[:] = 9.0
        await plane.close()

    run(main())


@given(st.lists(st.tuples(st.integers(0, 12), st.integers(0, 400)), max_size=60), st.integers(0, 4000))
@settings(max_examples=60, deadline=None)
def test_it_holds_what_it_may_and_drops_what_was_not_used_for_longest(puts: list[tuple[int, int]], most: int) -> None:
    cache, model = Cache(most), dict[int, np.ndarray[Any, Any]]()
    for key, size in puts:
        array = np.full(size, key, np.uint8)
        found = cache.get(bytes([key]))
        if key in model:
            assert found is not None
            assert found["y"].tolist() == model[key].tolist()
            model[key] = model.pop(key)
            continue
        assert found is None
        cache.put(bytes([key]), {"y": array})
        if 2 * OVERHEAD + size <= most:
            model[key] = array
        while sum(2 * OVERHEAD + len(a) for a in model.values()) > most:
            model.pop(next(iter(model)))
        assert cache.bytes == sum(2 * OVERHEAD + len(a) for a in model.values()) <= most
    assert len(cache) == len(model)
    cache.bound(0)
    assert (cache.bytes, len(cache)) == (0, 0)


def test_strings_are_told_apart_and_cost_what_they_hold(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        target = serve(Plane(ROOM), 1, fakes.Fake())

        def of(*texts: object) -> bytes:
            return question(Request("r", "m", {"x": np.array(texts, dtype=object)}), target, {})

        assert len({of("a", "b"), of("ab", ""), of("b", "a"), of("a', 'b"), of(b"a", b"b"), of("a")}) == 6
        assert of("a", "b") == of("a", "b")
        await target.close()

    run(main())
    cache = Cache(10_000)
    cache.put(b"q", {"y": np.array(["x" * 5000], dtype=object)})
    assert len(cache) == 0


def test_over_http_with_classes_and_switched_off_while_it_runs(fakes: SimpleNamespace) -> None:
    body = {
        "inputs": [{"name": "x", "shape": [1, 3], "datatype": "FP32", "data": [1, 9, 2]}],
        "outputs": [{"name": "y", "parameters": {"classification": 1}}],
    }
    runner = fakes.Fake()
    running = Running({"m": runner}, settings=ROOM)
    with running as url, httpx.Client(base_url=url, timeout=20) as client:
        replies = [client.post("/v2/models/m/infer", json={**body, "id": name}) for name in "ab"]
        assert [(r.json()["id"], r.json()["outputs"][0]["data"]) for r in replies] == [
            ("a", ["9.000000:1"]),
            ("b", ["9.000000:1"]),
        ]
        assert "cache;dur=" in replies[1].headers["server-timing"]
        assert len(runner.runs) == 1
        running.service.reread = lambda: Settings()
        running.call(running.service.again())
        assert "cache" not in client.post("/v2/models/m/infer", json=body).headers["server-timing"]
        assert len(running.plane.cache) == 0
