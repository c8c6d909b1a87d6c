"""New weights, new knowledge: the table of methods."""

from __future__ import annotations

from typing import Any

from modelkeep.errors import Unsupported
from modelkeep.extras import load
from modelkeep.types import Step

METHODS: dict[str, str] = {
    "finetune": "modelkeep.update.finetune:Finetune",
    "transfer": "modelkeep.update.transfer:Transfer",
}


def step(method: str, **options: Any) -> Step:
    """The step of that name. Raises Unsupported with the names there are."""
    if method not in METHODS:
        raise Unsupported(f"there is no way to update called '{method}'; there are: {', '.join(METHODS)}")
    made: Step = load(METHODS[method])(**options)
    return made
