"""Waiting for what another thread, task or process does, and no event tells of."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")
PAUSE = 0.005
"""Seconds between two looks: little beside what is waited for, and it leaves the processor to who does it."""


def until(what: Callable[[], T], seconds: float = 30.0) -> T:
    """What it gives, once it gives something. The test fails where nothing comes within ``seconds``."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"it did not come true within {seconds:g} s"
        time.sleep(PAUSE)
    return found


async def until_async(what: Callable[[], T], seconds: float = 30.0) -> T:
    """The same on an event loop, which goes on meanwhile."""
    end = time.monotonic() + seconds
    while not (found := what()):
        assert time.monotonic() < end, f"it did not come true within {seconds:g} s"
        await asyncio.sleep(PAUSE)
    return found


def alive(pid: int) -> bool:
    """Whether a process runs (Linux); one that has ended and that its parent has not fetched yet does not."""
    try:
        return ") Z " not in Path(f"/proc/{pid}/stat").read_text()
    except OSError:  # also where it ends while it is read
        return False
