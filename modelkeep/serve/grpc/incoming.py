"""Messages over gRPC that are still coming in: how long each may take, and how many may at a time.

gRPC tells nothing of a message, not even its size, before it is whole: each may be the largest that there is. So few
are read at a time, and one that takes longer than a moment needs a place, so that those behind it, most of them
small and there already, go on.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from modelkeep import extras
from modelkeep.errors import BadInput, NotReady, Overloaded, TooLate
from modelkeep.serve.plane.plane import Plane

AT_ONCE = 16
"""Messages that are read at a time, besides those that have a place."""
LOOK = 0.05
"""Seconds between two looks at who takes long, while others wait for their turn."""
MOMENT = 2
"""Looks that a message may see without a place. Not seconds: a loop that was held up has read nothing meanwhile."""
SLOW = 100
"""Looks, 5 s of them, after which who has a place makes room for others."""
STOPPING = "the server is stopping, and takes no more questions; ask again later"


@dataclass(eq=False, slots=True)
class _Coming:
    """A message: the key it came with, gRPC's context, its time, and the look after which it was begun to be read."""

    key: str
    context: Any
    time: asyncio.Timeout
    since: int | None = None
    placed: bool = False
    crowded: bool = False

    @property
    def caller(self) -> str:
        """Who sends it: the name of the key, or where it comes from."""
        return self.key or str(self.context.peer()).rpartition(":")[0]


class Incoming:
    """The messages of one server. All methods belong to the plane's loop.

    Read from a call's context, and not by its iterator: that is a cycle, and would keep the last message until somebody
    looks for garbage.
    """

    def __init__(self, plane: Plane) -> None:
        self._plane, self._end = plane, extras.need("grpc.aio", extra="grpc").EOF
        self._coming: dict[_Coming, None] = {}  # a set in the order of their coming
        self._waiting: set[asyncio.Timeout] = set()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._streams = self._looks = 0
        self._looking: asyncio.TimerHandle | None = None
        self.stopping = False

    @property
    def places(self) -> int:
        """So many of the largest messages fit in max_queue_bytes; one at least."""
        settings = self._plane.settings
        return max(1, settings.max_queue_bytes // settings.max_body_bytes)

    async def only(self, context: Any, key: str) -> bytes:
        """The message of a call, which is read from here on.

        Raises TooLate for one that is slow, Overloaded for one that finds no place, BadInput for none, NotReady.
        """
        seconds = self._plane.settings.request_timeout
        one = _Coming(key, context, asyncio.timeout(seconds))
        self._coming[one] = None
        try:
            async with one.time:
                if self._turns.locked():
                    self._look_later()
                await self._turns.acquire()
                one.since = self._looks
                message = await context.read()
        except TimeoutError:
            raise self._too_long(one, seconds) from None
        finally:
            del self._coming[one]
            if one.since is not None and not one.placed:
                self._turns.release()
        if message is self._end:
            raise BadInput("the call ended without a message; send one")
        return message  # type: ignore[no-any-return]

    async def next(self, context: Any) -> bytes | None:
        """The next message of a stream, however late; None after the last. Raises NotReady once the server stops."""
        try:
            async with asyncio.timeout(0.0 if self.stopping else None) as waiting:
                self._waiting.add(waiting)
                message: bytes = await context.read()
        except TimeoutError:
            raise NotReady(STOPPING) from None
        finally:
            self._waiting.discard(waiting)
        return None if message is self._end else message

    @contextlib.contextmanager
    def stream(self) -> Iterator[None]:
        """A stream, from its begin to its end: at any time a message may be half there. Raises Overloaded."""
        most = self._plane.settings.max_streams
        if self._streams >= most:
            self._plane.metrics.rejected("streams")
            said = f"{self._streams} streams are open, the most this server takes (max_streams); try again later"
            raise Overloaded(said, 1.0)
        self._streams += 1
        try:
            yield
        finally:
            self._streams -= 1

    def stop(self, patience: float) -> None:
        """Streams that wait for their next message end now, and what is still coming in has ``patience`` seconds."""
        self.stopping = True
        now = asyncio.get_running_loop().time()
        for times, most in ((self._waiting, now), ([one.time for one in self._coming], now + patience)):
            for time in times:
                if not time.expired():
                    time.reschedule(min(most, time.when() or most))

    def _too_long(self, one: _Coming, seconds: float) -> Exception:
        if self.stopping:
            return NotReady(STOPPING)
        if one.since is not None and not one.crowded:
            return TooLate(f"the message took longer than {seconds:g} s (request_timeout); send less")
        self._plane.metrics.rejected("queue_bytes")
        return Overloaded(
            f"{self.places} messages that take their time are coming in already, as many as fit in max_queue_bytes; "
            "send it again later",
            1.0,
        )

    def _look_later(self) -> None:
        if self._looking is None:
            self._looking = asyncio.get_running_loop().call_later(LOOK, self._look)

    def _look(self) -> None:
        """Who takes long gets a place, those first who are not slow and have the fewest; who gets none is ended."""
        self._looks += 1
        self._looking = None
        held: Counter[str] = Counter()
        ranks: dict[_Coming, tuple[bool, int]] = {}
        for one in self._coming:
            if one.since is not None and (looks := self._looks - one.since) >= MOMENT:
                ranks[one] = looks >= SLOW, held[one.caller]
                held[one.caller] += 1
        first = sorted(ranks, key=ranks.__getitem__)
        for one in first[: self.places]:
            if not one.placed:
                one.placed = True
                self._turns.release()
        for one in first[self.places :]:
            one.crowded = True
            one.time.reschedule(asyncio.get_running_loop().time())
        if self._turns.locked():
            self._look_later()
