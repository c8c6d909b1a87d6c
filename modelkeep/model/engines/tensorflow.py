"""SavedModel, Keras and LiteRT models on TensorFlow, in a process of its own inside the TensorFlow environment."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from modelkeep import environments, settings
from modelkeep.environments.process import Process
from modelkeep.errors import ModelkeepError, NotReady, Unsupported
from modelkeep.model import signature as signatures
from modelkeep.types import Model, ServeConfig, Signature

if TYPE_CHECKING:
    from pathlib import Path

    from modelkeep.types import Array, Arrays

OPEN_SECONDS = 600.0
RUN_SECONDS = 600.0
CONVERT_SECONDS = 3600.0
IDLE_SECONDS = 60.0
ENVIRON = {
    "CUDA_VISIBLE_DEVICES": "-1",
    "KERAS_BACKEND": "tensorflow",
    "TF_CPP_MIN_LOG_LEVEL": "3",
    "TF_DETERMINISTIC_OPS": "1",
    "TF_ENABLE_ONEDNN_OPTS": "0",  # oneDNN adds in another order from one run to the next
}
"""On the processor, the same answer each time, and no chatter."""


class TensorflowRunner:
    """A model in another process; runs take turns. A process that dies is started again for the next run."""

    def __init__(self, model: Model, config: ServeConfig) -> None:
        self.signature = model.signature
        self._arguments = {**where(model), "threads": config.threads}
        self._process: Process | None = SHARED.take()
        self._opened: tuple[int | None, int] = (None, 0)
        try:
            self._open(self._process)
        except BaseException:  # Ctrl-C too; it is raised again
            self.close()
            raise

    def run(self, inputs: Arrays) -> dict[str, Array]:
        """See Runner. Raises BadInput with TensorFlow's reason when it fails on these inputs, NotReady once closed."""
        asked = self._process
        if asked is None:
            raise NotReady("this model has been closed")
        self.signature.check(inputs)
        if asked.pid is None or asked.pid != self._opened[0]:
            self._open(asked)  # the process that had opened it is gone
        _, found = asked.call("tensorflow.models:run", {"number": self._opened[1]}, inputs, seconds=RUN_SECONDS)
        return {t.name: found[t.name] for t in self.signature.outputs}

    def close(self) -> None:
        """See Runner."""
        asked, self._process = self._process, None
        if asked is None:
            return
        if asked.pid is not None and asked.pid == self._opened[0]:
            with contextlib.suppress(ModelkeepError):  # it died just now: its memory is free
                asked.call("tensorflow.models:close_model", {"number": self._opened[1]}, seconds=RUN_SECONDS)
        SHARED.give_back()

    def _open(self, asked: Process) -> None:
        told, _ = asked.call("tensorflow.models:open_model", self._arguments, seconds=OPEN_SECONDS)
        self._opened = (asked.pid, told["number"])


class Shared:
    """One process for all models of this program: TensorFlow takes seconds to start, and 400 MB. It ends when nobody
    has used it for a while.
    """

    def __init__(self, idle_seconds: float = IDLE_SECONDS) -> None:
        self._idle_seconds = idle_seconds
        self._lock = threading.Lock()
        self._users = 0
        self._process: Process | None = None
        self._clock: threading.Timer | None = None

    def take(self) -> Process:
        """The process; TensorFlow's environment is made now, after saying so, where it is not there."""
        python = environments.ensure("tensorflow", settings.read().environments)
        with self._lock:
            self._users += 1
            if self._clock:
                self._clock.cancel()
            self._process = self._process or Process(
                python, {**ENVIRON, "KERAS_HOME": str(python.parent.parent / "keras")}
            )
            return self._process

    def give_back(self) -> None:
        """Whoever took it needs it no longer."""
        with self._lock:
            self._users -= 1
            if not self._users:
                self._clock = threading.Timer(self._idle_seconds, self._end)
                self._clock.daemon = True
                self._clock.start()

    def _end(self) -> None:
        with self._lock:
            if not self._users and self._process:
                self._process.close()
                self._process = None


SHARED = Shared()


def load(model: Model, config: ServeConfig) -> TensorflowRunner:
    """See engines.load."""
    if config.precision not in (None, "float32"):
        raise Unsupported(
            f"engine 'tensorflow' runs a model in its own precision, so precision '{config.precision}' cannot be set"
        )
    if config.device != "cpu":
        raise Unsupported(f"engine 'tensorflow' as installed here cannot run on device '{config.device}'")
    return TensorflowRunner(model, config)


def ask(function: str, arguments: Mapping[str, Any], seconds: float) -> Any:
    """What a function in the TensorFlow environment answers; see Process.call."""
    asked = SHARED.take()
    try:
        return asked.call(function, arguments, seconds=seconds)[0]
    finally:
        SHARED.give_back()


def where(model: Model) -> dict[str, Any]:
    """How the functions in that environment are told of a model."""
    path = model.main.parent if model.format == "tensorflow" else model.main
    return {"path": str(path), "kind": model.format, "trust": bool(model.options.get("trusted"))}


def read_signature(path: Path, kind: str, *, trust: bool = False, told: Path | None = None) -> Signature:
    """What a SavedModel folder, a Keras or a LiteRT file takes and gives.

    Raises BadModel, Unsupported or Untrusted, which call the file ``told``.
    """
    arguments = {"path": str(path), "kind": kind, "trust": trust, "told": str(told or path)}
    found = ask("tensorflow.models:open_model", arguments, OPEN_SECONDS)
    ask("tensorflow.models:close_model", {"number": found["number"]}, RUN_SECONDS)
    return signatures.from_symbols(_symbols(found["inputs"]), _symbols(found["outputs"]))


def _symbols(told: Sequence[Sequence[Any]]) -> list[signatures.Symbols]:
    return [(name, dtype, shape) for name, dtype, shape in told]
