"""New weights, new knowledge: the table of methods."""

from __future__ import annotations

import dataclasses
from typing import Any

from modelkeep.errors import Unsupported
from modelkeep.extras import load
from modelkeep.types import Step

METHODS: dict[str, str] = {
    "finetune": "modelkeep.update.finetune:Finetune",
    "transfer": "modelkeep.update.transfer:Transfer",
}


def step(method: str, **options: Any) -> Step:
    """The step of that name. Raises Unsupported with the names there are, of methods or of a method's options."""
    if method not in METHODS:
        raise Unsupported(f"there is no way to update called '{method}'; there are: {', '.join(METHODS)}")
    kind = load(METHODS[method])
    known = [f.name for f in dataclasses.fields(kind)]
    for name in options:
        if name not in known:
            raise Unsupported(f"'{method}' has no option '{name}'; there are: {', '.join(known)}")
    made: Step = kind(**options)
    return made
