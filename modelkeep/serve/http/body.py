"""What comes in: a body, bounded in bytes and time."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any, TypeVar

from starlette.exceptions import HTTPException
from starlette.types import Receive

from modelkeep.errors import BadInput, brief
from modelkeep.serve.plane.plane import Plane

T = TypeVar("T")
AT_ONCE = 256 * 1024
"""Bytes that are unpacked on the event loop, within a millisecond; what a body has more on a thread."""
_unpacking = ThreadPoolExecutor(1, thread_name_prefix="unpack")
"""One body at a time: until it is whole, what it unpacks to counts against no bound but that of a body."""
LEFT = "the client left before its request was complete"


Headers = Mapping[bytes, bytes]
"""Of a request, by name in small letters: as text they would take longer to make than to look up."""


async def read(receive: Receive, heads: Headers, plane: Plane) -> bytes:
    """The whole body, unpacked. Raises HTTPException 413 and 408, Overloaded, BadInput."""
    bound(plane, number(heads, b"content-length", int, 0))
    message = await receive()
    body: bytes = message.get("body", b"")
    if message["type"] == "http.disconnect":
        raise BadInput(LEFT)
    if message.get("more_body"):
        seconds = plane.settings.request_timeout
        try:
            async with asyncio.timeout(seconds):
                body = await _rest(receive, body, plane)
        except TimeoutError:
            raise HTTPException(408, f"the body took longer than {seconds:g} s (request_timeout); send less") from None
    bound(plane, len(body))
    encoding = heads.get(b"content-encoding", b"").decode("latin-1").strip().lower()
    if encoding in ("", "identity"):
        return body
    try:
        return await _unpacked(body, encoding, plane)
    except BadInput:
        plane.metrics.rejected("malformed")
        raise


async def _rest(receive: Receive, first: bytes, plane: Plane) -> bytes:
    """The parts that are still to come; their bytes count against the queue's while they come in."""
    parts, size = [first], 0
    try:
        while True:
            bound(plane, size + len(parts[-1]))
            plane.limits.hold(len(parts[-1]))
            size += len(parts[-1])
            message = await receive()
            if message["type"] == "http.disconnect":
                raise BadInput(LEFT)
            parts.append(message.get("body", b""))
            if not message.get("more_body"):
                return b"".join(parts)
    finally:
        plane.limits.release(size)


def bound(plane: Plane, size: int) -> None:
    """Raises HTTPException 413 for a body larger than the server takes."""
    most = plane.settings.max_body_bytes
    if size > most:
        plane.metrics.rejected("body_too_large")
        raise HTTPException(413, f"the body is larger than {most} bytes (max_body_bytes); send fewer rows at a time")


async def _unpacked(body: bytes, encoding: str, plane: Plane) -> bytes:
    """The body as it was before Content-Encoding; bounded, for a small body may unpack to a huge one."""
    if encoding not in ("gzip", "x-gzip", "deflate"):
        raise BadInput(f"Content-Encoding '{encoding}' is not known here; send gzip, deflate or none")
    unpacker = zlib.decompressobj(wbits=47)  # 32 + 15: gzip or zlib, by the header
    most = plane.settings.max_body_bytes + 1
    try:
        plain = unpacker.decompress(body, min(most, AT_ONCE))
        if len(plain) < most and not unpacker.eof:
            rest = partial(unpacker.decompress, unpacker.unconsumed_tail, most - len(plain))
            plain += await asyncio.get_running_loop().run_in_executor(_unpacking, rest)
    except zlib.error as error:
        raise BadInput(f"the body is not {encoding}: {error}") from None
    bound(plane, len(plain))
    if not unpacker.eof:
        raise BadInput(f"the {encoding} body breaks off before its end")
    if unpacker.unused_data:
        raise BadInput(f"bytes follow the end of the {encoding} body; send it as one member")
    return plain


def number(heads: Headers, name: bytes, kind: Callable[[bytes], T], default: Any) -> Any:
    """A header as a number, 0 or more. Raises BadInput."""
    text = heads.get(name)
    if text is None:
        return default
    try:
        value: Any = -1 if b"_" in text else kind(text)  # 1_000 is a number in Python, and nowhere else
    except ValueError:
        value = -1
    if not value >= 0:  # NaN is not
        raise BadInput(f"header {name.decode()} is {brief(text.decode('latin-1'))}; give a number, 0 or more")
    return value
