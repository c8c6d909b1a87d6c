"""What replies over HTTP have in common: the form of an error, when to come again, the time of each stage."""

from __future__ import annotations

import logging
import math

import orjson
from starlette.exceptions import HTTPException

from modelkeep.errors import Busy, ModelkeepError
from modelkeep.types import Reply

JSON = b"application/json"
CLOSE = (b"connection", b"close")
"""On every reply of a server that stops, so that a client with a kept connection turns elsewhere in time."""
Headers = list[tuple[bytes, bytes]]
log = logging.getLogger(__name__)


def failed(error: Exception) -> tuple[int, bytes, Headers]:
    """Status, body and headers of an error: one sentence. The traceback of a defect of ours goes to the log."""
    kind = (b"content-type", JSON)
    if isinstance(error, ModelkeepError):
        return error.status, told(str(error)), [kind, *retry_after(error)]
    if isinstance(error, HTTPException):
        return error.status_code, told(error.detail), [kind]
    log.error("an infer request failed", exc_info=error)
    return 500, told("the server failed on this request; its log says why"), [kind]


def told(why: str) -> bytes:
    """The protocol's form of an error."""
    return orjson.dumps({"error": why})


def retry_after(error: ModelkeepError) -> Headers:
    """When to come again, for what is only busy; in whole seconds (RFC 9110, 10.2.3)."""
    if not isinstance(error, Busy):
        return []
    return [(b"retry-after", str(max(1, math.ceil(getattr(error, "retry_after", 1.0)))).encode())]


def timing(reply: Reply) -> bytes:
    """Seconds by stage, as browsers and proxies read them (W3C Server Timing)."""
    return ", ".join([f"{stage};dur={1000 * seconds:.3f}" for stage, seconds in reply.timings.items()]).encode()
