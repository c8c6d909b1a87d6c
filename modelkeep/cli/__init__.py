"""A person at a terminal: a table of verbs, one file per verb."""
