"""The access log: one JSON object a line for every request that reached a version, whatever came of it.

A thread writes; a disk that is stuck or full costs lines, which are counted, and never an answer.
"""

from __future__ import annotations

import contextlib
import logging
import os
import queue
import sys
import threading
import time
from logging.handlers import RotatingFileHandler
from pathlib import Path
from typing import Any

import orjson

from modelkeep.errors import BadSettings
from modelkeep.serve.plane.plane import Told

WAITING = 10_000
"""Lines that may wait for the writer; more are dropped."""
LOOK_AGAIN = 1.0
"""Seconds after which it is seen that a file was moved."""
KEPT = 3
"""Full files that are kept beside the one that is written, the newest as FILE.1."""


class _File(RotatingFileHandler):
    """Begins anew where it is full, and where somebody has moved or removed the file: logrotate, say."""

    _looked = -LOOK_AGAIN

    def emit(self, record: logging.LogRecord) -> None:
        """See RotatingFileHandler, which opens a file where it has none."""
        now, stream = time.monotonic(), self.stream
        if stream is not None and now - self._looked >= LOOK_AGAIN:
            self._looked = now
            if self._gone(stream.fileno()):
                self.stream = None
                with contextlib.suppress(OSError):
                    stream.close()
        super().emit(record)

    def _gone(self, written: int) -> bool:
        try:
            return not os.path.samestat(os.stat(self.baseFilename), os.fstat(written))
        except OSError as error:
            return isinstance(error, FileNotFoundError)


class AccessLog:
    """A plane's observer that writes to ``path`` (``-``: stderr), which begins anew at ``max_bytes``."""

    def __init__(self, path: str, max_bytes: int) -> None:
        self.dropped = 0
        self._handler = self._open(path, max_bytes)
        self._waiting: queue.Queue[Told | None] = queue.Queue(WAITING)
        self._thread = threading.Thread(target=self._write_all, name="access-log", daemon=True)
        self._thread.start()

    def __call__(self, told: Told) -> None:
        """Hand over one request; returns at once."""
        try:
            self._waiting.put_nowait(told)
        except queue.Full:
            self.dropped += 1

    def close(self) -> None:
        """Write what waits, for a few seconds at most, and end."""
        try:
            self._waiting.put(None, timeout=5.0)
        except queue.Full:
            return
        self._thread.join(5.0)

    def _open(self, path: str, max_bytes: int) -> logging.Handler:
        if path == "-":
            handler: logging.Handler = logging.StreamHandler(sys.stderr)
        else:
            try:
                Path(path).parent.mkdir(parents=True, exist_ok=True)
                handler = _File(path, maxBytes=max_bytes, backupCount=KEPT, encoding="utf-8")
            except OSError as error:
                raise BadSettings(f"the access log cannot be written to {path} ({error}); give another file") from error
        handler.handleError = self._failed  # type: ignore[method-assign]
        return handler

    def _failed(self, record: logging.LogRecord) -> None:
        self.dropped += 1

    def _write_all(self) -> None:
        while (told := self._waiting.get()) is not None:
            self._handler.handle(logging.makeLogRecord({"msg": line(told)}))
        with contextlib.suppress(OSError):  # what a full disk did not take was counted
            self._handler.close()


def line(told: Told) -> str:
    """What is written of a request. Inputs, outputs and keys are not: see capture for those that may be kept."""
    request = told.request
    found: dict[str, Any] = {
        "at": round(told.at, 6),
        "id": request.id,
        "model": request.model,
        "version": told.version,
        "track": told.track,
        "outcome": told.outcome,
        "seconds": round(told.seconds, 6),
        **{stage: round(seconds, 6) for stage, seconds in told.timings.items()},
        "shapes": {name: list(array.shape) for name, array in request.inputs.items()},
    }
    if told.why:
        found["error"] = told.why
    if request.trace:
        found["trace"] = request.trace
    return orjson.dumps(found).decode()
