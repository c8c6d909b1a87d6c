"""One row, through the doors that a user takes: Keep.add, then Keep.convert to each of its targets.

    python -m zoo.judge ROW RESULT.json FOLDER

A process of its own, so that a crash ends one row and its memory is given back.
"""

from __future__ import annotations

import resource
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep.data.dataset import Dataset
from modelkeep.errors import ModelkeepError
from modelkeep.keep import Keep
from modelkeep.settings import Settings
from modelkeep.types import BATCH, Version
from zoo import catalogue, outcome, trained
from zoo.outcome import Cell, Outcome

if TYPE_CHECKING:
    from zoo.row import Row

FROM = {"openvino": "onnx", "torch": "onnx", "tensorflow": "onnx"}
"""These begin with what another target made; the others with the model as it was added."""


def judge(row: Row, folder: Path) -> Outcome:
    """Write the row's model at ``folder``, which is empty, add it, convert it, and say what was found."""
    began = time.perf_counter()
    source = row.source(folder)
    with Keep(Settings(home=folder / ".modelkeep"), who="zoo") as keep:
        try:
            added = keep.add(
                source.path,
                row.name,
                factory=source.factory,
                factory_args=source.factory_args,
                data=Dataset(source.inputs, None, f"{row.name}'s rows"),
            )
        except ModelkeepError as error:
            return Outcome(row.name, why=str(error), code=outcome.code())
        made: dict[str, Version] = {}
        cells = {target: _cell(keep, row, added, target, made) for target in row.targets}
    shown = made.get("onnx", added).model.signature
    return Outcome(
        row.name,
        cells,
        takes=tuple(spec.describe() for spec in shown.inputs),
        weights=added.model.size,
        seconds=time.perf_counter() - began,
        peak=1024 * max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)),
        code=outcome.code(),
    )


def _cell(keep: Keep, row: Row, added: Version, target: str, made: dict[str, Version]) -> Cell:
    base = made.get(FROM[target]) if target in FROM else added
    if base is None:
        return Cell(False, f"not tried: it begins with {FROM[target]}, which failed")
    began = time.perf_counter()
    try:
        version = made[target] = keep.convert(base, target)
        numbers = dict(version.reports[-1].numbers)
        if target == "torch":
            numbers |= trained.one_step(keep.model(version))
    except ModelkeepError as error:
        return Cell(False, str(error), time.perf_counter() - began)
    why = baked(version, row.free) or untried(version, numbers)
    return Cell(not why, why or version.reports[-1].why, time.perf_counter() - began, numbers)


def baked(version: Version, free: Mapping[str, tuple[int, ...]]) -> str:
    """What the row promises to be free, and the conversion has made constant; empty where there is none."""
    for spec in version.model.signature.inputs:
        for axis in (0, *free.get(spec.name, ())):
            if spec.shape[axis] is not None:
                return f"dimension {axis} of {spec.describe()} is baked in, and should be free"
    return ""


def untried(version: Version, numbers: Mapping[str, Any]) -> str:
    """The free dimension that was run at no other size than the example's, so that nothing shows that it is free."""
    sizes = numbers.get("sizes", {})
    left = [name for name in version.model.signature.free if name != BATCH and not sizes.get(name)]
    return f"{left[0]} was tried at no other size" if left else ""


def main(name: str, result: str, folder: str) -> None:
    """The row of this name, its outcome written to ``result``."""
    (row,) = catalogue.chosen([name])
    outcome.write(judge(row, Path(folder)), Path(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
