"""New weights, new knowledge: the table of methods."""

from __future__ import annotations

from typing import Any

from modelkeep import extras
from modelkeep.errors import BadModel
from modelkeep.types import Model, Step

METHODS: dict[str, str] = {
    "finetune": "modelkeep.update.finetune:Finetune",
    "transfer": "modelkeep.update.transfer:Transfer",
}


def step(method: str, **options: Any) -> Step:
    """The step of that name. Raises Unsupported with the names there are, of methods or of a method's options."""
    made: Step = extras.choose(METHODS, method, options, to="update")
    return made


def classes(model: Model) -> int:
    """How many classes the model tells apart. Raises BadModel where its first output is not one score for each."""
    first = model.signature.outputs[0]
    if len(first.shape) != 2 or first.shape[1] is None or not first.dtype.startswith("float"):
        raise BadModel(
            "updates train models that give one score for each class, float [?, classes]; "
            f"this one gives {first.describe()}"
        )
    return first.shape[1]
