"""A trouble that lasts is in the log now and then, and hides no other."""

from __future__ import annotations

import logging

import pytest

from modelkeep.data import troubles
from modelkeep.data.troubles import Troubles


def test_what_begins_alike_is_told_once_a_minute(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    now = 0.0
    monkeypatch.setattr(troubles.time, "monotonic", lambda: now)
    told = Troubles(logging.getLogger("writer"))
    for now in (0.0, 1.0, 59.0, 60.0, 61.0):
        told.tell(f"rows are lost: at {now:g}")
        told.tell("a file cannot be removed: it is held")
    assert caplog.messages == [
        "rows are lost: at 0",
        "a file cannot be removed: it is held",
        "rows are lost: at 60",
        "a file cannot be removed: it is held",
    ]
    assert {(record.name, record.levelname) for record in caplog.records} == {("writer", "WARNING")}
