"""One row of the suite: a model as a user has it, and what must become of it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

TARGETS = ("onnx", "openvino")
BACK = (*TARGETS, "torch")
"""There, and back to PyTorch, where it must learn again."""


@dataclass(frozen=True)
class Source:
    """A trained model in a user's hands: its file or folder, and what ``add`` is told besides.

    ``inputs`` are rows by input name, in the order in which the model takes them.
    """

    path: Path
    inputs: Mapping[str, Any]
    factory: str | None = None
    factory_args: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Row:
    """``write`` ("module:function") writes the model into an empty folder, called with it and ``args``.

    ``free`` is the promise: by input, the axes besides the batch that may have any size after the conversion.
    ``targets`` are what it is converted to; ``small`` rows are those of ``make test``.
    """

    name: str
    room: str
    about: str
    write: str
    args: Mapping[str, Any] = field(default_factory=dict)
    free: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    targets: tuple[str, ...] = TARGETS
    small: bool = False

    def source(self, folder: Path) -> Source:
        """The model, written at ``folder``."""
        module, _, function = self.write.partition(":")
        made: Source = getattr(importlib.import_module(module), function)(folder, **self.args)
        return made
