"""Where a look reads, and digits to send."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data.dataset import Dataset


@pytest.fixture
def home(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def path(home: Path) -> Path:
    return home / "traffic.db"


@pytest.fixture
def held_out(digits: tuple[Dataset, Dataset]) -> Callable[[int], Any]:
    """So many held-out digits, as pixels and labels."""
    rng = np.random.default_rng(0)

    def take(count: int) -> tuple[Any, Any]:
        at = rng.integers(len(digits[1]), size=count)
        return digits[1].inputs["pixels"][at], digits[1].labels[at]  # type: ignore[index]

    return take
