"""The hot path of HTTP: an infer request from its bytes to those of its answer, past routing and request objects."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Mapping
from functools import lru_cache, partial
from typing import Any

from starlette.types import Receive, Scope, Send

from modelkeep.errors import BadInput
from modelkeep.serve.http import body, packing
from modelkeep.serve.http.replies import CLOSE, JSON, Headers, failed, timing
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.plane.router import STICKY
from modelkeep.serve.protocol import apart, codec
from modelkeep.serve.protocol.classify import classified, weight
from modelkeep.types import Reply, Request

TIMEOUT = b"x-modelkeep-timeout"
"""Header: seconds that the client waits."""
JSON_LENGTH = b"inference-header-content-length"
BINARY = b"application/octet-stream"
PATH = re.compile(r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[0-9]{1,9}))?/infer")
LONGEST_PATH = 512
"""Bytes: what is longer goes by the table of routes, and is not remembered (4,096 of 30 kB would be 120 MB)."""
_IDS = random.Random()
_VERSION = 4 << 76 | 2 << 62
_RANDOM = ~(15 << 76 | 3 << 62)
"""Where a UUID has its version and its variant."""
Where = Mapping[str, Any]


@lru_cache(4096)
def target(path: str) -> dict[str, Any] | None:
    """The path parameters of an infer route, or None for another one. For paths up to LONGEST_PATH."""
    found = PATH.fullmatch(path)
    if found is None:
        return None
    version = found["version"]
    return {"model": found["model"]} if version is None else {"model": found["model"], "version": int(version)}


class Infer:
    """An ASGI application for the infer routes; ``path_params`` of the scope say which model and version."""

    def __init__(self, plane: Plane) -> None:
        self.plane = plane

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """See ASGI. Every error is one sentence under ``error``; the traceback of a defect goes to the log."""
        status = 200
        try:
            answer, headers = await self._answer(scope["path_params"], dict(scope["headers"]), receive)
        except Exception as error:  # noqa: BLE001 - a defect of modelkeep, perhaps, and the server must outlive it
            status, answer, headers = failed(error)
        if self.plane.stopping:
            headers.append(CLOSE)
        headers.append((b"content-length", str(len(answer)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _answer(self, where: Where, heads: body.Headers, receive: Receive) -> tuple[bytes, Headers]:
        began = time.monotonic()
        self.plane.asked_for(where["model"])  # or a client would send a large body in vain
        raw = await body.read(receive, heads, self.plane)
        asked = await apart.read(self.plane, len(raw), partial(self.asked, where, heads, raw))
        del raw  # it is read, and a request may wait for long
        request = self.request(where, heads, asked, began)
        reply = await self.plane.infer(request)
        answer, headers = await apart.write(weight(reply, asked.classes), partial(self.answer, reply, asked))
        if (encoding := packing.wanted(answer, heads)) is not None:
            answer = await packing.packed(answer, encoding)
            headers.append((b"content-encoding", encoding.encode()))
        return answer, headers

    def asked(self, where: Where, heads: body.Headers, raw: bytes) -> codec.Asked:
        """A body that is whole, read. Raises BadInput, NotFound, NotReady."""
        try:
            length = body.number(heads, JSON_LENGTH, int, None)
            if length == 0:
                self.plane.asked_for(where["model"])
                return codec.decode_raw(raw, self.plane.find(where["model"], where.get("version")).signature)
            return codec.decode(raw, length)
        except BadInput:
            self.plane.metrics.rejected("malformed")
            raise

    def request(self, where: Where, heads: body.Headers, asked: codec.Asked, began: float) -> Request:
        """What is asked, as a request. Its deadline is what the client allows from ``began`` on, request_timeout at
        most. Raises BadInput.
        """
        most = self.plane.settings.request_timeout
        seconds = body.number(heads, TIMEOUT, float, most) if TIMEOUT in heads else most
        asked.parameters |= sticky(heads)
        return Request(
            id=asked.id or new_id(),
            model=where["model"],
            inputs=asked.inputs,
            parameters=asked.parameters,
            outputs=asked.outputs,
            deadline=began + min(seconds, most, asked.timeout or most),
            version=where.get("version"),
            trace=trace(heads),
        )

    def answer(self, reply: Reply, asked: codec.Asked) -> tuple[bytes, Headers]:
        """The body of a reply, and its headers. Raises BadInput for what cannot be told so."""
        if asked.classes:
            reply = classified(reply, asked.classes, self.plane.router(reply.model).loaded.get(reply.version))
        answer, json_length = codec.encode(reply, asked.binary)
        if json_length is None:
            return answer, [(b"content-type", JSON), (b"server-timing", timing(reply))]
        length = (JSON_LENGTH, str(json_length).encode())
        return answer, [(b"content-type", BINARY), (b"server-timing", timing(reply)), length]


def sticky(heads: body.Headers) -> dict[str, str]:
    """What keeps the requests of one client on one track, as a parameter; none where it is not given."""
    given = heads.get(b"x-modelkeep-sticky")
    return {} if given is None else {STICKY: given.decode("latin-1")}


def trace(heads: body.Headers) -> str:
    """The client's traceparent, empty where it has none."""
    return heads.get(b"traceparent", b"").decode("latin-1")


def new_id() -> str:
    """A UUID of the random kind (RFC 9562), from a generator that asks the system once, not for each request."""
    return f"{_IDS.getrandbits(128) & _RANDOM | _VERSION:032x}"
