"""What an update takes from a version's ancestors: the one to train, and what was promised of those after it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from modelkeep import update
from modelkeep.errors import Unsupported
from modelkeep.model import formats
from modelkeep.optimize import budget
from modelkeep.provenance import again
from modelkeep.train.labels import sound
from modelkeep.types import Model, Report, Version

if TYPE_CHECKING:
    from modelkeep.data.dataset import Dataset


def trainable(line: list[Version]) -> list[Version]:
    """Of a version and its ancestors, the oldest first: those from the newest that update trains. Raises Unsupported
    with the way to one where there is none, BadModel where it is none that tells classes apart.
    """
    at = next((i for i, v in reversed(list(enumerate(line))) if v.model.format in formats.TRAINABLE), None)
    if at is None:
        raise Unsupported(f"{line[-1].ref} has no PyTorch ancestor to train; {_way_to_train(line[0], line[-1])}")
    update.classes(line[at].model)
    return line[at:]


def _way_to_train(first: Version, last: Version) -> str:
    if first.model.format == "sklearn":
        return (
            "fit the estimator again where it was made and add it as the next version (modelkeep add "
            f"{last.name} FILE), then convert it and give it traffic with modelkeep rollout"
        )
    return (
        f"add the PyTorch model and convert it from there, or make one of it: modelkeep convert {last.ref} --to torch"
    )


def still_kept(new: Sequence[Model], made: Sequence[Version], rows: Dataset) -> list[Report]:
    """What optimize promised of one of the versions ``made``, of its like among ``new``, which begins one step earlier
    with what was trained; empty where it promised nothing. Raises Regressed.
    """
    promised = [
        (at, report.numbers["max_drop"])
        for at, version in enumerate(made)
        for report in version.reports
        if report.kind == "optimize" and report.ok
    ]
    if not promised:
        return []
    at, max_drop = promised[-1]
    base, cheaper = new[at], new[at + 1]
    named, _ = again([version.made_by for version in made[at + 1 :]], rows)
    judged, _ = sound(named, base.labels, update.classes(base))
    return [budget.kept(base, cheaper, judged, max_drop)]
