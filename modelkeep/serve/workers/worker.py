"""A worker process: holds one model and answers the frames of the server that started it, until that one is gone.

    python -P -m modelkeep.serve.workers.worker CONTROL LIFELINE ARENA

The three are inherited file descriptors. First comes ``{"import": target, "modules": […]}``, so that a spare can have
the engine's libraries ready; then ``{"load": …}``; then batches. Each is answered by one frame.
"""

from __future__ import annotations

import contextlib
import faulthandler
import fcntl
import importlib
import os
import select
import signal
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep import extras, stages
from modelkeep.errors import ModelkeepError
from modelkeep.serve.workers import ragged, wire
from modelkeep.serve.workers.runs import Part, Runs
from modelkeep.serve.workers.settled import give_back, settle
from modelkeep.serve.workers.warm import warm
from modelkeep.types import Model, Runner, ServeConfig, Signature

if TYPE_CHECKING:
    from modelkeep.types import Arrays

OOM_FIRST = "500"
"""Where memory runs out, Linux is to end a worker, which is replaced, and not the server."""


def main(arguments: Sequence[str]) -> None:
    """Until the server hangs up."""
    control, lifeline, arena = map(int, arguments[:3])
    _die_with(lifeline)
    faulthandler.enable()
    with contextlib.suppress(OSError), open("/proc/self/oom_score_adj", "w") as file:
        file.write(OOM_FIRST)
    stages.follow()
    # the server ends its workers itself, once all is answered; who signals the whole group means the server
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, signal.SIG_IGN)
    with contextlib.suppress(BrokenPipeError, ConnectionResetError), socket.socket(fileno=control) as sock:
        _Worker(sock, wire.Arena(arena)).serve()


def _die_with(lifeline: int) -> None:
    """The kernel ends this process, and those that it starts, when the other end of the pipe is closed.

    Even in the midst of native code: ``SIGIO``, whose default is to end, comes when an O_ASYNC pipe is hung up.
    PR_SET_PDEATHSIG would follow the thread that started us, not its process, and Linux alone has it.
    """
    signal.signal(signal.SIGIO, signal.SIG_DFL)
    fcntl.fcntl(lifeline, fcntl.F_SETOWN, -os.getpgrp())  # the whole group, which this process leads
    fcntl.fcntl(lifeline, fcntl.F_SETFL, fcntl.fcntl(lifeline, fcntl.F_GETFL) | os.O_ASYNC)
    if select.select([lifeline], [], [], 0)[0]:  # it was closed before
        os._exit(1)


class _Worker:
    def __init__(self, sock: socket.socket, arena: wire.Arena) -> None:
        self._sock, self._arena = sock, arena
        self._receiver = wire.Receiver(sock)
        self._load: Any = None
        self._runs: Runs | None = None

    def serve(self) -> None:
        while (frame := self._receiver.read()) is not None:
            head, groups, _ = wire.unpack(frame, self._arena)
            try:
                if self._runs is None:
                    self._send(self._prepare(head))
                else:
                    self._batch(self._runs, head, groups[0])
            except Exception as error:  # noqa: BLE001 - an engine may raise anything; the server decides what to do
                self._send({"error": told(error), "seconds": 0.0, "parts": []})

    def _prepare(self, head: dict[str, Any]) -> dict[str, Any]:
        started, before = time.monotonic(), set(sys.modules)
        if "import" in head:
            self._load = extras.load(head["import"])
            for name in head["modules"]:
                with contextlib.suppress(Exception):  # a person's file under a name made up for it, say
                    importlib.import_module(name)
            return {"seconds": time.monotonic() - started}
        model, config = model_from(head["load"]), ServeConfig(**head["config"])
        runner: Runner = self._load(model, config)
        paces, mixes = warm(model, runner, config)
        self._runs = Runs(runner, name=model.path.name)
        pads = ragged.tried(runner, model.path, config)
        settle()
        give_back()  # the rows that it ran on: of pictures a batch is some 20 MB
        return {
            "paces": paces,
            "mixes": mixes,
            "pads": pads,
            "seconds": time.monotonic() - started,
            "modules": [name for name in sys.modules if name not in before],
        }

    def _batch(self, runs: Runs, head: dict[str, Any], inputs: Arrays) -> None:
        runs.name = head["name"]
        started = time.monotonic()
        parts = runs.parts(inputs, head["rows"])
        answer = {"seconds": time.monotonic() - started, "parts": [_told(part) for part in parts]}
        groups = [{name: [array] for name, array in part.outputs.items()} for part in parts]
        self._send(answer, groups, head["used"])
        self._arena.trim(head["used"])

    def _send(self, head: dict[str, Any], groups: Sequence[wire.Pieces] = (), start: int = 0) -> None:
        self._sock.sendall(wire.pack(head, groups, self._arena, start))


def told(error: Exception) -> list[str]:
    """The name of a modelkeep error, or none, and its sentence: what ``process.raised`` makes an error of again."""
    if isinstance(error, ModelkeepError):
        return [type(error).__name__, str(error)]
    return ["", f"{type(error).__name__}: {error}"]


def _told(part: Part) -> dict[str, Any]:
    if part.error is not None:
        return {"start": part.start, "stop": part.stop, "error": told(part.error)}
    seen = part.seen
    assert seen is not None
    counted = [seen.rows, seen.seconds, seen.invalid, list(seen.classes.items())]
    return {"start": part.start, "stop": part.stop, "seen": counted}


def model_to(model: Model) -> dict[str, Any]:
    """A form that ``model_from`` reads back."""
    return {
        "path": str(model.path.absolute()),
        "format": model.format,
        "signature": model.signature.to_json(),
        "files": model.files,
        "labels": model.labels,
        "options": dict(model.options),
    }


def model_from(data: dict[str, Any]) -> Model:
    """The Model that ``model_to`` wrote."""
    return Model(
        Path(data["path"]),
        data["format"],
        Signature.from_json(data["signature"]),
        tuple(data["files"]),
        tuple(data["labels"]),
        data["options"],
    )


if __name__ == "__main__":
    main(sys.argv[1:])
