"""Replies packed for a client that asks for it (Content-Encoding, RFC 9110, 8.4)."""

from __future__ import annotations

import asyncio
import zlib
from collections.abc import Mapping

LEAST = 16 * 1024
"""Bytes: most clients accept gzip without being asked, and below this packing takes longer than sending."""
LONG = 256 * 1024
"""Bytes above which packing would hold up the loop."""
WINDOWS = {"gzip": 31, "deflate": 15}
"""zlib's wbits."""


def chosen(accepted: str | None) -> str | None:
    """The first encoding in an Accept-Encoding header that is known here and not refused with q=0."""
    for part in (accepted or "").split(","):
        name, _, quality = part.lower().replace(" ", "").partition(";")
        if name in WINDOWS and quality.rstrip("0") not in ("q=", "q=0."):
            return name
    return None


def wanted(body: bytes, heads: Mapping[bytes, bytes]) -> str | None:
    """The encoding that a reply is to have; none where it is not worth it."""
    return chosen(heads.get(b"accept-encoding", b"").decode("latin-1")) if len(body) >= LEAST else None


async def packed(body: bytes, encoding: str) -> bytes:
    """The body in that encoding."""
    if len(body) > LONG:
        return await asyncio.to_thread(_pack, body, encoding)
    return _pack(body, encoding)


def _pack(body: bytes, encoding: str) -> bytes:
    packer = zlib.compressobj(1, wbits=WINDOWS[encoding])
    return packer.compress(body) + packer.flush()
