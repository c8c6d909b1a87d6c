"""Signatures from arrays and from symbols, and arrays from signatures."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.data.lengths import MASK
from modelkeep.types import BATCH, Bounds, Signature, TensorSpec, added

if TYPE_CHECKING:
    from modelkeep.types import Array, Arrays

FREE = 4
"""The size given to a free dimension other than the batch, when nobody knows better."""
NAMELESS = re.compile(r"|\?|-1|None|unk__\d+|\w+_dynamic_axes_\d+|\w+output_dim_\d+")
"""What exporters call a dimension that nobody named, each one differently."""
Run = Callable[["Arrays"], "Arrays"]
"""One run of the model; raises anything where it cannot take the inputs."""
Symbols = tuple[str, str, Sequence[int | str | None]]
"""Name, dtype and shape, whose free dimensions are symbols."""


def dtype_name(array: Array) -> str:
    """The name that a TensorSpec uses: numpy's, and ``str`` for text of any kind."""
    return "str" if array.dtype.kind in "OUS" else array.dtype.name


def from_arrays(inputs: Arrays, outputs: Arrays) -> Signature:
    """What these arrays show, the first dimension of each taken as the batch, free."""

    def specs(arrays: Arrays) -> tuple[TensorSpec, ...]:
        return tuple(
            TensorSpec(name, dtype_name(array), (None, *array.shape[1:]) if array.ndim else ())
            for name, array in arrays.items()
        )

    return Signature(specs(inputs), specs(outputs))


def from_symbols(
    inputs: Sequence[Symbols],
    outputs: Sequence[Symbols],
    bounds: Mapping[str, Bounds] | None = None,
    run: Run | None = None,
) -> Signature:
    """What a file's own symbols say; the one that every input starts with is called ``batch``.

    An output that starts with a symbol which no input has counts rows too: exporters lose the batch of an output. With
    ``run`` that is tried: a detector's output counts what it found.
    """
    firsts = {name for _, _, shape in inputs if shape and (name := _symbol(shape[0]))}
    batch = firsts.pop() if len(firsts) == 1 else ""
    known = {name for _, _, shape in inputs for size in shape if (name := _symbol(size))}

    def spec(one: Symbols, *, output: bool) -> TensorSpec:
        name, dtype, shape = one
        axes = [_renamed(_symbol(size), batch) for size in shape]
        if output and axes and axes[0] not in (known - {batch}):
            axes[0] = None
        return TensorSpec(name, dtype, tuple(s if isinstance(s, int) and s >= 0 else None for s in shape), tuple(axes))

    renamed = {BATCH if name == batch else name: limits for name, limits in (bounds or {}).items()}
    made = Signature(
        tuple(spec(one, output=False) for one in inputs), tuple(spec(one, output=True) for one in outputs), renamed
    )
    lost = {name for name, _, shape in outputs if shape and _symbol(shape[0]) not in known}
    return made if run is None or not made.batched else _counted(made, lost, run)


def _counted(signature: Signature, lost: Collection[str], run: Run) -> Signature:
    """Of the outputs in ``lost`` none has the batch that has another number of rows than went in, in some run."""
    if not lost:
        return signature
    for rows in (3, 2):
        inputs = example(signature, rows)
        try:
            answers = run(inputs)
        except Exception:  # noqa: BLE001 - an engine may raise anything; a sound model may refuse made-up rows
            return signature
        sent = len(next(iter(inputs.values())))
        own = {name for name in lost if answers[name].shape[:1] != (sent,)}
        signature = replace(
            signature,
            outputs=tuple(
                replace(t, axes=(f"{t.name}.0", *t.axes[1:])) if t.name in own else t for t in signature.outputs
            ),
        )
    return signature


def default_sizes(
    signature: Signature, batch: int = 2, free: int = FREE, sizes: Mapping[str, int] | None = None
) -> dict[str, int]:
    """A size for every free dimension of the inputs, within its bounds: those given, ``batch`` rows, else ``free``."""
    names = [part for t in signature.inputs for name in t.axes if name for part in name.split("+")]
    found = {}
    for name in dict.fromkeys(names):
        if not name.isdigit():
            found[name] = _within(signature.bounds.get(name, Bounds(0)), batch if name == BATCH else free)
    return found | dict(sizes or {})


def example(
    signature: Signature, batch: int = 2, seed: int = 0, free: int = FREE, sizes: Mapping[str, int] | None = None
) -> dict[str, Array]:
    """Seeded inputs that fit: ``batch`` rows, ``free`` for every other free dimension, and ``sizes`` by name.

    Floats are standard normal, truth values and text by chance, integers 0 to 9; but a ``mask`` is ones and then zeros,
    a ``position`` counts, a ``token_type`` or ``segment`` is 0 or 1, as those names mean everywhere.
    """
    rng = np.random.default_rng(seed)
    chosen = default_sizes(signature, batch, free, sizes)
    return {spec.name: _draw(spec, shape_of(spec, chosen), rng) for spec in signature.inputs}


def any_size(signature: Signature) -> Signature:
    """The same inputs with no size fixed, as rows may have them that an example gives anew."""
    inputs = tuple(replace(t, shape=(None,) * len(t.shape)) for t in signature.inputs)
    return replace(signature, inputs=inputs, bounds={})


def resized(signature: Signature, inputs: Arrays, sizes: Mapping[str, int]) -> dict[str, Array]:
    """The same inputs cut, or repeated from their start, until each free dimension in ``sizes`` has that size."""
    found = {}
    for spec in signature.inputs:
        array = inputs[spec.name]
        for axis, name in enumerate(spec.axes):
            size = added(name, sizes) if name else None
            if size is None or size == array.shape[axis]:
                continue
            if not array.shape[axis]:
                array = np.zeros((*array.shape[:axis], 1, *array.shape[axis + 1 :]), array.dtype)
            array = np.take(array, np.arange(size) % array.shape[axis], axis=axis)
        found[spec.name] = array
    return found


def shape_of(spec: TensorSpec, sizes: Mapping[str, int]) -> tuple[int, ...]:
    """The spec's shape where its free dimensions have these sizes by name."""
    found = []
    for size, name in zip(spec.shape, spec.axes, strict=True):
        given = added(name, sizes) if size is None and name else size
        assert given is not None, f"no size for '{name}'"
        found.append(given)
    return tuple(found)


def _within(bounds: Bounds, size: int) -> int:
    """The allowed size nearest above this one, or the highest."""
    size = -(-max(size, bounds.low) // bounds.step) * bounds.step
    return size if bounds.high is None or size <= bounds.high else bounds.high // bounds.step * bounds.step


def _draw(spec: TensorSpec, shape: tuple[int, ...], rng: np.random.Generator) -> Array:
    if spec.dtype == "str":
        text = np.array([f"text {n}" for n in rng.integers(0, 10, math.prod(shape))], dtype=object)
        return text.reshape(shape)
    dtype = np.dtype(spec.dtype)
    if dtype.kind in "biu" and MASK in spec.name and len(shape) > 1:
        lengths = rng.integers(max(1, shape[-1] // 2), shape[-1] + 1, (*shape[:-1], 1)) if shape[-1] else 0
        return (np.arange(shape[-1]) < lengths).astype(dtype)
    if dtype.kind in "iu" and "position" in spec.name and shape:
        return np.broadcast_to(np.arange(shape[-1]), shape).astype(dtype)
    if dtype.kind in "biu":
        return rng.integers(0, _values(spec, dtype), shape).astype(dtype)
    return rng.standard_normal(shape).astype(dtype)


def _values(spec: TensorSpec, dtype: np.dtype[np.generic]) -> int:
    return 2 if dtype.kind == "b" or any(word in spec.name for word in ("token_type", "segment", "mask")) else 10


def _symbol(size: int | str | None) -> str | None:
    """The symbol without spaces, or None where it is a number or says nothing."""
    text = "" if size is None or isinstance(size, int) else size.replace(" ", "")
    return None if NAMELESS.fullmatch(text) else text


def _renamed(symbol: str | None, batch: str) -> str | None:
    return BATCH if symbol and symbol == batch else symbol
