"""Models brought into a running server and taken away from it (Triton's extension_model_repository.md).

What is served is named in the registry, never by a path: a request cannot bring a file with it.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from typing import Any, Protocol

from modelkeep.errors import NotFound, Unsupported
from modelkeep.serve.plane.loaded import Loaded
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.protocol import describe
from modelkeep.serve.sources import adjustable, overrides

Change = Callable[[str, Mapping[str, Any]], Awaitable[Loaded]]
"""Serves a model with other ServeConfig fields; gives the version that answers with them."""
READY, AWAY = "READY", "UNAVAILABLE"


class Followed(Protocol):
    """What can be brought and taken away: serve.follow.Follower."""

    async def there(self) -> dict[str, list[int]]:
        """Every name of the registry, and its versions."""

    async def follow(self, name: str) -> None:
        """Serve this model too. Raises NotFound, BadRef, and why it cannot be loaded."""

    async def leave(self, name: str) -> None:
        """Serve it no more, once what was accepted is answered."""


class Repository:
    """The models that a server could answer for. Without ``source`` they are fixed, as of a bare file, and without
    ``change`` so is how they are served.
    """

    def __init__(self, source: Followed | None = None, change: Change | None = None) -> None:
        self._source, self._change = source, change
        self._changing: set[asyncio.Future[Loaded]] = set()

    async def index(self, plane: Plane) -> list[dict[str, str]]:
        """A row for each version, with its state, and the reason where it is not ready."""
        there = await self._source.there() if self._source else {n: sorted(plane.router(n).loaded) for n in plane.names}
        return [_row(plane, name, number) for name, numbers in there.items() for number in numbers]

    async def load(self, plane: Plane, name: str, given: Mapping[str, Any]) -> None:
        """See Followed.follow; then serve it as the configuration in ``given`` says, if there is one.

        Raises Unsupported where the models are fixed, BadInput (overrides.loading), and why it cannot be loaded so.
        """
        config, source = overrides.loading(given), self._known(name)
        await source.follow(name)
        if config is not None:
            fields = overrides.fields(config, describe.config(name, plane.find(name)))
            if fields:
                await self.change(name, fields)

    async def unload(self, name: str, given: Mapping[str, Any]) -> None:
        """See Followed.leave. Raises Unsupported where the models are fixed, BadInput (overrides.unloading)."""
        overrides.unloading(given)
        await self._known(name).leave(name)

    async def change(self, name: str, given: Mapping[str, Any]) -> Loaded:
        """Serve it with these fields of its ServeConfig; whoever asked may leave meanwhile, it is done all the same.

        Raises NotFound, BadInput, Unsupported, and why it cannot be loaded so; nothing has changed then.
        """
        fields = adjustable.changes(given)
        if self._change is None:
            raise Unsupported(f"this server was given '{name}' as it is, so that it stays so")
        task = asyncio.ensure_future(self._change(name, fields))
        self._changing.add(task)
        task.add_done_callback(self._changing.discard)
        return await asyncio.shield(task)

    def _known(self, name: str) -> Followed:
        if self._source is None:
            raise Unsupported(f"this server answers for a bare file, so that '{name}' stays as it is")
        return self._source


def _row(plane: Plane, name: str, number: int) -> dict[str, Any]:
    try:
        router = plane.router(name)
    except NotFound:
        return {"name": name, "version": str(number), "state": AWAY, "reason": "not asked for"}
    if number in router.loaded:
        return {"name": name, "version": str(number), "state": READY, "reason": ""}
    return {
        "name": name,
        "version": str(number),
        "state": AWAY,
        "reason": router.problems.get(number, "not in the route"),
    }
