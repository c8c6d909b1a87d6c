"""A process of its own for each model that is measured, so that no two share memory, caches or an interpreter.

It serves the model with the real plane and does what it is told over its standard input: put on this load, and say what
was found. It ends when the other end of the pipe does, however that came about.
"""

from __future__ import annotations

import contextlib
import os
import pickle
import queue
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from typing import IO, TYPE_CHECKING, Any, cast

from modelkeep import errors
from modelkeep.errors import ModelkeepError
from modelkeep.types import Model, ServeConfig

if TYPE_CHECKING:
    from modelkeep.tune.served import Load, Opened, Round
    from modelkeep.types import Arrays

PROGRAM = "from modelkeep.tune.served import main; main()"
OPEN_SECONDS = 900.0
"""For loading and compiling, and for the answers that are taken alone."""
GRACE_SECONDS = 120.0
"""Beyond the time a load was given: its last requests, and the comparison of the answers."""


class Apart:
    """One model with one setting, in its own process, which starts here. Use it with ``with``."""

    def __init__(self, name: str, model: Model, config: ServeConfig, rows: Sequence[Arrays]) -> None:
        self.name, self.config = name, config
        self._job = (model, config, rows)
        self._answers: queue.SimpleQueue[Any] = queue.SimpleQueue()
        # -P: the working folder is no place to import modelkeep's own libraries from; a session of its own, so that
        # Ctrl-C comes to us alone, and so that its worker processes can be ended with it
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", PROGRAM],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            start_new_session=True,
        )
        threading.Thread(target=self._listen, name=f"listens to {name}", daemon=True).start()

    def open(self) -> Opened:
        """Load, warm up, and answer each request alone. Raises what the engine raises."""
        return cast("Opened", self._ask("open", *self._job, seconds=OPEN_SECONDS))

    def load(self, load: Load) -> Round:
        """Put this load on it. Raises ModelkeepError where the process ended or hangs."""
        return cast("Round", self._ask("load", load, seconds=max(load.seconds, load.most) + GRACE_SECONDS))

    def close(self) -> None:
        """End the process and those below it; calling it twice is harmless."""
        with contextlib.suppress(OSError):
            if hasattr(os, "killpg"):
                os.killpg(self._process.pid, signal.SIGKILL)
            else:
                self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError):
                cast(IO[bytes], pipe).close()

    def __enter__(self) -> Apart:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _ask(self, what: str, *arguments: Any, seconds: float) -> Any:
        stdin = cast(IO[bytes], self._process.stdin)
        try:
            pickle.dump((what, arguments), stdin)
            stdin.flush()
            answer = self._answers.get(timeout=seconds)
        except queue.Empty:
            raise ModelkeepError(
                f"{self.name} has not come to an end within {seconds:.0f} s, and was stopped"
            ) from None
        except OSError:  # the pipe is broken: it has ended
            answer = None
        if answer is None:
            raise ModelkeepError(f"the process that served {self.name} ended {self._cause()}")
        kind, value = answer
        if not kind:
            return value
        raise getattr(errors, kind, ModelkeepError)(value)

    def _cause(self) -> str:
        code = self._process.wait()
        if code == -signal.SIGKILL:
            return "because it was killed; most likely it had run out of memory"
        return f"by signal {-code}" if code < 0 else f"with exit code {code}"

    def _listen(self) -> None:
        """Every answer into the queue, then None."""
        stdout = cast(IO[bytes], self._process.stdout)
        while True:
            try:
                self._answers.put(pickle.load(stdout))  # from our own process, which runs no more than we asked it to
            except (EOFError, OSError, ValueError, pickle.UnpicklingError):
                break
        self._answers.put(None)
