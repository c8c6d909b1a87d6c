"""Requests, and a sample of the traffic, for the tests of what is kept and of what its files hold."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from modelkeep.data import sample
from modelkeep.data.sample import Sample
from modelkeep.data.traffic import Exchange, TrafficLog

Open = Callable[..., Sample]


def exchange(at: int, **other: Any) -> Exchange:
    """The ``at``-th of some requests to digits@1."""
    plain: dict[str, Any] = {"id": f"r{at}", "at": 1000.5 + at, "model": "digits", "version": 1, "track": "live"}
    arrays = {"inputs": {"x": np.full((1, 4), at, "float32")}, "outputs": {"y": np.array([at])}}
    return Exchange(**{**plain, "outcome": "ok", "seconds": 0.01, **arrays, **other})


@pytest.fixture
def opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Open]:
    """A Sample of all requests into the fixture ``folder``, which keeps up on a slow machine too."""
    monkeypatch.setattr(sample, "CPU", 1e9)
    made: list[Sample] = []

    def open_(**options: Any) -> Sample:
        made.append(Sample(tmp_path / "sample", **{"share": 1.0, **options}))
        return made[-1]

    yield open_
    for one in made:
        one.close()


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Where a sample lies."""
    return tmp_path / "sample"


def fill(one: Sample | TrafficLog, exchanges: list[Exchange]) -> None:
    """Offer them, and wait until their files are there."""
    for given in exchanges:
        one.offer(given)
    assert one.flush()
