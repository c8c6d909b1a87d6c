"""What happens now, as server-sent events: one look a second for all who watch, however many pages are open.

A page that is slow to read skips looks; nothing queues. The look begins with the first page that is asked for, and goes
on at a slower pace while nobody watches, so that a page has some minutes behind it when it opens.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import Counter, deque
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any

import orjson

from modelkeep.console.readings import Point, Reading, Source, between
from modelkeep.errors import ModelkeepError, Overloaded

EVERY, IDLE_EVERY = 1.0, 5.0
KEPT = 600
"""Points of each model."""
MOST_WATCHERS, MOST_MODELS = 32, 100
log = logging.getLogger(__name__)


class Live:
    """The looks of one console. ``names`` gives the models, ``draw`` makes the HTML of a page's moving parts by their
    ids, ``beginning`` a model's points from before the first look. The three may block; they run on a thread.
    """

    def __init__(
        self,
        source: Source,
        names: Callable[[], list[str]],
        draw: Callable[[str, Live], Mapping[str, str]],
        beginning: Callable[[str], list[Point]],
    ) -> None:
        self.source, self._names, self._draw, self._beginning = source, names, draw, beginning
        self.problem = ""
        """Why there is no reading now; empty where there is one."""
        self._points: dict[str, deque[Point]] = {}
        self._before: Reading | None = None
        self._watchers: Counter[str] = Counter()
        self._frames: dict[str, bytes] = {}
        self._task: asyncio.Task[None] | None = None
        self._next = asyncio.Event()
        self._watched = asyncio.Event()
        self._stopping = False

    # ── what is known ────────────────────────────────────────────────────────────────────────────────────────────

    def points(self, model: str) -> list[Point]:
        """The newest KEPT at most, the oldest first."""
        return list(self._points.get(model, ()))

    def newest(self, model: str) -> Point | None:
        """The last Point, or None before there is one."""
        points = self._points.get(model)
        return points[-1] if points else None

    def classes(self, model: str, seconds: float = 60.0) -> list[tuple[str, float]]:
        """Rows by predicted class over the last seconds, the most frequent first."""
        since = time.time() - seconds
        total: dict[str, float] = {}
        for point in self.points(model):
            if point.at >= since:
                for label, rows in point.classes.items():
                    total[label] = total.get(label, 0.0) + rows
        return sorted(total.items(), key=lambda one: -one[1])

    # ── looking ──────────────────────────────────────────────────────────────────────────────────────────────────

    def begin(self) -> None:
        """Look from now on; harmless where that has begun."""
        if self._task is None and not self._stopping:
            self._task = asyncio.create_task(self._look_on())

    def stop(self) -> None:
        """No more looks, and every stream ends."""
        self._stopping = True
        if self._task is not None:
            self._task.cancel()
        self._turn()

    async def _look_on(self) -> None:
        while True:
            try:
                self._frames = await asyncio.to_thread(self._look, frozenset(self._watchers))
            except Exception:  # a defect of a page must not end what all of them show
                log.exception("the console could not look")
            self._turn()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(self._watched.wait(), IDLE_EVERY)
                await asyncio.sleep(EVERY)

    def _turn(self) -> None:
        """Wake every stream, once."""
        self._next.set()
        self._next = asyncio.Event()

    def _look(self, topics: frozenset[str]) -> dict[str, bytes]:
        try:
            names = self._names()[:MOST_MODELS]
            reading = self.source.read()
            self.problem = ""
        except ModelkeepError as error:
            self.problem, names = str(error), []
        else:
            self._take(names, reading)
        return {topic: self._frame(topic) for topic in topics}

    def _take(self, names: list[str], reading: Reading) -> None:
        for name in names:
            kept = self._points.get(name)
            if kept is None:
                kept = self._points[name] = deque(self._beginning(name), maxlen=KEPT)
            if self._before is not None:
                kept.append(between(self._before, reading, name))
        for gone in set(self._points) - set(names):
            del self._points[gone]
        self._before = reading

    def _frame(self, topic: str) -> bytes:
        newest = None if self.problem else self.newest(model_of(topic))
        return event("look", {"point": newest and newest.to_json(), "html": self._draw(topic, self)})

    # ── watching ─────────────────────────────────────────────────────────────────────────────────────────────────

    def watch(self, topic: str, still: Callable[[], object]) -> AsyncIterator[bytes]:
        """The events of a page: its history, then each look. ``still`` raises where the caller may look no longer.

        ``topic`` is the kind of the page, a colon, and a model where it is of one. Raises Overloaded at MOST_WATCHERS.
        """
        if sum(self._watchers.values()) >= MOST_WATCHERS:
            raise Overloaded(f"{MOST_WATCHERS} pages are watched already, the most at a time; close some", 10.0)
        return self._events(topic, still)

    async def _events(self, topic: str, still: Callable[[], object]) -> AsyncIterator[bytes]:
        self._watchers[topic] += 1
        self._watched.set()
        try:
            self.begin()
            yield event("history", [point.to_json() for point in self.points(model_of(topic))])
            while not self._stopping:
                await self._next.wait()
                try:
                    still()
                except ModelkeepError as error:
                    yield event("end", {"why": str(error)})
                    return
                if (frame := self._frames.get(topic)) is not None:
                    yield frame
        finally:
            self._watchers[topic] -= 1
            self._watchers += Counter()  # what nobody watches is not drawn
            if not self._watchers:
                self._watched.clear()


def model_of(topic: str) -> str:
    """The model that a page is of; empty for none."""
    return topic.partition(":")[2]


def event(kind: str, data: Any) -> bytes:
    """One server-sent event (HTML Living Standard, 9.2); JSON has no line breaks of its own."""
    return b"event: %s\ndata: %s\n\n" % (kind.encode(), orjson.dumps(data))
