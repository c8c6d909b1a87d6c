"""What a look found, and the fixtures that give it something to find."""

from __future__ import annotations

from collections.abc import Callable

from modelkeep.monitor.look import Checked

Send = Callable[..., list[str]]
Profile = Callable[..., None]


def kinds(checked: Checked) -> list[tuple[str, str]]:
    return [(f.kind, f.subject) for f in checked.findings]
