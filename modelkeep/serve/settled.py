"""A process that has loaded all it needs, and only answers from now on."""

from __future__ import annotations

import ctypes
import gc

YOUNG = 20_000
"""Objects made, and not freed yet, after which cycles are looked for: by default 700, every twenty requests."""

M_ARENA_MAX = -8
"""Of glibc's mallopt(3)."""
ARENAS = 2


def share_arenas() -> None:
    """Let threads take memory from the same few heaps, where glibc would give each one of its own, which keeps what the
    thread has freed: those that write and look beside the event loop hold some ten MB so. Before they are started.
    """
    try:
        ctypes.CDLL(None).mallopt(M_ARENA_MAX, ARENAS)
    except (AttributeError, OSError, TypeError):  # another C library
        return


def settle() -> None:
    """Leave what is loaded out of the search for garbage cycles: going through all of it holds up every answer for some
    twenty milliseconds, now and then, and finds nothing.
    """
    gc.collect()
    gc.freeze()
    _, middle, old = gc.get_threshold()
    gc.set_threshold(YOUNG, middle, old)
