"""``made_by`` read back: the repr of a Step becomes that Step again, so that a lineage can be replayed.

Nothing is evaluated: the text is parsed, its class is looked up in the tables of steps, its values must be literals.
"""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import functools
import importlib.util
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from modelkeep import convert, optimize, update
from modelkeep.convert.rename import renamed
from modelkeep.data.dataset import Dataset
from modelkeep.errors import BadModel
from modelkeep.extras import load
from modelkeep.types import Step

if TYPE_CHECKING:
    from modelkeep.registry.journal import Entry


def steps() -> dict[str, str]:
    """Every step's class name → its "module:Name", from the rooms' tables."""
    routes = (route.target for route in convert.ROUTES.values())
    targets = (*routes, *optimize.METHODS.values(), *update.METHODS.values())
    return {target.rpartition(":")[2]: target for target in targets}


def parse(made_by: str) -> tuple[str, dict[str, Any]]:
    """``Quantize(per_channel=True)`` → its name and its settings. Raises BadModel for any other text."""
    try:
        call = ast.parse(made_by, mode="eval").body
        if isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and not call.args:
            return call.func.id, {str(k.arg): ast.literal_eval(k.value) for k in call.keywords}
    except (SyntaxError, ValueError):
        pass  # the sentence below says it for every kind of unreadable text
    raise BadModel(f"'{made_by}' is not the record of a step, so it cannot be done again")


def told(made_by: str) -> str:
    """``made_by`` for a person: the step, and what was set otherwise than by default; any other text as it is."""
    try:
        name, settings = parse(made_by)
    except BadModel:
        return made_by
    default = _defaults(steps().get(name, ""))
    given = [f"{key}={value!r}" for key, value in settings.items() if value not in (default.get(key), None, (), {})]
    return f"{name} with {', '.join(given)}" if given else name


def said(entry: Entry) -> str:
    """The sentence of an entry of the journal for a person: how a version was made is said as ``told`` does."""
    made_by = entry.data.get("made_by")
    return entry.why.replace(made_by, told(made_by)) if isinstance(made_by, str) and made_by else entry.why


@functools.cache
def _defaults(target: str) -> Mapping[str, Any]:
    """The literal defaults of the fields of "module:Name", read from its source: to list versions, no step's libraries
    are loaded.
    """
    module, _, name = target.rpartition(":")
    spec = importlib.util.find_spec(module) if module else None
    if spec is None or spec.origin is None or not Path(spec.origin).is_file():
        return {}
    found: dict[str, Any] = {}
    for kind in ast.parse(Path(spec.origin).read_text(encoding="utf-8")).body:
        for line in kind.body if isinstance(kind, ast.ClassDef) and kind.name == name else ():
            if isinstance(line, ast.AnnAssign) and isinstance(line.target, ast.Name) and line.value is not None:
                with contextlib.suppress(ValueError):  # what a call or a constant gives is told
                    found[line.target.id] = ast.literal_eval(line.value)
    return found


def rebuild(made_by: str, **fresh: Any) -> Step:
    """The Step that ``made_by`` records, with its unrecorded fields (rows) given anew.

    Raises BadModel where no step of that name exists any more or it no longer takes those settings.
    """
    name, settings = parse(made_by)
    if name not in steps():
        raise BadModel(
            f"'{made_by}' was not made by a step that modelkeep knows; there are: {', '.join(sorted(steps()))}"
        )
    kind = load(steps()[name])
    fields = {f.name for f in dataclasses.fields(kind)}
    try:
        step: Step = kind(**settings, **{k: v for k, v in fresh.items() if k in fields})
    except TypeError as error:
        raise BadModel(f"'{made_by}' cannot be done again: {error}") from error
    return step


def again(records: Sequence[str], rows: Dataset) -> tuple[Dataset, list[Step]]:
    """The steps that ``records`` tell of, to be done again, and the rows as the model before all of them takes them.

    ``rows`` are under the names of the last one's result; each step gets them under the names before it.
    """
    found: list[Step] = []
    for made_by in reversed(records):
        names = parse(made_by)[1].get("rename", {})
        rows = renamed(rows, {new: old for old, new in names.items()})
        found.insert(0, rebuild(made_by, rows=rows))
    return rows, found
