"""Which version answers a request: immutable, so that a switch is one assignment."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, field
from random import random
from typing import TYPE_CHECKING

from modelkeep.errors import NotFound, NotReady

if TYPE_CHECKING:
    from modelkeep.serve.plane.loaded import Loaded

STICKY = "x-modelkeep-sticky"
"""A header or parameter: requests with the same value are answered by the same track while a canary runs."""


@dataclass(frozen=True)
class Router:
    """What is in force for one model: the version of each track; ``problems`` says which is not loaded, and why."""

    name: str
    live: Loaded | None = None
    canary: Loaded | None = None
    weight: float = 0.0
    shadow: Loaded | None = None
    problems: Mapping[int, str] = field(default_factory=dict)

    @property
    def loaded(self) -> dict[int, Loaded]:
        """Versions in memory, by number."""
        return {v.number: v for v in (self.shadow, self.canary, self.live) if v is not None}

    @property
    def tracks(self) -> dict[str, Loaded]:
        """Versions in memory, by track."""
        found = {"live": self.live, "canary": self.canary, "shadow": self.shadow}
        return {track: v for track, v in found.items() if v is not None}

    @property
    def shares(self) -> dict[str, float]:
        """The share of requests by track."""
        weight = self.weight if self.canary is not None else 0.0
        return {
            "live": 1.0 - weight if self.live is not None else 0.0,
            "canary": weight,
            "shadow": 1.0 if self.shadow is not None else 0.0,
        }

    def pick(self, key: str, version: int | None = None) -> tuple[Loaded, str]:
        """The version for a request, and its track; the same for the same ``key`` while the route stays, by chance
        where it is empty. A request's id would be no key: some clients give all of theirs the same one.

        Raises NotReady where no live version is loaded, NotFound for a pinned ``version`` that is not in memory.
        """
        if version is not None:
            return self._pinned(version)
        if self.live is None:
            raise NotReady(f"no version of '{self.name}' is loaded{self._because()}; send the request again later")
        if self.canary is not None and self.weight > 0.0:
            share = _share(f"{self.canary.ref}:{key}") if key else random()
            if share < self.weight:
                return self.canary, "canary"
        return self.live, "live"

    def _pinned(self, version: int) -> tuple[Loaded, str]:
        for track in ("live", "canary", "shadow"):
            loaded: Loaded | None = getattr(self, track)
            if loaded is not None and loaded.number == version:
                return loaded, track
        if version in self.problems:
            raise NotReady(f"{self.name}@{version} cannot answer: {self.problems[version]}")
        there = ", ".join(f"{self.name}@{n}" for n in sorted(self.loaded)) or "no version of it"
        raise NotFound(f"{self.name}@{version} is not served; this server holds {there}")

    def _because(self) -> str:
        return "".join(f" ({self.name}@{n}: {why})" for n, why in self.problems.items())


def _share(text: str) -> float:
    """A number in [0, 1) that depends on all of the text, and on the canary's ref, so that each canary gets others."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "big") / 2**64
