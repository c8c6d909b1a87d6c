"""One server process: a socket, an event loop, the plane, and an orderly end.

``serve_file`` and ``serve_registry`` block until SIGINT or SIGTERM; ``Running`` runs the same on a thread.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

from modelkeep import stages
from modelkeep.data import labels
from modelkeep.data.traffic import TrafficLog
from modelkeep.errors import BadModel, BadSettings, ModelkeepError, Untrusted
from modelkeep.model import engines, formats
from modelkeep.serve.http import routes
from modelkeep.serve.http.direct import Direct
from modelkeep.serve.http.door import Door, Mount
from modelkeep.serve.http.listener import Listener, within
from modelkeep.serve.observers import collect, sampling, usage
from modelkeep.serve.observers.access import AccessLog
from modelkeep.serve.plane.plane import SWITCH, Plane
from modelkeep.serve.protocol.address import listen, safely, url_of
from modelkeep.serve.protocol.keys import gate
from modelkeep.serve.sources import adjustable
from modelkeep.serve.sources.follow import Follower, Machine
from modelkeep.serve.sources.repository import Repository
from modelkeep.serve.sources.source import Fixed, Source
from modelkeep.serve.workers.settled import settle, share_arenas, tidy
from modelkeep.settings import Settings
from modelkeep.types import Model, Runner, ServeConfig

if TYPE_CHECKING:
    from modelkeep.data.sample import Sample
    from modelkeep.registry import Registry
    from modelkeep.serve.grpc.endpoint import Endpoint
    from modelkeep.serve.observers.tracing import Tracing
    from modelkeep.serve.protocol.keys import Gate

OnReady = Callable[[str], None]
Reread = Callable[[], Settings]
log = logging.getLogger(__name__)


class Works(Protocol):
    """Something on threads of its own."""

    def close(self) -> None:
        """End it; may block."""


Beside = Callable[[Plane], Works]
"""Begins what works beside a plane that is ready."""


def serve_file(
    path: Path,
    settings: Settings,
    *,
    name: str | None = None,
    config: ServeConfig | None = None,
    options: Mapping[str, Any] | None = None,
    on_ready: OnReady | None = None,
    reread: Reread | None = None,
) -> None:
    """Answer for one bare model file, without a registry, until a signal. ``options`` are ServeConfig fields; SIGHUP
    takes the bounds (adjustable.BOUNDS) that ``reread`` gives then.

    Raises PortInUse, NotFound, BadModel, BadSettings, Untrusted, MissingExtra, Unsupported; KeyboardInterrupt at a
    second signal.
    """
    name = path.stem if name is None else name
    if "/" in name or name in ("", ".", ".."):
        raise BadSettings(f"'{name}' is no part of an address, so that nobody could ask it; give another with --name")
    with safely(settings) as sock, tempfile.TemporaryDirectory(prefix="modelkeep-") as room:
        model = _adopted(path, Path(room))
        config = replace(config or engines.default_config(model.format), **(options or {}))
        _block(Service(Fixed({name: model}, {name: config}), settings, sock, reread=reread), on_ready)


def _adopted(path: Path, room: Path) -> Model:
    """As formats.adopt does it with no option; where it asks for one, which only ``add`` has, the sentence says so."""
    try:
        return formats.adopt(path, room)
    except (BadModel, Untrusted) as error:
        if "pass --" not in str(error):
            raise
        raise type(error)(f"{error}; a bare file cannot be served so: modelkeep add it, and serve its name") from error


def serve_registry(
    registry: Registry,
    names: Sequence[str],
    settings: Settings,
    *,
    configs: Mapping[str, ServeConfig] | None = None,
    options: Mapping[str, Any] | None = None,
    machine: Machine,
    on_ready: OnReady | None = None,
    reread: Reread | None = None,
    alerted: routes.Alerted | None = None,
    mounts: Mapping[str, Mount] | None = None,
    beside: Sequence[Beside] = (),
) -> None:
    """Answer for models of a registry, following its routes, until a signal; traffic is kept in ``home/traffic.db``.

    ``configs`` are settings by model name, before what tune stored for ``machine``; ``options`` are single fields,
    before both. SIGHUP takes the bounds (adjustable.BOUNDS) that ``reread`` gives then, and reads the registry anew.
    ``alerted`` takes what Alertmanager tells.
    ``mounts`` are applications of others, by the path that they begin with; ``beside`` is what works beside the plane.
    Raises PortInUse, NotFound, NotReady, or why no version can be loaded.
    """
    with safely(settings) as sock:
        source = Follower(registry, names, machine=machine, configs=configs, options=options)
        home = settings.home
        served = Service(
            source,
            settings,
            sock,
            traffic=home / "traffic.db",
            profiles=home / "profiles.db",
            find=collect.of_registry(registry, home),
            reread=reread,
            alerted=alerted,
            mounts=mounts,
            beside=beside,
        )
        _block(served, on_ready)


class Service:
    """A source, a plane and a listener, from start to stop. ``traffic`` is the file that exchanges are kept in,
    ``profiles`` the one for what they look like; ``find`` gives the baseline of a version.
    """

    def __init__(
        self,
        source: Source,
        settings: Settings,
        sock: socket.socket,
        *,
        traffic: Path | None = None,
        profiles: Path | None = None,
        find: collect.Find | None = None,
        reread: Reread | None = None,
        alerted: routes.Alerted | None = None,
        mounts: Mapping[str, Mount] | None = None,
        beside: Sequence[Beside] = (),
    ) -> None:
        self.source, self.settings, self.sock = source, settings, sock
        self.traffic, self.profiles, self.find = traffic, profiles, find
        self.reread, self.alerted, self.mounts, self.beside = reread, alerted, mounts or {}, beside
        self.repository = Repository(source if isinstance(source, Follower) else None, source.change)
        self.plane: Plane
        self._log: TrafficLog | None = None
        self._sample: Sample | None = None
        self._grpc: Endpoint | None = None
        self._listener: Listener

    async def run(self, stop: asyncio.Event, on_ready: OnReady | None = None) -> None:
        """Until ``stop`` is set; then answer what was accepted, and end. Raises what keeps the source from starting."""
        settings = within(self.settings)
        kept = None
        if self.traffic is not None and settings.capture_share > 0:
            kept = TrafficLog(
                self.traffic,
                share=settings.capture_share,
                rate=settings.capture_rate,
                max_rows=settings.capture_rows,
                max_bytes=settings.capture_bytes,
            )
        self._log = kept
        self._sample = sample = sampling.begin(settings)
        self.plane = Plane(settings, traffic=kept)
        if sample is not None:
            sampling.watch(self.plane, sample)
        usage.watch(self.plane)
        collector = collect.begin(self.plane, self.profiles, self.find)
        self.keys = gate(settings)
        watching = _observers(self.plane)
        self._grpc = grpc = await _grpc(self.plane, self.keys, self.repository)
        given: Any = {"repository": self.repository, "alerted": self.alerted, "pages": self.mounts}
        app = routes.app(self.plane, label=_labeller(kept), **given)
        mounted = {at: make(self.plane, self.keys) for at, make in self.mounts.items()}
        door = Door(app, self.keys, self.plane, mounted)
        self._listener = Listener(self.plane, door, Direct(self.plane, self.keys))
        serving = asyncio.create_task(self._listener.serve(sockets=[self.sock]))
        tidying = asyncio.create_task(tidy())
        working: list[Works] = []
        try:
            if await self._begin(stop):
                if sample is not None:
                    sampling.check(self.plane, sample.masks)
                working += [begin(self.plane) for begin in self.beside]
                if on_ready is not None:
                    on_ready(url_of(self.sock, tls=bool(settings.tls_cert)))
                await stop.wait()
        finally:
            self.plane.stopping = True
            tidying.cancel()
            for page in mounted.values():
                page.stop()
            ending = [] if grpc is None else [grpc.stop(self.plane.settings.request_timeout)]
            await asyncio.gather(self._listener.drain(), *ending)
            await serving
            await self.source.end()
            await self.plane.close()
            for one in (*working, *watching, kept, sample, collector):
                if one is not None:
                    await asyncio.to_thread(one.close)

    @property
    def listening(self) -> bool:
        """Whether connections are accepted already, be it that no model is ready."""
        return hasattr(self, "_listener") and self._listener.started

    async def again(self) -> None:
        """What SIGHUP asks for: read settings and source anew, and say in the log what came of it. Never raises."""
        try:
            if self.reread is not None:
                self._adjust(await asyncio.to_thread(self.reread))
            await self.source.again()
        except Exception as error:  # noqa: BLE001 - whatever cannot be read, what is loaded goes on answering
            said = error if isinstance(error, ModelkeepError) else f"{type(error).__name__}: {error}"
            log.warning("not everything could be read anew, and what was in force stays: %s", said)

    def _adjust(self, fresh: Settings) -> None:
        names = adjustable.fixed(self.settings, fresh)
        if self.traffic is not None and self._log is None and fresh.capture_share > 0:
            names.append("capture_share (it was 0)")
        if names:
            log.warning("these settings take effect at a start only: %s", ", ".join(names))
        settings = replace(self.plane.settings, **adjustable.bounds(fresh))
        self._listener.adjust(settings)
        if self._grpc is not None:
            self._grpc.adjust(settings)
        if self._log is not None:
            self._log.adjust(settings.capture_share, settings.capture_rate if settings.capture_share else 0.0)
        self.plane.adjust(settings)
        if self._sample is not None:
            self._sample.share = settings.sample_share

    async def _begin(self, stop: asyncio.Event) -> bool:
        """Whether the source started before somebody wanted to stop."""
        beginning = asyncio.create_task(self.source.begin(self.plane))
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait({beginning, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        if beginning.done():
            beginning.result()
            return True
        beginning.cancel()
        return False


def _observers(plane: Plane) -> list[AccessLog | Tracing]:
    """What settings ask for, at work. Raises BadSettings and MissingExtra before any model is loaded."""
    settings = plane.settings
    found: list[AccessLog | Tracing] = []
    if settings.access_log:
        lines = AccessLog(settings.access_log, settings.access_log_bytes)
        plane.metrics.watch(
            "modelkeep_access_log_dropped_total",
            "Lines that could not be written",
            lambda: [({}, float(lines.dropped))],
        )
        found.append(lines)
    if settings.traces:
        from modelkeep.serve.observers.tracing import Tracing

        found.append(Tracing(settings.traces))
    plane.observers += found
    return found


async def _grpc(plane: Plane, keys: Gate, repository: Repository) -> Endpoint | None:
    """Listening beside HTTP where settings ask for it; a busy port or a missing extra is told before models load."""
    settings = plane.settings
    if not settings.grpc_port:
        return None
    from modelkeep.serve.grpc.endpoint import Endpoint

    endpoint = Endpoint(plane, keys, repository)
    await endpoint.start(settings.host, settings.grpc_port)
    return endpoint


def _labeller(kept: TrafficLog | None) -> routes.Labeller | None:
    if kept is None:
        return None

    def label(model: str, given: dict[str, Any]) -> dict[str, int]:
        kept.flush(1.0)  # the request that a label belongs to may have been answered a moment ago
        return labels.record(kept.path, model, given).numbers()

    return label


def _block(service: Service, on_ready: OnReady | None) -> None:
    stages.follow()
    sys.setswitchinterval(SWITCH)
    share_arenas()
    settle()  # before any model is loaded: one that is replaced must be freed whole

    async def main() -> None:
        stop, task = asyncio.Event(), asyncio.current_task()
        again: set[asyncio.Task[None]] = set()

        def signalled() -> None:
            if stop.is_set() and task is not None:
                task.cancel()
            stop.set()
            service.source.give_up()

        def hung_up() -> None:
            if service.listening and not stop.is_set():
                again.add(one := asyncio.ensure_future(service.again()))
                one.add_done_callback(again.discard)

        with contextlib.suppress(
            NotImplementedError, AttributeError
        ):  # Windows has no SIGHUP, and Ctrl-C raises KeyboardInterrupt there
            for number in (signal.SIGINT, signal.SIGTERM):
                asyncio.get_running_loop().add_signal_handler(number, signalled)
            asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, hung_up)
        await service.run(stop, on_ready)

    try:
        _run(main())
    except asyncio.CancelledError:
        raise KeyboardInterrupt("stopped at the second signal, before all was answered") from None


def _run(work: Coroutine[Any, Any, None]) -> None:
    with asyncio.Runner(loop_factory=_loop_factory()) as runner:
        runner.run(work)


def _loop_factory() -> Callable[[], asyncio.AbstractEventLoop] | None:
    try:
        import uvloop
    except ImportError:  # Windows
        return None
    return uvloop.new_event_loop


class Running:
    """The same server on a thread, on a free port: ``with Running({"digits": model}) as url``.

    ``what`` is a mapping of names to models or runners, or any Source. Errors of the start are raised by ``with``.
    """

    def __init__(
        self,
        what: Mapping[str, Model | Runner] | Source,
        *,
        settings: Settings | None = None,
        configs: Mapping[str, ServeConfig] | None = None,
        traffic: Path | None = None,
        profiles: Path | None = None,
        find: collect.Find | None = None,
        port: int = 0,
        alerted: routes.Alerted | None = None,
        mounts: Mapping[str, Mount] | None = None,
        beside: Sequence[Beside] = (),
    ) -> None:
        self.source = Fixed(what, configs) if isinstance(what, Mapping) else what
        settings = settings or Settings()
        self.sock = listen("127.0.0.1", port)
        given: Any = {"traffic": traffic, "profiles": profiles, "mounts": mounts, "beside": beside}
        self.service = Service(self.source, settings, self.sock, find=find, alerted=alerted, **given)
        self.url = url_of(self.sock, tls=bool(settings.tls_cert))
        self._error: BaseException | None = None
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, name="modelkeep-serve", daemon=True)

    @property
    def plane(self) -> Plane:
        """For a look from outside, such as at its metrics."""
        return self.service.plane

    def __enter__(self) -> str:
        self._thread.start()
        self._ready.wait()
        if self._error is not None:
            self._thread.join()
            raise self._error
        return self.url

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self.stop()

    def stop(self) -> None:
        """Answer what was accepted, then end. Raises what went wrong on the thread."""
        with contextlib.suppress(RuntimeError):  # the loop has ended by itself
            self._loop.call_soon_threadsafe(self._stop.set)
        self._thread.join()
        if self._error is not None:
            raise self._error

    def call(self, work: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine on the server's loop and wait for it."""
        return asyncio.run_coroutine_threadsafe(work, self._loop).result()

    def _main(self) -> None:
        try:
            _run(self._serve())
        except BaseException as error:  # noqa: BLE001 - raised again on the thread that waits
            self._error = error
        finally:
            self.sock.close()
            self._ready.set()

    async def _serve(self) -> None:
        self._loop, self._stop = asyncio.get_running_loop(), asyncio.Event()
        await self.service.run(self._stop, lambda url: self._ready.set())
