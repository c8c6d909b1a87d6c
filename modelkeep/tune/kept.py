"""What was measured is kept in the registry's journal, so that no search measures it again."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from modelkeep.errors import ModelkeepError
from modelkeep.quantities import counted
from modelkeep.tune.rounds import Window

if TYPE_CHECKING:
    from modelkeep.registry import Registry

KIND = "measured"
"""The journal's word for measurements."""


class Kept:
    """The rounds of some versions on one machine, under one load.

    ``digests`` are those of the versions, by the name that a search gives them. Another digest, fingerprint or number
    of requests in flight is another story: such rounds are left out.
    """

    def __init__(
        self,
        registry: Registry,
        name: str,
        *,
        machine: str,
        concurrency: int,
        digests: Mapping[str, str],
        who: str,
        every: float = 5.0,
    ) -> None:
        self.registry, self.name, self.machine, self.concurrency = registry, name, machine, concurrency
        self.digests, self.who, self.every = dict(digests), who, every
        self._waiting: list[Sequence[Window]] = []
        self._written = time.monotonic()

    def rounds(self) -> list[list[Window]]:
        """The rounds known, the oldest first; of each, the windows of these versions."""
        names = {digest: of for of, digest in reversed(self.digests.items())}
        found = []
        for entry in self.registry.journal(self.name, kind=KIND):
            if (entry.data.get("machine"), entry.data.get("concurrency")) == (self.machine, self.concurrency):
                for rows in entry.data.get("rounds", ()):
                    found.append([_named(row, names) for row in rows if row["entrant"]["of"] in names])
        return [windows for windows in found if windows]

    def remember(self, windows: Sequence[Window]) -> None:
        """Write it down, with others where they come fast: a search that is killed loses ``every`` seconds at most."""
        self._waiting.append(windows)
        if time.monotonic() - self._written >= self.every:
            self.write()

    def write(self) -> None:
        """Write down what waits. A registry that cannot be written costs the memory of it, not the search."""
        rounds, self._waiting, self._written = self._waiting, [], time.monotonic()
        if not rounds:
            return
        data = {
            "machine": self.machine,
            "concurrency": self.concurrency,
            "rounds": [[self._row(window) for window in windows] for windows in rounds],
        }
        count = sum(map(len, rounds))
        why = f"{counted(count, 'measurement')} of settings, {counted(self.concurrency, 'request')} in flight"
        with contextlib.suppress(ModelkeepError):
            self.registry.note(self.name, KIND, why, data, self.who)

    def _row(self, window: Window) -> dict[str, Any]:
        row = window.to_json()
        return {**row, "entrant": {**row["entrant"], "of": self.digests[window.entrant.of]}}


def _named(row: Mapping[str, Any], names: Mapping[str, str]) -> Window:
    window = Window.from_json(row)
    return replace(window, entrant=replace(window.entrant, of=names[window.entrant.of]))
