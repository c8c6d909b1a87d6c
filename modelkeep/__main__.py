"""``python -m modelkeep``."""

from modelkeep.cli import main

main()
