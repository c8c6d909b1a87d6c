"""The end of a Process that runs inside the environment: it answers calls until nobody is left to ask."""

from __future__ import annotations

import importlib
import os
import sys
import threading
from multiprocessing.connection import Connection
from typing import Any

from modelkeep.environments import wire
from modelkeep.errors import ModelkeepError


def main(handle: int) -> None:
    """Serve the socket of this number."""
    threading.Thread(target=_end_with_parent, daemon=True).start()
    connection = Connection(handle)
    while True:
        try:
            header, arrays = wire.receive(connection)
        except EOFError:
            return
        answer, answers = _answer(header, arrays)
        wire.send(connection, answer, answers)


def _answer(header: dict[str, Any], arrays: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    try:
        module, _, name = header["function"].partition(":")
        function = getattr(importlib.import_module(f"modelkeep.environments.{module}"), name)
        told, answers = function(**header["arguments"], **({"arrays": arrays} if arrays else {}))
    except ModelkeepError as error:
        return {"error": str(error), "kind": type(error).__name__}, {}
    except Exception as error:  # noqa: BLE001 - these libraries raise anything, and the other side gets one sentence
        return {"error": f"{type(error).__name__}: {first_line(error)}", "kind": "Unsupported"}, {}
    return {"answer": told}, answers


def first_line(error: BaseException) -> str:
    """The first line of an error's message that says something."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__).rstrip(".")


def _end_with_parent() -> None:
    """Nobody writes to stdin: reading it ends when the parent does, even while a library is busy."""
    sys.stdin.buffer.read()
    os._exit(0)
