"""Searches that are over in a moment."""

from __future__ import annotations

import pytest

from modelkeep.tune import search


@pytest.fixture(autouse=True)
def short(monkeypatch: pytest.MonkeyPatch) -> None:
    """Rounds of a tenth of their least time: what is tested here is not the machine."""
    monkeypatch.setattr(search, "SHORTEST", 0.02)
