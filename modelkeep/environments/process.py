"""A process inside an environment, asked by name for functions that live there.

Both sides speak through a socket pair, framed by multiprocessing.connection and never pickled: a JSON header of bounded
size, then the arrays that it lists as raw bytes. The child reads its stdin, which nobody writes to, and ends when that
ends: with its parent, however the parent dies. Its own chatter goes to a pipe of which the last lines are kept.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import threading
from collections import deque
from collections.abc import Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep import errors
from modelkeep.environments import wire
from modelkeep.errors import ModelkeepError, NotReady, TooLate

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

PACKAGE = Path(__file__).resolve().parent.parent
BOOT = """
import importlib.util, sys
spec = importlib.util.spec_from_file_location("modelkeep", sys.argv[1] + "/__init__.py",
                                              submodule_search_locations=[sys.argv[1]])
package = sys.modules["modelkeep"] = importlib.util.module_from_spec(spec)
spec.loader.exec_module(package)
from modelkeep.environments import worker
worker.main(int(sys.argv[2]))
"""
"""modelkeep alone can be imported there, and nothing that is installed beside it."""


class Process:
    """One worker; a call at a time, however many threads ask. Nothing is started before the first call."""

    def __init__(self, python: Path, environ: Mapping[str, str]) -> None:
        self._python = python
        self._environ = dict(environ)
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def call(
        self, function: str, arguments: Mapping[str, Any], arrays: Arrays | None = None, *, seconds: float
    ) -> tuple[Any, dict[str, Array]]:
        """What ``module:function`` of modelkeep.environments answers to the arguments: JSON, and arrays by name.

        Raises the modelkeep error that it raised there; TooLate after so many seconds, and NotReady where the process
        died, with its last words. After either the next call starts another process.
        """
        with self._lock:
            child = self._child = self._child or _Child(self._python, self._environ)
            try:
                child.send({"function": function, "arguments": dict(arguments)}, arrays or {})
                header, answers = child.receive(seconds)
            except BaseException:  # Ctrl-C too: an answer that nobody took would be taken for the next one's
                self._end()
                raise
        if "error" in header:
            raise _error(header["kind"], header["error"])
        return header["answer"], answers

    @property
    def pid(self) -> int | None:
        """The process, where one runs."""
        return self._child.pid if self._child else None

    def close(self) -> None:
        """End the process; calling it twice is harmless."""
        with self._lock:
            self._end()

    def _end(self) -> None:
        child, self._child = self._child, None
        if child:
            child.end()


class _Child:
    """The operating system's side of it."""

    def __init__(self, python: Path, environ: Mapping[str, str]) -> None:
        ours, theirs = socket.socketpair()
        kept = {key: os.environ[key] for key in ("PATH", "HOME", "TMPDIR", "LANG") if key in os.environ}
        with theirs:
            self._process = subprocess.Popen(
                [str(python), "-I", "-c", BOOT, str(PACKAGE), str(theirs.fileno())],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                pass_fds=[theirs.fileno()],
                env={**kept, **environ},
            )
        self._connection = Connection(ours.detach())
        self._words: deque[bytes] = deque(maxlen=20)
        self._listener = threading.Thread(target=self._listen, name="modelkeep-environment", daemon=True)
        self._listener.start()
        self.pid = self._process.pid

    def send(self, header: Mapping[str, Any], arrays: Arrays) -> None:
        """NotReady where the process has died."""
        try:
            wire.send(self._connection, header, arrays)
        except (OSError, EOFError) as error:
            raise self._died() from error

    def receive(self, seconds: float) -> tuple[dict[str, Any], dict[str, Array]]:
        """NotReady where the process has died, TooLate where it takes longer."""
        try:
            if not self._connection.poll(seconds):
                raise TooLate(f"the process in the environment did not answer within {seconds:g} s, and was ended")
            return wire.receive(self._connection)
        except (OSError, EOFError) as error:
            raise self._died() from error

    def end(self) -> None:
        """At once: it holds nothing that would have to be saved."""
        self._connection.close()
        self._process.kill()
        self._process.wait()
        self._listener.join(timeout=5)
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe:
                pipe.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            self._words.append(line)

    def _died(self) -> NotReady:
        self._process.kill()
        code = self._process.wait()
        self._listener.join(timeout=5)
        said = [line.decode(errors="replace").strip() for line in self._words]
        last = next((line for line in reversed(said) if line), "it said nothing")
        how = f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with code {code}"
        memory = ", perhaps for lack of memory" if code == -signal.SIGKILL else ""
        return NotReady(f"the process in the environment {how}{memory}; its last words: {last[:300]}")


def _error(kind: str, message: str) -> ModelkeepError:
    found: type[ModelkeepError] = getattr(errors, kind, ModelkeepError)
    return found(message)
