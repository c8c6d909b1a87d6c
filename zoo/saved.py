"""PyTorch models as their users keep them: a state_dict, and beside it the file of the factory."""

from __future__ import annotations

import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from zoo.row import Source


def saved(
    folder: Path, module: nn.Module, code: Path, factory: str, arguments: Mapping[str, Any], rows: Mapping[str, Any]
) -> Source:
    """``module``, which ``factory`` of the file ``code`` has built with ``arguments``, written at ``folder``."""
    shutil.copy(code, folder)
    torch.save(module.state_dict(), folder / "weights.pt")
    return Source(folder / "weights.pt", rows, f"{code.stem}:{factory}", arguments)
