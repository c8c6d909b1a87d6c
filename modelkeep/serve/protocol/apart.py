"""Large questions and answers are read and written on a thread, one after the other: on the event loop everybody else
would wait meanwhile. The largest have a thread of their own, for some take seconds: 64 MB of short texts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

from modelkeep.serve.plane.plane import Plane

T = TypeVar("T")
LARGE = 256 * 1024
"""Bytes: as JSON some milliseconds; and from here on, the way to a thread and back (0.1 ms) is little beside them."""
LARGEST = 4 * 1024**2
_large, _largest = (ThreadPoolExecutor(1, thread_name_prefix=name) for name in ("large", "largest"))


async def read(plane: Plane, size: int, work: Callable[[], T]) -> T:
    """What ``work`` makes of so many bytes, which count against the queue's until then. Raises Overloaded, BadInput."""
    if size <= LARGE:
        return work()
    plane.limits.hold(size)
    try:
        return await write(size, work)
    finally:
        plane.limits.release(size)


async def write(size: int, work: Callable[[], T]) -> T:
    """What ``work`` makes of an answer of about so many bytes."""
    if size <= LARGE:
        return work()
    return await asyncio.get_running_loop().run_in_executor(_large if size <= LARGEST else _largest, work)
