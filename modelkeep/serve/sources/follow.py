"""Follow the registry: hold the versions that its routes name, and switch without losing a request.

Level-triggered, like a controller: each look compares what is wanted with what is held, so that a crash, a restart or
ten servers come to the same state. A version that cannot be loaded leaves the one that answers in its place.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

from modelkeep.errors import ModelkeepError, NotReady
from modelkeep.model import engines
from modelkeep.serve.plane.loaded import Brought, Loaded, bring, give_up
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.plane.router import Router
from modelkeep.types import Model, Ref, Route, ServeConfig, Version

POLL = 0.2
FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0
log = logging.getLogger(__name__)

Bring = Callable[[Model, ServeConfig], Brought]
Machine = Callable[..., str]
"""(formats of models) → a name of this hardware and of what runs them here, under which tune stores its settings."""


class Source(Protocol):
    """The registry, as far as a server follows it. All of it may block."""

    def revision(self) -> int:
        """Grows with every change of a route, a version or a config."""

    def names(self) -> list[str]:
        """All models."""

    def route(self, name: str) -> Route:
        """Who should answer."""

    def versions(self, name: str) -> list[Version]:
        """All of a model. Raises NotFound."""

    def get(self, ref: Ref) -> Version:
        """One of them."""

    def config(self, version: Version, machine: str) -> ServeConfig | None:
        """What tune found on this machine."""

    def checkout(self, version: Version) -> Model:
        """Its verified folder."""

    def note(self, name: str, kind: str, why: str, data: Mapping[str, Any], who: str) -> object:
        """An entry of the journal."""


@dataclass(frozen=True)
class Wanted:
    """What the registry says of one model: the route, and its versions with their settings, the most urgent first."""

    route: Route
    versions: Mapping[int, tuple[Version, ServeConfig]]


@dataclass
class Failure:
    """A version that could not be loaded, with these settings; tried again at ``again`` (time.monotonic)."""

    config: ServeConfig
    error: Exception
    tries: int
    again: float


@dataclass
class Followed:
    """One model: what is wanted, held, being loaded, and what failed. ``held`` is in the order of loading."""

    wanted: Wanted
    held: list[Loaded] = field(default_factory=list)
    loading: dict[int, asyncio.Task[None]] = field(default_factory=dict)
    failures: dict[int, Failure] = field(default_factory=dict)

    def find(self, number: int | None) -> Loaded | None:
        """The newest one held of this number: after new settings, there are two for a moment."""
        return next((v for v in reversed(self.held) if v.number == number), None)

    def let_go(self) -> list[Loaded]:
        """All that is held, and is no more: whoever asked closes it, once."""
        held, self.held = self.held, []
        return held


class Follower:
    """Keeps a plane in step with a registry. ``options`` are ServeConfig fields that a person set; they win."""

    def __init__(
        self,
        registry: Source,
        names: Sequence[str],
        *,
        machine: Machine,
        configs: Mapping[str, ServeConfig] | None = None,
        options: Mapping[str, Any] | None = None,
        load: Bring = bring,
        poll: float = POLL,
    ) -> None:
        self.registry, self.names, self.machine, self.poll = registry, list(dict.fromkeys(names)), machine, poll
        self.configs, self.options, self.load = dict(configs or {}), dict(options or {}), load
        self.models: dict[str, Followed] = {}
        self.changes: dict[str, dict[str, Any]] = {}
        self.seen = -1
        self._changing = asyncio.Lock()
        self._loader = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._tasks: set[asyncio.Task[Any]] = set()
        self._away = self._given_up = False
        self._plane: Plane

    async def begin(self, plane: Plane) -> None:
        """Load what the routes name, then go on following.

        Raises NotFound for a name that the registry lacks, and why not where no model at all can answer.
        """
        self._plane = plane
        for name in self.names:  # before anybody can ask: not ready yet is another answer than not there
            plane.expect(name)
        for name in self.names:
            await asyncio.to_thread(self.registry.versions, name)
        await self.look()
        while loading := [task for model in self.models.values() for task in model.loading.values()]:
            await asyncio.wait(loading)
        if not any(plane.router(name).live for name in self.names):
            raise self._why_none()
        self._spawn(self._follow())

    def give_up(self) -> None:
        """See Source: neither the log nor the journal is told that a version cannot be loaded."""
        self._given_up = True
        give_up()

    async def end(self) -> None:
        """Follow no more, load no more. The plane's versions stay."""
        self._loader.shutdown(wait=False, cancel_futures=True)
        closing = [t for t in self._tasks if t.get_name().startswith("close ")]
        for task in self._tasks - set(closing):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    # ── asked for while the server runs (repository.Followed) ────────────────────────────────────────────────────

    async def there(self) -> dict[str, list[int]]:
        """Every name of the registry, and its versions."""

        def read() -> dict[str, list[int]]:
            return {name: [v.number for v in self.registry.versions(name)] for name in self.registry.names()}

        return await asyncio.to_thread(read)

    async def follow(self, name: str) -> None:
        """Answer for this model too, or try again at once to load what could not be loaded.

        Raises BadRef, NotFound, and NotReady with the reason where it cannot answer now. It is followed all the same,
        unless no version of it is live: a server that waited for one would not be ready, for all its other models.
        """
        Ref.parse(name)
        await asyncio.to_thread(self.registry.versions, name)
        if name not in self.names:
            if (await asyncio.to_thread(self.registry.route, name)).live is None:
                raise _none_is_live(name)
            if name not in self.names:  # another may have asked for it meanwhile
                self.names.append(name)
            self._plane.expect(name)
        await self._settle(name)
        if problem := self._plane.problem(name):
            raise NotReady(problem)

    async def leave(self, name: str) -> None:
        """Answer for this model no more, once what was accepted is answered. Raises NotFound."""
        self._plane.forget(name)
        self.names.remove(name)
        for loaded in self.models.pop(name).let_go() if name in self.models else ():
            self._spawn(loaded.close(), name=f"close {loaded.ref}")

    async def change(self, name: str, fields: Mapping[str, Any]) -> Loaded:
        """Serve a model with these ServeConfig fields, which win over all others until the server ends.

        What is live is loaded beside itself, warmed up and switched to. Raises NotFound, NotReady where nothing is
        live, and what keeps it from loading; then everything stays as it was.
        """
        async with self._changing:
            self._plane.find(name)
            before = self.changes.get(name, {})
            self.changes[name] = {**before, **fields}
            model = self.models[name]
            await self._settle(name)
            if self.models.get(name) is not model:  # it was taken away meanwhile
                self.changes[name] = before
            if failed := model.failures.get(self._plane.find(name).number):
                self.changes[name] = before
                await self._settle(name)
                raise failed.error
            loaded = self._plane.find(name)
            if fields:
                told = ", ".join(f"{field} {value}" for field, value in fields.items())
                await self._note(loaded, "configured", f"{loaded.ref} is served with {told}", dict(fields))
            return loaded

    async def again(self) -> None:
        """Read everything anew, and try again at once what could not be loaded."""
        self.seen = -1
        for model in self.models.values():
            model.failures.clear()
        await self.look()

    async def _settle(self, name: str) -> None:
        """Want what is to be had now, forgetting what failed, and wait until it is loaded or has failed."""
        await self._want(name)
        if name in self.models:
            self.models[name].failures.clear()
            self._apply(name)
        while name in self.models and self.models[name].loading:
            await asyncio.wait(self.models[name].loading.values())

    async def look(self) -> None:
        """One look: read what is wanted where anything changed, and act on it."""
        revision = await asyncio.to_thread(self.registry.revision)
        if revision != self.seen:
            for name in list(self.names):
                await self._want(name)
            self.seen = revision
        for name in self.models:
            self._apply(name)

    async def _follow(self) -> None:
        while True:
            await asyncio.sleep(self.poll)
            try:
                await self.look()
                self._away = False
            except Exception as error:  # noqa: BLE001 - whatever the registry raises, what is loaded goes on answering
                if not self._away:
                    log.warning("the registry cannot be read, the loaded versions go on answering: %s", error)
                self._away = True

    # ── what is wanted ───────────────────────────────────────────────────────────────────────────────────────────

    async def _want(self, name: str) -> None:
        wanted = await asyncio.to_thread(self._read, name)
        if name in self.names:  # it may have been left meanwhile
            self.models.setdefault(name, Followed(wanted)).wanted = wanted

    def _read(self, name: str) -> Wanted:
        """On a thread. The previous version is the last: it is loaded only where nothing else can answer."""
        route = self.registry.route(name)
        numbers = dict.fromkeys(n for n in (route.live, route.canary, route.shadow, route.previous) if n is not None)
        versions = [self.registry.get(Ref(name, number)) for number in numbers]
        return Wanted(route, {v.number: (v, self._config(v)) for v in versions})

    def _config(self, version: Version) -> ServeConfig:
        config = self.configs.get(version.name) or self.registry.config(version, self.machine(version.model.format))
        options = {**self.options, **self.changes.get(version.name, {})}
        return replace(config or engines.default_config(version.model.format), **options)

    # ── what is done about it ────────────────────────────────────────────────────────────────────────────────────

    def _apply(self, name: str) -> None:
        """Start the loads that are due, switch to the best of what is held, and close what is no longer needed."""
        model = self.models[name]
        route = model.wanted.route
        needed = set(route.numbers)
        router = self._router(name, model)
        if (
            route.live is not None
            and router.live is None
            and route.live in model.failures
            and route.previous is not None
        ):
            needed.add(route.previous)
        for number in model.wanted.versions:
            if number in needed:
                self._load_if_due(name, model, number)
        router = replace(router, problems=self._problems(model, needed))
        if router != self._plane.router(name):
            self._plane.swap(router)
        used = [router.live, router.canary, router.shadow]
        for loaded in list(model.held):
            newest = loaded.number in needed and loaded is model.find(loaded.number)
            if loaded not in used and not newest:
                model.held.remove(loaded)
                self._spawn(loaded.close(), name=f"close {loaded.ref}")

    def _router(self, name: str, model: Followed) -> Router:
        route = model.wanted.route
        live = None
        if route.live is not None:
            live = model.find(route.live) or self._plane.router(name).live or model.find(route.previous)
        return Router(name, live, model.find(route.canary), route.weight, model.find(route.shadow))

    def _problems(self, model: Followed, needed: set[int]) -> dict[int, str]:
        found = {n: str(model.failures[n].error) for n in sorted(needed & model.failures.keys())}
        missing = sorted(n for n in needed if n in model.loading and model.find(n) is None)
        return found | dict.fromkeys(missing, "it is being loaded")

    def _load_if_due(self, name: str, model: Followed, number: int) -> None:
        version, config = model.wanted.versions[number]
        held, failure = model.find(number), model.failures.get(number)
        if number in model.loading or (held is not None and held.config == config):
            return
        if failure is not None and failure.config == config and failure.again > time.monotonic():
            return
        model.loading[number] = self._spawn(self._load(name, model, version, config))

    async def _load(self, name: str, model: Followed, version: Version, config: ServeConfig) -> None:
        number = version.number
        try:
            loop = asyncio.get_running_loop()
            checked, brought = await loop.run_in_executor(self._loader, self._bring, version, config)
            loaded = Loaded.of(name, number, checked, brought, config=config, metrics=self._plane.metrics)
        except Exception as error:  # noqa: BLE001 - an engine may raise anything; the version that answers stays
            if not self._plane.stopping:  # else it was given up
                await self._failed(model, version, config, error)
        else:
            model.failures.pop(number, None)
            model.held.append(loaded)
        finally:
            model.loading.pop(number, None)
        if self.models.get(name) is model:
            self._apply(name)
        else:  # it was left while it was loading
            await asyncio.gather(*(v.close() for v in model.let_go()))

    def _bring(self, version: Version, config: ServeConfig) -> tuple[Model, Brought]:
        model = self.registry.checkout(version)
        return model, self.load(model, config)

    async def _failed(self, model: Followed, version: Version, config: ServeConfig, error: Exception) -> None:
        before = model.failures.get(version.number)
        tries = before.tries + 1 if before is not None and before.config == config else 1
        pause = min(FIRST_RETRY * 2 ** (tries - 1), LONGEST_RETRY)
        model.failures[version.number] = Failure(config, error, tries, time.monotonic() + pause)
        if self._given_up or (before is not None and str(before.error) == str(error)):
            return
        log.warning("%s cannot be loaded: %s", version.ref, error)
        why = f"{version.ref} cannot be loaded: {error}"
        await self._note(version, "load-failed", why, {"engine": config.engine})

    async def _note(self, about: Version | Loaded, kind: str, why: str, data: Mapping[str, Any]) -> None:
        """An entry of the journal."""
        whole = {"number": about.number, "machine": self.machine(), **data}
        with contextlib.suppress(Exception):  # a registry that cannot be written must not stop the server
            await asyncio.to_thread(self.registry.note, about.name, kind, why, whole, "serve")

    def _why_none(self) -> Exception:
        for model in self.models.values():
            for failure in model.failures.values():
                error = failure.error
                return (
                    error if isinstance(error, ModelkeepError) else ModelkeepError(f"{type(error).__name__}: {error}")
                )
        return _none_is_live(self.names[0])

    def _spawn(self, work: Any, name: str | None = None) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work, name=name)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        return task


def _none_is_live(name: str) -> NotReady:
    return NotReady(f"no version of '{name}' is live; say which: modelkeep promote {name}@NUMBER")
