"""Back to what was: end the canary or, where there is none, bring the previous version back."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from modelkeep.registry import Registry
    from modelkeep.types import Route


def rollback(registry: Registry, name: str, *, why: str, who: str = "person") -> Route:
    """One write, with its journal entry; servers follow. Raises No where there is neither canary nor previous."""
    return registry.rollback(name, why=why, who=who)
