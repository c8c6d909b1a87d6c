"""Every ONNX operator that has a TensorFlow counterpart here. Semantics: github.com/onnx/onnx, docs/Operators.md."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modelkeep.environments.tensorflow import elementwise, layers, recurrent, shapes

OPERATORS: dict[str, Callable[..., Any]] = {
    **elementwise.OPERATORS,
    **shapes.OPERATORS,
    **layers.OPERATORS,
    **recurrent.OPERATORS,
}
"""ONNX operator → function(node, *inputs), which gives a tensor or a list of them."""
