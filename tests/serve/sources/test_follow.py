"""Following: what the registry says is what answers, whatever fails on the way, and no request is lost."""

from __future__ import annotations

import asyncio
import http.client
import json
import threading
from collections.abc import Coroutine, Iterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from modelkeep.errors import BadModel, DigestMismatch, NotFound, NotReady, Unsupported
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.server import Running
from modelkeep.serve.sources import follow
from modelkeep.serve.sources.follow import Follower
from modelkeep.settings import Settings
from modelkeep.types import Model, Ref, Request, Route, ServeConfig, Version
from tests.waiting import until, until_async


class Registry:
    """What a Follower reads of a registry, in memory."""

    def __init__(self, fakes: SimpleNamespace, versions: int = 4) -> None:
        model = Model(Path("nowhere"), "onnx", fakes.signature(), ("weights",))
        numbers = range(1, versions + 1)
        self.held = [Version("m", n, f"digest-{n}", model, None, "made", 0.0) for n in numbers]
        self.wanted = Route("m")
        self.configs: dict[int, ServeConfig] = {}
        self.notes: list[tuple[Any, ...]] = []
        self.damaged: set[int] = set()
        self.away = False
        self.changes = 0
        self.reads = 0

    def set(self, **changes: Any) -> None:
        self.wanted = replace(self.wanted, **changes)
        self.changes += 1

    def revision(self) -> int:
        if self.away:
            raise OSError("the disk is gone")
        return self.changes

    def route(self, name: str) -> Route:
        self.reads += 1
        return self.wanted

    def versions(self, name: str) -> list[Version]:
        if name != "m":
            raise NotFound(f"no model is called '{name}'")
        return self.held

    def get(self, ref: Ref) -> Version:
        return next(v for v in self.held if v.number == ref.which)

    def config(self, version: Version, machine: str) -> ServeConfig | None:
        assert machine == "this machine"
        return self.configs.get(version.number)

    def checkout(self, version: Version) -> Model:
        if version.number in self.damaged:
            raise DigestMismatch(f"{version.ref}: file weights is not the one that was stored")
        return replace(version.model, path=Path(str(version.number)))

    def note(self, name: str, kind: str, why: str, data: Any, who: str) -> None:
        self.notes.append((name, kind, why, data["number"], who))


class World:
    """A registry, the runners that were loaded from it, and a Follower over both. Version n answers x + n."""

    def __init__(self, fakes: SimpleNamespace) -> None:
        self.registry = Registry(fakes)
        self.fakes = fakes
        self.loaded: list[tuple[int, Any, ServeConfig]] = []
        self.broken: dict[int, Exception] = {}
        self.slow: dict[int, threading.Event] = {}

    def load(self, model: Model, config: ServeConfig) -> tuple[Any, list[tuple[int, float]]]:
        number = int(model.path.name)
        if number in self.slow:
            assert self.slow[number].wait(20)
        if number in self.broken:
            raise self.broken[number]
        runner = self.fakes.Fake(add=float(number))
        self.loaded.append((number, runner, config))
        return runner, []

    def numbers(self) -> list[int]:
        return [number for number, _, _ in self.loaded]

    def follower(self, **options: Any) -> Follower:
        given = {"machine": lambda *formats: "this machine", "load": self.load, "poll": 0.002} | options
        return Follower(self.registry, given.pop("names", ["m"]), **given)

    @asynccontextmanager
    async def following(self, **options: Any) -> Any:
        plane = Plane(Settings())
        follower = self.follower(**options)
        try:
            await follower.begin(plane)
            yield plane
        finally:
            await follower.end()
            await plane.close()


@pytest.fixture
def world(fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch) -> World:
    monkeypatch.setattr(follow, "FIRST_RETRY", 0.02)
    return World(fakes)


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


def live(plane: Plane) -> int | None:
    found = plane.router("m").live
    return found.number if found else None


async def answer(plane: Plane, **changes: Any) -> int:
    reply = await plane.infer(Request("r", "m", {"x": np.zeros((1, 1), np.float32)}, **changes))
    assert reply.outputs["y"][0, 0] == reply.version  # the version that is named is the one that ran
    return reply.version


def test_the_route_is_followed_and_what_is_not_needed_is_closed(world: World) -> None:
    async def main() -> None:
        world.registry.set(live=1)
        async with world.following() as plane:
            assert await answer(plane) == 1
            world.registry.set(live=2, previous=1)
            await until_async(lambda: live(plane) == 2)
            assert await answer(plane) == 2
            await until_async(lambda: world.loaded[0][1].closed == 1)
            world.registry.set(canary=3, weight=1.0, shadow=4)
            await until_async(lambda: plane.router("m").canary and plane.router("m").shadow)
            assert await answer(plane) == 3
            assert [await answer(plane, version=n) for n in (2, 3, 4)] == [2, 3, 4]
            world.registry.set(live=3, canary=None, weight=0.0, shadow=None)
            await until_async(lambda: live(plane) == 3 and world.loaded[1][1].closed and world.loaded[3][1].closed)
        assert world.numbers() == [1, 2, 3, 4]  # each once: the canary was promoted as it was
        assert [runner.closed for _, runner, _ in world.loaded] == [1, 1, 1, 1]

    run(main())


def test_what_ends_because_the_server_does_has_not_failed(world: World) -> None:
    """A first load that Ctrl-C cuts off raises whatever a closed socket raises; it is in no log and no journal."""

    async def main() -> None:
        world.registry.set(live=1)
        world.slow[1], world.broken[1] = threading.Event(), OSError(9, "Bad file descriptor")
        follower = world.follower()
        beginning = asyncio.create_task(follower.begin(plane := Plane(Settings())))
        await until_async(lambda: follower.models and follower.models["m"].loading)
        follower.give_up()
        world.slow[1].set()
        await until_async(lambda: not follower.models["m"].loading)
        beginning.cancel()
        await asyncio.gather(beginning, return_exceptions=True)
        await follower.end()
        await plane.close()
        assert world.registry.notes == []

    run(main())


def test_nothing_is_read_while_nothing_changes(world: World) -> None:
    async def main() -> None:
        world.registry.set(live=1)
        async with world.following():
            reads = world.registry.reads
            await asyncio.sleep(0.05)
            assert world.registry.reads == reads
            world.registry.set(weight=0.0)
            await until_async(lambda: world.registry.reads > reads)

    run(main())


@pytest.mark.parametrize("how", ["damaged", "refused", "crashed"])
def test_a_version_that_cannot_be_loaded_leaves_the_old_one(world: World, how: str) -> None:
    async def main() -> None:
        world.registry.set(live=1)
        async with world.following() as plane:
            if how == "damaged":
                world.registry.damaged.add(2)
            else:
                world.broken[2] = BadModel("not a model") if how == "refused" else RuntimeError("out of memory")
            world.registry.set(live=2, previous=3)
            await until_async(lambda: world.registry.notes)
            assert await answer(plane) == 1
            ((name, kind, why, number, who),) = world.registry.notes
            assert (name, kind, number, who) == ("m", "load-failed", 2, "serve")
            assert why.startswith("m@2 cannot be loaded: ")
            assert plane.ready("m")
            await until_async(lambda: plane.router("m").problems)
            assert 2 in plane.router("m").problems
            world.registry.damaged.clear()
            world.broken.clear()  # mended: no change of the registry is needed for it to be tried again
            await until_async(lambda: live(plane) == 2)
            assert plane.router("m").problems == {}
            assert await answer(plane) == 2
        assert len(world.registry.notes) == 1  # one entry, however often it was tried

    run(main())


def test_a_canary_that_cannot_be_loaded_gets_no_traffic(world: World) -> None:
    async def main() -> None:
        world.registry.set(live=1, canary=2, weight=1.0)
        world.broken[2] = BadModel("not a model")
        async with world.following() as plane:
            assert plane.router("m").shares == {"live": 1.0, "canary": 0.0, "shadow": 0.0}
            assert await answer(plane) == 1
            with pytest.raises(NotReady, match="m@2 cannot answer: not a model"):
                await answer(plane, version=2)

    run(main())


def test_after_a_restart_a_broken_live_version_is_stood_in_for_by_the_previous(world: World) -> None:
    async def main() -> None:
        world.registry.set(live=2, previous=1)
        world.broken[2] = BadModel("not a model")
        async with world.following() as plane:
            assert await answer(plane) == 1
            world.broken.clear()
            await until_async(lambda: live(plane) == 2)

    run(main())


def test_a_slow_load_holds_up_nothing(world: World) -> None:
    """A rollback takes effect while the version that it takes back is still being loaded."""

    async def main() -> None:
        world.registry.set(live=1)
        async with world.following() as plane:
            world.slow[2] = threading.Event()
            world.registry.set(live=2, previous=1)
            await until_async(lambda: plane.router("m").problems == {2: "it is being loaded"})
            assert await answer(plane) == 1
            world.registry.set(live=1, previous=2)
            await until_async(lambda: plane.router("m").problems == {})
            assert await answer(plane) == 1
            world.slow.pop(2).set()
            await until_async(lambda: world.numbers() == [1, 2] and world.loaded[1][1].closed)  # nobody wants it now
            assert await answer(plane) == 1

    run(main())


def test_what_tune_found_is_loaded_beside_the_old_and_swapped(world: World) -> None:
    async def main() -> None:
        world.registry.set(live=1)
        world.registry.configs[1] = ServeConfig(max_batch=4)
        async with world.following(options={"threads": 3}) as plane:
            assert world.loaded[0][2] == ServeConfig(max_batch=4, threads=3)
            world.registry.configs[1] = ServeConfig(max_batch=8, threads=1)
            world.registry.set()
            await until_async(lambda: len(world.loaded) == 2 and world.loaded[0][1].closed)
            assert world.loaded[1][2] == ServeConfig(max_batch=8, threads=3)
            assert plane.find("m").config.max_batch == 8
            assert await answer(plane) == 1

    run(main())


def test_settings_by_name_come_before_what_tune_found(world: World) -> None:
    async def main() -> None:
        world.registry.set(live=1)
        world.registry.configs[1] = ServeConfig(max_batch=4)
        async with world.following(configs={"m": ServeConfig(max_batch=2)}):
            assert world.loaded[0][2] == ServeConfig(max_batch=2)

    run(main())


def test_the_loaded_versions_outlive_the_registry(world: World, caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        world.registry.set(live=1)
        async with world.following() as plane:
            world.registry.away = True
            await until_async(lambda: caplog.messages)
            await asyncio.sleep(0.03)
            assert await answer(plane) == 1
            world.registry.away = False
            world.registry.set(live=2)
            await until_async(lambda: live(plane) == 2)

    run(main())
    said = "the registry cannot be read, the loaded versions go on answering: the disk is gone"
    assert caplog.messages.count(said) == 1


@pytest.mark.parametrize(
    ("prepare", "names", "error", "said"),
    [
        (lambda w: None, ["q"], NotFound, "no model is called 'q'"),
        (lambda w: None, ["m"], NotReady, "no version of 'm' is live; say which: modelkeep promote m@NUMBER"),
        (lambda w: w.broken.update({1: BadModel("not a model")}), ["m"], BadModel, "not a model"),
        (lambda w: w.broken.update({1: ValueError("bad bits")}), ["m"], Exception, "ValueError: bad bits"),
    ],
)
def test_what_keeps_a_server_from_starting_is_raised(
    world: World, prepare: Any, names: list[str], error: type[Exception], said: str
) -> None:
    async def main() -> None:
        if prepare(world) is None and world.broken:
            world.registry.set(live=1)
        with pytest.raises(error, match=said):
            async with world.following(names=names):
                pass

    run(main())


def test_options_that_no_engine_has_are_raised(world: World, tmp_path: Path) -> None:
    async def main() -> None:
        world.registry.set(live=1)
        with pytest.raises(Unsupported, match="there is no engine 'abacus'"):
            async with world.following(options={"engine": "abacus"}, load=follow.bring):
                pass

    run(main())


class Client(threading.Thread):
    """Asks over one kept connection until told to stop; every answer is checked against the version that it names."""

    def __init__(self, port: int) -> None:
        super().__init__(daemon=True)
        self.port = port
        self.stopping = False
        self.answered = 0
        self.versions: set[str] = set()
        self.failures: list[object] = []

    def run(self) -> None:
        text = json.dumps({"inputs": [{"name": "x", "shape": [1, 1], "datatype": "FP32", "data": [0]}]})
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while not self.stopping:
            try:
                connection.request("POST", "/v2/models/m/infer", text)
                reply = connection.getresponse()
                found = json.loads(reply.read())
                if reply.status != 200 or found["outputs"][0]["data"][0] != int(found["model_version"]):
                    self.failures.append((reply.status, found))
                self.versions.add(found.get("model_version"))
                self.answered += 1
            except Exception as error:  # noqa: BLE001 - anything at all is a lost request
                self.failures.append(error)
                return
        connection.close()


@pytest.fixture
def clients() -> Iterator[list[Client]]:
    made: list[Client] = []
    yield made
    for client in made:
        client.stopping = True


def test_a_hundred_switches_under_load_lose_no_request(world: World, clients: list[Client]) -> None:
    world.registry.set(live=1)
    running = Running(world.follower())
    with running as url:
        clients.extend(Client(int(url.rsplit(":", 1)[1])) for _ in range(4))
        for client in clients:
            client.start()
        for turn in range(100):
            number = 2 + turn % 3 if turn % 2 else 1
            answered = clients[0].answered
            world.registry.set(
                live=number, previous=world.registry.wanted.live, canary=4 if turn % 5 == 0 else None, weight=0.3
            )
            until(lambda n=number, a=answered: live(running.plane) == n and clients[0].answered > a)
        for client in clients:
            client.stopping = True
        for client in clients:
            client.join()
        assert sum(c.answered for c in clients) > 100
        counted = sum(
            running.plane.metrics.value("modelkeep_requests_total", model="m", version=str(n), track=t, outcome="ok")
            for n in range(1, 5)
            for t in ("live", "canary")
        )
        assert counted == sum(c.answered for c in clients)
    assert [c.failures for c in clients] == [[]] * 4
    assert set.union(*(c.versions for c in clients)) == {"1", "2", "3", "4"}
    assert len(world.loaded) >= 100
    assert [runner.closed for _, runner, _ in world.loaded] == [1] * len(world.loaded)


def test_who_asks_while_the_registry_is_read_is_told_to_wait(
    fakes: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    world, read = World(fakes), threading.Event()
    monkeypatch.setattr(world.registry, "versions", lambda name: read.wait(5))

    async def main() -> None:
        plane = Plane(Settings())
        beginning = asyncio.create_task(world.follower().begin(plane))
        await asyncio.sleep(0)
        try:
            with pytest.raises(NotReady):
                plane.find("m")
        finally:
            beginning.cancel()
            read.set()

    asyncio.run(main())
