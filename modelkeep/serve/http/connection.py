"""One connection: uvicorn's protocol on httptools, with a bound on all that a client can make it wait for or keep."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sized
from typing import TYPE_CHECKING, Any

import httptools
import orjson
from uvicorn.protocols.http.flow_control import FlowControl
from uvicorn.protocols.http.httptools_impl import STATUS_LINE, HttpToolsProtocol

from modelkeep.errors import brief
from modelkeep.serve.http.direct import Cycle, Direct
from modelkeep.settings import Settings

if TYPE_CHECKING:
    from modelkeep.serve.http.infer import Where

GONE = "modelkeep.gone"
"""In an ASGI scope: the client has left, which is why its task is cancelled."""


BEHIND = 32
"""Requests that may wait behind another on their connection; those before one more are answered, and it closes."""


GOODBYE = 5.0
"""Seconds that a client over TLS has to answer the last words of a server that ends; asyncio would wait for 30."""


def bounded(settings: Settings, rejected: Callable[[str], None], direct: Direct | None = None) -> type[Connection]:
    """The protocol class with the bounds of ``settings``, for uvicorn.Config(http=…).

    ``rejected`` is told ``malformed`` of each request that is not HTTP, in place of uvicorn's log. Where ``direct`` is
    given, it answers infer requests that come whole; all others go to the ASGI application.
    """
    fields = {"settings": settings, "rejected": staticmethod(rejected), "direct": direct}
    return type("Bounded", (Connection,), fields)


class _Flow(FlowControl):
    """Of a body behind other requests, no more is read than uvicorn keeps of any until its turn has come."""

    def __init__(self, transport: asyncio.Transport, pipeline: Sized) -> None:
        super().__init__(transport)
        self._pipeline = pipeline

    def resume_reading(self) -> None:
        """Where nothing waits: what is at work has come whole."""
        if not self._pipeline:
            super().resume_reading()


class Connection(HttpToolsProtocol):
    """A client that sends its head slowly, a head that is too large, a client that does not read its answer, and
    one connection too many are each cut off; all but the last two are told why (RFC 9110, 15.5.9 and RFC 6585, 5).

    ``cycle`` is the last request that came, ``_working`` the one at work where others wait behind it.
    """

    settings = Settings()
    rejected: Callable[[str], None]
    direct: Direct | None = None
    cycle: Any
    _working: Any = None
    _where: Where | None = None
    _heads: Mapping[bytes, bytes] = {}
    _body = b""
    _head = _kept = 0
    _in_head = False
    _over = _told = False
    _idle_since: float | None = None
    _task: asyncio.Task[None] | None = None
    _waiting: asyncio.TimerHandle | None = None
    _unread: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """A new client, which must say something in time."""
        super().connection_made(transport)
        self.flow = _Flow(transport, self.pipeline)
        if len(self.connections) > self.settings.max_connections:
            most = self.settings.max_connections
            self._refuse(503, f"{most} connections are open, the most this server takes (max_connections)")
            self.connections.discard(self)  # over TLS it stays until the client says goodbye, and takes no place
            return
        self._expect_head()

    def connection_lost(self, exc: Exception | None) -> None:
        """No timer outlives its connection, and no work: who has gone needs no answer. Nor does it outlive itself: a
        cycle knows its protocol, and both would wait for the search for garbage, minutes and megabytes later.
        """
        self._stop_waiting()
        if self.timeout_keep_alive_task is not None:
            self.timeout_keep_alive_task.cancel()
        if self.pipeline:
            self.pipeline.clear()
            self.cycle = self._working
        if isinstance(self.cycle, Cycle):
            self.cycle.leave()
        elif self._task is not None and not self._task.done() and not self.cycle.response_complete:
            told: Any = self.cycle.scope
            told[GONE] = True
            self._task.cancel()
        self.resume_writing()
        super().connection_lost(exc)
        self.cycle = self._working = None

    def data_received(self, data: bytes) -> None:
        """See HttpToolsProtocol; what comes after a refusal is not looked at."""
        if self._over or self.transport.is_closing():
            return
        self._told, head = False, self._head
        try:
            self._read(data)
        except httptools.HttpParserError:
            self.send_400_response("")
            return
        # a name or a value that does not end is kept by the parser, which copies it each time that more of it comes
        self._kept = 0 if self._told or self._head != head else self._kept + len(data)
        if self._kept > self.settings.max_head_bytes:
            self._too_large()
        if self._where is not None:
            self._by_asgi()
        # most requests come whole: a timer is made for the others only
        if self._in_head and self._waiting is None and not self._over and not self.transport.is_closing():
            self._expect_head()

    def on_message_begin(self) -> None:
        """A request begins: from here its head must be complete in time."""
        self.url, self.headers, self.expect_100_continue = b"", [], False
        self._head, self._in_head, self._idle_since = 0, True, None

    def on_url(self, url: bytes) -> None:
        """A part of the target."""
        super().on_url(url)
        self._count(len(url))

    def on_header(self, name: bytes, value: bytes) -> None:
        """One field of the head."""
        name = name.lower()
        if name == b"expect":
            super().on_header(name, value)
        else:
            self.headers.append((name, value))
        self._count(len(name) + len(value) + 4)

    def on_headers_complete(self) -> None:
        """The head is whole; the body has bounds of its own (body.py)."""
        self._in_head, self._idle_since = False, None
        self._stop_waiting()
        if self.transport.is_closing() or self._offered():
            return
        if self.direct is not None and (self.cycle is None or self.cycle.response_complete):
            self._heads = dict(self.headers)
            self._where = self.direct.where(self, self._heads)
        if self._where is None:
            self._scoped()

    def on_body(self, body: bytes) -> None:
        """A part of the body; none where the head was refused."""
        self._told = True
        if self._where is not None:
            self._body = self._body + body if self._body else body
        elif self.cycle is not None and not self._over:
            super().on_body(body)

    def on_message_complete(self) -> None:
        """The request is whole."""
        self._told = True
        if self._offered():
            return
        where, direct = self._where, self.direct
        if where is not None and direct is not None:
            if direct.admits(self._heads):
                body, self._where, self._body = self._body, None, b""
                self.cycle = cycle = Cycle(self)
                direct.ask(cycle, where, self._heads, body)
                return
            self._by_asgi()
        if self.cycle is not None and not self._over:
            super().on_message_complete()

    def on_response_complete(self) -> None:
        """The next request may come, within the time that an idle connection stays open: one timer for all of them."""
        if self.pipeline or self.transport.is_closing():
            super().on_response_complete()
            return
        self.server_state.total_requests += 1
        if self.flow.read_paused:
            self.flow.resume_reading()
        self._idle_since = self.loop.time()
        if self.timeout_keep_alive_task is None:
            self._look_again(self.timeout_keep_alive)

    def timeout_keep_alive_handler(self) -> None:
        """Close it, if nothing was asked for so long."""
        self.timeout_keep_alive_task = None
        if self._idle_since is None:
            return
        left = self._idle_since + self.timeout_keep_alive - self.loop.time()
        if left > 0:
            self._look_again(left)
        else:
            super().timeout_keep_alive_handler()

    def _look_again(self, seconds: float) -> None:
        self.timeout_keep_alive_task = self.loop.call_later(seconds, self.timeout_keep_alive_handler)

    def _unset_keepalive_if_required(self) -> None:
        """Nothing: empty lines, or what is left of a body that nobody reads, are no next request."""

    def _read(self, data: bytes) -> None:
        """Parse it. A client that offers another protocol (Java's does, HTTP/2) is answered in this one (RFC 9110,
        7.8): as the parser would drop the body, it reads the head again without the offer.
        """
        rest: bytes | memoryview = data
        while True:
            try:
                self.parser.feed_data(rest)
                return
            except httptools.HttpParserUpgrade as offer:
                if not self._offered():
                    return  # to CONNECT, and what follows would be for another server
                rest = memoryview(rest)[offer.args[0] :]
            line = (self.parser.get_method(), self.url, self.parser.get_http_version().encode())
            kept = [b"%b: %b\r\n" % (name, value) for name, value in self.headers if name != b"upgrade"]
            self.parser.feed_data(b"".join([b"%b %b HTTP/%b\r\n" % line, *kept, b"\r\n"]))

    def _offered(self) -> bool:
        """Whether this request offers another protocol. CONNECT, which the parser takes for an offer too, does not."""
        return bool(self.parser.should_upgrade()) and self.parser.get_method() != b"CONNECT"

    def _scoped(self) -> None:
        """The head is whole, and goes to the application: uvicorn makes its scope when a request begins."""
        coded = next((value for name, value in self.headers if name == b"transfer-encoding"), b"chunked")
        if coded.lower() != b"chunked":  # the parser would take off the chunks, and no more
            self._refuse(501, f"Transfer-Encoding {brief(coded.decode('latin-1'))} is not known here; send chunked")
            return
        if len(self.pipeline) >= BEHIND:
            self._over, self.cycle.keep_alive = True, False
        if self._over:
            return
        url, headers, expects, before = self.url, self.headers, self.expect_100_continue, self.cycle
        super().on_message_begin()
        self.url, self.expect_100_continue = url, expects
        self.headers += headers  # the scope has this very list
        super().on_headers_complete()
        self.headers = []  # trailers are no part of the head (RFC 9110, 6.5.1)
        if self.pipeline:
            if len(self.pipeline) == 1:
                self._working = before
            FlowControl.resume_reading(self.flow)  # or a client that leaves would not be noticed

    def _by_asgi(self) -> None:
        """What has come so far of a request that did not come whole."""
        body, self._where, self._body = self._body, None, b""
        self._scoped()
        if body:
            super().on_body(body)

    def _start_asgi_task(self, cycle: Any, app: Any) -> None:
        self._working = cycle
        self._task = self.loop.create_task(cycle.run_asgi(app))
        self.tasks.add(self._task)
        self._task.add_done_callback(self.tasks.discard)

    def pause_writing(self) -> None:
        """The client does not read: it has request_timeout to begin."""
        super().pause_writing()
        if self._unread is None:
            self._unread = self.loop.call_later(self.settings.request_timeout, self.transport.abort)

    def resume_writing(self) -> None:
        """It reads again."""
        if self._unread is not None:
            self._unread.cancel()
            self._unread = None
        if self.flow is not None:
            super().resume_writing()

    def shutdown(self) -> None:
        """The server ends; a client that keeps its connection for later does not read that it is over."""
        super().shutdown()
        if self.scheme == "https" and self.transport.is_closing():
            self.loop.call_later(GOODBYE, self.transport.abort)

    def turn_away(self) -> None:
        """The server ends, and what is still coming in is waited for no longer."""
        if self.cycle is not None and not self.cycle.response_complete and self._still_asking():
            self._refuse(503, "the server is stopping, and the body of the request did not come in time; send it again")

    def send_400_response(self, msg: str) -> None:
        """What is no HTTP gets one sentence in the form of every other error."""
        self.rejected("malformed")
        self._refuse(400, "the request is not HTTP/1.1")

    def _expect_head(self) -> None:
        self._waiting = self.loop.call_later(self.settings.head_timeout, self._late)

    def _stop_waiting(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
            self._waiting = None

    def _late(self) -> None:
        self._waiting = None
        seconds = self.settings.head_timeout
        self._refuse(408, f"the head of the request took longer than {seconds:g} s (head_timeout)")

    def _count(self, size: int) -> None:
        self._head += size
        if self._head > self.settings.max_head_bytes:
            self._too_large()

    def _too_large(self) -> None:
        most = self.settings.max_head_bytes
        self._refuse(431, f"the head of the request is larger than {most} bytes (max_head_bytes)")

    def _still_asking(self) -> bool:
        """Whether the only request at work is one whose body still comes in, and nothing of an answer has been sent."""
        cycle = self.cycle
        return not self.pipeline and getattr(cycle, "more_body", False) and not cycle.response_started

    def _refuse(self, status: int, why: str) -> None:
        if self.transport.is_closing():
            return
        if self.cycle is not None and not self.cycle.response_complete and not self._still_asking():
            if getattr(self.cycle, "more_body", False):
                self.transport.abort()  # a part of a request behind others, and of their answers one may have begun
                return
            # what came before is answered: another answer in the midst would be taken for one of theirs
            self._over, self.cycle.keep_alive = True, False
            return
        body: Any = orjson.dumps({"error": why})
        head = b"content-type: application/json\r\nconnection: close\r\ncontent-length: %d\r\n\r\n" % len(body)
        self.transport.write(STATUS_LINE[status] + head + body)
        self.transport.close()
