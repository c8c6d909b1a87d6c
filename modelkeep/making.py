"""How versions are made: steps run one after the other in a workspace, and are recorded once all have passed."""

from __future__ import annotations

import contextlib
import dataclasses
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

from modelkeep.data import dataset
from modelkeep.errors import BadData, Damaged, ModelkeepError, StorageFull
from modelkeep.model import baseline, folder
from modelkeep.provenance import told
from modelkeep.registry import space
from modelkeep.types import Model, Report, Step, Version

if TYPE_CHECKING:
    from modelkeep.data.dataset import Dataset
    from modelkeep.registry import Registry

OnStep = Callable[[float, int, str], None]
"""Told before each step, and while one goes on, how many are done, how many there are, and what is being done."""
STALE_WORK_SECONDS = 24 * 3600.0
"""A workspace this old was left by a process that was killed."""


class Made(NamedTuple):
    """A step's result before the registry remembers it."""

    model: Model
    made_by: str
    reports: tuple[Report, ...]


@contextlib.contextmanager
def workspace(home: Path) -> Iterator[Path]:
    """An empty folder beside the registry, gone afterwards. Raises Damaged, StorageFull."""
    rooms = home.absolute() / "work"
    try:
        rooms.mkdir(parents=True, exist_ok=True)
        made = tempfile.TemporaryDirectory(dir=rooms)
    except OSError as error:
        raise Damaged(
            f"nothing can be made in {rooms} ({error.strerror}), and nothing was stored; get the right to write "
            "there, or copy the registry's folder and set `home` to the copy"
        ) from error
    with made as room:
        try:
            yield Path(room)
        except (OSError, ModelkeepError) as error:
            if isinstance(error, StorageFull) or not space.is_full(error):
                raise
            places = dict.fromkeys((str(rooms), tempfile.gettempdir()))
            free = " and ".join(f"{shutil.disk_usage(at).free:,} bytes are free in {at}" for at in places)
            raise StorageFull(
                f"no space left while a version was made: {free}; nothing was stored; free some space, then do it again"
            ) from error


def sweep(home: Path) -> None:
    """Remove the workspaces that processes left which were killed."""
    for room in (home / "work").glob("*"):
        if time.time() - room.stat().st_mtime > STALE_WORK_SECONDS:
            shutil.rmtree(room, ignore_errors=True)  # another process may be sweeping it too


def run(model: Model, steps: Sequence[Step], room: Path, on_step: OnStep | None = None) -> list[Made]:
    """Run the steps one after the other, each into a folder of its own. Nothing is recorded yet."""
    made: list[Made] = []
    for number, step in enumerate(steps):
        (into := room / str(number)).mkdir()
        if on_step is not None:
            on_step(number, len(steps), told(repr(step)))
        model, reports = _watched(step, number, len(steps), on_step).run(model, into)
        made.append(Made(model, repr(step), reports))
    return made


def _watched(step: Step, number: int, count: int, on_step: OnStep | None) -> Step:
    """The same step, the ``number``-th of ``count``; one that can tell how far it is tells ``on_step``."""
    if on_step is None or not hasattr(step, "progress"):
        return step

    def progress(done: float, total: float, note: str) -> None:
        on_step(number + (min(done / total, 0.999) if total else 0.0), count, note)

    told_of: Step = dataclasses.replace(step, progress=progress)  # type: ignore[type-var]
    return told_of


def record(
    registry: Registry,
    base: Version,
    made: Sequence[Made],
    *verdicts: Report,
    who: str,
    rows: Dataset | None = None,
) -> Version:
    """Each result as a version whose parent is the one before it; the verdicts go to the last.

    ``rows`` become the reference of those that have none.
    """
    version = base
    for one in made:
        _complete(one.model, rows)
        version = registry.add(
            base.name,
            one.model.path,
            parent=version.number,
            made_by=one.made_by,
            reports=(*one.reports, *(verdicts if one is made[-1] else ())),
            who=who,
        )
    return version


def _complete(model: Model, rows: Dataset | None) -> None:
    """What a version has besides its model: reference rows, where it has none yet, and what they look like.

    Those of the model that it was made from are dropped where this one takes other sizes (convert --example).
    """
    try:
        there = folder.reference(model.path)
    except BadData:
        (model.path / folder.REFERENCE).unlink()
        there = None
    if rows is not None and there is None:
        folder.keep_reference(model.path, dataset.fit(rows, model.signature))
    baseline.keep(model, rows or there)
