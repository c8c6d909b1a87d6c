"""The hot path of HTTP: an infer request from its bytes to those of its answer, past routing and request objects."""

from __future__ import annotations

import logging
import math
import random
import re
import time
import uuid
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

import orjson
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from modelkeep.errors import Busy, ModelkeepError
from modelkeep.serve import body, codec, packing
from modelkeep.serve.classify import classified
from modelkeep.serve.plane import Plane
from modelkeep.serve.router import STICKY
from modelkeep.types import Reply, Request

TIMEOUT = "x-modelkeep-timeout"
"""Header: seconds that the client waits."""
TRACE = "traceparent"
JSON_LENGTH = "inference-header-content-length"
JSON, BINARY = b"application/json", b"application/octet-stream"
PATH = re.compile(r"/v2/models/(?P<model>[^/]+)(?:/versions/(?P<version>[0-9]{1,9}))?/infer")
_IDS = random.Random()
log = logging.getLogger(__name__)
Headers = list[tuple[bytes, bytes]]


@lru_cache(4096)
def target(path: str) -> dict[str, Any] | None:
    """The path parameters of an infer route, or None for another one."""
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
            answer, headers = await self._answer(scope["path_params"], body.headers(scope), receive)
        except ModelkeepError as error:
            status, answer, headers = error.status, told(str(error)), retry_after(error)
        except HTTPException as error:
            status, answer, headers = error.status_code, told(error.detail), []
        except Exception:  # a defect of modelkeep, and the server must outlive it
            log.exception("an infer request failed")
            status, answer, headers = 500, told("the server failed on this request; its log says why"), []
        if status != 200:
            headers.append((b"content-type", JSON))
        if self.plane.stopping:
            headers.append((b"connection", b"close"))  # so that a client with a kept connection turns elsewhere in time
        headers.append((b"content-length", str(len(answer)).encode()))
        await send({"type": "http.response.start", "status": status, "headers": headers})
        await send({"type": "http.response.body", "body": answer})

    async def _answer(self, where: Mapping[str, Any], heads: body.Headers, receive: Receive) -> tuple[bytes, Headers]:
        asked, deadline = await self._asked(where, heads, receive)
        if (sticky := heads.get(STICKY)) is not None:
            asked.parameters[STICKY] = sticky
        request = Request(
            id=asked.id or new_id(),
            model=where["model"],
            inputs=asked.inputs,
            parameters=asked.parameters,
            outputs=asked.outputs,
            deadline=deadline,
            version=where.get("version"),
            trace=heads.get(TRACE, ""),
        )
        reply = await self.plane.infer(request)
        if asked.classes:
            reply = classified(reply, asked.classes, self.plane.router(reply.model).loaded.get(reply.version))
        answer, json_length = codec.encode(reply, asked.binary)
        headers = [(b"content-type", JSON if json_length is None else BINARY), (b"server-timing", timing(reply))]
        if json_length is not None:
            headers.append((JSON_LENGTH.encode(), str(json_length).encode()))
        if len(answer) >= packing.LEAST and (encoding := packing.chosen(heads.get("accept-encoding"))):
            answer = await packing.packed(answer, encoding)
            headers.append((b"content-encoding", encoding.encode()))
        return answer, headers

    async def _asked(
        self, where: Mapping[str, Any], heads: body.Headers, receive: Receive
    ) -> tuple[codec.Asked, float]:
        """The decoded body, and the deadline: what the client allows, request_timeout at most."""
        began = time.monotonic()
        most = self.plane.settings.request_timeout
        self.plane.router(where["model"])  # or a client would send a large body in vain
        seconds = body.number(heads, TIMEOUT, float, most)
        length = body.number(heads, JSON_LENGTH, int, None)
        raw = await body.read(receive, heads, self.plane)
        if length == 0:
            asked = codec.decode_raw(raw, self.plane.find(where["model"], where.get("version")).signature)
        else:
            asked = codec.decode(raw, length)
        return asked, began + min(seconds, most, asked.timeout or most)


def new_id() -> str:
    """A UUID of the random kind (RFC 9562), from a generator that asks the system once, not for each request."""
    return uuid.UUID(int=_IDS.getrandbits(128), version=4).hex


def timing(reply: Reply) -> bytes:
    """Seconds by stage, as browsers and proxies read them (W3C Server Timing)."""
    return b", ".join(b"%b;dur=%.3f" % (stage.encode(), 1000 * seconds) for stage, seconds in reply.timings.items())


def told(why: str) -> bytes:
    """The protocol's form of an error."""
    return orjson.dumps({"error": why})


def retry_after(error: ModelkeepError) -> Headers:
    """When to come again, for what is only busy; in whole seconds (RFC 9110, 10.2.3)."""
    if not isinstance(error, Busy):
        return []
    return [(b"retry-after", str(max(1, math.ceil(getattr(error, "retry_after", 1.0)))).encode())]
