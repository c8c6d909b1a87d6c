"""Runners made of functions, and rows for them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadInput
from modelkeep.types import Signature, TensorSpec

ONE = Signature((TensorSpec("x", "float32", (None, 4)),), (TensorSpec("output", "float32", (None, 3)),))
WEIGHTS = np.random.default_rng(0).standard_normal((4, 3)).astype(np.float32)


class Fake:
    """A runner made of a function; remembers the batches it saw."""

    def __init__(self, function: Callable[..., Any], signature: Signature = ONE) -> None:
        self.signature, self.function = signature, function
        self.batches: list[int] = []

    def run(self, inputs: Any) -> dict[str, Any]:
        self.batches.append(len(next(iter(inputs.values()))))
        found = self.function(**inputs)
        return found if isinstance(found, dict) else {self.signature.outputs[0].name: found}

    def close(self) -> None: ...


def right(x: np.ndarray) -> np.ndarray:
    return x @ WEIGHTS


def fails_at(count: int) -> Callable[[np.ndarray], np.ndarray]:
    def answer(x: np.ndarray) -> np.ndarray:
        if len(x) == count:
            raise BadInput("Got: 7 Expected: 2")
        return right(x)

    return answer


def rows(n: int = 100) -> Dataset:
    return Dataset({"x": np.random.default_rng(1).standard_normal((n, 4)).astype(np.float32)}, None, "made rows")
