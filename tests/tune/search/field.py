"""The field of a search, made small: a few settings, and engines made of functions."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from modelkeep.model import engines
from modelkeep.tune import space
from modelkeep.tune.search import Tune
from modelkeep.tune.space import Space
from modelkeep.types import Model, ServeConfig

NAIVE = ServeConfig(max_batch=1)
QUICK = ServeConfig(threads=1, max_batch=8)
OTHER = ServeConfig(engine="openvino", threads=1, max_batch=8)
SHORT = Tune(p99=1.0, budget=0.5, concurrency=4)


def field(monkeypatch: pytest.MonkeyPatch, *settings: ServeConfig) -> None:
    """These are all that there is to search; the first is the naive one."""
    batches = tuple(sorted({config.max_batch for config in settings}))
    monkeypatch.setattr(space, "naive", lambda model: settings[0])
    monkeypatch.setattr(space, "space", lambda model, **load: Space(settings, batches[:1], (0.0,)))
    monkeypatch.setattr(Space, "beside", lambda *asked: None)


def runners(monkeypatch: pytest.MonkeyPatch, make: Callable[[ServeConfig], Any]) -> list[Any]:
    """Engines made by a function of the setting; the list of those that were loaded."""
    loaded: list[Any] = []

    def load(model: Model, config: ServeConfig | None = None) -> Any:
        loaded.append(make(config or ServeConfig()))
        return loaded[-1]

    monkeypatch.setattr(engines, "load", load)
    return loaded
