"""Rollback is one write."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from modelkeep.rollout.rollback import rollback


def test_one_write_with_its_reason(registry: Any) -> None:
    registry.kept = replace(registry.kept, canary=2, weight=0.5)
    route = rollback(registry, "digits", why="it was bad", who="somebody")
    assert (route.live, route.canary, route.weight) == (1, None, 0.0)
    assert registry.writes == [route]
    assert [(e.why, e.who) for e in registry.entries] == [("it was bad", "somebody")]
