"""One setting of one model, loaded into the real plane and measured."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from modelkeep import extras
from modelkeep.errors import ModelkeepError
from modelkeep.model.engines import within_quota
from modelkeep.quantities import counted
from modelkeep.serve.plane.loaded import Loaded, bring
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.plane.router import Router
from modelkeep.serve.workers.crew import Crew
from modelkeep.settings import Settings
from modelkeep.tune import claims, load
from modelkeep.types import Model, Request, ServeConfig

if TYPE_CHECKING:
    from modelkeep.types import Arrays

T = TypeVar("T")
NAME = "model"


class Bench:
    """A plane that serves one model with one setting. Made and used inside one event loop.

    With ``stay`` False the model is in memory only while it is measured: for one that is large beside the machine.
    """

    def __init__(self, model: Model, config: ServeConfig, *, stay: bool = True) -> None:
        self.model, self.config, self.stay = model, config, stay
        self.measured = load.Measured()
        self.memory: int | None = None
        self._plane: Plane | None = None

    async def open(self) -> Plane:
        """Load and warm up, unless it is loaded. Raises what the engine raises; may be cancelled while it hangs.

        ``memory`` is what it takes in bytes, where the system can tell.
        """
        if self._plane is not None:
            return self._plane
        plane = Plane(Settings())
        before = resident()
        with own_threads(self.config):
            runner, paces = await on_thread(lambda: bring(self.model, self.config), lambda found: found[0].close())
        live = Loaded(NAME, 1, runner, config=self.config, metrics=plane.metrics, paces=paces)
        self.memory = _taken(live.batcher.crew, before)
        plane.swap(Router(NAME, live=live))
        self._plane = plane
        return plane

    async def use(self, config: ServeConfig) -> None:
        """Go on with another max batch or max wait, and nothing else of the setting changed."""
        self.config = config
        plane = await self.open()
        plane.find(NAME).batcher.config = config

    async def lap(self, rows: Sequence[Arrays], *, concurrency: int) -> None:
        """One request of each client, which nobody measures: an engine's first run of a batch may take longer."""
        plane = await self.open()
        with own_threads(self.config):
            requests = (Request(f"lap-{n}", NAME, rows[n % len(rows)]) for n in range(concurrency))
            await asyncio.gather(*map(plane.infer, requests), return_exceptions=True)

    async def run(
        self, rows: Sequence[Arrays], *, concurrency: int, seconds: float, rate: float | None = None
    ) -> load.Measured:
        """One round of load, added to ``measured``: closed loop, or ``rate`` requests a second."""
        plane = await self.open()
        with own_threads(self.config):
            if rate is None:
                found = await load.closed(plane, NAME, rows, concurrency=concurrency, seconds=seconds)
            else:
                found = await load.poisson(plane, NAME, rows, rate=rate, seconds=seconds)
        self.measured.extend(found)
        await self.rest()
        return found

    async def rest(self) -> None:
        """Give the memory back until the next run, unless it is to stay."""
        if not self.stay:
            await self.close()

    async def close(self) -> None:
        """Give the memory back."""
        plane, self._plane = self._plane, None
        if plane is not None:
            await plane.close()


async def on_thread(work: Callable[[], T], discard: Callable[[T], None]) -> T:
    """The result of a blocking call. Where nobody waits any more, it goes on, and ``discard`` gets its result."""
    loop = asyncio.get_running_loop()
    future: asyncio.Future[T] = loop.create_future()

    def succeed(found: T) -> None:
        if future.done():
            threading.Thread(target=discard, args=(found,), daemon=True).start()
        else:
            future.set_result(found)

    def fail(error: BaseException) -> None:
        if not future.done():
            future.set_exception(error)

    def run() -> None:
        try:
            found = work()
        except BaseException as error:  # noqa: BLE001 - it is raised again where it is awaited
            with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile
                loop.call_soon_threadsafe(fail, error)
            return
        try:
            loop.call_soon_threadsafe(succeed, found)
        except RuntimeError:  # the loop was closed meanwhile
            discard(found)

    threading.Thread(target=run, name=extras.LOADING, daemon=True).start()
    return await future


def resident(process: int | str = "self") -> int | None:
    """Bytes of memory of a process, what it shares with others counted in part; None where the system does not say."""
    try:
        text = Path(f"/proc/{process}/smaps_rollup").read_text()
        return next(int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("Pss:"))
    except (OSError, ValueError, IndexError, StopIteration):
        return None


def _taken(crew: Crew, before: int | None) -> int | None:
    """Bytes of the worker processes; of threads, what loading added to this process."""
    pids = crew.pids()
    if not pids:
        after = resident()
        return None if before is None or after is None else max(after - before, 0)
    found = [size for pid in pids if (size := resident(pid)) is not None]
    return sum(found) or None


@contextlib.contextmanager
def own_threads(config: ServeConfig) -> Iterator[None]:
    """PyTorch's number of threads belongs to the process: each setting has it while it is loaded or measured."""
    if not config.engine.startswith("torch"):
        yield
        return
    torch = extras.need("torch", extra="torch")
    before = torch.get_num_threads()
    if threads := within_quota(config).threads:
        torch.set_num_threads(threads)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def answered(found: load.Measured) -> None:
    """Raises ModelkeepError, with the first request's reason, where no request at all was answered."""
    if not found.latencies:
        raise ModelkeepError(
            f"the model answered none of {counted(found.errors, 'request')}: {found.trouble or 'no reason given'}"
        )


def doubt(n: int) -> str:
    """What must be said of percentiles of n latencies."""
    for name, share in claims.SHARES.items():
        if n < (least := claims.least(share)):
            return f" (only {counted(n, 'request')}: too few to claim {name}, which needs {least})"
    return ""
