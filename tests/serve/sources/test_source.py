"""Models that stay as they are: loaded one by one, changed beside themselves, and never after the end."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from types import SimpleNamespace
from typing import Any

import pytest

from modelkeep.errors import NotReady, Unsupported
from modelkeep.serve.plane.plane import Plane
from modelkeep.serve.sources.source import Fixed
from modelkeep.settings import Settings
from modelkeep.types import Model, ServeConfig


def run(work: Coroutine[Any, Any, Any]) -> Any:
    return asyncio.run(asyncio.wait_for(work, 30))


def test_a_runner_in_memory_is_served_and_stays_as_it_is(fakes: SimpleNamespace) -> None:
    async def main() -> None:
        source, plane = Fixed({"m": fakes.Fake()}), Plane(Settings())
        await source.begin(plane)
        assert plane.ready("m")
        assert await source.change("m", {"max_batch": plane.find("m").config.max_batch}) is plane.find("m")
        with pytest.raises(Unsupported, match="'m' was given to this server in memory"):
            await source.change("m", {"workers": 2})
        await source.end()
        await plane.close()

    run(main())


def test_a_model_is_loaded_anew_for_a_change_and_not_once_the_server_stops(tricky: Callable[..., Model]) -> None:
    async def main() -> None:
        source = Fixed({"m": tricky()}, {"m": ServeConfig(engine="tricky", in_process=True)})
        plane = Plane(Settings())
        await source.begin(plane)
        before = plane.find("m")
        fresh = await source.change("m", {"max_batch": 3})
        assert fresh is plane.find("m")
        assert fresh is not before
        assert fresh.config.max_batch == 3
        plane.stopping = True
        with pytest.raises(NotReady, match="the server is stopping"):
            await source.change("m", {"max_batch": 4})
        assert plane.find("m") is fresh
        await plane.close()

    run(main())
