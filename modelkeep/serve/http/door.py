"""The first thing that a request over HTTP meets: its key is checked here, on every route, before any other code."""

from __future__ import annotations

import asyncio
import re
import sys
from collections.abc import Callable, Mapping
from typing import Protocol

from starlette.types import ASGIApp, Receive, Scope, Send

from modelkeep.errors import ModelkeepError, Overloaded, Unauthenticated
from modelkeep.serve.http.connection import GONE
from modelkeep.serve.http.infer import LONGEST_PATH, Infer, target
from modelkeep.serve.http.replies import retry_after, told
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.protocol.keys import Gate

ASKING = re.compile(r"/v2/models/[^/]+(/versions/[^/]+)?/(infer|labels)|/v1/models/[^/]+:predict")
LOOKING = "/v2/repository/index"
"""POST to these needs scope ``infer`` and ``read``; any other route that is not a GET needs ``admin``, known or not."""


class Mounted(Protocol):
    """An ASGI application below a path of its own, which asks the gate itself: a browser sends no header with a key."""

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI; ``root_path`` is where it is mounted."""
        ...

    def stop(self) -> None:
        """The server ends: so must the answers that have no end of their own."""
        ...


Mount = Callable[[Plane, Gate], Mounted]
"""Makes a Mounted of what only a running server has."""


class Door:
    """An ASGI application in front of ``inner``, and of ``mounts`` by the path that they begin with."""

    def __init__(self, inner: ASGIApp, gate: Gate, plane: Plane, mounts: Mapping[str, Mounted] | None = None) -> None:
        self._inner, self._gate, self._metrics, self._infer = inner, gate, plane.metrics, Infer(plane)
        self._refusals = plane.refusals
        self._mounts = dict(mounts or {})
        self._begin = tuple(self._mounts)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. 401 without a known key, 403 without the scope, 429 above the key's rate.

        Where the client has gone, what was done for it is cancelled, and nobody is there to be told.
        """
        try:
            await self._let(scope, receive, send)
        except asyncio.CancelledError:
            if not scope.get(GONE):
                raise

    async def _let(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            if scope["path"].startswith(self._begin) and (at := self._mount(scope["path"])):
                await self._mounts[at]({**scope, "root_path": scope.get("root_path", "") + at}, receive, send)
                return
            heads = reversed(scope["headers"])  # of two keys the last counts, as in direct.py
            given = next((v.decode("latin-1") for k, v in heads if k == b"authorization"), None)
            try:
                self._gate.admit(given, scope_of(scope["method"], scope["path"]))
            except ModelkeepError as error:
                self._metrics.rejected("rate" if isinstance(error, Overloaded) else "key")
                if isinstance(error, Overloaded):
                    await asyncio.sleep(self._refusals.pause(_size(scope)))
                await _refuse(send, error)
                return
            # past the table of routes, which costs more than all else that HTTP does to a request
            path = scope["path"]
            if scope["method"] == "POST" and len(path) <= LONGEST_PATH and (found := target(path)) is not None:
                scope["path_params"] = found
                await self._infer(scope, receive, send)
                return
        await self._inner(scope, receive, send)

    def _mount(self, path: str) -> str | None:
        return next((at for at in self._begin if path == at or path.startswith(f"{at}/")), None)


def scope_of(method: str, path: str) -> str:
    """What a key must be allowed for this: a route that nobody thought of needs the most."""
    if method in ("GET", "HEAD") or (method, path) == ("POST", LOOKING):
        return "read"
    return "infer" if method == "POST" and ASKING.fullmatch(path) else "admin"


def _size(scope: Scope) -> int:
    """Bytes of a request's body; of one that does not say, as of a large one."""
    heads = dict(scope["headers"])
    told = heads.get(b"content-length", b"0" if scope["method"] == "GET" else b"")
    return int(told) if told.isdigit() else sys.maxsize


async def _refuse(send: Send, error: ModelkeepError) -> None:
    body = told(str(error))
    headers = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())]
    headers += retry_after(error)
    if isinstance(error, Unauthenticated):
        headers.append((b"www-authenticate", b'Bearer realm="modelkeep"'))
    # the body was not read: what is left of it must not be taken for the next request's head
    headers.append((b"connection", b"close"))
    await send({"type": "http.response.start", "status": error.status, "headers": headers})
    await send({"type": "http.response.body", "body": body})
