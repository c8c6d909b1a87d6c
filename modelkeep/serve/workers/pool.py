"""Worker processes of one version: each holds the model; one that ends or hangs is replaced while the others go on.

The event loop itself writes to them and reads from them. With a thread between, each batch would wait for the
interpreter's lock some times, up to 5 ms each, while the loop is busy.
"""

from __future__ import annotations

import asyncio
import logging
import os
import shutil
import tempfile
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

from modelkeep import system
from modelkeep.errors import BadInput, NotReady
from modelkeep.model import engines
from modelkeep.serve.workers import ragged
from modelkeep.serve.workers.crew import Batch, Host
from modelkeep.serve.workers.process import Process
from modelkeep.serve.workers.ragged import Ragged
from modelkeep.serve.workers.warm import Paces
from modelkeep.types import Model, ServeConfig

TIMES_SLOWER = 10
"""A run may take so many times what it is expected to, if that is more than ``run_timeout``."""
FIRST_RETRY, LONGEST_RETRY = 0.1, 30.0
SLOW_IMPORT = 0.5
"""Seconds of imports from which a spare process that has done it is kept."""
WORTH_SHARING = 16 * 1024**2
"""Bytes of a model's files."""
PREFIX = "modelkeep-shared-"
log = logging.getLogger(__name__)


class Pool:
    """A Crew of ``config.workers`` processes. Made by ``open``, which may be called on any thread."""

    def __init__(self, model: Model, config: ServeConfig) -> None:
        engines.check(model, config)
        self.signature = model.signature
        self.ragged: Ragged | None = None
        self.mixes = ""
        self.trouble = ""
        self._room = _room(model, config)
        if self._room is not None:
            model = replace(model, options={**model.options, engines.ROOM: str(self._room)})
        self._model, self._config = model, _of_one(config)
        self._lock = threading.Lock()
        self._processes: set[Process] = set()
        self._closed = False
        self._idle: list[Process] = []
        self._busy: dict[Process, tuple[Batch, asyncio.TimerHandle]] = {}
        self._replacing: set[asyncio.Task[None]] = set()
        self._host: Host
        self._loop: asyncio.AbstractEventLoop
        _spares.enter(config.engine)

    @classmethod
    def open(cls, model: Model, config: ServeConfig) -> tuple[Pool, Paces]:
        """Loaded and warmed up. Raises what the engine raises."""
        pool = cls(model, config)
        started: list[tuple[Process, Paces]] = []
        _opening.add(pool)
        try:
            if pool._room is not None:
                started.append(pool._load())  # the first makes what the others share
            with ThreadPoolExecutor(config.workers, thread_name_prefix="start") as threads:
                started += threads.map(lambda _: pool._load(), range(config.workers - len(started)))
        except BaseException:  # whatever it was, the processes are ended before it is raised again
            pool.close()
            raise
        finally:
            _opening.discard(pool)
        pool._idle = [process for process, _ in started]
        pool.mixes = started[0][0].mixes
        if started[0][0].pads:
            pool.ragged = ragged.of(model.signature)
        return pool, started[0][1]

    @property
    def free(self) -> int:
        """See Crew."""
        return len(self._idle)

    @property
    def alive(self) -> int:
        """See Crew."""
        return len(self._idle) + len(self._busy)

    @property
    def memory(self) -> int:
        """See Crew."""
        return sum(p.memory for p in (*self._idle, *self._busy))

    def pids(self) -> list[int]:
        """See Crew."""
        return sorted(p.pid for p in (*self._idle, *self._busy))

    # ── in the event loop's thread ───────────────────────────────────────────────────────────────────────────────

    def begin(self, host: Host) -> None:
        """See Crew."""
        self._host, self._loop = host, asyncio.get_running_loop()
        for process in self._idle:
            self._attach(process)

    def start(self, batch: Batch) -> None:
        """See Crew."""
        process = self._idle.pop()  # the one that ran last, whose caches are warm
        rows = batch.rows()
        try:
            process.ask(self._host.name, batch.pieces(), rows)
        except BadInput:
            self._idle.append(process)
            raise
        except OSError:
            process.kill()  # its end will be read, and the batch is lost then
        limit = max(self._config.run_timeout, TIMES_SLOWER * self._host.pace.run(sum(rows)))
        self._busy[process] = (batch, self._loop.call_later(limit, self._hung, process, limit))

    def end(self) -> None:
        """See Crew."""
        for process in (*self._idle, *self._busy):
            self._loop.remove_reader(process.sock)
        for _, timer in self._busy.values():
            timer.cancel()
        for task in self._replacing:
            task.cancel()

    def close(self) -> None:
        """See Crew."""
        with self._lock:
            if self._closed:
                return
            self._closed = True
            processes, self._processes = self._processes, set()
        for process in processes:
            process.close()
        self._idle.clear()
        self._busy.clear()
        _spares.leave(self._config.engine)
        if self._room is not None:
            shutil.rmtree(self._room, ignore_errors=True)

    def _attach(self, process: Process) -> None:
        process.sock.setblocking(False)
        self._loop.add_reader(process.sock, self._readable, process)

    def _readable(self, process: Process) -> None:
        try:
            answer = process.answer()
        except EOFError:
            self._died(process)
            return
        except Exception:  # noqa: BLE001 - native code may have damaged the process that wrote this
            process.kill("gave an answer that cannot be read, and was ended")
            self._died(process)
            return
        if answer is not None:
            batch, timer = self._busy.pop(process)
            timer.cancel()
            self._idle.append(process)
            self._host.finished(batch, *answer)

    def _hung(self, process: Process, limit: float) -> None:
        process.hung = True
        process.kill(f"had not finished after {limit:.3g} s, and was ended")

    def _died(self, process: Process) -> None:
        self._loop.remove_reader(process.sock)
        if process in self._idle:
            self._idle.remove(process)
        batch, timer = self._busy.pop(process, (None, None))
        if timer is not None:
            timer.cancel()
        why = f"the worker process {process.end()}"
        with self._lock:
            self._processes.discard(process)
        log.warning("%s: %s; another one is started", self._host.name, why)
        task = self._loop.create_task(self._replace())
        self._replacing.add(task)
        task.add_done_callback(self._replacing.discard)
        self._host.lost(batch, process.kind, why)

    async def _replace(self) -> None:
        """Until one is there: at once, and less and less often where it cannot be started."""
        pause = FIRST_RETRY
        while True:
            try:
                process, _ = await asyncio.to_thread(self._load)
            except Exception as error:  # noqa: BLE001 - whatever keeps it from starting may pass
                if not self.alive:
                    self.trouble = f"no worker process of {self._host.name} can be started: {error}"
                log.warning("a worker process of %s cannot be started: %s", self._host.name, error)
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_RETRY)
            else:
                break
        self.trouble = ""
        self._idle.append(process)
        self._attach(process)
        self._host.wake()

    # ── on any thread ────────────────────────────────────────────────────────────────────────────────────────────

    def _load(self) -> tuple[Process, Paces]:
        process = _spares.take(self._config.engine)
        with self._lock:
            if not self._closed:
                self._processes.add(process)
        if self._closed:
            process.close()
            raise NotReady("this model has been closed")
        try:
            paces = process.load(self._model, self._config)
        except BaseException:  # it is raised again
            with self._lock:
                self._processes.discard(process)
            process.close()
            raise
        _spares.keep(self._config.engine, process)
        return process, paces


_opening: set[Pool] = set()


def give_up() -> None:
    """Whatever is being loaded, on any thread, ends now and raises there. For the end of a program."""
    for pool in list(_opening):
        pool.close()


class _Spares:
    """Processes that have imported an engine's library and wait for a model: one for each engine that is slow in this.

    Without one, a worker on PyTorch would be back after three seconds.
    """

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._pools: Counter[str] = Counter()
        self._held: dict[str, Process] = {}
        self._slowest: dict[str, float] = {}

    def enter(self, engine: str) -> None:
        """One pool more runs on this engine; ``leave`` must follow."""
        with self._lock:
            self._pools[engine] += 1

    def leave(self, engine: str) -> None:
        """One less; the spare goes with the last."""
        with self._lock:
            self._pools[engine] -= 1
            gone = None if self._pools[engine] else self._held.pop(engine, None)
        if gone is not None:
            gone.close()

    def take(self, engine: str) -> Process:
        """The spare, if it lives, else a new process."""
        with self._lock:
            spare = self._held.pop(engine, None)
        if spare is not None:
            if spare.running:
                return spare
            spare.close()
        return Process(engine)

    def keep(self, engine: str, like: Process) -> None:
        """Have a spare, where the imports take so long that it is worth its memory."""
        with self._lock:
            self._slowest[engine] = max(self._slowest.get(engine, 0.0), like.seconds)
            if self._slowest[engine] >= SLOW_IMPORT and self._pools[engine] and engine not in self._held:
                self._held[engine] = Process(engine, like.modules)


_spares = _Spares()


def _room(model: Model, config: ServeConfig) -> Path | None:
    """A folder for weights that several processes share, where that saves memory worth the disk.

    It has our number in its name; those that killed servers left are removed.
    """
    if not (engines.ENGINES[config.engine].shares and config.workers > 1 and model.size >= WORTH_SHARING):
        return None
    for left in Path(tempfile.gettempdir()).glob(f"{PREFIX}*"):
        pid = left.name.removeprefix(PREFIX).partition("-")[0]
        try:
            os.kill(int(pid), 0)
        except ProcessLookupError:
            shutil.rmtree(left, ignore_errors=True)
        except (ValueError, PermissionError):  # not ours to remove
            continue
    return Path(tempfile.mkdtemp(prefix=f"{PREFIX}{os.getpid()}-"))


def _of_one(config: ServeConfig) -> ServeConfig:
    """What each process is told: one run at a time, and where nobody set threads, its share of the cores."""
    if config.threads is None and config.workers > 1:
        config = replace(config, threads=max(1, system.cores() // config.workers))
    return replace(engines.within_quota(config), workers=1)
