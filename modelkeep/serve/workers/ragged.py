"""Sequences of different lengths in one run: padded to the longest of them, masked, and cut back to each one's own.

Only where the signature shows that there is a mask, and where it was proven when the model was loaded: rows that are
padded among others must get the answers that they get alone. Lengths up to 8, to 16, to 24, to 32, to 48, to 64 and so
on share a run: with half steps between the powers of two, of lengths from 8 to 128 an eighth is padding.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from modelkeep.data.lengths import MASK
from modelkeep.errors import ModelkeepError
from modelkeep.model import compare, folder
from modelkeep.model.signature import example, resized
from modelkeep.types import BATCH, Bounds, Runner, ServeConfig, Signature, TensorSpec

if TYPE_CHECKING:
    from pathlib import Path

    from modelkeep.types import Array, Arrays

SMALLEST, HALVED = 8, 16
"""The first bucket; and the one after which there are two to a power of two."""
TRIED = 64
"""Lengths up to this one are tried at load, unless the model takes longer ones only."""
log = logging.getLogger(__name__)


def bucket(length: int) -> int:
    """The longest sequence that one of this length may share a run with."""
    whole = max(SMALLEST, 1 << (length - 1).bit_length())
    half = 3 * whole // 4
    return half if whole > HALVED and length <= half else whole


@dataclass(frozen=True)
class Ragged:
    """Where a signature has its sequence: ``axis`` by name, its place by input and by output, and the masks."""

    axis: str
    inputs: Mapping[str, int]
    outputs: Mapping[str, int]
    masks: tuple[str, ...]

    def length(self, inputs: Arrays) -> int:
        """Of a request's sequences; 0 where it must not be padded, as it masks a whole row out: what a model makes of
        such a row depends on how long it is.
        """
        for name in self.masks:
            if not inputs[name].any(axis=self.inputs[name]).all():
                return 0
        name, axis = next(iter(self.inputs.items()))
        return int(inputs[name].shape[axis])

    def pad(self, name: str, array: Array, length: int) -> Array:
        """An input with zeros behind, where it is shorter and has the axis."""
        axis = self.inputs.get(name)
        if axis is None or array.shape[axis] == length:
            return array
        padded = np.zeros(
            (*array.shape[:axis], length, *array.shape[axis + 1 :]), array.dtype
        )  # np.pad: ten times slower
        padded[(slice(None),) * axis + (slice(array.shape[axis]),)] = array
        return padded

    def cut(self, outputs: Arrays, length: int, padded: int) -> dict[str, Array]:
        """Answers as they are without the padding. Raises ModelkeepError for an output that is not that long."""
        found = dict(outputs)
        for name, axis in self.outputs.items():
            array = outputs[name]
            if array.shape[axis] != padded:
                raise ModelkeepError(
                    f"output '{name}' has shape {list(array.shape)} for sequences of {padded}, so that it cannot be "
                    f"cut to {length}"
                )
            found[name] = array[(slice(None),) * axis + (slice(length),)]
        return found


def of(signature: Signature) -> Ragged | None:
    """Where requests of different lengths could share a run: one free axis besides the batch, and a mask along it."""
    names = [name for name in signature.free if name != BATCH]
    every = {name for t in (*signature.inputs, *signature.outputs) for name in t.axes if name}
    if not signature.batched or len(names) != 1 or every != {BATCH, names[0]}:
        return None
    inputs, outputs = _places(signature.inputs, names[0]), _places(signature.outputs, names[0])
    masks = tuple(name for name in inputs if MASK in name)
    fits = all(t.axes.count(names[0]) <= 1 and (t.dtype != "str" or t.name not in inputs) for t in signature.inputs)
    once = all(t.axes.count(names[0]) <= 1 for t in signature.outputs)
    return Ragged(names[0], inputs, outputs, masks) if masks and fits and once else None


def tried(runner: Runner, path: Path, config: ServeConfig) -> bool:
    """Whether requests of different lengths may share runs; may take long. Where they must not, the log says why."""
    ragged = of(runner.signature)
    if ragged is None or config.max_batch < 2:
        return False
    if not (trials := list(_trials(runner.signature.bounds.get(ragged.axis, Bounds())))):
        return False  # no two lengths could share a run
    if why := _why_not(ragged, runner, path, trials):
        log.warning("%s: requests of different '%s' do not share a run: %s", path.name, ragged.axis, why)
    return not why


def _why_not(ragged: Ragged, runner: Runner, path: Path, trials: Sequence[Sequence[int]]) -> str:
    """Try it on seeded rows, and on the model's own reference rows where it has any; may take long.

    Empty where every padded row got the answer that it gets alone (compare's rule for float32), else what differed.
    """
    reference = folder.reference(path)
    signature = runner.signature
    for lengths in trials:
        made_up = [example(signature, 1, seed=n, sizes={ragged.axis: n}) for n in lengths]
        try:
            why = _differs(ragged, runner, made_up)
        except Exception as error:  # noqa: BLE001 - an engine may raise anything; a sound model may refuse made-up rows
            why = "" if reference is not None else f"it cannot be tried on made-up rows: {error}"
        if not why and reference is not None:
            rows = [reference.take(np.array([n % len(reference)])).inputs for n in range(len(lengths))]
            own = [resized(signature, one, {ragged.axis: n}) for one, n in zip(rows, lengths, strict=True)]
            try:
                why = _differs(ragged, runner, own)
            except Exception as error:  # noqa: BLE001 - an engine may raise anything
                why = f"it fails on the reference rows at other lengths: {error}"
        if why:
            return why
    return ""


def _differs(ragged: Ragged, runner: Runner, requests: Sequence[Arrays]) -> str:
    requests = [one for one in requests if ragged.length(one)]
    if len(requests) < 2:
        return "no rows could be tried, as their masks are empty"
    lengths = [ragged.length(one) for one in requests]
    longest = max(lengths)
    joined = runner.run(
        {name: np.concatenate([ragged.pad(name, one[name], longest) for one in requests]) for name in requests[0]}
    )
    pairs = []
    for at, (one, length) in enumerate(zip(requests, lengths, strict=True)):
        alone = runner.run(one)
        pairs.append((alone, ragged.cut({n: a[at : at + 1] for n, a in joined.items()}, length, longest)))
        ragged.cut(alone, length, length)  # an output that is not as long as its input is no sequence
    report = compare.answers(pairs)
    return "" if report.ok else report.why


def _trials(bounds: Bounds) -> Iterator[list[int]]:
    """Lengths to be tried together: of the first and the last bucket that has several, the ends and the middle."""
    low = max(bounds.low, 1)
    most = max(TRIED, 2 * low)
    able = [n for n in range(low, min(bounds.high or most, most) + 1) if bounds.allows(n)]
    groups: dict[int, list[int]] = {}
    for length in able:
        groups.setdefault(bucket(length), []).append(length)
    several = [group for group in groups.values() if len(group) > 1]
    for group in several[:1] + several[1:][-1:]:
        yield sorted({group[0], group[len(group) // 2], group[-1]})


def _places(specs: Sequence[TensorSpec], axis: str) -> dict[str, int]:
    return {t.name: t.axes.index(axis) for t in specs if axis in t.axes}
