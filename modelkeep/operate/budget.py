"""What the loop may still spend, read from the journal, so that a restart forgets nothing."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from modelkeep.operate.policy import Spending
from modelkeep.quantities import counted

if TYPE_CHECKING:
    from modelkeep.registry import Entry

DAY = 24 * 3600.0
STARTED, PROMOTED, FAILED, RESET = "update started", "promoted", "failed", "reset"
UNASKED = "nobody asked"
"""Of a canary to which no request came: nothing failed, and its version waits for requests."""
OVERTAKEN = "overtaken"
"""Of a version while which was made somebody else changed who answers: nothing failed, and it is left to a person."""


def refusal(spending: Spending, entries: Sequence[Entry], *, now: Callable[[], float] = time.time) -> str | None:
    """Why no update may start now, as one sentence; None when one may.

    ``entries`` are the journal's operate entries of the model, the oldest first; their data's ``stage`` is one of the
    words above. A person who runs ``modelkeep promote`` does not reset the count of failures; a success does. An update
    that began at a time to come began before the clock was set back, and is not held against this one.
    """
    starts = [e.at for e in entries if e.data.get("stage") == STARTED and e.at <= now()]
    failures = 0
    for entry in entries:
        stage = entry.data.get("stage")
        failures = failures + 1 if stage == FAILED else 0 if stage in (PROMOTED, RESET) else failures
    if spending.failures and failures >= spending.failures:
        return (
            f"{counted(failures, 'update')} failed in a row, so a person must look (modelkeep journal); "
            "then say: modelkeep operate POLICY --reset"
        )
    today = [at for at in starts if now() - at < DAY]
    if len(today) >= spending.updates_per_day:
        return f"the last day has seen {counted(len(today), 'update')}, which is all that the policy allows"
    if starts and now() - starts[-1] < spending.cooldown:
        began = time.strftime("%H:%M:%S", time.localtime(starts[-1]))
        return f"the last update began at {began}; the policy waits {spending.cooldown:.0f} s"
    return None
