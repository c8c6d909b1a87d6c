"""Where a plane's versions come from: what a source must do, and the source of models that stay as they are.

The other source is the registry (follow.py).
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Protocol

from modelkeep.errors import NotReady, Unsupported
from modelkeep.model import engines
from modelkeep.serve.plane.loaded import Loaded, bring, give_up
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.plane.router import Router
from modelkeep.types import Model, Runner, ServeConfig


class Source(Protocol):
    """Where a plane's versions come from."""

    async def begin(self, plane: Plane) -> None:
        """Make the plane ready. Raises what keeps it from that."""

    async def change(self, name: str, fields: Mapping[str, Any]) -> Loaded:
        """Serve a model with these ServeConfig fields, losing no request. Raises why not; nothing has changed then."""

    async def again(self) -> None:
        """Read anew where the versions come from."""

    def give_up(self) -> None:
        """Somebody wants the end: what is being loaded ends now, and that is no failure."""

    async def end(self) -> None:
        """Bring nothing more."""


class Fixed:
    """Models that stay as they are, each version 1 of its name: a Model, which is loaded, or a Runner as it is."""

    def __init__(self, models: Mapping[str, Model | Runner], configs: Mapping[str, ServeConfig] | None = None) -> None:
        self.models, self.configs = dict(models), dict(configs or {})
        self._changing = asyncio.Lock()
        self._plane: Plane

    async def begin(self, plane: Plane) -> None:
        """Load and warm up, one after the other."""
        self._plane = plane
        for name in self.models:
            plane.expect(name)
        for name, model in self.models.items():
            config = self.configs.get(name)
            if isinstance(model, Model):
                live = await self._load(name, model, config or engines.default_config(model.format))
            else:
                live = Loaded(name, 1, model, config=config or ServeConfig(), metrics=plane.metrics)
            plane.swap(Router(name, live))

    async def change(self, name: str, fields: Mapping[str, Any]) -> Loaded:
        """See Source. Raises Unsupported for a Runner, which nobody can load once more."""
        async with self._changing:
            old, model = self._plane.find(name), self.models[name]
            config = replace(old.config, **fields)
            if config == old.config:
                return old
            if not isinstance(model, Model):
                raise Unsupported(f"'{name}' was given to this server in memory, so that it stays as it is")
            fresh = await self._load(name, model, config)
            if self._plane.stopping:
                await fresh.close()
                raise NotReady("the server is stopping")
            self._plane.swap(Router(name, fresh))
            await old.close()
            return fresh

    async def again(self) -> None:
        """Nothing can have changed."""

    def give_up(self) -> None:
        """See Source."""
        give_up()

    async def end(self) -> None:
        """Once a change that was begun is done."""
        async with self._changing:
            pass

    async def _load(self, name: str, model: Model, config: ServeConfig) -> Loaded:
        brought = await asyncio.to_thread(bring, model, config)
        return Loaded.of(name, 1, model, brought, config=config, metrics=self._plane.metrics)
