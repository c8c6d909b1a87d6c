"""One worker process, seen from the server: started and loaded on any thread, then used from the event loop."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any, cast

from modelkeep import errors, stages, system
from modelkeep.errors import ModelkeepError
from modelkeep.model import engines
from modelkeep.serve.workers import wire
from modelkeep.serve.workers.runs import Part, Seen
from modelkeep.serve.workers.warm import Paces
from modelkeep.serve.workers.worker import model_to
from modelkeep.types import Model, ServeConfig

if TYPE_CHECKING:
    from modelkeep.types import Arrays

LONGEST_LOAD = 600.0
"""Seconds for a model to load and warm up; then its process counts as hung."""
MANY = 100
"""Modules: a load that imports more spends its time on that."""
CHUNK = 64 * 1024


class Process:
    """A worker process. ``modules`` are imported beforehand, besides the engine's; later, those of the load are added.

    ``kind`` is what ended it: ``crash``, ``hang``, or ``kill`` where it was somebody else, the system perhaps.
    ``seconds`` is what the imports took, with the whole load where that imported many modules; ``memory`` the bytes
    that the load took.

    Nothing of it can outlive this process: see worker._die_with. Its signals are its own: Ctrl-C reaches only us.
    """

    def __init__(self, engine: str, modules: Sequence[str] = ()) -> None:
        self.arena = wire.Arena()
        self.seconds = 0.0
        self.memory = 0
        self.pads = False
        self.mixes = ""
        self.modules = list(modules)
        self.hung = self._killed = False
        self.kind = ""
        self._reason = ""
        self._asked = 0
        self.sock, theirs = socket.socketpair()
        self._closing = threading.Lock()
        lifeline, self._lifeline = os.pipe()
        for end in (self.sock, theirs):
            end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, wire.SOCKET_BUFFER)
        inherited = (theirs.fileno(), lifeline, self.arena.fd)
        try:
            self._child = subprocess.Popen(
                [sys.executable, "-P", "-m", "modelkeep.serve.workers.worker", *map(str, inherited), engine],
                pass_fds=inherited,
                stdin=subprocess.DEVNULL,
                env={**os.environ, "PYTHONPATH": os.pathsep.join(os.path.abspath(p) for p in sys.path)},
                process_group=0,
            )
        finally:
            theirs.close()
            os.close(lifeline)
        self._send({"import": engines.ENGINES[engine].target, "modules": self.modules})
        self._partial = bytearray()
        self._imported = False

    # ── until it is ready: blocking, on any thread ───────────────────────────────────────────────────────────────

    def prepare(self) -> float:
        """Wait until the engine's library is imported, and say how many seconds that took. Raises what it raised."""
        if not self._imported:
            self.seconds = self._reply()["seconds"]
            self._imported = True
        return self.seconds

    def load(self, model: Model, config: ServeConfig) -> Paces:
        """Have it load and warm up. Raises what the engine raised, and ModelkeepError where the process ended."""
        self.prepare()
        before = system.resident(self.pid) or 0
        self._send({"load": model_to(model), "config": asdict(config)})
        reply = self._reply()
        self.modules += reply["modules"]
        if len(reply["modules"]) > MANY:
            self.seconds += reply["seconds"]
        self.pads, self.mixes = bool(reply["pads"]), str(reply["mixes"])
        self.memory = max((system.resident(self.pid) or 0) - before, 0)
        return [(rows, seconds) for rows, seconds in reply["paces"]]

    def _send(self, head: dict[str, Any]) -> None:
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):  # the reply will say that it ended
            self.sock.sendall(wire.pack(head, (), self.arena))

    def _reply(self) -> dict[str, Any]:
        self.sock.settimeout(LONGEST_LOAD)
        try:
            frame = wire.Receiver(self.sock).read()
        except TimeoutError:
            self.kill(f"it was not loaded within {LONGEST_LOAD:.0f} s")
            frame = None
        except ConnectionResetError:
            frame = None
        if frame is None:
            raise ModelkeepError(f"the model cannot be loaded: its worker process {self.end()}")
        head, _, _ = wire.unpack(frame, self.arena)
        if "error" in head:
            raise raised(head["error"])
        return head

    # ── once it is ready: in the event loop's thread, never blocking ─────────────────────────────────────────────

    def ask(self, name: str, pieces: wire.Pieces, rows: list[int]) -> None:
        """Hand it a batch. Raises BadInput for what cannot be sent, OSError where the process does not take it."""
        self._asked = len(rows)
        with stages.stage("join"):
            frame = wire.pack({"name": name, "rows": rows}, [pieces], self.arena)
        if self.sock.send(frame) < len(frame):
            raise OSError("the process does not read")

    def answer(self) -> tuple[list[Part], float] | None:
        """What came of the batch, and its seconds, once all of that is here. Raises EOFError where it is gone."""
        try:
            data = self.sock.recv(CHUNK)
        except BlockingIOError:
            return None
        except ConnectionResetError:
            raise EOFError from None
        if not data:
            raise EOFError
        if self._partial or not 0 < wire.length(data) <= len(data):
            self._partial += data
            if not 0 < wire.length(self._partial) <= len(self._partial):
                return None
            data = bytes(self._partial)
            self._partial.clear()
        head, groups, inside = wire.unpack(data, self.arena)
        if inside:  # the next batch overwrites it
            groups = [{name: array.copy() for name, array in group.items()} for group in groups]
        if "error" in head:
            return [Part(0, self._asked, error=raised(head["error"]))], 0.0
        parts = [_part(part, outputs) for part, outputs in zip(head["parts"], groups, strict=True)]
        return parts, head["seconds"]

    # ── its end ──────────────────────────────────────────────────────────────────────────────────────────────────

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._child.poll() is None

    @property
    def pid(self) -> int:
        """Its number."""
        return self._child.pid

    def kill(self, reason: str = "") -> None:
        """End it at once; ``end`` will give this reason."""
        self._reason, self._killed = self._reason or reason, True
        self._kill()

    def end(self) -> str:
        """What ended it, for a sentence after 'the process'; ends it where it has only hung up."""
        ours = self._child.returncode is None and self._killed
        self.close()
        code = self._child.returncode
        self.kind = "hang" if self.hung else "kill" if code == -signal.SIGKILL and not ours else "crash"
        if self._reason:
            return self._reason
        if code >= 0:
            return f"ended with exit code {code}"
        with contextlib.suppress(ValueError):
            return f"was ended by {signal.Signals(-code).name}"
        return f"was ended by signal {-code}"

    def close(self) -> None:
        """End it; calling it twice is harmless, and so is calling it from two threads at once."""
        with self._closing:
            self.sock.close()
            self._kill()
            self._child.wait()
            if self._lifeline >= 0:
                os.close(self._lifeline)
                self._lifeline = -1
            self.arena.close()

    def _kill(self) -> None:
        """Whatever it has started, too: they are a group."""
        if self._child.returncode is None:  # else its number may be another's
            with contextlib.suppress(ProcessLookupError, PermissionError):  # macOS: of one that has ended already
                os.killpg(self._child.pid, signal.SIGKILL)


def _part(told: dict[str, Any], outputs: Arrays) -> Part:
    if "error" in told:
        return Part(told["start"], told["stop"], error=raised(told["error"]))
    rows, seconds, invalid, classes = told["seen"]
    return Part(told["start"], told["stop"], outputs, Seen(rows, seconds, invalid, dict(classes)))


def raised(told: list[str]) -> ModelkeepError:
    """The error that a worker told of."""
    kind = getattr(errors, told[0], ModelkeepError) if told[0] else ModelkeepError
    return cast(ModelkeepError, kind(told[1]))
