"""A process that has loaded all it needs, and only answers from now on."""

from __future__ import annotations

import ctypes
import gc
from functools import cache

YOUNG = 20_000
"""Objects made, and not freed yet, after which cycles are looked for: by default 700, every twenty requests."""

M_ARENA_MAX = -8
"""Of glibc's mallopt(3)."""
ARENAS = 2

TIDY = 15.0
"""Seconds between two times that memory is given back; it takes a millisecond or two."""


def share_arenas() -> None:
    """Let threads take memory from the same few heaps, where glibc would give each one of its own, which keeps what the
    thread has freed: those that write and look beside the event loop hold some ten MB so. Before they are started.
    """
    if glibc := _glibc():
        glibc.mallopt(M_ARENA_MAX, ARENAS)


def give_back() -> None:
    """Give the system what was freed. What glibc keeps of it, between pieces that are still in use, grows for hours by
    what each version that is replaced and each look at the traffic leave.
    """
    if glibc := _glibc():
        glibc.malloc_trim(0)


@cache
def _glibc() -> ctypes.CDLL | None:
    """None where the system has another C library."""
    try:
        library = ctypes.CDLL(None)
    except (OSError, TypeError):
        return None
    return library if hasattr(library, "malloc_trim") and hasattr(library, "mallopt") else None


def tidy_up() -> None:
    """Free the garbage cycles that have come up since the last time, which YOUNG lets wait for many minutes where
    little is left over, and give their memory back.
    """
    gc.collect(1)
    give_back()


async def tidy() -> None:
    """Tidy up now and then, on a thread, until it is cancelled."""
    import asyncio  # a worker has none

    while True:
        await asyncio.sleep(TIDY)
        await asyncio.to_thread(tidy_up)


def settle() -> None:
    """Leave what is loaded out of the search for garbage cycles: going through all of it holds up every answer for some
    twenty milliseconds, now and then, and finds nothing.
    """
    gc.collect()
    gc.freeze()
    _, middle, old = gc.get_threshold()
    gc.set_threshold(YOUNG, middle, old)
