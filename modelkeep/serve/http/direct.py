"""Infer requests that come whole, from uvicorn's protocol to the plane and back without ASGI and without a task each.

That is a third of what HTTP costs a small model. Whatever is not plain (a body in parts, one that is packed, a request
behind another on its connection, any other route) takes the way through door.py, which answers just the same.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Coroutine
from functools import lru_cache, partial
from typing import TYPE_CHECKING, Any

from uvicorn.protocols.http.httptools_impl import STATUS_LINE

from modelkeep.errors import ModelkeepError
from modelkeep.serve.http import body, packing
from modelkeep.serve.http.infer import LONGEST_PATH, Infer, Where, target
from modelkeep.serve.http.replies import CLOSE, Headers, failed
from modelkeep.serve.protocol import apart
from modelkeep.serve.protocol.classify import weight
from modelkeep.types import Reply

if TYPE_CHECKING:
    from modelkeep.serve.plane.asking import Asking
    from modelkeep.serve.plane.plane import Plane
    from modelkeep.serve.protocol.codec import Asked
    from modelkeep.serve.protocol.keys import Gate

NOT_PLAIN = frozenset({b"content-encoding", b"expect", b"transfer-encoding", b"upgrade"})
"""Headers of requests that take the other way."""


class Cycle:
    """A request and its answer, in the place of uvicorn's RequestResponseCycle: its protocol looks at these fields."""

    __slots__ = ("asking", "disconnected", "keep_alive", "protocol", "response_complete")

    def __init__(self, protocol: Any) -> None:
        self.protocol = protocol
        self.keep_alive: bool = protocol.parser.should_keep_alive()
        self.disconnected = self.response_complete = False
        self.asking: Asking | None = None

    @property
    def message_event(self) -> Cycle:
        """Somebody may wait for a message of a cycle; of this one, nobody."""
        return self

    def set(self) -> None:
        """See ``message_event``."""

    def leave(self) -> None:
        """The client has gone."""
        if self.asking is not None and not self.response_complete:
            self.asking.cancel()

    def answer(self, status: int, headers: Headers, content: bytes) -> None:
        """All of it in one write. Names and values of the headers are not checked: they are ours."""
        if self.disconnected or self.response_complete:
            return
        protocol = self.protocol
        lines = [STATUS_LINE[status]]
        for name, value in (*protocol.server_state.default_headers, *headers):
            lines += (name, b": ", value, b"\r\n")
        if CLOSE in headers:
            self.keep_alive = False
        elif not self.keep_alive:
            lines.append(b"connection: close\r\n")
        self.response_complete = True
        lines += (b"content-length: %d\r\n\r\n" % len(content), content)
        protocol.transport.write(b"".join(lines))
        if not self.keep_alive:
            protocol.transport.close()
        protocol.on_response_complete()


class Direct:
    """What a Connection asks of an infer request that may have come whole."""

    def __init__(self, plane: Plane, gate: Gate) -> None:
        self._plane, self._gate, self._infer = plane, gate, Infer(plane)
        self._writing: set[asyncio.Task[None]] = set()

    def where(self, protocol: Any, heads: body.Headers) -> Where | None:
        """Which model and version a request is for, whose head is there; None where it must take the other way."""
        parser = protocol.parser
        if parser.get_method() != b"POST" or parser.get_http_version() != "1.1" or protocol.flow.write_paused:
            return None
        if not NOT_PLAIN.isdisjoint(heads):
            return None
        url = protocol.url
        return _target(url) if len(url) <= LONGEST_PATH else None

    def admits(self, heads: body.Headers) -> bool:
        """Whether the key is good. Where it is not, door.py says why."""
        given = heads.get(b"authorization")
        try:
            self._gate.admit(None if given is None else given.decode("latin-1"), "infer")
        except ModelkeepError:
            return False
        return True

    def ask(self, cycle: Cycle, where: Where, heads: body.Headers, content: bytes) -> None:
        """Answer it, now or once the model has."""
        began = time.monotonic()
        try:
            body.bound(self._plane, len(content))
            asked = self._infer.asked(where, heads, content)
            request = self._infer.request(where, heads, asked, began)

            def answered(got: Reply | ModelkeepError) -> None:
                if isinstance(got, ModelkeepError):
                    self._end(cycle, *failed(got))
                elif not cycle.disconnected:
                    self._answer(cycle, got, asked, heads)

            cycle.asking = self._plane.ask(request, answered)
        except Exception as error:  # noqa: BLE001 - a defect of modelkeep, perhaps, and the server must outlive it
            self._end(cycle, *failed(error))

    def _answer(self, cycle: Cycle, reply: Reply, asked: Asked, heads: body.Headers) -> None:
        size = weight(reply, asked.classes)
        if size > apart.LARGE:
            self._later(self._written(cycle, reply, asked, heads, size))
            return
        try:
            self._wrap(cycle, *self._infer.answer(reply, asked), heads)
        except Exception as error:  # noqa: BLE001 - as above
            self._end(cycle, *failed(error))

    async def _written(self, cycle: Cycle, reply: Reply, asked: Asked, heads: body.Headers, size: int) -> None:
        try:
            self._wrap(cycle, *await apart.write(size, partial(self._infer.answer, reply, asked)), heads)
        except Exception as error:  # noqa: BLE001 - as above
            self._end(cycle, *failed(error))

    def _wrap(self, cycle: Cycle, content: bytes, headers: Headers, heads: body.Headers) -> None:
        encoding = packing.wanted(content, heads)
        if encoding is None:
            self._end(cycle, 200, content, headers)
        else:
            self._later(self._pack(cycle, content, headers, encoding))

    async def _pack(self, cycle: Cycle, content: bytes, headers: Headers, encoding: str) -> None:
        content = await packing.packed(content, encoding)
        self._end(cycle, 200, content, [*headers, (b"content-encoding", encoding.encode())])

    def _later(self, work: Coroutine[Any, Any, None]) -> None:
        self._writing.add(task := asyncio.ensure_future(work))
        task.add_done_callback(self._writing.discard)

    def _end(self, cycle: Cycle, status: int, content: bytes, headers: Headers) -> None:
        cycle.answer(status, [*headers, CLOSE] if self._plane.stopping else headers, content)


@lru_cache(4096)
def _target(url: bytes) -> Where | None:
    """Of a path with a query, or with a character that had to be masked: None."""
    return target(url.decode("latin-1")) if url.startswith(b"/") and not {b"%"[0], b"?"[0]} & set(url) else None
