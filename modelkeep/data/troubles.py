"""What goes wrong with a writer beside the service, in the log: why it loses what it counts as dropped."""

from __future__ import annotations

import logging
import time

QUIET_SECONDS = 60.0


class Troubles:
    """Warnings for one logger, of which a full disk would cause some each second. One thread tells at a time."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._told: dict[str, float] = {}

    def tell(self, why: str) -> None:
        """A line in the log, once a minute for what is the same up to its first colon."""
        head, now = why.partition(":")[0], time.monotonic()
        if now - self._told.get(head, -QUIET_SECONDS) >= QUIET_SECONDS:
            self._told[head] = now
            self._log.warning("%s", why)
