"""Operators over sizes: what ONNX computes with tensors of integers, PyTorch's shapes do with Python's integers.

A size is an int (ONNX: a tensor of no dimension), sizes are a list of them (of one dimension). Each function is copied
into the source that uses it, so it may use nothing but torch, math and its neighbours.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from torch import Tensor

Sizes = list[int]


def shape(x: Tensor, *, start: int = 0, end: int | None = None) -> Sizes:
    return list(x.shape)[start:end]


def size(x: Tensor) -> int:
    return math.prod(x.shape)


def each(function: Callable[..., Any], *given: Any) -> Any:
    """The function of sizes, element by element; one that is alone is repeated."""
    lists = [one for one in given if isinstance(one, list)]
    if not lists:
        return function(*given)
    length = max(map(len, lists))
    spread = [one * length if isinstance(one, list) and len(one) == 1 else one for one in given]
    return [function(*(one[i] if isinstance(one, list) else one for one in spread)) for i in range(length)]


def pick(x: Sizes, index: Any, *, axis: int = 0) -> Any:
    return [x[i] for i in index] if isinstance(index, list) else x[index]


def cut(x: Sizes, starts: Sizes, ends: Sizes, axes: Sizes | None = None, steps: Sizes | None = None) -> Sizes:
    return x[slice(starts[0], ends[0], steps[0] if steps else 1)]


def join(*xs: Sizes, axis: int = 0) -> Sizes:
    return [one for x in xs for one in x]


def listed(x: Any, axes: Sizes | None = None) -> Sizes:
    return x if isinstance(x, list) else [x]


def alone(x: Any, axes: Sizes | None = None) -> Any:
    return x[0] if isinstance(x, list) else x


def same(x: Any, *, to: Any = None, saturate: int = 1, round_mode: str = "up") -> Any:
    return x


def reshaped(x: Any, to: Sizes, *, allowzero: int = 0) -> Any:
    return x[0] if not to and isinstance(x, list) else listed(x) if to else x


def product(x: Sizes, axes: Sizes | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
    return [math.prod(x)] if keepdims else math.prod(x)


def total(x: Sizes, axes: Sizes | None = None, *, keepdims: int = 1, noop_with_empty_axes: int = 0) -> Any:
    return [sum(x)] if keepdims else sum(x)


def added(*xs: Any) -> Any:
    return each(lambda a, b: a + b, *xs)


def subtracted(*xs: Any) -> Any:
    return each(lambda a, b: a - b, *xs)


def multiplied(*xs: Any) -> Any:
    return each(lambda a, b: a * b, *xs)


def divided(*xs: Any) -> Any:
    return each(lambda a, b: a // b, *xs)  # sizes are never negative, so it does not matter where to it rounds


def remainder(*xs: Any, fmod: int = 0) -> Any:
    return each(lambda a, b: a % b, *xs)


def negated(x: Any) -> Any:
    return each(lambda a: -a, x)


def smallest(*xs: Any) -> Any:
    return each(min, *xs) if len(xs) > 1 else xs[0]


def largest(*xs: Any) -> Any:
    return each(max, *xs) if len(xs) > 1 else xs[0]


def equal(*xs: Any) -> Any:
    return each(lambda a, b: a == b, *xs)


def greater(*xs: Any) -> Any:
    return each(lambda a, b: a > b, *xs)


def less(*xs: Any) -> Any:
    return each(lambda a, b: a < b, *xs)


def inverted(x: Any) -> Any:
    return each(lambda a: not a, x)


def chosen(which: Any, x: Any, y: Any) -> Any:
    return each(lambda w, a, b: a if w else b, which, x, y)


def parted(x: Sizes, split: Sizes | None = None, *, axis: int = 0, num_outputs: int = 0, parts: int = 0) -> list[Sizes]:
    lengths = split or [-(-len(x) // parts)] * parts
    ends = [sum(lengths[: i + 1]) for i in range(parts)]
    return [x[end - length : end] for end, length in zip(ends, lengths, strict=True)]
