"""Whether a model's canary is judged by somebody: by a lock that the system lets go of, however its process ends."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Iterator
from pathlib import Path

from modelkeep.errors import Conflict

PATIENCE = 2.0
"""Seconds: a rollout whose canary was just ended by a person needs a moment to see it."""


@contextlib.contextmanager
def alone(home: Path, name: str) -> Iterator[None]:
    """Nobody else with this home judges a canary of ``name`` meanwhile. Raises Conflict where somebody does.

    Where no lock can be had (a folder that may only be read), nobody is kept away.
    """
    with contextlib.ExitStack() as held:
        with contextlib.suppress(OSError):
            file = _file(home, name)
            file.parent.mkdir(exist_ok=True)
            lock = held.enter_context(file.open("w"))
            until = time.monotonic() + PATIENCE
            while not _taken(lock.fileno()):
                if time.monotonic() > until:
                    end = f"wait for its verdict, or end it: modelkeep rollback {name}"
                    raise Conflict(f"a rollout of {name} goes on already; {end}")
                time.sleep(PATIENCE / 100)
        yield


def attended(home: Path, name: str) -> bool:
    """Whether somebody with this home judges a canary of ``name`` now."""
    try:
        with _file(home, name).open() as lock:
            return not _taken(lock.fileno())
    except OSError:  # nobody ever did
        return False


def _file(home: Path, name: str) -> Path:
    return home / "rollouts" / f"{name}.lock"


def _taken(descriptor: int) -> bool:
    """Take the lock, until the file is closed; False where somebody has it. Raises OSError where there are no locks."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
