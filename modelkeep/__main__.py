"""``python -m modelkeep``."""

from modelkeep.cli import script

script()
