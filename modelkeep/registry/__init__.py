"""The registry: what modelkeep remembers, in one database and one store of bytes by digest."""

from modelkeep.registry.journal import Entry
from modelkeep.registry.registry import Registry

__all__ = ["Entry", "Registry"]
