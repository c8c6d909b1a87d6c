"""An engine for tests, loaded by worker processes: y = x + add, and some values of x end or hang the process."""

from __future__ import annotations

import ctypes
import importlib
import os
import subprocess
import time
from pathlib import Path
from typing import Any

from modelkeep.errors import BadInput, BadModel
from modelkeep.types import Model, ServeConfig

SEGFAULT, HANG, NATIVE_HANG, EXIT, RAISE, REFUSE = 11.0, 12.0, 13.0, 14.0, 15.0, 16.0

ASKED = 50.0
"""From here on a value was asked for by a test, and not by a warm-up."""


class Runner:
    """``options`` of the model: add; log, a file that is told of runs; gate, one that they wait for; seconds."""

    def __init__(self, model: Model) -> None:
        self.signature = model.signature
        self.options = dict(model.options)
        self.kept: list[bytes] = []

    def run(self, inputs: dict[str, Any]) -> dict[str, Any]:
        x = inputs["x"]
        asked = x.dtype.kind == "f" and x.size and x.max() >= ASKED
        if (log := self.options.get("log")) and asked:
            with Path(log).open("a") as file:
                file.write(f"{len(x)}\n")
        time.sleep(self.options.get("seconds", 0.0))
        if x.dtype.kind == "f":
            _act({float(v) for v in x[:, 0]} if x.size else set())
        if (gate := self.options.get("gate")) and asked:
            while not Path(gate).exists():
                time.sleep(0.002)
        return {"y": x + self.options.get("add", 0.0) if x.dtype.kind == "f" else x}

    def close(self) -> None:
        pass


def _act(values: set[float]) -> None:
    if SEGFAULT in values:
        ctypes.string_at(0)
    if HANG in values:
        time.sleep(3600)
    if NATIVE_HANG in values:
        ctypes.PyDLL(None).sleep(3600)  # with the interpreter's lock held
    if EXIT in values:
        os._exit(3)
    if RAISE in values:
        raise ValueError("poison in the batch\nsecond line")
    if REFUSE in values:
        raise BadInput("no such token")


def load(model: Model, config: ServeConfig) -> Runner:
    if model.options.get("broken"):
        raise BadModel("the weights are broken")
    if (file := model.options.get("broken_if")) and Path(file).exists():
        raise BadModel("the disk is gone")
    if name := model.options.get("imports"):
        importlib.import_module(name)
    if child := model.options.get("child"):
        Path(child).write_text(str(subprocess.Popen(["sleep", "600"]).pid))
    if model.options.get("sleeps"):
        time.sleep(600)
    if model.options.get("dies"):
        os._exit(9)
    runner = Runner(model)
    if model.options.get("frees"):
        runner.kept = [bytes(3000) for _ in range(20_000)][-1:]  # glibc gives back the end of its heap by itself
    return runner
